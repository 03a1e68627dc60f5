"""Shared fixtures: where the real images are, if they are at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder with the real development images; the test is skipped where there is none."""
    folder = Path(os.environ.get("CELLINFER_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder} (set CELLINFER_DATA)")
    return folder
