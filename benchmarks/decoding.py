"""Read one image file by every codec that microscopes and their software use: cellinfer and the usual readers.

    python benchmarks/decoding.py                # a field that the script draws
    python benchmarks/decoding.py --data DATA    # and real files below DATA/vendor_layouts and DATA/tracking

What counts is the CPU time of the thread that reads, from the path to the array: a plate has one thread per field, and
the disk is the same for all. cellinfer's time holds all its checks, that each strip lies inside the file and that it is
whole. Every answer is compared with the image that was written; who cannot read a file has no time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

import cv2
import imagecodecs
import imageio.v3 as imageio
import numpy as np
import skimage.io
import tifffile
from _peers import RESULTS, machine
from cellinfer.images import read_image
from numpy.typing import NDArray

OURS = "cellinfer"
ROUNDS = 9
PEERS = ("tifffile", "imagecodecs", "opencv-python-headless", "scikit-image", "imageio")
Image = NDArray[Any]


class Case(NamedTuple):
    """One file to read."""

    name: str
    path: Path
    image: Image
    lossy: bool = False


def field(side: int, seed: int = 0) -> NDArray[np.uint16]:
    """Draw 12-bit nuclei on a camera's noise, which is what keeps real fields from being compressed well."""
    rng = np.random.default_rng(seed)
    light = np.full((side, side), 180.0)
    rows, columns = np.mgrid[-14:15, -14:15]
    for _ in range(side * side // 3000):
        top, left = rng.integers(0, side - 29, 2)
        inside = rows**2 / rng.uniform(60, 190) + columns**2 / rng.uniform(60, 190) < 1
        light[top : top + 29, left : left + 29] += inside * rng.uniform(300, 1500)
    light = cv2.GaussianBlur(light, (0, 0), 1.2)
    return np.minimum(rng.poisson(light / 2.0) * 2 + rng.normal(100, 4, light.shape), 4095).astype(np.uint16)


def cases(folder: Path) -> Iterator[Case]:
    """Write the files, one by one."""
    image = field(2048)
    small = field(512)
    narrow = (image >> 4).astype(np.uint8)
    labels = np.kron(np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) % 700, np.ones((32, 32), np.uint32))
    strips = {"rowsperstrip": 64}
    tiffs: dict[str, tuple[Image, dict[str, Any]]] = {
        "TIFF 512, uncompressed": (small, {}),
        "TIFF 512, LZW": (small, {"compression": "lzw"} | strips),
        "TIFF, uncompressed": (image, {}),
        "TIFF, uncompressed, big-endian": (image, {"byteorder": ">"}),
        "TIFF, LZW": (image, {"compression": "lzw"} | strips),
        "TIFF, LZW, one strip": (image, {"compression": "lzw", "rowsperstrip": 2048}),
        "TIFF, LZW, strips of 2 rows": (image, {"compression": "lzw", "rowsperstrip": 2}),
        "TIFF, LZW, tiles": (image, {"compression": "lzw", "tile": (256, 256)}),
        "TIFF, LZW, predictor": (image, {"compression": "lzw", "predictor": True} | strips),
        "TIFF, LZW, predictor, big-endian": (
            image,
            {"compression": "lzw", "predictor": True, "byteorder": ">"} | strips,
        ),
        "TIFF, LZW, 8 bit": (narrow, {"compression": "lzw"} | strips),
        "TIFF, LZW, 32-bit labels": (labels, {"compression": "lzw"} | strips),
        "TIFF, deflate": (image, {"compression": "zlib"} | strips),
        "TIFF, deflate, strips of 2 rows": (image, {"compression": "zlib", "rowsperstrip": 2}),
        "TIFF, deflate, predictor": (image, {"compression": "zlib", "predictor": True} | strips),
        "TIFF, deflate, predictor, tiles": (image, {"compression": "zlib", "predictor": True, "tile": (256, 256)}),
        "TIFF, zstd": (image, {"compression": "zstd"} | strips),
        "TIFF, zstd, predictor": (image, {"compression": "zstd", "predictor": True} | strips),
        "TIFF, packbits": (image, {"compression": "packbits"} | strips),
        "TIFF, LZMA": (image, {"compression": "lzma"} | strips),
        "TIFF, PNG": (image, {"compression": "png", "tile": (256, 256)}),
        "TIFF, JPEG": (narrow, {"compression": "jpeg"}),
        "TIFF, JPEG 2000": (image, {"compression": "jpeg2000", "tile": (256, 256)}),
        "TIFF, JPEG XL": (image, {"compression": "jpegxl", "tile": (256, 256)}),
    }
    path = folder / "image.tif"
    for name, (pixels, options) in tiffs.items():
        tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None, **options)
        yield Case(name, path, pixels, lossy="JPEG" in name)
    for name, pixels in {"PNG, 16 bit": image, "PNG, 8 bit": narrow, "JPEG": narrow, "BMP": narrow}.items():
        path = folder / f"image.{name.partition(',')[0].lower()}"
        path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
        yield Case(name, path, pixels, lossy=name == "JPEG")


def real_cases(data: Path) -> Iterator[Case]:
    """Find real files, one of each instrument."""
    patterns = {
        "Opera Phenix, LZW": "vendor_layouts/Operetta/Images/*.tiff",
        "Fluo-N2DH-SIM+, LZW": "tracking/Fluo-N2DH-SIM+/01/*.tif",
        "CV8000, deflate": "vendor_layouts/CV8000/**/*F004L01A02Z03C02.tif",
        "ImageXpress, uncompressed": "vendor_layouts/ImageXpress/1well*/**/*_s1_w1*.tif",
    }
    for name, pattern in patterns.items():
        for path in sorted(data.glob(pattern))[:1]:
            image = tifffile.imread(path)
            yield Case(f"real: {name}, {image.shape[1]} x {image.shape[0]}", path, image)


def readers(path: Path) -> dict[str, Callable[[], Any]]:
    """Return who may read the file."""
    is_tiff = path.suffix.startswith(".tif")
    found: dict[str, Callable[[], Any]] = {
        OURS: lambda: read_image(path),
        "OpenCV": lambda: cv2.imread(str(path), cv2.IMREAD_UNCHANGED),
        "scikit-image": lambda: skimage.io.imread(path),
        "imageio": lambda: imageio.imread(path),
    }
    if is_tiff:
        found["tifffile"] = lambda: _with_tifffile(path)
        found["imagecodecs (libtiff)"] = lambda: imagecodecs.tiff_decode(path.read_bytes())
    elif path.suffix != ".bmp":
        decode = {".png": imagecodecs.png_decode, ".jpeg": imagecodecs.jpeg8_decode}[path.suffix]
        found["imagecodecs"] = lambda: decode(path.read_bytes())
    return found


def _with_tifffile(path: Path) -> Image:
    with tifffile.TiffFile(path) as tiff:
        image: Image = tiff.pages[0].asarray(maxworkers=1)
    return image


def can_read(case: Case, read: Callable[[], Any]) -> bool:
    """Say whether the reader gives the image; stop if it gives another one."""
    try:
        image = read()
    except Exception:  # each has errors of its own
        return False
    if image is None:
        return False
    if not case.lossy:
        np.testing.assert_array_equal(image, case.image, case.name)
    elif case.image.dtype == np.uint8:
        assert np.mean(np.abs(image.astype(int) - case.image)) < 4, case.name
    return True


def cpu_times(contestants: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Run the contestants in turn; seconds of CPU time of this thread.

    Each runs twice, and the second time counts: in the first it meets the heap that another one left behind, and may
    have to ask the system for memory that the other has just given back.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, read in contestants.items():
            read()
            start = time.thread_time()
            read()
            seconds[name].append(time.thread_time() - start)
    return seconds


def measure(case: Case) -> dict[str, Any]:
    """Read one file with everyone who can."""
    able = {name: read for name, read in readers(case.path).items() if can_read(case, read)}
    assert OURS in able, case.name
    seconds = cpu_times(able)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    others = {name: median for name, median in medians.items() if name != OURS}
    best = min(others, key=lambda name: others[name])
    print(f"{case.name:<46} {1e3 * medians[OURS]:8.2f} ms   best other x{others[best] / medians[OURS]:.2f} ({best})")
    return {
        "pixels": f"{case.image.shape[1]} x {case.image.shape[0]} {case.image.dtype}",
        "file_bytes": case.path.stat().st_size,
        "median_ms": {name: round(1e3 * median, 3) for name, median in medians.items()},
        "times_slower_than_ours": {name: round(median / medians[OURS], 2) for name, median in others.items()},
        "runs_ms": {name: [round(1e3 * one, 3) for one in times] for name, times in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real images")
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory() as folder:
        files = {case.name: measure(case) for case in cases(Path(folder))}
    if data:
        files |= {case.name: measure(case) for case in real_cases(data)}
    record = {
        "task": "read one image file; CPU time of the reading thread, files in the system's cache",
        "files": files,
        "versions": {package: version(package) for package in ("cellinfer", "numpy", "numba", *PEERS)},
        "machine": machine(),
    }
    (RESULTS / "decoding.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
