"""The simulated plate: readable, repeatable, and true to the dose response that it claims."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import typer
from cellinfer.cli.simulate import simulate as command
from cellinfer.errors import InputError, OutputError
from cellinfer.images import read_channel, read_labels
from cellinfer.readers import read_plate
from cellinfer.simulate import EC50, plan, response, simulate_field, simulate_plate
from scipy.optimize import curve_fit
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return simulate_plate(tmp_path_factory.mktemp("simulated") / "plate", size=(320, 400), seed=5)


def ratio(dna_free_reporter, nuclei, cells):
    """Mean nuclear over mean cytoplasmic signal above the camera's offset and background."""
    signal = dna_free_reporter.astype(float) - np.percentile(dna_free_reporter[cells == 0], 20)
    return signal[nuclei > 0].mean() / signal[(cells > 0) & (nuclei == 0)].mean()


@pytest.fixture(scope="module")
def ratios(simulated):
    plate = read_plate(simulated.images)
    values = {}
    for field in plate.fields:
        name = f"{field.key.well}_s{field.key.site}.tif"
        nuclei = read_labels(simulated.truth / "nuclei" / name)
        cells = read_labels(simulated.truth / "cells" / name)
        values[field.key.well] = ratio(read_channel(field, "GFP"), nuclei, cells)
    return values


def test_the_reader_understands_it(simulated):
    plate = read_plate(simulated.images)
    assert (plate.layout, plate.wells, plate.channels) == ("pattern:well-site-name", 96, ("DNA", "GFP"))
    assert len(plate.fields) == 24 and plate.missing == () and plate.ignored == ()
    image = read_channel(plate.fields[0], "DNA")
    assert image.shape == (320, 400) and image.dtype == np.uint16
    assert image.min() > 50 and image.max() < 65535  # an offset, and nothing saturated


def test_the_truth_is_no_part_of_the_plate_above(simulated):
    plate = read_plate(simulated.folder)
    assert plate.channels == ("DNA", "GFP") and len(plate.fields) == 24
    assert set(plate.ignored) == {"layout.csv", "truth/"}


def test_the_layout_names_every_well(simulated):
    with simulated.layout.open(newline="") as file:
        rows = list(csv.DictReader(file))
    wells = [f"{row}{column:02d}" for row in "AB" for column in range(1, 13)]
    assert [row["Well"] for row in rows] == [t.well for t in simulated.treatments] == wells
    assert [row["Control"] for row in rows[:12]] == ["-1"] * 2 + ["0"] * 8 + ["1"] * 2
    doses = [float(row["Dose"]) for row in rows[2:10]]
    np.testing.assert_allclose(np.diff(np.log10(doses)), 0.5, atol=1e-3)
    assert np.sqrt(doses[0] * doses[-1]) == pytest.approx(EC50, rel=1e-3)
    assert {row["Dose"] for row in rows[:2]} == {"0"} and {row["Compound"] for row in rows[:2]} == {"DMSO"}


def test_truth_is_consistent(simulated):
    truth = json.loads((simulated.truth / "truth.json").read_text())
    assert truth["ec50"] == simulated.ec50 == EC50
    assert sum(truth["cells"].values()) == simulated.cells
    for name, count in truth["cells"].items():
        nuclei = read_labels(simulated.truth / "nuclei" / f"{name}.tif")
        cells = read_labels(simulated.truth / "cells" / f"{name}.tif")
        assert sorted(set(nuclei.flat)) == list(range(count + 1)) == sorted(set(cells.flat))
        np.testing.assert_array_equal(cells[nuclei > 0], nuclei[nuclei > 0])


def test_nuclei_have_the_size_and_number_of_real_ones():
    counts, diameters = [], []
    for seed in range(4):
        areas = np.bincount(simulate_field(seed=seed).nuclei.ravel())[1:]
        counts.append(len(areas))
        diameters += list(np.sqrt(4 * areas / np.pi))
    assert min(counts) >= 60 and max(counts) <= 100
    assert 24 <= np.median(diameters) <= 30


def test_some_nuclei_touch():
    touching = 0
    for seed in range(4):
        nuclei = simulate_field(seed=seed).nuclei
        pairs = np.stack([nuclei[:, :-1].ravel(), nuclei[:, 1:].ravel()])
        pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs > 0).all(axis=0)]
        touching += len(set(map(tuple, np.sort(pairs, axis=0).T)))
    assert touching >= 8


def test_nuclei_stand_out_and_reporter_moves():
    for effect, low, high in ((0.0, 0.3, 0.8), (1.0, 2.0, 6.0)):
        field = simulate_field(effect=effect, seed=9)
        dna = field.dna.astype(float)
        assert np.median(dna[field.nuclei > 0]) > 3 * np.median(dna[field.nuclei == 0])
        assert low < ratio(field.reporter, field.nuclei, field.cells) < high


def test_controls_separate(simulated, ratios):
    by_control = {c: np.array([ratios[t.well] for t in simulated.treatments if t.control == c]) for c in (-1, 1)}
    spread = 3 * (by_control[-1].std(ddof=1) + by_control[1].std(ddof=1))
    z_prime = 1 - spread / abs(by_control[1].mean() - by_control[-1].mean())
    assert z_prime > 0.5


def test_the_dose_response_has_the_ec50_that_it_claims(simulated, ratios):
    """The ratio itself is no linear measure of the effect; its nuclear share is close to one."""
    treated = [t for t in simulated.treatments if t.dose > 0]
    share = np.array([ratios[t.well] / (1 + ratios[t.well]) for t in treated])

    def curve(log_dose, bottom, top, log_ec50, hill):
        return bottom + (top - bottom) / (1 + 10 ** (hill * (log_ec50 - log_dose)))

    fitted, _ = curve_fit(curve, np.log10([t.dose for t in treated]), share, p0=[0.3, 0.75, 1.0, 1.0])
    assert abs(fitted[2] - np.log10(EC50)) < 0.35
    assert share[-1] > share[0]


def test_response_is_a_logistic_curve():
    assert response(0) == pytest.approx(0.03)
    assert response(EC50) == pytest.approx(0.5)
    assert response(1e9) == pytest.approx(0.97)
    doses = np.logspace(-3, 5, 30)
    assert np.all(np.diff([response(dose) for dose in doses]) > 0)


def test_the_same_seed_gives_the_same_files(tmp_path):
    seeds = {"a": 1, "b": 1, "c": 2}
    plates = [simulate_plate(tmp_path / name, wells=2, size=(96, 80), seed=seed) for name, seed in seeds.items()]
    files = [sorted(path.relative_to(plate.folder) for path in plate.folder.rglob("*.*")) for plate in plates]
    assert files[0] == files[1] and len(files[0]) == 2 * 4 + 3
    for path in files[0]:
        assert (plates[0].folder / path).read_bytes() == (plates[1].folder / path).read_bytes()
    image = "images/A01_s1_DNA.tif"
    assert (plates[0].folder / image).read_bytes() != (plates[2].folder / image).read_bytes()


def test_more_wells_and_sites_leave_the_others_as_they_are(tmp_path):
    small = simulate_plate(tmp_path / "small", wells=12, size=(64, 64))
    large = simulate_plate(tmp_path / "large", wells=24, sites=2, size=(64, 64))
    for path in small.images.iterdir():
        assert path.read_bytes() == (large.images / path.name).read_bytes()
    assert len(list(large.images.iterdir())) == 24 * 2 * 2


@pytest.mark.parametrize(
    ("wells", "controls"), [(1, [-1]), (2, [-1, 1]), (3, [-1, 0, 1]), (8, [-1, -1, 0, 0, 0, 0, 1, 1])]
)
def test_small_plans(wells, controls):
    assert [t.control for t in plan(wells)] == controls


def test_plan_of_a_whole_plate():
    assert len({t.well for t in plan(96)}) == 96 and plan(96)[-1].well == "H12"


def test_progress_is_told(tmp_path):
    seen = []
    simulate_plate(tmp_path / "p", wells=2, sites=2, size=(64, 64), progress=lambda *step: seen.append(step))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("options", [{"wells": 0}, {"wells": 13}, {"wells": 108}, {"sites": 0}, {"size": (63, 512)}])
def test_impossible_plates_are_refused(tmp_path, options):
    with pytest.raises(InputError, match="cannot"):
        simulate_plate(tmp_path / "p", **options)
    assert not (tmp_path / "p").exists()


def test_nothing_is_overwritten(tmp_path):
    simulate_plate(tmp_path / "p", wells=1, size=(64, 64))
    with pytest.raises(OutputError, match="holds images already"):
        simulate_plate(tmp_path / "p", wells=1, size=(64, 64))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        simulate_plate(tmp_path / "file", wells=1, size=(64, 64))


def test_from_the_command_line(tmp_path):
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(tmp_path / "p"), "--wells", "2", "--size", "64", "--seed", "3"])
    assert result.exit_code == 0
    assert "Simulated 2 wells" in result.stdout and "layout.csv" in result.stdout
    assert len(read_plate(tmp_path / "p" / "images").fields) == 2
