"""A simulated Cell Painting experiment with known truth: compounds of known mechanisms on plates of known faults.

Five channels (DNA, ER, RNA, AGP, Mito). A compound shifts traits of its cells, such as how scattered the Golgi is or
how fragmented the mitochondria are, by its mechanism's direction times its strength, and by side effects of its own.
Traits are shape, texture and place: the mean intensity of a cell in each channel is drawn apart from them, so that it
tells nothing of the treatment, and its size tells little. Plates differ in gain, background, blur and illumination of
each channel, and in the traits of all their cells (passage, density, staining), about as much as treatments do.

Pictures are made from geometry, optics and a camera. They serve to compare methods whose truth is known; how a method
does on them says little about how it does on a microscope's images.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from cellinfer.errors import InputError, OutputError
from cellinfer.plate import NO_PLATE
from cellinfer.simulate import number_nuclei
from cellinfer.wells import well_name
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]

CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")
CONTROL = "DMSO"

TRAITS = (
    "nucleus_size",
    "nucleus_elongation",
    "nucleus_lobes",
    "chromatin_contrast",
    "chromatin_grain",
    "nucleoli_contrast",
    "nucleoli_size",
    "cell_spread",
    "er_gradient",
    "er_texture",
    "rna_texture",
    "actin_rim",
    "actin_fibres",
    "golgi_scatter",
    "mito_spread",
    "mito_fragments",
)
"""In standard deviations between the cells of a well; 0 is the mean of untreated cells."""

MECHANISMS: dict[str, dict[str, float]] = {
    "tubulin": {"nucleus_lobes": 1.2, "mito_spread": -1.1, "golgi_scatter": 1.1},
    "actin": {"actin_rim": -1.3, "actin_fibres": -1.1, "cell_spread": -0.5},
    "secretion": {"golgi_scatter": 1.4, "er_gradient": 1.1},
    "uncoupler": {"mito_fragments": 1.5, "mito_spread": 0.8},
    "transcription": {"nucleoli_contrast": -1.4, "rna_texture": -0.8, "chromatin_grain": 0.8},
    "damage": {"chromatin_grain": -1.2, "nucleoli_size": 1.2, "nucleus_size": 0.5},
    "deacetylase": {"chromatin_contrast": -1.3, "nucleus_elongation": 0.8, "actin_fibres": 0.9},
    "er-stress": {"er_texture": 1.4, "er_gradient": -1.0, "mito_fragments": 0.6},
}
"""What each mechanism does at full strength, in the units of `TRAITS`."""

_RADIUS = 9.5
"""Mean radius of a nucleus, pixels."""
_CELLS_PER_PIXEL = 24 / 256**2
_OFFSET, _READ_NOISE = 100.0, 3.0
_PHOTONS = (500.0, 320.0, 320.0, 380.0, 360.0)
_BACKGROUND = (25.0, 45.0, 40.0, 40.0, 35.0)
_BLUR = 0.8
_SIDE_EFFECT = 0.35
_PLATE_TRAITS, _WELL_TRAITS = 0.45, 0.12
_ROWS, _COLUMNS = 16, 24


class Compound(NamedTuple):
    """A treatment and what it does."""

    name: str
    mechanism: str
    strength: float
    """Of the mechanism's effect, 0.5 to 1; 0 for the control."""
    shift: Floats
    """Of each of `TRAITS`."""


class WellContent(NamedTuple):
    """What a well of a plate got."""

    well: str
    compound: Compound


class PlateEffect(NamedTuple):
    """How a plate departs from the others; arrays are by channel."""

    gain: Floats
    background: Floats
    blur: Floats
    """Standard deviation, pixels."""
    tilt: Floats
    """Share of the light that is lost from one side of the field to the other, along y and x; (5, 2)."""
    traits: Floats
    """Shift of each trait in all cells."""


class PaintedField(NamedTuple):
    """One field: what a microscope would give, and the truth behind it."""

    images: NDArray[np.uint16]
    """(5, H, W), in the order of `CHANNELS`."""
    nuclei: Labels
    cells: Labels
    """A cell has its nucleus' label and contains it."""


@dataclass(frozen=True)
class Experiment:
    """The design of an experiment; with the seed it decides every pixel.

    Parameters
    ----------
    mechanisms, compounds
        Mechanisms (the first of `MECHANISMS`), and compounds of each.
    plates, replicates, controls
        Plates, each with every compound; wells per compound and plate; untreated wells per plate.
    sites, size
        Fields per well; height and width of a field, pixels.
    strength, plate_strength
        Factors on what compounds do and on how plates differ.
    seed
        Any whole number from 0.

    Raises
    ------
    InputError
        If a number makes no sense.
    """

    mechanisms: int = 6
    compounds: int = 4
    plates: int = 6
    replicates: int = 2
    controls: int = 12
    sites: int = 1
    size: tuple[int, int] = (256, 256)
    strength: float = 1.0
    plate_strength: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        wells = self.wells
        counts = (self.compounds, self.plates, self.replicates, self.controls, self.sites)
        if not 1 <= self.mechanisms <= len(MECHANISMS) or min(counts) < 1 or self.seed < 0:
            raise InputError(
                f"An experiment has 1 to {len(MECHANISMS)} mechanisms, and at least one compound, plate, replicate, "
                "control and site; seeds begin at 0."
            )
        if wells > _ROWS * _COLUMNS:
            raise InputError(f"{wells} wells do not fit on a plate of {_ROWS * _COLUMNS}: take fewer compounds.")
        if min(self.size) < 96:
            raise InputError(f"Fields of {self.size[0]} x {self.size[1]} are too small: at least 96 x 96 pixels.")
        if self.strength < 0 or self.plate_strength < 0:
            raise InputError("strength and plate_strength are factors from 0.")

    @property
    def wells(self) -> int:
        """Wells per plate."""
        return self.mechanisms * self.compounds * self.replicates + self.controls

    @property
    def plate_names(self) -> tuple[str, ...]:
        """Names of the plates, in order."""
        return tuple(f"plate{number + 1}" for number in range(self.plates))


def make_compounds(experiment: Experiment) -> tuple[Compound, ...]:
    """Return the control and then the compounds, mechanism by mechanism; strengths fall from 1 to 0.5."""
    rng = np.random.default_rng((experiment.seed, 1))
    made = [Compound(CONTROL, CONTROL, 0.0, np.zeros(len(TRAITS), np.float32))]
    for mechanism in list(MECHANISMS)[: experiment.mechanisms]:
        direction = np.array([MECHANISMS[mechanism].get(trait, 0.0) for trait in TRAITS])
        for number, strength in enumerate(np.linspace(1.0, 0.5, experiment.compounds)):
            side = rng.normal(0, _SIDE_EFFECT, len(TRAITS)) * (rng.random(len(TRAITS)) < 0.4)
            shift = experiment.strength * (strength * direction + side)
            made.append(Compound(f"{mechanism}-{number + 1}", mechanism, float(strength), shift.astype(np.float32)))
    return tuple(made)


def lay_out(experiment: Experiment, plate: int) -> tuple[WellContent, ...]:
    """Return the wells of a plate (counted from 0), row by row; compounds lie elsewhere on every plate."""
    control, *others = make_compounds(experiment)
    contents = [control] * experiment.controls + others * experiment.replicates
    columns = 12 if len(contents) <= 96 else _COLUMNS
    order = np.random.default_rng((experiment.seed, 2, plate)).permutation(len(contents))
    return tuple(
        WellContent(well_name(place // columns + 1, place % columns + 1), contents[which])
        for place, which in enumerate(order)
    )


def plate_effect(experiment: Experiment, plate: int) -> PlateEffect:
    """Return how a plate (counted from 0) departs from the others."""
    rng, much, count = np.random.default_rng((experiment.seed, 3, plate)), experiment.plate_strength, len(CHANNELS)
    return PlateEffect(
        gain=np.exp(much * rng.normal(0, 0.25, count)).astype(np.float32),
        background=(np.array(_BACKGROUND) * np.exp(much * rng.normal(0, 0.35, count))).astype(np.float32),
        blur=np.clip(_BLUR * np.exp(much * rng.normal(0, 0.25, count)), 0.5, 2.0).astype(np.float32),
        tilt=(much * rng.normal(0, 0.15, (count, 2))).astype(np.float32).clip(-0.4, 0.4),
        traits=(much * rng.normal(0, _PLATE_TRAITS, len(TRAITS))).astype(np.float32),
    )


def paint_field(experiment: Experiment, plate: int, well: int, site: int) -> PaintedField:
    """Make one field of view.

    Parameters
    ----------
    experiment
        The design.
    plate, well, site
        Counted from 0; `well` is the place in `lay_out`.

    Returns
    -------
    PaintedField
        About 24 cells per 256 x 256 pixels, nuclei about 19 pixels across.
    """
    content, effect = lay_out(experiment, plate)[well], plate_effect(experiment, plate)
    of_well = np.random.default_rng((experiment.seed, 4, plate, well))
    shift = content.compound.shift + effect.traits + of_well.normal(0, _WELL_TRAITS, len(TRAITS))
    gain = effect.gain * np.exp(of_well.normal(0, 0.05, len(CHANNELS)))
    rng = np.random.default_rng((experiment.seed, 5, plate, well, site))
    scene = _Scene(rng, experiment.size, shift)
    images = np.stack(
        [
            _photograph(rng, specimen, _PHOTONS[c] * gain[c], effect.background[c], effect.blur[c], effect.tilt[c])
            for c, specimen in enumerate(scene.paint())
        ]
    )
    return PaintedField(images, *number_nuclei(scene.nuclei, scene.bodies))


def paint(experiment: Experiment) -> Iterator[tuple[str, WellContent, int, PaintedField]]:
    """Yield every field with its plate, well and site (counted from 1)."""
    for plate, name in enumerate(experiment.plate_names):
        for well, content in enumerate(lay_out(experiment, plate)):
            for site in range(experiment.sites):
                yield name, content, site + 1, paint_field(experiment, plate, well, site)


def write_experiment(
    folder: str | os.PathLike[str], experiment: Experiment, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write an experiment as plates that `cellinfer run` reads, with plate maps and the truth.

    Gives `<plate>/A01_s1_DNA.tif` and so on, `<plate>.csv` (Well, Compound, Mechanism, Control: -1 negative control, 0
    sample), `truth/<plate>/nuclei/A01_s1.tif` and `cells/` (label images), `truth/experiment.json`.

    Parameters
    ----------
    folder
        Made if it is not there; must hold no experiment yet.
    experiment
        The design.
    progress
        Called after each field with the number of fields done and of all.

    Raises
    ------
    OutputError
        If the folder holds an experiment already or cannot be written.
    """
    root = Path(folder)
    fields = experiment.plates * experiment.wells * experiment.sites
    try:
        if (root / "truth").exists():
            raise OutputError(f"{root} holds an experiment already: choose a new folder.")
        for plate in experiment.plate_names:
            for part in (root / plate, root / "truth" / plate / "nuclei", root / "truth" / plate / "cells"):
                part.mkdir(parents=True, exist_ok=True)
        (root / "truth" / NO_PLATE).touch()  # for who gives the folder above to `cellinfer run`
        for done, (plate, content, site, field) in enumerate(paint(experiment), start=1):
            name = f"{content.well}_s{site}"
            for channel, image in zip(CHANNELS, field.images, strict=True):
                _write(root / plate / f"{name}_{channel}.tif", image)
            _write(root / "truth" / plate / "nuclei" / f"{name}.tif", field.nuclei)
            _write(root / "truth" / plate / "cells" / f"{name}.tif", field.cells)
            if progress is not None:
                progress(done, fields)
        _write_tables(root, experiment)
    except OSError as error:
        raise OutputError(f"{root} cannot take the experiment ({error.strerror or error}).") from error


class _Scene:
    """The specimen of one field: where its cells lie, and what is where in them.

    Parameters
    ----------
    rng, size
        Source of all that is random; height and width, pixels.
    shift
        Of the mean of each trait.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], shift: NDArray[np.floating]) -> None:
        self.rng, self.size = rng, size
        places = _place(rng, size)
        self.count = len(places)
        traits = rng.normal(0, 1, (self.count, len(TRAITS))) + shift
        self.traits = {name: traits[:, number] for number, name in enumerate(TRAITS)}
        self.nuclei, self.bodies = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self.nucleus_depth, self.body_depth = np.ones(size, np.float32), np.ones(size, np.float32)
        self.along, self.across = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self.golgi = np.zeros(size, np.float32)
        self._draw(places)

    def _draw(self, places: Floats) -> None:
        """Draw all cells: each pixel belongs to the cell whose outline it is deepest within."""
        rng, z = self.rng, self.traits
        radii = _RADIUS * np.exp(0.11 * z["nucleus_size"])
        aspects = 1 + 0.22 * np.exp(0.4 * z["nucleus_elongation"])
        lobes = 0.05 * np.exp(0.5 * z["nucleus_lobes"])
        reaches = 2.15 * np.exp(0.1 * z["cell_spread"])
        scatter = np.exp(0.55 * z["golgi_scatter"])
        angles = rng.uniform(0, np.pi) + rng.normal(0, 0.6, self.count)
        bend = 4.0 * np.stack([self._noise(11.0), self._noise(11.0)])
        for number, (y, x) in enumerate(places):
            half = int(radii[number] * reaches[number] * 1.5) + 8
            at = tuple(
                slice(max(0, int(c) - half), max(0, min(side, int(c) + half)))
                for c, side in zip((y, x), self.size, strict=True)
            )
            rows, columns = np.mgrid[at].astype(np.float32)
            if rows.size == 0:
                continue
            dy, dx = rows - y, columns - x
            cos, sin = np.cos(angles[number]), np.sin(angles[number])
            stretch = np.sqrt(aspects[number])
            depths, frame = [], None
            for scale, rough, share in ((1.0, lobes[number], 0.15), (reaches[number], 0.15, 1.0)):
                wy, wx = dy + share * bend[0][at], dx + share * bend[1][at]
                along, across = (wx * cos + wy * sin) / stretch, (wy * cos - wx * sin) * stretch
                turn = np.arctan2(across, along)
                outline = 1 + sum(
                    rng.normal(0, rough * 1.6 / k) * np.cos(k * turn + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)
                )
                depths.append(np.hypot(along, across) / (radii[number] * scale * np.maximum(outline, 0.5)))
                frame = along, across
            self._claim_nucleus(at, depths[0], number + 1)
            mine = self._claim_body(at, depths[1], number + 1)
            assert frame is not None
            self.along[at][mine], self.across[at][mine] = frame[0][mine], frame[1][mine]
            self.golgi[at][mine] = self._golgi(dy, dx, radii[number], scatter[number])[mine]
        self.bodies = np.where(self.nuclei > 0, self.nuclei, self.bodies)

    def _claim_nucleus(self, at: tuple[slice, ...], depth: Floats, number: int) -> None:
        deeper = depth < self.nucleus_depth[at]
        self.nuclei[at][deeper] = number
        self.nucleus_depth[at][deeper] = depth[deeper]

    def _claim_body(self, at: tuple[slice, ...], depth: Floats, number: int) -> NDArray[np.bool_]:
        deeper: NDArray[np.bool_] = depth < self.body_depth[at]
        self.bodies[at][deeper] = number
        self.body_depth[at][deeper] = depth[deeper]
        return deeper

    def _golgi(self, dy: Floats, dx: Floats, radius: float, scatter: float) -> Floats:
        """Return stacks of the Golgi beside the nucleus, the further from each other the more scattered."""
        angle = self.rng.uniform(0, 2 * np.pi)
        total = np.zeros_like(dy)
        for _ in range(6):
            turn = angle + self.rng.normal(0, 0.35 * scatter)
            away = radius * (1.25 + 0.16 * abs(self.rng.normal(0, scatter)))
            distance = (dy - away * np.sin(turn)) ** 2 + (dx - away * np.cos(turn)) ** 2
            total += np.exp(-distance / (2 * 1.6**2))
        return total

    def paint(self) -> list[Floats]:
        """Return how much of each stain is where, in the order of `CHANNELS`; a cell's mean is about 1 in its place."""
        inside = (1 - self.nucleus_depth**2).clip(0) ** 0.3
        nuclear, body = self.nuclei > 0, self.bodies > 0
        cytoplasm = body & ~nuclear
        outwards = self.body_depth  # 0 in the middle, 1 at the rim
        thick = (0.3 + 0.7 * (1 - outwards)).clip(0)
        fine, coarse, mesh = self._noise(1.6), self._noise(4.0), self._noise(2.4)

        grain = self._share("chromatin_grain")
        chromatin = grain * fine + (1 - grain) * coarse
        contrast = self._factor("chromatin_contrast", 0.22, 0.35)
        dna = np.where(nuclear, inside * np.exp(contrast * chromatin), 0)

        gradient = self._factor("er_gradient", 1.6, 0.4)
        reticulum = np.exp(self._factor("er_texture", 0.22, 0.4) * mesh)
        er = np.where(cytoplasm, np.exp(-gradient * outwards) * reticulum, 0.25 * inside * nuclear)

        large = self._share("nucleoli_size")
        blobs = (large * self._noise(4.5) + (1 - large) * self._noise(2.2) - 0.55).clip(0)
        nucleoli = self._factor("nucleoli_contrast", 1.2, 0.45) * blobs
        granules = np.exp(self._factor("rna_texture", 0.2, 0.45) * self._noise(1.8))
        rna = np.where(nuclear, inside * (0.55 + nucleoli), thick * granules * cytoplasm)

        rim = self._share("actin_rim")
        edge = np.exp(-(((1 - outwards) / 0.16) ** 2))
        phase = 2 * np.pi * self.across / 4.2 + 1.2 * coarse
        fibres = 1 + self._factor("actin_fibres", 0.4, 0.4).clip(0, 1) * np.cos(phase)
        agp = np.where(body, 1.6 * rim * edge + 0.9 * (1 - rim) * thick * fibres + 0.7 * self.golgi * cytoplasm, 0)

        broken = self._share("mito_fragments")
        network = np.exp(-((self._noise(3.2) / 0.4) ** 2))
        dots = 1.7 * (self._noise(1.9) - 0.5).clip(0)
        spread = self._factor("mito_spread", 0.22, 0.3)
        place = np.exp(-(((outwards - 0.62) / np.maximum(spread, 1e-3)).clip(0) ** 2))
        mito = np.where(cytoplasm, place * (0.1 + (1 - broken) * network + broken * dots), 0)
        others = (self._levelled(stain, self.bodies, 0.0) for stain in (er, rna, agp, mito))
        return [self._levelled(dna, self.nuclei, 0.02), *others]

    def _noise(self, scale: float) -> Floats:
        """Return noise of standard deviation 1 with features about `scale` pixels wide."""
        step = max(1, int(scale / 3))  # coarse noise is cheaper and as smooth
        coarse = (self.size[0] // step + 4, self.size[1] // step + 4)
        noise = cv2.GaussianBlur(self.rng.standard_normal(coarse, dtype=np.float32), (0, 0), scale / 2 / step)
        if step > 1:
            noise = cv2.resize(noise, (coarse[1] * step, coarse[0] * step), interpolation=cv2.INTER_CUBIC)
        noise = noise[: self.size[0], : self.size[1]]
        return np.asarray(noise / max(float(noise.std()), 1e-6), dtype=np.float32)

    def _map(self, values: NDArray[np.floating]) -> Floats:
        """Return an image of what each cell has."""
        return np.concatenate([[0.0], values]).astype(np.float32)[self.bodies]

    def _factor(self, trait: str, base: float, spread: float) -> Floats:
        return self._map(base * np.exp(spread * self.traits[trait]))

    def _share(self, trait: str) -> Floats:
        return self._map(1 / (1 + np.exp(-0.9 * self.traits[trait])))

    def _levelled(self, stain: NDArray[np.floating], labels: Labels, elsewhere: float) -> Floats:
        """Give each object a mean drawn apart from its traits, so that brightness does not tell treatments."""
        areas = np.bincount(labels.ravel(), minlength=self.count + 1)
        sums = np.bincount(labels.ravel(), stain.ravel(), minlength=self.count + 1)
        wanted = self.rng.lognormal(0, 0.3, self.count + 1)
        factors = wanted * areas / np.maximum(sums, 1e-6)
        factors[0] = 0
        body = elsewhere * (self.bodies > 0)
        return (stain * factors[labels] + body).astype(np.float32)


def _place(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Throw cells onto the field, some of them touching; returns their centres (n, 2)."""
    height, width = size
    wanted = max(2, round(rng.normal(_CELLS_PER_PIXEL * height * width, 2)))
    tries = rng.uniform((-6, -6), (height + 6, width + 6), (wanted * 30, 2))
    apart = 2.1 * _RADIUS * np.where(rng.random(len(tries)) < 0.15, 1.0, 1.4)
    centres: list[NDArray[np.floating]] = []
    for place, distance in zip(tries, apart, strict=True):
        if len(centres) == wanted:
            break
        if not centres or np.min(np.sum((np.asarray(centres) - place) ** 2, axis=1)) > distance**2:
            centres.append(place)
    return np.asarray(centres, dtype=np.float32)


def _photograph(
    rng: np.random.Generator, specimen: Floats, photons: float, background: float, blur: float, tilt: Floats
) -> NDArray[np.uint16]:
    """Send a stain through optics and camera: blur, haze, uneven light, photon noise, read noise, offset."""
    height, width = specimen.shape
    sharp = cv2.GaussianBlur(specimen, (0, 0), float(blur))
    hazy = cv2.resize(specimen, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    hazy = cv2.resize(cv2.GaussianBlur(hazy, (0, 0), 3.0), (width, height), interpolation=cv2.INTER_LINEAR)
    y, x = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)[None]
    light = 1 + tilt[0] * y + tilt[1] * x
    expected = (photons * (0.9 * sharp + 0.1 * hazy) + background) * light
    noise = np.sqrt(expected + _READ_NOISE**2) * rng.standard_normal(specimen.shape, dtype=np.float32)
    grey: NDArray[np.uint16] = np.clip(np.rint(expected + noise + _OFFSET), 0, 65535).astype(np.uint16)
    return grey


def _write(path: Path, image: NDArray[np.uint16] | Labels) -> None:
    tifffile.imwrite(path, image, compression="zlib", predictor=True, metadata=None)


def _write_tables(root: Path, experiment: Experiment) -> None:
    for plate, name in enumerate(experiment.plate_names):
        with (root / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["Well", "Compound", "Mechanism", "Control"])
            for well, compound in lay_out(experiment, plate):
                table.writerow([well, compound.name, compound.mechanism, -1 if compound.name == CONTROL else 0])
    truth = {
        "experiment": asdict(experiment),
        "traits": TRAITS,
        "compounds": [
            {**compound._asdict(), "shift": compound.shift.tolist()} for compound in make_compounds(experiment)
        ],
        "plates": {
            name: {part: values.tolist() for part, values in plate_effect(experiment, number)._asdict().items()}
            for number, name in enumerate(experiment.plate_names)
        },
    }
    (root / "truth" / "experiment.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
