"""The bundled ONNX models, one card each, and the code that verifies them.

`registry.json` names every bundled file with its SHA-256; a model is read once, checked, and handed on as bytes, so
that what was checked is what runs. A model may have variants in other precisions, each a file of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["Entry", "IntegrityError", "digest", "folder", "read", "registry"]


class IntegrityError(Exception):
    """A bundled model is missing or is not the file that was released."""


@dataclass(frozen=True)
class Entry:
    """One bundled model.

    Parameters
    ----------
    name
        Name by which users ask for it.
    file
        File name inside the package.
    sha256
        Hexadecimal digest of the file.
    summary
        One line on what it is for.
    variants
        The same model in other precisions, by precision (`"int8"`).
    task
        `"segmentation"`, `"embedding"` or `"activity"`; the former where the registry does not say.
    """

    name: str
    file: str
    sha256: str
    summary: str
    variants: Mapping[str, Entry] = field(default_factory=dict)
    task: str = "segmentation"

    @property
    def path(self) -> Path:
        """Where the ONNX file lies."""
        return folder() / self.file

    @property
    def card_path(self) -> Path:
        """Where its card (YAML) lies."""
        return self.path.with_suffix(".yaml")


def folder() -> Path:
    """Return the folder that holds the bundled models."""
    return Path(__file__).parent


@cache
def registry() -> dict[str, Entry]:
    """Return the bundled models by name, in the order of the registry."""
    table = json.loads((folder() / "registry.json").read_text(encoding="utf-8"))
    return {name: _entry(name, values) for name, values in table.items()}


def _entry(name: str, values: Mapping[str, Any]) -> Entry:
    summary, task = values["summary"], values.get("task", "segmentation")
    variants = {
        precision: Entry(name, variant["file"], variant["sha256"], summary, task=task)
        for precision, variant in values.get("variants", {}).items()
    }
    return Entry(name, values["file"], values["sha256"], summary, variants, task)


def digest(content: bytes) -> str:
    """Return the SHA-256 of a model file's bytes, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read(name: str, precision: str = "float32") -> bytes:
    """Return the bytes of a bundled model after checking them against the registry.

    Parameters
    ----------
    name
        A key of `registry()`.
    precision
        `"float32"`, or one of the model's variants.

    Raises
    ------
    KeyError
        If no bundled model has that name, or none in that precision.
    IntegrityError
        If the file is missing or its digest differs.
    """
    entry = registry()[name]
    if precision != "float32":
        entry = entry.variants[precision]
    try:
        content = entry.path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"The bundled model {name!r} cannot be read ({error}): reinstall cellinfer.") from error
    found = digest(content)
    if found != entry.sha256:
        raise IntegrityError(
            f"The bundled model {name!r} at {entry.path} was altered: its SHA-256 is {found}, "
            f"the registry says {entry.sha256}. Reinstall cellinfer."
        )
    return content
