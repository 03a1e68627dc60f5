"""A simulated plate with known truth: a dose response of a reporter that moves from cytoplasm to nucleus.

Pictures are made from geometry (cells with nuclei, some touching), optics (blur, haze, uneven light) and a camera
(photon noise, read noise, offset). They serve first runs, tests and benchmarks; they are no training data.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from cellinfer.errors import InputError, OutputError
from cellinfer.plate import NO_PLATE
from cellinfer.wells import well_name

FloatImage = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]

EC50 = 10.0
"""Dose (nM) of the half effect."""
HILL = 1.3
COMPOUND = "Simustatin"

_CELLS_PER_PIXEL = 80 / 512**2
_RADIUS = 13.5
"""Mean radius of a nucleus, pixels."""
_SLIVER = 15
"""Nuclei with fewer pixels inside the field are no part of the truth."""
_COLUMNS = 12
_OFFSET, _READ_NOISE = 100.0, 3.0
"""Camera: grey value of darkness, standard deviation of its noise."""


class Treatment(NamedTuple):
    """What a well got."""

    well: str
    compound: str
    dose: float
    """nM; 0 in negative controls."""
    control: int
    """-1 negative control, 1 positive control, 0 sample."""


class SimulatedField(NamedTuple):
    """One field: what a microscope would give, and the truth behind it."""

    dna: npt.NDArray[np.uint16]
    reporter: npt.NDArray[np.uint16]
    nuclei: Labels
    cells: Labels
    """A cell has its nucleus' label and contains it."""


@dataclass(frozen=True)
class SimulatedPlate:
    """Where a simulated plate lies and what is true of it."""

    folder: Path
    images: Path
    """Folder for `read_plate`: `A01_s1_DNA.tif`, `A01_s1_GFP.tif` (the reporter)."""
    layout: Path
    """CSV with one row per well: Well, Compound, Dose, Control (-1 negative, 1 positive, 0 sample)."""
    truth: Path
    """`nuclei/A01_s1.tif` and `cells/A01_s1.tif` (label images), `truth.json` (EC50, cells per field)."""
    treatments: tuple[Treatment, ...]
    ec50: float
    cells: int


def response(dose: float) -> float:
    """Return the share of the reporter's way from cytoplasm to nucleus: a logistic curve from 0.03 to 0.97."""
    effect = 1 / (1 + (EC50 / dose) ** HILL) if dose > 0 else 0.0
    return 0.03 + 0.94 * effect


def plan(wells: int) -> tuple[Treatment, ...]:
    """Lay out controls and doses on a 96-well plate, row by row.

    In each row the first wells are negative and the last ones positive controls (two each, or one in rows of fewer
    than 8 wells); doses rise by half decades in between, centred on the EC50.

    Parameters
    ----------
    wells
        1 to 12, or a multiple of 12 up to 96.

    Raises
    ------
    InputError
        For any other number.
    """
    if not (1 <= wells <= 96 and (wells <= _COLUMNS or wells % _COLUMNS == 0)):
        raise InputError(f"cannot lay out {wells} wells: choose 1 to 12, or 24, 36, 48, 60, 72, 84, 96")
    columns = min(wells, _COLUMNS)
    controls = 2 if columns >= 8 else 1
    first_positive = max(columns - controls, controls)
    middle = (controls + first_positive - 1) / 2
    top = EC50 * 1000
    treatments = []
    for row in range(wells // columns):
        for column in range(columns):
            well = well_name(row + 1, column + 1)
            if column < controls:
                treatments.append(Treatment(well, "DMSO", 0.0, -1))
            elif column >= first_positive:
                treatments.append(Treatment(well, COMPOUND, top, 1))
            else:
                treatments.append(Treatment(well, COMPOUND, round(EC50 * 10 ** ((column - middle) / 2), 4), 0))
    return tuple(treatments)


def simulate_plate(
    folder: str | os.PathLike[str],
    *,
    wells: int = 24,
    sites: int = 1,
    size: tuple[int, int] = (512, 512),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SimulatedPlate:
    """Write a plate with images, plate map and truth.

    Parameters
    ----------
    folder
        Made if it is not there; must hold no simulated plate yet.
    wells
        1 to 12, or a multiple of 12 up to 96; see `plan`.
    sites
        Fields per well.
    size
        Height and width of a field, pixels, at least 64.
    seed
        The same seed gives the same images.
    progress
        Called after each field with the number of fields done and of all.

    Returns
    -------
    SimulatedPlate

    Raises
    ------
    InputError
        If a number makes no sense.
    OutputError
        If the folder holds images already or cannot be written.
    """
    treatments = plan(wells)
    if sites < 1 or min(size) < 64:
        raise InputError(
            f"cannot simulate {sites} sites of {size[1]} x {size[0]} pixels: at least 1 site and 64 pixels"
        )
    root = Path(folder)
    plate = SimulatedPlate(root, root / "images", root / "layout.csv", root / "truth", treatments, EC50, 0)
    try:
        _make_folders(plate)
        counts: dict[str, int] = {}
        for done, (number, site) in enumerate(np.ndindex(wells, sites), start=1):
            treatment, name = treatments[number], f"{treatments[number].well}_s{site + 1}"
            field = simulate_field(size, effect=response(treatment.dose), seed=(seed, number, site))
            _write_field(plate, name, field)
            counts[name] = int(np.unique(field.nuclei).size) - 1
            if progress is not None:
                progress(done, wells * sites)
        _write_tables(plate, counts, seed)
    except OSError as error:
        raise OutputError(f"cannot write the simulated plate to {root}: {error.strerror or error}") from error
    return SimulatedPlate(root, plate.images, plate.layout, plate.truth, treatments, EC50, sum(counts.values()))


def simulate_field(
    size: tuple[int, int] = (512, 512), *, effect: float = 0.0, seed: int | tuple[int, ...] = 0
) -> SimulatedField:
    """Make one field of view.

    Parameters
    ----------
    size
        Height and width, pixels.
    effect
        0: reporter in the cytoplasm, 1: in the nucleus.
    seed
        Any whole numbers; the same ones give the same field.

    Returns
    -------
    SimulatedField
        About 80 cells per 512 x 512 pixels, nuclei about 27 pixels across.
    """
    rng = np.random.default_rng(seed)
    cells = _place_cells(rng, size)
    scene = _draw(rng, size, cells, np.clip(effect + rng.normal(0, 0.015), 0, 1))
    dna = _photograph(rng, scene.dna + _debris(rng, size), photons=900.0, background=25.0, centre=(0.45, 0.55))
    reporter = _photograph(rng, scene.reporter, photons=700.0, background=40.0, centre=(0.55, 0.5))
    nuclei, body = number_nuclei(scene.nuclei, scene.cells)
    return SimulatedField(dna, reporter, nuclei, body)


class _Cell(NamedTuple):
    """Geometry and brightness of one cell; lengths in pixels, angles in radians."""

    y: float
    x: float
    radius: float
    aspect: float
    angle: float
    reach: float
    """Half length of the cell's body, in radii of its nucleus."""
    dna: float
    reporter: float


class _Scene(NamedTuple):
    """The specimen, before any optics."""

    dna: FloatImage
    reporter: FloatImage
    nuclei: Labels
    cells: Labels


def _smooth_noise(rng: np.random.Generator, size: tuple[int, int], scale: float) -> FloatImage:
    """Return noise of standard deviation 1 with features about `scale` pixels wide."""
    step = max(1, int(scale / 2))  # coarse noise is cheaper and as smooth
    coarse = (size[0] // step + 4, size[1] // step + 4)
    noise = cv2.GaussianBlur(rng.standard_normal(coarse, dtype=np.float32), (0, 0), scale / step)
    noise = cv2.resize(noise, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(noise / max(float(noise.std()), 1e-6), dtype=np.float32)


def _place_cells(rng: np.random.Generator, size: tuple[int, int]) -> list[_Cell]:
    """Throw cells onto the field: dense in some regions, sparse in others, some nuclei touching."""
    height, width = size
    crowd = _smooth_noise(rng, size, 70.0)
    wanted = max(1, round(rng.normal(_CELLS_PER_PIXEL * height * width, 5)))
    direction = rng.uniform(0, np.pi)  # neighbours lie along each other
    cells: list[_Cell] = []
    for _ in range(wanted * 40):
        if len(cells) == wanted:
            break
        y, x = rng.uniform(-8, height + 8), rng.uniform(-8, width + 8)
        at = crowd[int(np.clip(y, 0, height - 1)), int(np.clip(x, 0, width - 1))]
        radius = _RADIUS * rng.lognormal(0, 0.13)
        touching = 0.86 if rng.random() < 0.2 else 1.12
        free = all((y - c.y) ** 2 + (x - c.x) ** 2 > (touching * (radius + c.radius)) ** 2 for c in cells)
        if free and rng.random() < 1 / (1 + np.exp(-2.5 * (at + 0.6))):
            cells.append(
                _Cell(
                    y=y,
                    x=x,
                    radius=radius,
                    aspect=1 + rng.gamma(3.0, 0.11),
                    angle=direction + rng.normal(0, 0.6),
                    reach=rng.uniform(2.1, 3.0),
                    dna=rng.lognormal(0, 0.22),
                    reporter=rng.lognormal(0, 0.3),
                )
            )
    return cells


def _draw(rng: np.random.Generator, size: tuple[int, int], cells: list[_Cell], effect: float) -> _Scene:
    """Draw all cells: each pixel belongs to the cell whose outline it is deepest within."""
    nucleus_depth, body_depth = np.ones(size, np.float32), np.ones(size, np.float32)
    nuclei, bodies = np.zeros(size, np.int32), np.zeros(size, np.int32)
    bend = 7.0 * np.stack([_smooth_noise(rng, size, 14.0), _smooth_noise(rng, size, 14.0)])
    for number, cell in enumerate(cells, start=1):
        at = _box(cell, size)
        _claim(nuclei[at], nucleus_depth[at], _depth(rng, cell, at, 1.0, 0.05, 0.12 * bend), number)
        _claim(bodies[at], body_depth[at], _depth(rng, cell, at, cell.reach, 0.16, bend), number)
    bodies = np.where(nuclei > 0, nuclei, bodies)
    body_depth = np.where(bodies > 0, body_depth, 1)
    level = _levels(rng, cells, effect)
    chromatin = 1 + 0.13 * _smooth_noise(rng, size, 2.2) + 0.08 * _smooth_noise(rng, size, 5.0)
    inside = (1 - nucleus_depth**2).clip(0) ** 0.3  # thickest in the middle, steep at the rim
    body = (0.35 + 0.65 * (1 - body_depth)) * (1 + 0.1 * _smooth_noise(rng, size, 3.0)) * (bodies > 0)
    dna = level["dna"][nuclei] * inside * chromatin + 0.03 * body
    nuclear = level["nuclear"][nuclei] * (0.85 + 0.15 * inside) * (0.9 + 0.1 * chromatin)
    reporter = np.where(nuclei > 0, nuclear, level["cytoplasmic"][bodies] * body)
    return _Scene(dna.astype(np.float32), reporter.astype(np.float32), nuclei, bodies)


def _levels(rng: np.random.Generator, cells: list[_Cell], effect: float) -> dict[str, FloatImage]:
    """Return concentrations by cell number (0 is background), cells answering a little differently."""
    moved = np.clip(effect + rng.normal(0, 0.08, len(cells)), 0, 1)
    expression = np.array([cell.reporter for cell in cells])
    levels = {
        "dna": np.array([cell.dna for cell in cells]),
        "nuclear": expression * (0.32 + 0.95 * moved),
        "cytoplasmic": expression * (1.05 - 0.6 * moved),
    }
    return {name: np.concatenate([[0.0], values]).astype(np.float32) for name, values in levels.items()}


def _box(cell: _Cell, size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the part of the field that a cell can reach."""
    reach = int(cell.radius * cell.reach * 1.6) + 12
    y, x = int(cell.y), int(cell.x)
    return (
        slice(max(0, y - reach), max(0, min(size[0], y + reach))),
        slice(max(0, x - reach), max(0, min(size[1], x + reach))),
    )


def _depth(
    rng: np.random.Generator, cell: _Cell, at: tuple[slice, slice], scale: float, rough: float, bend: FloatImage
) -> FloatImage:
    """Return how far out each pixel lies: 0 in the middle of the outline, 1 on it."""
    y, x = np.mgrid[at].astype(np.float32)
    y, x = y + bend[0][at] - cell.y, x + bend[1][at] - cell.x
    along = (x * np.cos(cell.angle) + y * np.sin(cell.angle)) / np.sqrt(cell.aspect)
    across = (y * np.cos(cell.angle) - x * np.sin(cell.angle)) * np.sqrt(cell.aspect)
    turn = np.arctan2(across, along)
    outline = 1 + sum(rng.normal(0, rough / k) * np.cos(k * turn + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    return np.asarray(np.hypot(along, across) / (cell.radius * scale * np.maximum(outline, 0.5)), dtype=np.float32)


def _claim(labels: Labels, depth: FloatImage, mine: FloatImage, number: int) -> None:
    """Give a cell the pixels that lie deeper in it than in any cell before; in place."""
    deeper = mine < depth
    labels[deeper] = number
    depth[deeper] = mine[deeper]


def _debris(rng: np.random.Generator, size: tuple[int, int]) -> FloatImage:
    """Return a few small bright specks."""
    image = np.zeros(size, np.float32)
    for _ in range(rng.poisson(4 * size[0] * size[1] / 512**2)):
        centre = (int(rng.integers(size[1])), int(rng.integers(size[0])))
        axes = (int(rng.integers(1, 4)), int(rng.integers(1, 3)))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.4, 1.8)), -1)
    return image


def _photograph(
    rng: np.random.Generator, specimen: FloatImage, *, photons: float, background: float, centre: tuple[float, float]
) -> npt.NDArray[np.uint16]:
    """Send a specimen through optics and camera.

    Blur of the objective (sigma 1.1 pixels) with a tenth of the light as wide haze, light that falls off by a third
    towards the far corners, photon noise, read noise and offset of the camera.
    """
    height, width = specimen.shape
    sharp = cv2.GaussianBlur(specimen, (0, 0), 1.1)
    light = 0.9 * sharp + 0.1 * cv2.GaussianBlur(specimen, (0, 0), 14.0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    away = ((y / height - centre[0]) ** 2 + (x / width - centre[1]) ** 2) / 0.5
    expected = (photons * light + background) * (1 - 0.35 * away)
    counts = rng.poisson(expected) + rng.normal(_OFFSET, _READ_NOISE, specimen.shape)
    grey: npt.NDArray[np.uint16] = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
    return grey


def number_nuclei(nuclei: Labels, cells: Labels) -> tuple[Labels, Labels]:
    """Count nuclei from 1 without gaps; slivers at the border, and bodies without a nucleus, are left out."""
    areas = np.bincount(nuclei.ravel(), minlength=int(cells.max()) + 1)
    keep = areas >= _SLIVER
    keep[0] = False
    new = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return new[nuclei], new[cells]


def _make_folders(plate: SimulatedPlate) -> None:
    if plate.images.is_dir() and any(plate.images.iterdir()):
        raise OutputError(f"{plate.images} holds images already: choose a new folder")
    for folder in (plate.images, plate.truth / "nuclei", plate.truth / "cells"):
        folder.mkdir(parents=True, exist_ok=True)
    (plate.truth / NO_PLATE).touch()  # for who gives the folder above to `cellinfer run`


def _write_field(plate: SimulatedPlate, name: str, field: SimulatedField) -> None:
    _write(plate.images / f"{name}_DNA.tif", field.dna)
    _write(plate.images / f"{name}_GFP.tif", field.reporter)
    _write(plate.truth / "nuclei" / f"{name}.tif", field.nuclei)
    _write(plate.truth / "cells" / f"{name}.tif", field.cells)


def _write(path: Path, image: npt.NDArray[Any]) -> None:
    tifffile.imwrite(path, image, compression="zlib", predictor=True, metadata=None)


def _write_tables(plate: SimulatedPlate, counts: dict[str, int], seed: int) -> None:
    """Write the plate map and what is true of the plate."""
    with plate.layout.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["Well", "Compound", "Dose", "Control"])
        table.writerows((t.well, t.compound, f"{t.dose:g}", t.control) for t in plate.treatments)
    truth = {"ec50": EC50, "hill": HILL, "seed": seed, "cells": counts}
    (plate.truth / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
