"""Files of an export folder: who wrote them, and folders that are either whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cellinfer.errors import OutputError
from cellinfer.files import durable, output_errors

MANIFEST = "export.json"


class Manifest:
    """`export.json`: which files of a folder are exports, so that no other file is ever replaced.

    Parameters
    ----------
    folder
        Export folder, perhaps not there yet.
    plate
        Name of the plate that is exported into it.

    Raises
    ------
    OutputError
        If the folder holds exports of another plate, or the file is somebody else's.
    """

    def __init__(self, folder: Path, plate: str) -> None:
        self._folder, self._plate = folder, plate
        self._path = folder / MANIFEST
        self._formats: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            content = self._content()
            if content["plate"] != plate:
                raise OutputError(
                    f"{folder} holds exports of another plate, {content['plate']!r}: choose another --out for "
                    f"{plate!r}."
                )
            self._formats = content["formats"]

    def claim(self, planned: Mapping[str, tuple[str, ...]], provenance: Mapping[str, Any]) -> None:
        """Note which files each format is going to write, before any is written.

        Raises
        ------
        OutputError
            If one of them is there and is no export.
        """
        known = {name for entry in self._formats.values() for name in entry["files"]}
        for name in (name for names in planned.values() for name in names):
            if name not in known and (self._folder / name).exists():
                raise OutputError(
                    f"{self._folder / name} is there and was not written by an export: move it away, or choose another "
                    "--out."
                )
        for kind, names in planned.items():
            earlier = set(self._formats.get(kind, {}).get("files", ()))
            self._formats[kind] = {"files": sorted(earlier | set(names)), "of": dict(provenance)}
        self._write()
        self._clear({name for names in planned.values() for name in names})

    def settle(self, planned: Mapping[str, tuple[str, ...]]) -> None:
        """Remove what earlier exports wrote in these formats and this one did not."""
        for kind, names in planned.items():
            for name in set(self._formats[kind]["files"]) - set(names):
                _remove(self._folder / name)
                with suppress(OSError):  # not empty
                    (self._folder / name).parent.rmdir()
            self._formats[kind]["files"] = sorted(names)
        self._write()

    def _clear(self, names: set[str]) -> None:
        """Remove what an export that was killed left of these files."""
        for parent in {Path(name).parent for name in names}:
            for path in (self._folder / parent).glob(".*"):
                if path.suffix in (".partial", ".old") and (parent / _target(path)).as_posix() in names:
                    _remove(path)

    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            known = {"plate", "formats"} <= set(content) and all(
                _is_inside(name) for entry in content["formats"].values() for name in entry["files"]
            )
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            known = False
        if not known:
            raise OutputError(f"{self._path} was not written by an export: move it away, or choose another --out.")
        return dict(content)

    def _write(self) -> None:
        content = {"plate": self._plate, "formats": self._formats}
        with durable(self._path) as partial:
            partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def durable_folder(path: Path) -> Iterator[Path]:
    """Write a folder so that it appears whole or not at all, in the place of an earlier one.

    Yields a temporary folder beside it, which is renamed on leaving without an exception.

    Raises
    ------
    OutputError
        As `cellinfer.files.durable`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    earlier = partial.with_suffix(".old")
    with output_errors(path):
        try:
            partial.mkdir(parents=True)
            yield partial
            if hasattr(os, "sync"):
                os.sync()  # thousands of small files: one by one takes minutes on a disk
            if path.exists():
                path.rename(earlier)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)


def _target(partial: Path) -> str:
    """Return the name that `.NAME.PID.partial` is written for."""
    return partial.name[1:].rsplit(".", 2)[0]


def _is_inside(name: str) -> bool:
    parts = Path(name).parts
    return len(parts) > 0 and not Path(name).is_absolute() and ".." not in parts


def _remove(path: Path) -> None:
    """Remove a file, or a folder that is one export; no other folder, whatever a list of files may say."""
    if path.is_dir():
        if ".ome.zarr" not in path.name:
            return
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
