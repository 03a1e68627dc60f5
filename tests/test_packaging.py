"""What is shipped: the wheel holds the models and no training code; the run time holds no Rust, torch or onnx."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
RUST_BUILDERS = ("maturin", "setuptools-rust", "setuptools_rust")
NOT_AT_RUN_TIME = {"torch", "onnx", "onnxscript", "scikit-image", "pydantic-core", "polars"}


def run_time_packages(extra: str) -> dict[str, metadata.Distribution]:
    """Resolve the installed packages that `cellinfer[extra]` needs, all the way down."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [(name, extra) for name in ("cellinfer",)]
    while waiting:
        name, wanted = waiting.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                key = canonicalize_name(requirement.name)
                if key not in found and key != "cellinfer":
                    waiting += [(key, e) for e in requirement.extras or {""}]
                    found[key] = metadata.distribution(key)
    return found


def built_with_rust(distribution: metadata.Distribution) -> bool:
    generator = (distribution.read_text("WHEEL") or "").lower()
    return any(builder in generator for builder in RUST_BUILDERS)


def test_the_check_knows_a_rust_wheel_when_it_sees_one() -> None:
    """Some installed development tool (hypothesis or its kind) is built by maturin; ruff certainly is."""
    assert built_with_rust(metadata.distribution("ruff"))
    assert not built_with_rust(metadata.distribution("numpy"))


@pytest.mark.parametrize(
    ("extra", "brings"), [("cpu", "onnxruntime"), ("export", "roifile"), ("dask", "distributed"), ("remote", "s3fs")]
)
def test_the_run_time_holds_no_rust_and_no_training_packages(extra: str, brings: str) -> None:
    packages = run_time_packages(extra)
    assert {"numpy", "numba", "typer", "pandas", "tifffile", "zarr", brings} <= set(packages)
    assert [name for name, found in packages.items() if built_with_rust(found)] == []
    assert NOT_AT_RUN_TIME & set(packages) == set()


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    code = (
        "import os, sys; os.chdir(sys.argv[1]); from hatchling import build\n"
        "build.build_wheel(sys.argv[2]); build.build_sdist(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, str(ROOT), str(folder)], check=True, capture_output=True)
    return folder


def test_the_wheel_holds_models_and_no_training_code(dist: Path) -> None:
    names = zipfile.ZipFile(next(dist.glob("*.whl"))).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "cellinfer",
        "cellinfer_kernels",
        "cellinfer_models",
    }
    for file in ("nuclei.onnx", "nuclei.yaml", "registry.json", "py.typed"):
        assert f"cellinfer_models/{file}" in names


def test_the_wheel_holds_every_module_as_it_is(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        held = {name: wheel.read(name) for name in wheel.namelist() if name.endswith(".py")}
    folders = (ROOT / "inference", ROOT / "kernels", ROOT / "models")
    assert held == {
        path.relative_to(folder).as_posix(): path.read_bytes() for folder in folders for path in folder.rglob("*.py")
    }


def test_the_wheel_works_without_the_source(dist: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(next(dist.glob("*.whl"))).extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import cellinfer, numpy as np\n"
        "assert cellinfer.__file__.startswith(sys.path[0]), cellinfer.__file__\n"
        # one family: kernels are compiled anew for each place they are in, and those of others are as they were
        "pipeline = cellinfer.load('nuclei', device='cpu', families=('Intensity',))\n"
        "result = pipeline.analyse(np.zeros((64, 64), np.uint16))\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules\n"
        "print(len(result.cells))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0"


def test_the_source_distribution_holds_everything(dist: Path) -> None:
    import tarfile

    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = archive.getnames()
    for part in ("training/cellinfer_training/recipes.py", "tests/conftest.py", "Makefile", "LICENSE"):
        assert any(name.endswith(part) for name in names)
