# Two commands: `make run` and `make test`. Windows: see the pip lines in README.md.
PYTHON ?= python3
VENV ?= .venv
DEMO := demo/plate/images
PLATE ?= $(DEMO)
OUT ?= $(if $(filter $(DEMO),$(PLATE)),demo/results,$(patsubst %/,%,$(PLATE))-cellinfer)
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

.PHONY: run test lint install clean

## Analyse a plate: `make run`, or `make run PLATE=/path/to/plate OUT=/path/to/results ARGS="--channel DNA=2"`
run: $(VENV)/.installed-run
ifeq ($(PLATE),$(DEMO))
	@test -f demo/plate/layout.csv || { rm -rf demo/plate && $(BIN)/cellinfer simulate demo/plate; }
endif
	$(BIN)/cellinfer run "$(PLATE)" --out "$(OUT)" $(ARGS)
ifeq ($(PLATE),$(DEMO))
	$(BIN)/cellinfer assay "$(OUT)" --layout demo/plate/layout.csv --control-column Control --negative -1 --positive 1 --dose-column Dose
endif

## Run the tests
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ARGS)

## Lint, types, import contracts
lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed-run

$(VENV)/.installed-run: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[cpu]"
	@touch $@

# Training is tested too; torch comes first, as a CPU build where the index has one.
$(VENV)/.installed-test: $(VENV)/.installed-run
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[cpu,train,test,lint]"
	@touch $@

clean:
	rm -rf $(VENV) demo dist build
