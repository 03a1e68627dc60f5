"""Every column has a definition that users can read, and the page of them is up to date."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from cellinfer.cli import app
from cellinfer.errors import InputError
from cellinfer.features import feature_page, feature_table
from cellinfer.measurement import CELL_PAINTING, DEFAULTS, FAMILIES, parse_features
from cellinfer.pipeline import Pipeline, Settings
from typer.testing import CliRunner

PAGE = Path(__file__).resolve().parents[1] / "docs" / "features.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8").strip() == feature_page(feature_table()).strip(), (
        "write it anew: cellinfer features list --markdown > docs/features.md"
    )


def test_every_column_of_a_result_is_described(session, cells_field):
    images = {"DNA": cells_field["DNA"], "GFP": cells_field["GFP"]}
    settings = Settings(diameter=22, tta="flips", measurements=CELL_PAINTING)
    result = Pipeline(session, settings).analyse(images)
    described = feature_table(options=CELL_PAINTING)["column"]
    patterns = [
        re.escape(column)
        .replace("<Object>", "(Nuclei|Cells|Cytoplasm)")
        .replace("<Channel>", "(DNA|GFP)")
        .replace("<Channel2>", "(DNA|GFP)")
        for column in described
    ]
    known = re.compile("|".join(patterns))
    made = [column for table in result.tables.values() for column in table]
    made += [column for column, value in result.image.items() if not isinstance(value, str)]
    undescribed = [c for c in made if not known.fullmatch(c) and not c.startswith(("Metadata_", "ObjectNumber"))]
    assert not undescribed
    for column, pattern in zip(described, patterns, strict=True):  # and nothing is described that is not made
        assert any(re.fullmatch(pattern, name) for name in made), column


def test_descriptions_are_complete():
    table = feature_table()
    assert not table["column"].duplicated().any()
    assert (table[["unit", "definition", "source"]].map(len) > 0).all().all()
    assert set(table.loc[table["family"].isin(FAMILIES), "tolerance"]) <= {1e-12, 1e-6, 1e-3}
    assert (table.loc[table["family"].isin(FAMILIES), "oracle"].map(len) > 0).all()


@pytest.mark.parametrize(
    ("text", "families", "options"),
    [
        ("all", tuple(FAMILIES), DEFAULTS),
        ("texture, areashape", ("AreaShape", "Texture"), DEFAULTS),
        ("basic,Granularity", ("AreaShape", "Intensity", "Location", "Number", "Granularity"), DEFAULTS),
        ("cell-painting", tuple(FAMILIES), CELL_PAINTING),
    ],
)
def test_features_are_picked_by_name(text, families, options):
    assert parse_features(text) == (families, options)


@pytest.mark.parametrize("text", ["", "Zernike", "all,", "cellpainting"])
def test_unknown_features_are_refused_with_what_there_is(text):
    with pytest.raises(InputError, match=r"AreaShape.*cell-painting"):
        parse_features(text)


def test_the_command_lists_them(tmp_path):
    runner = CliRunner()
    shown = runner.invoke(app, ["features", "list", "Granularity"])
    assert shown.exit_code == 0
    assert "<Object>_Granularity_16_<Channel>" in shown.output
    assert "Texture" not in shown.output
    data = json.loads(runner.invoke(app, ["features", "list", "Granularity", "--json"]).output)
    assert data[0]["column"] == "<Object>_Granularity_1_<Channel>"
    runner.invoke(app, ["features", "list", "cell-painting", "--csv", str(tmp_path / "f.csv")])
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "f.csv", keep_default_na=False), feature_table(options=CELL_PAINTING), check_dtype=False
    )
    page = runner.invoke(app, ["features", "list", "--markdown"]).output
    assert page.strip() == feature_page(feature_table()).strip()
