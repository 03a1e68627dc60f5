"""The simulated Cell Painting experiment: its design, its pictures, its truth."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cellinfer.errors import InputError, OutputError
from cellinfer.readers import read_plate
from cellinfer_training.__main__ import app
from cellinfer_training.simulate import (
    CHANNELS,
    CONTROL,
    MECHANISMS,
    TRAITS,
    Experiment,
    _Scene,
    lay_out,
    make_compounds,
    paint_field,
    plate_effect,
    write_experiment,
)
from scipy import ndimage
from typer.testing import CliRunner

SMALL = Experiment(mechanisms=2, compounds=2, plates=2, replicates=1, controls=2, size=(128, 128), seed=5)


def wells_of(experiment: Experiment, plate: int) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, content in enumerate(lay_out(experiment, plate)):
        places.setdefault(content.compound.name, []).append(place)
    return places


def test_mechanisms_shift_traits_that_exist() -> None:
    for effects in MECHANISMS.values():
        assert set(effects) <= set(TRAITS)


def test_compounds_follow_their_mechanism() -> None:
    control, *others = make_compounds(Experiment(seed=3))
    assert control.name == CONTROL
    assert not control.shift.any()
    cosines = []
    for compound in others:
        effect = np.array([MECHANISMS[compound.mechanism].get(trait, 0.0) for trait in TRAITS])
        cosines.append(effect @ compound.shift / np.linalg.norm(effect) / np.linalg.norm(compound.shift))
    assert min(cosines) > 0.4
    assert np.mean(cosines) > 0.7
    assert [compound.strength for compound in others[:4]] == pytest.approx([1, 5 / 6, 4 / 6, 0.5])


def test_every_plate_has_every_compound_elsewhere() -> None:
    first, second = lay_out(SMALL, 0), lay_out(SMALL, 1)
    assert len({well for well, _ in first}) == SMALL.wells == 6
    assert sorted(c.name for _, c in first) == sorted(c.name for _, c in second)
    assert [c.name for _, c in first] != [c.name for _, c in second]
    assert [len(places) for places in wells_of(SMALL, 0).values()].count(2) == 1  # the controls


def test_the_same_seed_gives_the_same_pixels() -> None:
    one, two = paint_field(SMALL, 1, 2, 0), paint_field(SMALL, 1, 2, 0)
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.cells, two.cells)
    assert (one.images != paint_field(SMALL, 1, 3, 0).images).any()


def test_a_cell_contains_its_nucleus() -> None:
    field = paint_field(Experiment(seed=1), 0, 0, 0)
    inside = field.nuclei > 0
    np.testing.assert_array_equal(field.cells[inside], field.nuclei[inside])
    count = int(field.nuclei.max())
    assert 15 <= count <= 30
    areas = np.bincount(field.nuclei.ravel())[1:]
    assert 14 < np.median(np.sqrt(4 / np.pi * areas)) < 22
    assert (np.bincount(field.cells.ravel(), minlength=count + 1)[1:] > areas).all()


def test_stains_are_where_they_belong() -> None:
    field = paint_field(Experiment(plate_strength=0, seed=1), 0, 0, 0)
    dna, er, _, _, mito = field.images.astype(float)
    nucleus, cytoplasm, outside = field.nuclei > 0, (field.cells > 0) & (field.nuclei == 0), field.cells == 0
    assert dna[nucleus].mean() > 2 * dna[cytoplasm].mean()
    for stain in (er, mito):
        assert stain[cytoplasm].mean() > 1.15 * stain[nucleus].mean()
        assert stain[cytoplasm].mean() > 1.5 * stain[outside].mean()


def scene(**traits: float) -> _Scene:
    shift = np.array([traits.get(name, 0.0) for name in TRAITS])
    return _Scene(np.random.default_rng(2), (256, 256), shift)


@pytest.mark.parametrize("trait", ["mito_fragments", "chromatin_contrast", "actin_rim", "golgi_scatter"])
def test_traits_leave_mean_intensities_alone(trait: str) -> None:
    """What a treatment changes is not how bright a cell is; the same cells are drawn with and without the effect."""
    weak, strong = scene(), scene(**{trait: 2.0})
    before, after = weak.paint(), strong.paint()
    changed = 0.0
    for channel, (one, two) in enumerate(zip(before, after, strict=True)):
        labels = [part.nuclei if channel == 0 else part.bodies for part in (weak, strong)]
        means = [ndimage.mean(image, label, np.arange(1, 20)) for image, label in zip((one, two), labels, strict=True)]
        np.testing.assert_allclose(means[0], means[1], rtol=0.06)
        changed = max(changed, float(np.abs(one - two).mean() / one.mean()))
    assert changed > 0.03


def test_fragments_are_rounder_than_networks() -> None:
    def sharpness(stain: np.ndarray) -> float:
        return float(ndimage.gaussian_laplace(stain, 1.2).std() / stain.std())

    assert sharpness(scene(mito_fragments=3.0).paint()[4]) > 1.1 * sharpness(scene(mito_fragments=-3.0).paint()[4])


def test_golgi_scatters() -> None:
    def spread(scattered: float) -> float:
        """Return how far the Golgi's light lies from its own middle, pixels."""
        drawn = scene(golgi_scatter=scattered)
        found = []
        for cell in range(1, 20):
            rows, columns = np.nonzero(drawn.bodies == cell)
            light = drawn.golgi[rows, columns]
            middle = [np.average(place, weights=light) for place in (rows, columns)]
            found.append(np.average((rows - middle[0]) ** 2 + (columns - middle[1]) ** 2, weights=light) ** 0.5)
        return float(np.mean(found))

    assert spread(3.0) > 1.3 * spread(-3.0)


def test_plates_differ_and_their_strength_can_be_set() -> None:
    even = Experiment(plate_strength=0)
    first, second = plate_effect(even, 0), plate_effect(even, 1)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    uneven = [plate_effect(Experiment(), plate) for plate in range(4)]
    assert np.std([effect.gain for effect in uneven], axis=0).min() > 0.02
    assert all((effect.blur >= 0.5).all() for effect in uneven)


def test_written_plates_can_be_read(tmp_path: Path) -> None:
    counts = ("mechanisms", "compounds", "plates", "replicates", "controls")
    one = [word for count in counts for word in (f"--{count}", "1")]
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "made"), *one, "--seed", "4"])
    assert result.exit_code == 0, result.output
    plate = read_plate(tmp_path / "made" / "plate1")
    assert set(plate.channels) == set(CHANNELS)
    assert len(plate.fields) == 2
    above = read_plate(tmp_path / "made")
    assert len(above.fields) == 2 and set(above.ignored) == {"plate1.csv", "truth/"}
    with (tmp_path / "made" / "plate1.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["Well"] for row in rows} == {field.key.well for field in plate.fields}
    assert sorted((row["Compound"], row["Control"]) for row in rows) == [("DMSO", "-1"), ("tubulin-1", "0")]
    truth = json.loads((tmp_path / "made" / "truth" / "experiment.json").read_text())
    again = Experiment(**{**truth["experiment"], "size": tuple(truth["experiment"]["size"])})
    field = paint_field(again, 0, 0, 0)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "made" / "plate1" / "A01_s1_Mito.tif"), field.images[4])
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "made" / "truth" / "plate1" / "cells" / "A01_s1.tif"), field.cells
    )
    with pytest.raises(OutputError, match="holds an experiment already"):
        write_experiment(tmp_path / "made", SMALL)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mechanisms": 9}, "1 to 8 mechanisms"),
        ({"plates": 0}, "at least one"),
        ({"replicates": 20}, "do not fit"),
        ({"size": (64, 256)}, "too small"),
        ({"strength": -1.0}, "factors from 0"),
    ],
)
def test_designs_that_make_no_sense_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Experiment(**wrong)  # type: ignore[arg-type]
