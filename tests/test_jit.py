"""The kernel cache: found again, survives damage, falls back when nothing is writable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import numpy as np
from cellinfer_kernels import cache_folder, on_compile
from cellinfer_kernels.components import label
compiled = []
on_compile(compiled.append)
labels, count = label(np.eye(4, dtype=bool), 2)
assert count == 1, count
print(len(compiled), cache_folder())
"""


def run_with_cache(**environment: str) -> tuple[int, Path]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    count, folder = done.stdout.strip().split(" ", 1)
    return int(count), Path(folder)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, Path]:
    """A cache as a first process leaves it: where it is, how much was compiled, where the process put it."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, *run_with_cache(CELLINFER_CACHE=str(cache))


def test_a_second_process_compiles_nothing(filled: tuple[Path, int, Path]) -> None:
    cache, first, folder = filled
    assert first > 0
    assert folder.parent == cache
    assert run_with_cache(CELLINFER_CACHE=str(cache)) == (0, folder)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_cache_is_readable_by_its_user_alone(filled: tuple[Path, int, Path]) -> None:
    folder = filled[2]
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_truncated_cache_files_are_compiled_again(filled: tuple[Path, int, Path], tmp_path: Path, kind: str) -> None:
    shutil.copytree(filled[0], tmp_path, dirs_exist_ok=True)
    files = list(tmp_path.rglob(f"*.{kind}"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:20])
    assert run_with_cache(CELLINFER_CACHE=str(tmp_path))[0] > 0
    assert run_with_cache(CELLINFER_CACHE=str(tmp_path))[0] == 0


def test_an_unusable_cache_folder_falls_back(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    count, folder = run_with_cache(CELLINFER_CACHE=str(blocker), TMPDIR=str(tmp_path))
    assert count > 0
    assert folder.is_relative_to(tmp_path)


def test_compiling_without_a_listener_is_said_once(tmp_path: Path) -> None:
    program = PROGRAM.replace("on_compile(compiled.append)\n", "")
    environment = os.environ | {"CELLINFER_CACHE": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stderr
        for _ in range(2)
    ]
    assert said[0].count("compiling kernels") == 1
    assert "compiling" not in said[1]
