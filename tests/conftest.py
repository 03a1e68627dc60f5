"""Shared fixtures: where the real images are, and small made-up fields with known cells."""

from __future__ import annotations

import os

# Before torch is imported: its waiting threads spin, and where pytest-xdist has a process on every core they take from
# each other many times what they add. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from cellinfer.sessions import Session, open_session
from hypothesis import settings
from numpy.typing import NDArray

# What torch's exporter tells of each of its steps, which pytest would keep: a quarter of an export's time.
logging.getLogger("torch.__trace").disabled = True

# The first call of a kernel compiles it, which no deadline should judge.
settings.register_profile("cellinfer", deadline=None)
settings.load_profile("cellinfer")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder with the real development images; the test is skipped where there is none."""
    folder = Path(os.environ.get("CELLINFER_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder} (set CELLINFER_DATA)")
    return folder


@pytest.fixture(scope="session")
def session() -> Session:
    """The bundled nucleus model on the CPU."""
    return open_session("nuclei", "cpu", 1)


@contextmanager
def dask_cluster(workers: int, threads: int = 1) -> Iterator[Any]:
    """Start dask workers, each a process; the test is skipped where dask is not installed."""
    distributed = pytest.importorskip("distributed")
    before = set(psutil.Process().children(recursive=True))
    cluster = distributed.LocalCluster(n_workers=workers, threads_per_worker=threads, dashboard_address=":0")
    try:
        yield cluster
    finally:
        try:
            cluster.close(timeout=20)
        except TimeoutError:  # a worker that was killed in a bad moment keeps its nanny waiting
            for process in set(psutil.Process().children(recursive=True)) - before:
                with suppress(psutil.Error):
                    process.kill()
            with suppress(TimeoutError):
                cluster.close(timeout=20)


def draw_cells(
    seed: int = 0, shape: tuple[int, int] = (240, 320), radius: float = 11.0
) -> dict[str, NDArray[np.generic]]:
    """Draw a field of round cells on a jittered grid: 16-bit planes `DNA` and `GFP`, int32 `truth`."""
    random = np.random.default_rng(seed)
    height, width = shape
    rows, columns = np.mgrid[:height, :width]
    dna, gfp = np.full(shape, 300.0), np.full(shape, 250.0)
    truth = np.zeros(shape, np.int32)
    step = round(3.6 * radius)
    for row in range(step // 2 + 4, height - step // 2, step):
        for column in range(step // 2 + 4, width - step // 2, step):
            y, x = row + random.uniform(-3, 3), column + random.uniform(-3, 3)
            size = radius * random.uniform(0.85, 1.15)
            distance = np.hypot(rows - y, columns - x)
            dna[distance <= size] += 1800 * random.uniform(0.7, 1.3)
            gfp[distance <= 1.6 * size] += 900
            truth[distance <= size] = truth.max() + 1
    dna, gfp = (cv2.GaussianBlur(plane, (0, 0), 1.2) for plane in (dna, gfp))
    noisy = [np.clip(plane + random.normal(0, 12, shape), 0, 65535).astype(np.uint16) for plane in (dna, gfp)]
    return {"DNA": noisy[0], "GFP": noisy[1], "truth": truth}


@pytest.fixture(scope="session")
def cells_field() -> dict[str, NDArray[np.generic]]:
    """A field of round cells, see `draw_cells`."""
    return draw_cells()
