"""Measuring objects: cellinfer beside cp-measure, Nyxus, scikit-image and mahotas.

    python benchmarks/features.py families --data DATA --nyxus ~/nyxus/bin/python   # seconds, family by family
    python benchmarks/features.py agreement --data DATA       # every column beside cp-measure's
    python benchmarks/features.py cell-painting --data DATA   # five channels, three compartments: seconds and memory
    python benchmarks/features.py growth                      # 100 to 20,000 objects
    python benchmarks/features.py compile                     # first and second start

DATA is the folder of real images (`bbbc039/images`, `bbbc039/masks`, `cell_painting_sites/cloome_site`); without it
`families`, `cell-painting` and `growth` simulate, and `agreement` has nothing to show. Nyxus lives in an environment of
its own. `--quick` takes small input and writes nothing to `results`.

Peers get what they ask for: cp-measure, scikit-image and mahotas float64 or 8-bit images made beforehand, Nyxus whole
numbers. cellinfer gets the uint16 image. Times of a family of cellinfer's are those of `measure(labels, image,
families=[...])` with all that the family needs, also if another family needs it too. One thread each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _peers import RESULTS, machine
from cellinfer.cells import compartments
from cellinfer.measurement import FAMILIES, PRESETS, Options, measure, measure_compartments
from cellinfer.measurement._registry import Feature, Objects, Plane, Signal
from cellinfer.simulate import simulate_field
from cellinfer_kernels.components import relabel
from cellinfer_kernels.radial import spread
from cellinfer_kernels.zernike import shape_zernikes, weighted_zernikes
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.int32]
Pixels = NDArray[Any]
DEFAULTS = Options()
DEPTH = 4095
"""Largest value of the cameras behind the real images, in files of 16 bits."""
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "NUMEXPR")}
PACKAGES = ("cellinfer", "numpy", "numba", "scipy", "cp_measure", "centrosome", "scikit-image", "mahotas", "pandas")


class Site(NamedTuple):
    """One channel with its objects."""

    labels: Labels
    image: NDArray[np.uint16]


# Input


def real_fields(data: Path, count: int) -> list[Site]:
    """Read the first fields of BBBC039."""
    import cv2
    import tifffile

    folder = data / "bbbc039"
    files = sorted((folder / "images").glob("*.tif"))[:count]
    if len(files) < count:
        raise SystemExit(f"{folder} has {len(files)} of the {count} images that are needed")
    masks = (cv2.imread(str(folder / "masks" / f"{file.stem}.png"), cv2.IMREAD_UNCHANGED) for file in files)
    return [
        Site(relabel(mask.astype(np.int32)), tifffile.imread(file)) for file, mask in zip(files, masks, strict=True)
    ]


def mosaic(tiles: Sequence[NDArray[Any]], columns: int, side: int, *, labels: bool = False) -> NDArray[Any]:
    """Lay tiles out in rows and cut a square; `labels` numbers objects anew."""
    if labels:
        tops = np.cumsum([0, *(tile.max(initial=0) for tile in tiles[:-1])])
        tiles = [np.where(tile > 0, tile + top, 0) for tile, top in zip(tiles, tops, strict=True)]
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    square = np.ascontiguousarray(np.concatenate(rows)[:side, :side])
    assert square.shape == (side, side)
    return relabel(square.astype(np.int32)) if labels else square


def one_channel(data: Path | None, side: int) -> tuple[Site, str]:
    """Return a field of nuclei and say where it comes from."""
    if data is None:
        field = simulate_field((side, side), seed=1)
        return Site(relabel(field.nuclei), field.dna), "simulated"
    columns, rows = math.ceil(side / 696), math.ceil(side / 520)
    fields = real_fields(data, columns * rows)
    labels = mosaic([field.labels for field in fields], columns, side, labels=True)
    return Site(labels, mosaic([field.image for field in fields], columns, side)), "BBBC039, fields side by side"


def five_channels(data: Path | None, side: int | None) -> tuple[dict[str, Labels], dict[str, Pixels], str]:
    """Return compartments and channels of a Cell Painting field; without `side` of the one real site as it is."""
    if data is None:
        assert side is not None
        nuclei, images = _simulated_channels(side)
        origin, brightest = "simulated", "AGP"
    else:
        nuclei, images = _real_channels(data)
        origin, brightest = "one site of cloome, side by side", "ERSyto"
        if side is not None:
            tall, wide = nuclei.shape
            columns, rows = math.ceil(side / wide), math.ceil(side / tall)
            nuclei = mosaic([nuclei] * (columns * rows), columns, side, labels=True)
            images = {name: mosaic([plane] * (columns * rows), columns, side) for name, plane in images.items()}
    diameter = 2 * math.sqrt(float(np.median(np.bincount(nuclei.ravel())[1:])) / math.pi)
    parts = compartments(nuclei, images[brightest], 2 * diameter, diameter=diameter, edge="keep")
    kept = np.intersect1d(parts.nuclei, parts.cytoplasm)  # a cell without cytoplasm would have other rows than peers'
    labels = {
        name: relabel(np.where(np.isin(plane, kept), plane, 0).astype(np.int32))
        for name, plane in (("Nuclei", parts.nuclei), ("Cells", parts.cells), ("Cytoplasm", parts.cytoplasm))
    }
    return labels, images, origin


def _real_channels(data: Path) -> tuple[Labels, dict[str, Pixels]]:
    import cellinfer
    import tifffile

    folder = data / "cell_painting_sites" / "cloome_site"
    images = {name: tifffile.imread(folder / f"{name}.tif") for name in _CLOOME}
    found = cellinfer.load("nuclei", device="cpu").analyse({"Hoechst": images["Hoechst"]})
    return relabel(found.labels["Nuclei"]), images


_CLOOME = ("Hoechst", "ERSyto", "ERSytoBleed", "Mito", "Ph_golgi")


def _simulated_channels(side: int) -> tuple[Labels, dict[str, Pixels]]:
    field = simulate_field((side, side), seed=1)
    rng = np.random.default_rng(1)
    images: dict[str, Pixels] = {"DNA": field.dna, "AGP": field.reporter}
    for name, sigma, share in (("ER", 1.5, 0.2), ("RNA", 1.0, 0.6), ("Mito", 0.7, 0.05)):
        plane = ndimage.gaussian_filter(share * field.dna + field.reporter.astype(np.float64), sigma)
        images[name] = (plane + rng.normal(0, 20, plane.shape)).clip(0, 65535).astype(np.uint16)
    return relabel(field.nuclei), images


# Clocks


class Timing(NamedTuple):
    """Seconds of one run."""

    wall: float
    cpu: float
    system: float = 0.0
    """Part of the processor's seconds that the operating system took, mostly to hand out memory."""


Clocked = Callable[[], Timing]


def clocked(run: Callable[[], Any]) -> Timing:
    """Run once."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    run()
    elapsed, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return Timing(elapsed, user + system, system)


def in_turn(contestants: Mapping[str, tuple[Clocked, int]]) -> dict[str, list[Timing]]:
    """Run contestants in turn; those with fewer rounds sit out some of them."""
    rounds = max(wanted for _, wanted in contestants.values())
    found: dict[str, list[Timing]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name, (run, wanted) in contestants.items():
            if turn * wanted // rounds < (turn + 1) * wanted // rounds:
                found[name].append(run())
        print(f"  round {turn + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
    return found


def median(timings: Sequence[Timing]) -> float:
    return statistics.median(timing.wall for timing in timings)


def keep(name: str, record: dict[str, Any], quick: bool) -> None:
    """Write `results/features_<name>.json`, with where and with what it was made."""
    if quick:
        return
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"features_{name}.json"
    versions = {package: version(package) for package in PACKAGES} | record.pop("more_versions", {})
    surroundings = {"versions": versions, "machine": machine(), "load": [round(x, 2) for x in os.getloadavg()]}
    path.write_text(json.dumps(record | surroundings, indent=1) + "\n")
    print(f"written to {path}")


# Peers


def quietly(run: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run a peer without the warnings that its divisions by nothing make."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return run(*arguments, **options)


def cp_functions(accelerator: str | None) -> dict[str, Callable[..., Any]]:
    """Return cp-measure's default set as its own back-end makes it."""
    import cp_measure
    from cp_measure.bulk import get_core_measurements

    cp_measure.set_accelerator(accelerator)
    functions = dict(get_core_measurements())
    cp_measure.set_accelerator(None)
    return functions


SCIKIT_IMAGE = (
    "label area area_bbox area_convex area_filled axis_major_length axis_minor_length bbox centroid eccentricity "
    "equivalent_diameter_area euler_number extent feret_diameter_max inertia_tensor inertia_tensor_eigvals moments "
    "moments_central moments_normalized moments_hu orientation perimeter perimeter_crofton solidity "
    "intensity_max intensity_mean intensity_min intensity_std centroid_weighted"
)


def scikit_image(labels: Labels, image: Pixels) -> Any:
    from skimage.measure import regionprops_table

    return quietly(regionprops_table, labels, image, properties=SCIKIT_IMAGE.split())


def mahotas_haralick(labels: Labels, greys: NDArray[np.uint8]) -> list[Any]:
    """Compute Haralick features of each object within its box, other pixels being 0 and ignored."""
    from mahotas.features import haralick

    found = []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        crop = np.where(labels[box] == number, greys[box], np.uint8(0))
        try:
            found.append(haralick(crop, ignore_zeros=True, distance=3))
        except ValueError:  # no pair of pixels
            found.append(np.full((4, 13), np.nan))
    return found


NYXUS = """
import json, sys, time
import numpy, nyxus, importlib.metadata
site = numpy.load(sys.argv[1])
image, labels = site["image"].astype(numpy.uint32), site["labels"].astype(numpy.uint32)
print(json.dumps({"version": importlib.metadata.version("nyxus")}), flush=True)
engines = {}
for line in sys.stdin:
    features, levels = json.loads(line)
    key = (tuple(features), levels)
    if key not in engines:
        engines[key] = nyxus.Nyxus(features, n_feature_calc_threads=1, coarse_gray_depth=levels)
    started, spent = time.perf_counter(), time.process_time()
    table = engines[key].featurize(image, labels)
    print(json.dumps({"wall": time.perf_counter() - started, "cpu": time.process_time() - spent,
                      "shape": list(table.shape)}), flush=True)
"""
NYXUS_SHAPES = (
    "AREA_PIXELS_COUNT CENTROID_X CENTROID_Y BBOX_YMIN BBOX_XMIN BBOX_HEIGHT BBOX_WIDTH DIAMETER_EQUAL_AREA EXTENT "
    "COMPACTNESS MAJOR_AXIS_LENGTH MINOR_AXIS_LENGTH ECCENTRICITY ORIENTATION PERIMETER CIRCULARITY CONVEX_HULL_AREA "
    "SOLIDITY STAT_FERET_DIAM_MIN STAT_FERET_DIAM_MAX EULER_NUMBER ROI_RADIUS_MEAN ROI_RADIUS_MAX ROI_RADIUS_MEDIAN "
    "ZERNIKE2D"
)
NYXUS_INTENSITIES = (
    "INTEGRATED_INTENSITY MEAN MEDIAN MEDIAN_ABSOLUTE_DEVIATION MIN MAX STANDARD_DEVIATION P25 P75 MASS_DISPLACEMENT "
    "EDGE_MEAN_INTENSITY EDGE_STDDEV_INTENSITY EDGE_MAX_INTENSITY EDGE_MIN_INTENSITY EDGE_INTEGRATED_INTENSITY "
    "WEIGHTED_CENTROID_X WEIGHTED_CENTROID_Y"
)
NYXUS_GROUPS: dict[str, tuple[list[str], int]] = {
    "nyxus *ALL_MORPHOLOGY*, ZERNIKE2D": (["*ALL_MORPHOLOGY*", "ZERNIKE2D"], 64),
    "nyxus shapes that we have too": (NYXUS_SHAPES.split(), 64),
    "nyxus *ALL_INTENSITY*": (["*ALL_INTENSITY*"], 64),
    "nyxus intensities that we have too": (NYXUS_INTENSITIES.split(), 64),
    "nyxus *ALL_GLCM*, 64 levels": (["*ALL_GLCM*"], 64),
    "nyxus ZERNIKE2D": (["ZERNIKE2D"], 64),
    "nyxus area only": (["AREA_PIXELS_COUNT"], 64),
}
NYXUS_SLOW = "nyxus *ALL_GLCM*, 256 levels"


class Nyxus:
    """Nyxus in a process of its own, since its packages may not fit our environment."""

    def __init__(self, python: str, site: Site) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "site.npz"
        np.savez(path, **site._asdict())
        self._process = subprocess.Popen(
            [python, "-c", NYXUS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = str(self._read()["version"])

    def run(self, features: Sequence[str], levels: int) -> Timing:
        """Measure once."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([list(features), levels]) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        return Timing(answer["wall"], answer["cpu"])

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._folder.cleanup()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # it may print what it likes; only our lines are JSON objects
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError("Nyxus ended before it answered; its messages are above")


# Families


def feret_alone(labels: Labels, image: Pixels) -> Any:
    """Do what MaxFeretDiameter and MinFeretDiameter need: runs of pixels and hulls."""
    hulls = Objects(labels, DEFAULTS).hulls
    return hulls.max_feret, hulls.min_feret


def shape_zernikes_alone(labels: Labels, image: Pixels) -> Any:
    objects = Objects(labels, DEFAULTS)
    return shape_zernikes(objects.groups, objects.hulls.circles, DEFAULTS.zernike_degree)


def rings_alone(labels: Labels, image: Pixels) -> Any:
    """FracAtD, MeanFrac and RadialCV: pixels, distances, centres, rings, sums."""
    objects = Objects(labels, DEFAULTS)
    return spread(objects.groups.begins, objects.rings, Signal(objects, Plane(image, DEFAULTS)).values)


def radial_zernikes_alone(labels: Labels, image: Pixels) -> Any:
    objects = Objects(labels, DEFAULTS)
    values = Signal(objects, Plane(image, DEFAULTS)).values
    return weighted_zernikes(objects.groups, objects.hulls.circles, values, DEFAULTS.zernike_degree)


def family(*names: str, **options: Any) -> Callable[[Labels, Pixels], Any]:
    return partial(measure, families=list(names) or None, options=Options(**options))


OURS: dict[str, Callable[[Labels, Pixels], Any]] = {
    "everything": family(),
    "AreaShape": family("AreaShape"),
    "AreaShape, Zernikes of degree 0 only": family("AreaShape", zernike_degree=0),
    "kernels: Zernikes of shapes": shape_zernikes_alone,
    "kernels: Feret diameters": feret_alone,
    "Intensity, Location": family("Intensity", "Location"),
    "Texture": family("Texture"),
    "Texture, 12 bits": family("Texture", full_scale=DEPTH),
    "Granularity": family("Granularity"),
    "RadialDistribution": family("RadialDistribution"),
    "kernels: rings": rings_alone,
    "kernels: Zernikes of intensities": radial_zernikes_alone,
    "Neighbors": family("Neighbors"),
    "Texture, Intensity, Location": family("Texture", "Intensity", "Location"),
    "AreaShape, Intensity, Location": family("AreaShape", "Intensity", "Location"),
    "AreaShape, Intensity, Location, Texture": family("AreaShape", "Intensity", "Location", "Texture"),
}
DEFAULT_SET = (
    "radial_distribution",
    "radial_zernikes",
    "intensity",
    "sizeshape",
    "zernike",
    "feret",
    "texture",
    "granularity",
)
NUMBA_SET = ("texture", "intensity", "feret")


class Comparison(NamedTuple):
    """What is set beside what; several contestants are added up."""

    title: str
    ours: tuple[str, ...]
    peers: dict[str, tuple[str, ...]]


def _cp(*names: str) -> tuple[str, ...]:
    return tuple(f"cp-measure {name}" for name in names)


def _nb(*names: str) -> tuple[str, ...]:
    return tuple(f"cp-measure numba {name}" for name in names)


_NUMBA_EVERYTHING = (*_nb(*NUMBA_SET), *_cp(*(name for name in DEFAULT_SET if name not in NUMBA_SET)))
COMPARISONS = (
    Comparison(
        "everything", ("everything",), {"cp-measure": _cp(*DEFAULT_SET), "cp-measure, numba": _NUMBA_EVERYTHING}
    ),
    Comparison(
        "AreaShape",
        ("AreaShape",),
        {
            "cp-measure sizeshape + zernike + feret": _cp("sizeshape", "zernike", "feret"),
            "cp-measure, numba feret": (*_cp("sizeshape", "zernike"), *_nb("feret")),
            **{name: (name,) for name in ("nyxus *ALL_MORPHOLOGY*, ZERNIKE2D", "nyxus shapes that we have too")},
        },
    ),
    Comparison(
        "AreaShape without Zernikes",
        ("AreaShape, Zernikes of degree 0 only",),
        {"cp-measure sizeshape": _cp("sizeshape"), "cp-measure sizeshape + feret": _cp("sizeshape", "feret")},
    ),
    Comparison(
        "Zernikes of shapes (kernels)",
        ("kernels: Zernikes of shapes",),
        {"cp-measure zernike": _cp("zernike"), "nyxus ZERNIKE2D": ("nyxus ZERNIKE2D",)},
    ),
    Comparison(
        "Feret diameters (kernels)",
        ("kernels: Feret diameters",),
        {"cp-measure feret": _cp("feret"), "cp-measure, numba": _nb("feret")},
    ),
    Comparison(
        "Intensity and Location",
        ("Intensity, Location",),
        {
            "cp-measure intensity": _cp("intensity"),
            "cp-measure, numba": _nb("intensity"),
            **{name: (name,) for name in ("nyxus *ALL_INTENSITY*", "nyxus intensities that we have too")},
        },
    ),
    Comparison(
        "Texture, full scale 65535",
        ("Texture",),
        {
            "cp-measure texture": _cp("texture"),
            "cp-measure, numba": _nb("texture"),
            "mahotas, object by object": ("mahotas",),
        },
    ),
    Comparison(
        f"Texture, full scale {DEPTH}",
        ("Texture, 12 bits",),
        {
            "cp-measure texture": _cp("texture, 12 bits"),
            "cp-measure, numba": _nb("texture, 12 bits"),
            "mahotas, object by object": ("mahotas, 12 bits",),
            **{name: (name,) for name in ("nyxus *ALL_GLCM*, 64 levels", NYXUS_SLOW)},
        },
    ),
    Comparison("Granularity", ("Granularity",), {"cp-measure granularity": _cp("granularity")}),
    Comparison(
        "RadialDistribution",
        ("RadialDistribution",),
        {"cp-measure radial_distribution + radial_zernikes": _cp("radial_distribution", "radial_zernikes")},
    ),
    Comparison(
        "Rings of RadialDistribution (kernels)",
        ("kernels: rings",),
        {"cp-measure radial_distribution": _cp("radial_distribution")},
    ),
    Comparison(
        "Zernikes of intensities (kernels)",
        ("kernels: Zernikes of intensities",),
        {"cp-measure radial_zernikes": _cp("radial_zernikes")},
    ),
    Comparison("Neighbors, adjacent", ("Neighbors",), {"cp-measure neighbors": _cp("neighbors")}),
    Comparison(
        "the three families that cp-measure has in Numba",
        ("Texture, Intensity, Location", "kernels: Feret diameters"),
        {"cp-measure, numba": _nb(*NUMBA_SET)},
    ),
    Comparison(
        "those three, and all of AreaShape",
        ("AreaShape, Intensity, Location, Texture",),
        {"cp-measure, numba": _nb(*NUMBA_SET)},
    ),
    Comparison(
        "AreaShape, Intensity and Location", ("AreaShape, Intensity, Location",), {"scikit-image": ("scikit-image",)}
    ),
)


def contestants(site: Site, nyxus: Nyxus | None, quick: bool) -> dict[str, tuple[Clocked, int]]:
    """List all contestants on a site, warmed up on a corner of it, with their number of rounds."""
    from cp_measure.multimask.measureobjectneighbors import measureobjectneighbors

    many, few = (2, 1) if quick else (9, 3)
    side = min(256, *site.labels.shape)
    corner = Site(relabel(site.labels[:side, :side].copy()), site.image[:side, :side].copy())
    found: dict[str, tuple[Clocked, int]] = {}

    def add(name: str, run: Callable[..., Any], pixels: Callable[[Pixels], Pixels], rounds: int) -> None:
        run(corner.labels, pixels(corner.image))  # imports and compiles
        found[name] = (partial(clocked, partial(run, site.labels, pixels(site.image))), rounds)

    for name, run in OURS.items():
        add(f"cellinfer {name}", run, lambda image: image, many)
    for prefix, accelerator in (("cp-measure", None), ("cp-measure numba", "numba")):
        for name, function in cp_functions(accelerator).items():
            if accelerator is None or name in NUMBA_SET:
                slow = name in ("radial_distribution", "granularity")
                rounds = few if slow else many if accelerator else max(few, 5) if not quick else few
                add(f"{prefix} {name}", partial(quietly, function), _unit, rounds)
        texture = cp_functions(accelerator)["texture"]
        add(f"{prefix} texture, 12 bits", partial(quietly, texture), _unit_of_camera, many if accelerator else few)
    neighbors = partial(quietly, lambda labels, image: measureobjectneighbors(labels, labels, "Adjacent"))
    add("cp-measure neighbors", neighbors, lambda image: image, few)
    add("mahotas", mahotas_haralick, lambda image: _bytes(_unit(image)), few)
    add("mahotas, 12 bits", mahotas_haralick, lambda image: _bytes(_unit_of_camera(image)), few)
    add("scikit-image", scikit_image, lambda image: image, few)
    if nyxus is not None:
        for name, (features, levels) in NYXUS_GROUPS.items():
            nyxus.run(features, levels)
            found[name] = (partial(nyxus.run, features, levels), many if not quick else 1)
        found[NYXUS_SLOW] = (partial(nyxus.run, ["*ALL_GLCM*"], 256), 1)
    return found


def _unit(image: Pixels) -> NDArray[np.float64]:
    return image / 65535.0


def _unit_of_camera(image: Pixels) -> NDArray[np.float64]:
    return np.minimum(image / DEPTH, 1.0)


def _bytes(pixels: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(pixels * 255).astype(np.uint8)


def families(options: argparse.Namespace) -> None:
    """Time every family beside peers."""
    site, origin = one_channel(options.data, 512 if options.quick else 2048)
    objects = int(site.labels.max())
    task = (
        f"{objects} objects of {site.labels.shape[0]} x {site.labels.shape[1]} pixels, 16 bits ({origin}), one thread"
    )
    print(task, flush=True)
    nyxus = Nyxus(options.nyxus, site) if options.nyxus else None
    if nyxus is None:
        print("Nyxus is left out: give its interpreter with --nyxus")
    try:
        runs = in_turn(contestants(site, nyxus, options.quick))
    finally:
        if nyxus is not None:
            nyxus.stop()
    rows = list(_rows(runs))
    print(f"\n{'':52}{'cellinfer':>10}{'peer':>10}{'ratio':>8}{'rounds':>8}")
    for row in rows:
        print(f"{row['what']}  [{' + '.join(row['ours'])}]")
        for peer, found in row["peers"].items():
            print(
                f"    {peer:<48}{row['ours_ms']:>7.1f} ms{found['ms']:>7.0f} ms{found['times_slower']:>7.1f}x"
                f"{found['rounds']:>7}"
            )
    record = {
        "task": task,
        "comparisons": rows,
        "median_ms": {name: round(1e3 * median(timings), 2) for name, timings in runs.items()},
        "runs_ms": {name: [round(1e3 * one.wall, 2) for one in timings] for name, timings in runs.items()},
        "cpu_ms": {name: [round(1e3 * one.cpu, 2) for one in timings] for name, timings in runs.items()},
        "more_versions": {"nyxus": nyxus.version} if nyxus is not None else {},
    }
    keep("families", record, options.quick)


def _rows(runs: Mapping[str, Sequence[Timing]]) -> Iterator[dict[str, Any]]:
    """Add up what belongs together and compare."""
    for comparison in COMPARISONS:
        ours = sum(median(runs[f"cellinfer {name}"]) for name in comparison.ours)
        peers = {}
        for peer, names in comparison.peers.items():
            if all(name in runs for name in names):
                theirs = sum(median(runs[name]) for name in names)
                rounds = min(len(runs[name]) for name in names)
                peers[peer] = {"ms": round(1e3 * theirs, 1), "times_slower": round(theirs / ours, 2), "rounds": rounds}
        yield {"what": comparison.title, "ours": comparison.ours, "ours_ms": round(1e3 * ours, 2), "peers": peers}


# Agreement


class Column(NamedTuple):
    """Where a column of a table comes from."""

    family: str
    feature: Feature
    tolerance: float


def columns_of(name: str, channels: Sequence[str], options: Options) -> dict[str, Column]:
    """List all columns of a table with their family and declared tolerance."""
    found = {}
    for declared in FAMILIES.values():
        kinds = (declared.features, declared.channel_features, declared.pair_features)
        for count, features in enumerate(kinds):
            for chosen in combinations(channels, count):
                for feature in features(options):
                    tolerance = feature.tolerance or declared.tolerance
                    found[feature.column(name, *chosen)] = Column(declared.name, feature, tolerance)
    return found


def cp_measure_says(labels: Labels, images: Mapping[str, Pixels], name: str, full: float) -> dict[str, Pixels]:
    """Measure with cp-measure; our column names, our units."""
    from cp_measure.core import measurecolocalization as pairs
    from cp_measure.multimask.measureobjectneighbors import measureobjectneighbors

    functions = cp_functions(None)
    planes = {channel: np.minimum(image / full, 1.0) for channel, image in images.items()}
    shapes = ("sizeshape", "feret", "zernike")
    expected: dict[str, Pixels] = {}
    for group in shapes:
        for key, values in quietly(functions[group], labels, next(iter(planes.values()))).items():
            expected[f"{name}_AreaShape_{key.replace('AreaFilled', 'FilledArea')}"] = values
    for channel, plane in planes.items():
        for group in functions.keys() - set(shapes):
            for key, values in quietly(functions[group], labels, plane).items():
                if not key.endswith("_Z"):
                    expected[f"{name}_{_with_channel(key, group, channel)}"] = values * _unit_of(key, group, full)
    for first, second in combinations(planes, 2):
        one, other = planes[first], planes[second]
        measured = [
            quietly(pairs.get_correlation_pearson, one, other, labels),
            quietly(pairs.get_correlation_overlap, one, other, labels),
            quietly(pairs.get_correlation_manders_fold, one, other, labels),
            quietly(pairs.get_correlation_rwc, one, other, labels),
            quietly(pairs.get_correlation_costes, one, other, labels, scale_max=int(full)),
        ]
        features = FAMILIES["Correlation"].pair_features(DEFAULTS)
        theirs = [values for table in measured for values in table.values()]
        for feature, values in zip(features, theirs, strict=True):
            expected[feature.column(name, first, second)] = np.asarray(values)
    near = quietly(measureobjectneighbors, labels, labels, "Adjacent")
    for mine, key in _NEIGHBORS.items():
        expected[f"{name}_Neighbors_{mine}_Adjacent"] = np.asarray(near[f"Neighbors_{key}_Adjacent"])
    return expected


_NEIGHBORS = {
    **{
        key: key
        for key in (
            "NumberOfNeighbors",
            "PercentTouching",
            "FirstClosestDistance",
            "SecondClosestDistance",
            "AngleBetweenNeighbors",
        )
    },
    "FirstClosestObjectNumber": "SecondClosestObjectNumber",  # its first closest object is the object itself
}


def _with_channel(key: str, group: str, channel: str) -> str:
    """Write the channel where CellProfiler does."""
    if group == "texture":
        feature, _, rest = key.partition("_")
        return f"Texture_{feature}_{channel}_{rest}"
    if group.startswith("radial"):
        category, feature, rest = key.split("_", 2)
        return f"{category}_{feature}_{channel}_{rest}"
    return f"{key}_{channel}"


def _unit_of(key: str, group: str, full: float) -> float:
    """Factor from a full scale of 1 to the image's own units."""
    bright = group == "intensity" and key.startswith("Intensity_") and "Mass" not in key
    return full if bright or "Magnitude" in key else 1.0


def difference(mine: Pixels, theirs: Pixels, feature: Feature) -> NDArray[np.float64]:
    """Return |mine - theirs| / |theirs|; angles: around the circle, over half of it."""
    turn = {"degrees": 180.0, "radians": 2 * math.pi}.get(feature.unit)
    if turn is not None and ("Orientation" in feature.name or "Phase" in feature.name):
        apart = np.abs(mine - theirs) % turn
        return np.asarray(np.minimum(apart, turn - apart) / (turn / 2))
    apart, size = np.abs(mine - theirs), np.abs(theirs)
    return np.asarray(np.divide(apart, size, out=np.where(apart > 0, np.inf, 0.0), where=size > 0))


ZERO = 1e-11
"""Values that are smaller than this part of a feature's largest one on both sides are 0 but for rounding: equal."""
REASONS = (
    ("CentralMoment_0_1", "0 by definition: cp-measure's is a rounding error"),
    ("CentralMoment_1_0", "0 by definition: cp-measure's is a rounding error"),
    ("Zernike", "a pixel on the unit circle, which rounding puts in or out"),
    ("Costes", "a background's correlation is exactly 0, which cp-measure's rounding makes negative"),
    ("InfoMeas2", "root of a difference that is 0 to within rounding"),
    ("FormFactor", "no perimeter: NaN where cp-measure has infinity"),
)
"""Why a feature may differ: the first that fits the feature's name."""


def agreement(options: argparse.Namespace) -> None:
    """Compare every column with cp-measure's."""
    if options.data is None:
        raise SystemExit("agreement needs real fields: --data DATA")
    pooled: dict[str, Pool] = {}
    done = []
    for what, labels, images, name, full in _real_cases(options.data, 1 if options.quick else 6):
        settings = Options(full_scale=full)
        table = measure(labels, images, name=name, options=settings)
        expected = cp_measure_says(labels, images, name, full)
        columns = columns_of(name, tuple(images), settings)
        assert list(columns) == list(table)[1:]
        unknown = set(expected) - set(columns)
        assert not unknown, sorted(unknown)[:5]
        for column, theirs in expected.items():
            origin = columns[column]
            key = f"{origin.family}/{origin.feature.key}"
            pool = pooled.setdefault(key, Pool(origin))
            pool.add(f"{column} ({what})", table[column].to_numpy(), np.asarray(theirs, np.float64))
        alone = sorted({columns[column].feature.key for column in columns.keys() - expected.keys()})
        done.append({"field": what, "objects": len(table), "columns": len(expected), "full_scale": full})
        print(f"{what}: {len(table)} objects, {len(expected)} columns, load {os.getloadavg()[0]:.1f}", flush=True)
    features = {key: pool.summary() for key, pool in pooled.items()}
    text = _agreement_text(features, done, alone)
    print(text)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "features_agreement.md").write_text(text)
    keep("agreement", {"fields": done, "without_counterpart": alone, "features": features}, options.quick)


def _real_cases(data: Path, count: int) -> Iterator[tuple[str, Labels, dict[str, Pixels], str, float]]:
    """Real fields: some of BBBC039 on two scales, and the compartments of the Cell Painting site."""
    for number, site in enumerate(real_fields(data, count), 1):
        yield f"BBBC039 field {number}", site.labels, {"DNA": site.image}, "Nuclei", 65535.0
        if number <= max(1, count // 2):
            yield f"BBBC039 field {number}, 12 bits", site.labels, {"DNA": site.image}, "Nuclei", float(DEPTH)
    labels, images, _ = five_channels(data, None)
    if count == 1:
        images = {name: images[name] for name in ("Hoechst", "Mito")}
    for name, plane in labels.items():
        yield f"cloome site, {name}", plane, images, name, 65535.0


class Pool:
    """What is known of one feature from all fields, objects and channels."""

    def __init__(self, origin: Column) -> None:
        self.origin = origin
        self.columns: list[tuple[str, Pixels, Pixels]] = []
        self.undefined = 0

    def add(self, column: str, mine: Pixels, theirs: Pixels) -> None:
        """Add one column of one table."""
        assert mine.shape == theirs.shape, column
        both = np.isfinite(mine) & np.isfinite(theirs)
        self.undefined += int((np.isfinite(mine) != np.isfinite(theirs)).sum())
        self.columns.append((column, mine[both], theirs[both]))

    def summary(self) -> dict[str, Any]:
        """Sum up; `above_tolerance` is about the worst median of a column."""
        family, feature, tolerance = self.origin
        scale = max(float(np.abs(theirs).max(initial=0)) for *_, theirs in self.columns)
        parts, medians, worst, zeros, farthest = [], [], (-1.0, ""), 0, 0.0
        for column, mine, theirs in self.columns:
            zero = np.maximum(np.abs(mine), np.abs(theirs)) <= ZERO * scale
            apart = np.where(zero, 0.0, difference(mine, theirs, feature))
            parts.append(apart)
            zeros += int((zero & (mine != theirs)).sum())
            farthest = max(farthest, float(np.abs(mine - theirs).max(initial=0)))
            if apart.size:
                medians.append(float(np.median(apart)))
                worst = max(worst, (float(apart.max()), column))
        everything = np.concatenate(parts) if medians else np.zeros(1)  # NaN everywhere, on both sides
        differs = self.undefined or worst[0] > 1e-6
        reason = next((text for part, text in REASONS if part in feature.key), "") if differs else ""
        return {
            "family": family,
            "columns": len(parts),
            "values": sum(part.size for part in parts),
            "tolerance": tolerance,
            "median": float(np.median(everything)),
            "worst_median": max(medians, default=0.0),
            "largest": max(worst[0], 0.0),
            "largest_in": worst[1],
            "largest_of_scale": farthest / scale if scale > 0 else 0.0,
            "values_that_differ": int((everything > 1e-6).sum()),
            "share_within_1e-6": float((everything <= 1e-6).mean()),
            "share_within_1e-3": float((everything <= 1e-3).mean()),
            "rounded_zeros": zeros,
            "undefined_on_one_side": self.undefined,
            "above_tolerance": max(medians, default=0.0) > tolerance,
        } | ({"reason": reason} if reason else {})


def _agreement_text(features: Mapping[str, Mapping[str, Any]], done: Sequence[Any], alone: Sequence[str]) -> str:
    """Write the result for people: a table by family, then every feature that is not alike everywhere."""
    lines = [
        "# Agreement with cp-measure",
        "",
        f"`python benchmarks/features.py agreement --data DATA`: cp-measure {version('cp_measure')} beside cellinfer "
        f"{version('cellinfer')}. Relative differences |ours - theirs| / |theirs| of objects; angles around the "
        f"circle, over half of it. Values that on both sides are below {ZERO:g} of the feature's largest one are 0 but "
        "for rounding and count as equal. A column is one feature of one channel or pair in one table.",
        "",
        "Fields: " + "; ".join(f"{one['field']} ({one['objects']} objects)" for one in done) + ".",
        "",
        "| family | features | columns | values | median of medians | worst median | within 1e-6 | within 1e-3 |"
        " rounded zeros | undefined on one side | above tolerance |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in FAMILIES:
        mine = [one for one in features.values() if one["family"] == name]
        if not mine:
            lines.append(f"| {name} | 0 |  |  |  |  |  |  |  |  |  |")
            continue
        values = sum(one["values"] for one in mine)
        medians = [one["median"] for one in mine]
        shares = [
            sum(one[key] * one["values"] for one in mine) / values for key in ("share_within_1e-6", "share_within_1e-3")
        ]
        above = sum(one["above_tolerance"] for one in mine)
        cells = (
            name,
            len(mine),
            sum(one["columns"] for one in mine),
            values,
            f"{statistics.median(medians):.1e}",
            f"{max(one['worst_median'] for one in mine):.1e}",
            *(f"{100 * share:.3f} %" for share in shares),
            sum(one["rounded_zeros"] for one in mine),
            sum(one["undefined_on_one_side"] for one in mine),
            above,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "Not in cp-measure, or not as in CellProfiler: " + ", ".join(alone) + ".", ""]
    lines += ["## Features that are not within 1e-6 everywhere", ""]
    lines += [
        "| feature | tolerance | worst median | largest | largest, of the feature's largest value |"
        " values that differ | undefined on one side | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group, one in _grouped(features):
        cells = (
            group,
            f"{one['tolerance']:g}",
            f"{one['worst_median']:.1e}",
            f"{one['largest']:.1e}",
            f"{one['largest_of_scale']:.1e}",
            f"{one['values_that_differ']} of {one['values']}",
            str(one["undefined_on_one_side"]),
            one.get("reason", ""),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _grouped(features: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, one in features.items():
        if one["undefined_on_one_side"] or one["largest"] > 1e-6:
            yield key, one


# Cell Painting


MEMORY = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from cellinfer.measurement import PRESETS, measure_compartments

def memory():  # megabytes; ru_maxrss would begin with what the starting process had
    status = Path("/proc/self/status")
    if not status.exists():
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return {name: int(lines[key].split()[0]) / 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}

families, options = PRESETS["cell-painting"]
stored = np.load(sys.argv[1])
labels = {n[7:]: stored[n] for n in stored if n.startswith("labels_")}
images = {n[7:]: stored[n] for n in stored if n.startswith("images_")}
corner = ({n: np.ascontiguousarray(a[:128, :128]) for n, a in part.items()} for part in (labels, images))
measure_compartments(*corner, families=families, options=options)  # loads what is compiled
before = memory()
started, spent = time.perf_counter(), time.process_time()
tables = measure_compartments(labels, images, families=families, options=options)
found = {"wall": time.perf_counter() - started, "cpu": time.process_time() - spent, "before": before, "after": memory(),
         "rows": {n: len(t) for n, t in tables.items()}, "columns": {n: t.shape[1] - 1 for n, t in tables.items()},
         "maxrss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
print(json.dumps(found))
"""


def cell_painting(options: argparse.Namespace) -> None:
    """Measure five channels in three compartments, and the memory this takes."""
    labels, images, origin = five_channels(options.data, 512 if options.quick else 2048)
    chosen, settings = PRESETS["cell-painting"]
    shape = next(iter(images.values())).shape
    cells = int(labels["Cells"].max())
    task = f"5 channels x 3 compartments, {cells} cells, {shape[0]} x {shape[1]} pixels, 16 bits ({origin}), one thread"
    print(task, flush=True)
    fresh = [_fresh_process(labels, images) for _ in range(1 if options.quick else 3)]
    for one in fresh:
        peak, before = one["after"]["peak"], one["before"]["now"]
        print(f"  new process: {one['wall']:.2f} s, peak {peak:.0f} MB (before {before:.0f} MB)")
    ours = partial(measure_compartments, labels, images, families=chosen, options=settings)
    runs: dict[str, list[Timing]] = {"cellinfer": []}
    parts = cp_parts(labels, images, settings)
    for number, (name, (run, warm)) in enumerate(parts.items()):
        warm()
        if number % 4 == 0:
            runs["cellinfer"].append(clocked(ours))
        runs[name] = [clocked(run)]
        print(f"  {name}: {runs[name][0].wall:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    runs["cellinfer"].append(clocked(ours))
    default = [name for name in runs if name.startswith("cp-measure ") and "numba" not in name]
    replaced = {name.replace("numba ", ""): name for name in runs if "numba" in name}
    totals = {
        "cellinfer": median(runs["cellinfer"]),
        "cp-measure": sum(median(runs[name]) for name in default),
        "cp-measure, numba": sum(median(runs[replaced.get(name, name)]) for name in default),
    }
    costes = median(runs["cp-measure correlation_costes"])
    totals |= {f"{name}, without Costes": totals[name] - costes for name in ("cp-measure", "cp-measure, numba")}
    ratios = {name: round(seconds / totals["cellinfer"], 1) for name, seconds in totals.items() if name != "cellinfer"}
    for name, seconds in totals.items():
        print(f"  {name:36} {seconds:9.2f} s   x{ratios.get(name, 1)}")
    columns = fresh[0]["columns"]
    print(f"  columns {columns}, {sum(columns.values())} a cell")
    record = {
        "task": task,
        "median_s": {name: round(seconds, 3) for name, seconds in totals.items()},
        "times_slower_than_ours": ratios,
        "columns": columns,
        "columns_of_cp_measure": cp_columns(labels, images, settings),
        "peak_mb": round(max(one["after"]["peak"] for one in fresh), 1),
        "new_process": fresh,
        "input_mb": round(sum(a.nbytes for a in (*labels.values(), *images.values())) / 2**20, 1),
        "runs_s": {name: [round(one.wall, 3) for one in timings] for name, timings in runs.items()},
        "cpu_s": {name: [round(one.cpu, 3) for one in timings] for name, timings in runs.items()},
        "note": "cp-measure: one round, each part of its featurizer timed alone and added up; textures at each scale. "
        "Its featurizer computes Pearson and Costes for both orders of every pair. numba: texture, intensity and feret "
        "by its Numba back-end, the rest as before. Without Costes: of cp-measure only; ours computes it.",
    }
    keep("cell_painting", record, options.quick)


def _fresh_process(labels: Mapping[str, Labels], images: Mapping[str, Pixels]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "field.npz"
        stored = {f"labels_{n}": a for n, a in labels.items()} | {f"images_{n}": a for n, a in images.items()}
        np.savez(path, **stored)
        done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _featurizer(names: Sequence[str], objects: Sequence[str], part: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of cp-measure's featurizer with a single part switched on."""
    from cp_measure.featurizer import make_featurizer_config

    config = make_featurizer_config(list(names), objects=list(objects))
    flags = [key for key, value in config.items() if isinstance(value, bool) and key != "legacy"]
    config |= {flag: flag == part for flag in flags}
    return config | ({f"{part}_params": parameters} if parameters else {})


def cp_configurations(settings: Options) -> dict[str, tuple[str, dict[str, Any]]]:
    """Parts of cp-measure's featurizer with our preset's parameters."""
    plain = ("intensity", "granularity", "radial_distribution", "radial_zernikes", "sizeshape", "zernike", "feret")
    pairs = ("correlation_pearson", "correlation_manders_fold", "correlation_rwc")
    return {
        **{name: (name, {}) for name in (*plain, *pairs)},
        "correlation_costes": ("correlation_costes", {"scale_max": 65535}),
        **{f"texture {scale}": ("texture", {"scale": scale}) for scale in settings.texture_scales},
    }


Run = Callable[[], Any]


def cp_parts(
    labels: Mapping[str, Labels], images: Mapping[str, Pixels], settings: Options
) -> dict[str, tuple[Run, Run]]:
    """Return what cp-measure does, part by part, with what warms it up; numba parts have a name of their own."""
    import cp_measure
    from cp_measure.featurizer import featurize
    from cp_measure.multimask.measureobjectneighbors import measureobjectneighbors

    planes = np.stack([_unit(image) for image in images.values()])[None]
    masks = np.stack(list(labels.values()))[None]

    def run(config: dict[str, Any], accelerator: str | None, side: int | None) -> Any:
        cp_measure.set_accelerator(accelerator)
        try:
            return quietly(featurize, planes[..., :side, :side], masks[..., :side, :side], config)
        finally:
            cp_measure.set_accelerator(None)

    def neighbors(method: str) -> None:
        for plane in labels.values():
            quietly(measureobjectneighbors, plane, plane, method)

    found: dict[str, tuple[Run, Run]] = {}
    for name, (part, parameters) in cp_configurations(settings).items():
        config = _featurizer(tuple(images), tuple(labels), part, parameters)
        for accelerator in (None, "numba") if part in NUMBA_SET else (None,):
            key = f"cp-measure numba {name}" if accelerator else f"cp-measure {name}"
            found[key] = (partial(run, config, accelerator, None), partial(run, config, accelerator, 256))
    for method in settings.neighbor_distances:
        theirs = {"Adjacent": "Adjacent", "Expanded": "Expand until adjacent"}[str(method)]
        found[f"cp-measure neighbors {method}"] = (partial(neighbors, theirs), lambda: None)
    return found


def cp_columns(labels: Mapping[str, Labels], images: Mapping[str, Pixels], settings: Options) -> int:
    """Count the columns of cp-measure's featurizer for one kind of objects (neighbours: 7 for each method)."""
    from cp_measure.featurizer import featurize

    side = 256
    planes = np.stack([_unit(image[:side, :side]) for image in images.values()])[None]
    masks = np.stack([plane[:side, :side] for plane in labels.values()])[None]
    total = 7 * len(settings.neighbor_distances)
    for part, parameters in cp_configurations(settings).values():
        config = _featurizer(tuple(images), tuple(labels), part, parameters)
        total += len(quietly(featurize, planes, masks, config)[1])
    return total


# Growth


COUNTS = (100, 300, 1000, 3000, 10000, 20000)


def growth(options: argparse.Namespace) -> None:
    """Time everything on more and more objects: in ever larger fields, and in one of the same size."""
    counts = (100, 300) if options.quick else COUNTS
    rounds = 2 if options.quick else 5
    tile, origin = one_channel(options.data, 512 if options.quick else 2048)
    measure(tile.labels, {"DNA": tile.image})
    series: dict[str, list[dict[str, Any]]] = {}
    makers = {
        "larger fields": partial(larger_field, tile),
        "one field of 4096 x 4096": partial(fuller_field, side=1024 if options.quick else 4096),
    }
    for name, make in makers.items():
        sites = [make(count) for count in counts]
        contenders = {str(n): (partial(clocked, partial(measure, *site)), rounds) for n, site in enumerate(sites)}
        runs = in_turn(contenders)
        series[name] = [_point(site, runs[str(n)]) for n, site in enumerate(sites)]
    lines = {name: fitted(points, "median_s") for name, points in series.items()}
    lines_user = {name: fitted(points, "user_s") for name, points in series.items()}
    for name, points in series.items():
        print(name)
        for point in points:
            print(
                f"  {point['objects']:>6} objects {point['megapixels']:>7.2f} Mpx"
                f" {point['median_s']:>8.3f} s (user {point['user_s']:.3f}, system {point['system_s']:.3f})"
                f" {1e3 * point['s_per_megapixel']:>7.1f} ms/Mpx {1e6 * point['s_per_object']:>8.1f} us/object"
            )
        for what, fits in (("wall", lines), ("user", lines_user)):
            print(f"  {what}: " + ", ".join(f"{key} {value:.4g}" for key, value in fits[name].items()))
    task = f"all families, one channel, one thread; objects of {origin} and discs of 6 to 10 pixels radius"
    keep("growth", {"task": task, "series": series, "lines": lines, "lines_user": lines_user}, options.quick)
    if not options.quick:
        draw_growth(series, lines)


def larger_field(tile: Site, count: int) -> Site:
    """Return a square with the tile's density and about so many objects, from the tile side by side."""
    side = round(math.sqrt(count / (tile.labels.max() / tile.labels.size)))
    times = math.ceil(side / tile.labels.shape[0])
    labels = mosaic([tile.labels] * times**2, times, side, labels=True)
    return Site(labels, mosaic([tile.image] * times**2, times, side))


def fuller_field(count: int, side: int) -> Site:
    """Return a square of always the same size with so many discs on a jittered grid, noise in and around them."""
    rng = np.random.default_rng(count)
    grid = math.ceil(math.sqrt(count))
    step = side / grid
    labels = np.zeros((side, side), np.int32)
    for number, place in enumerate(rng.permutation(grid**2)[:count], 1):
        centre = (np.array(divmod(place, grid)) + 0.5) * step + rng.uniform(-2, 2, 2)
        radius = rng.uniform(6, 10)
        top, left = np.maximum((centre - radius).astype(int), 0)
        bottom, right = (centre + radius).astype(int) + 2
        window = labels[top:bottom, left:right]
        y, x = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
        window[((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2) & (window == 0)] = number
    bright = 200.0 + 800.0 * ndimage.uniform_filter((labels > 0).astype(np.float32), 5)
    return Site(relabel(labels), rng.poisson(bright).astype(np.uint16))


def _point(site: Site, timings: Sequence[Timing]) -> dict[str, Any]:
    objects, megapixels, seconds = int(site.labels.max()), site.labels.size / 1e6, median(timings)
    return {
        "objects": objects,
        "megapixels": round(megapixels, 3),
        "object_pixels": int((site.labels > 0).sum()),
        "median_s": round(seconds, 4),
        "s_per_megapixel": round(seconds / megapixels, 6),
        "s_per_object": round(seconds / objects, 8),
        "user_s": round(statistics.median(one.cpu - one.system for one in timings), 4),
        "system_s": round(statistics.median(one.system for one in timings), 4),
        "runs_s": [round(one.wall, 4) for one in timings],
    }


def fitted(points: Sequence[Mapping[str, Any]], seconds: str) -> dict[str, float]:
    """Fit seconds = start + slope x objects, every point weighted alike in relative terms, and the power."""
    x = np.array([point["objects"] for point in points], float)
    y = np.array([point[seconds] for point in points])
    design = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    start, slope = np.linalg.lstsq(design, np.ones_like(y), rcond=None)[0]
    line = start + slope * x
    power = np.polyfit(np.log(x), np.log(y), 1)[0]
    return {
        "start_s": float(start),
        "slope_us_per_object": float(1e6 * slope),
        "r_squared": float(1 - ((y - line) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
        "largest_relative_deviation": float(np.abs(y / line - 1).max()),
        "power_of_objects": float(power),
    }


def draw_growth(series: Mapping[str, Sequence[Mapping[str, Any]]], lines: Mapping[str, Mapping[str, float]]) -> None:
    """Draw seconds over objects, if matplotlib is there."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.4), layout="constrained")
    for (name, points), colour in zip(series.items(), ("#0b6e99", "#c1571a"), strict=True):
        x = np.array([point["objects"] for point in points], float)
        line, dense = lines[name], np.geomspace(x[0], x[-1], 200)
        axes.plot(x, [point["median_s"] for point in points], "o", color=colour, label=name)
        fit = line["start_s"] + 1e-6 * line["slope_us_per_object"] * dense
        label = f"{line['start_s']:.3f} s + {line['slope_us_per_object']:.0f} µs per object"
        axes.plot(dense, fit, "-", color=colour, linewidth=1, label=label)
    axes.set(xscale="log", yscale="log", xlabel="Objects", ylabel="Seconds, one thread")
    axes.set_title("All families, one channel")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path = RESULTS / "features_growth.png"
    figure.savefig(path, dpi=120)
    print(f"written to {path}")


# Compilation


COMPILE = """
import time
begun = time.perf_counter()
import json, numpy as np
from cellinfer.measurement import PRESETS, measure
imported = time.perf_counter()
from cellinfer_kernels import _jit
compiled = []
_jit.on_compile(compiled.append)
y, x = np.mgrid[:64, :64]
labels = ((y // 16 * 4 + x // 16 + 1) * ((y % 16 - 8) ** 2 + (x % 16 - 8) ** 2 < 40)).astype(np.int32)
images = {"DNA": (1000 + 37 * x + 11 * y * y).astype(np.uint16), "GFP": (500 + x * y).astype(np.uint16)}
ready = time.perf_counter()
for families, options in (PRESETS["all"], PRESETS["cell-painting"]):
    measure(labels, images, families=families, options=options)
done = time.perf_counter()
print(json.dumps({"import_s": imported - begun, "measure_s": done - ready, "total_s": done - begun,
                  "compiled": len(compiled)}))
"""


def compilation(options: argparse.Namespace) -> None:
    """Time a first start, which compiles, and later ones."""
    with tempfile.TemporaryDirectory() as folder:
        cold = [_start(Path(folder) / str(number)) for number in range(1 if options.quick else 2)]
        print(f"first start, compiling: {cold}")
        warm = [_start(Path(folder) / "0") for _ in range(2 if options.quick else 5)]
        size = sum(file.stat().st_size for file in (Path(folder) / "0").rglob("*") if file.is_file())
    assert all(one["compiled"] == 0 for one in warm) and cold[0]["compiled"] > 0
    found = {
        name: {key: round(statistics.median(one[key] for one in runs), 3) for key in runs[0]}
        for name, runs in (("first_start", cold), ("later_start", warm))
    }
    for name, parts in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in parts.items()))
    task = "import cellinfer.measurement, then measure a 64 x 64 field of two channels with both presets; a new process"
    record = {
        "task": task,
        "median": found,
        "first_starts": cold,
        "later_starts": warm,
        "cache_mb": round(size / 2**20, 1),
    }
    keep("compile", record, options.quick)


def _start(cache: Path) -> dict[str, float]:
    """Run in a new process with its kernel cache in this folder; `process_s` includes Python's own start."""
    environment = os.environ | {"CELLINFER_CACHE": str(cache)}
    started = time.perf_counter()
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    elapsed = time.perf_counter() - started
    return dict(json.loads(done.stdout)) | {"process_s": elapsed}


COMMANDS = {
    "families": families,
    "agreement": agreement,
    "cell-painting": cell_painting,
    "growth": growth,
    "compile": compilation,
}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=[*COMMANDS, "all"])
    parser.add_argument("--data", type=Path, help="folder of real images")
    parser.add_argument("--nyxus", help="Python interpreter that has nyxus")
    parser.add_argument("--quick", action="store_true", help="small input, few rounds, nothing kept")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)  # libraries read it once
    for name, command in COMMANDS.items():
        if options.command in (name, "all"):
            command(options)


if __name__ == "__main__":
    main()
