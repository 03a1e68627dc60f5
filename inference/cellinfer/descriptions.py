"""Nested descriptions, walked with an error that names the field which is missing or of the wrong kind."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from cellinfer.errors import ModelError


class Description:
    """Walks a nested description and names the field that is missing, or of the wrong kind, in its error."""

    def __init__(self, root: Any, source: str, prefix: tuple[str | int, ...] = ()) -> None:
        self._root, self._source, self._prefix = root, source, prefix

    def __call__(self, *path: str | int) -> Any:
        """Return the field at a path of names and places in lists, whatever it is."""
        found: Any = self._root
        for step in path:
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                raise ModelError(f"The card of the model {self._source} lacks the field {self._name(path)}.") from None
        return found

    def inside(self, *path: str | int) -> Description:
        """Return a lookup that begins at a field."""
        return Description(self(*path), self._source, (*self._prefix, *path))

    def mapping(self, *path: str | int) -> Mapping[str, Any]:
        """Return a field that has named fields inside."""
        found = self(*path)
        if not isinstance(found, Mapping):
            raise self._wrong(path, found, "a mapping of names")
        return found

    def items(self, *path: str | int) -> Sequence[Any]:
        """Return a field that is a list; text is none."""
        found = self(*path)
        if not isinstance(found, list | tuple):
            raise self._wrong(path, found, "a list, as in a BioImage.IO description 0.5")
        return found

    def number(self, *path: str | int) -> float:
        """Return a finite number as it stands, whole or not."""
        found = self(*path)
        if isinstance(found, bool) or not isinstance(found, int | float) or not _is_finite(found):
            raise self._wrong(path, found, "a finite number")
        return found

    def whole(self, *path: str | int) -> int:
        """Return a whole number; none is rounded."""
        found = self.number(*path)
        if found != int(found):
            raise self._wrong(path, found, "a whole number")
        return int(found)

    def truth(self, *path: str | int) -> bool:
        """Return true or false; no number stands for them."""
        found = self(*path)
        if not isinstance(found, bool):
            raise self._wrong(path, found, "true or false")
        return found

    def _name(self, path: tuple[str | int, ...]) -> str:
        return ".".join(map(str, (*self._prefix, *path)))

    def _wrong(self, path: tuple[str | int, ...], found: Any, must: str) -> ModelError:
        given = reprlib.repr(found)
        return ModelError(
            f"The card of the model {self._source} gives {self._name(path)} as {given}: it must be {must}."
        )


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False
