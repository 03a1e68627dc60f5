"""ImageJ ROIs: one zip per field and kind of object, for the ROI Manager of ImageJ and Fiji.

A region is named by its ObjectNumber. Its corners are corners of pixels, so that ImageJ measures the very pixels of the
label image. Objects with holes or several parts are composite regions.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellinfer.errors import OutputError
from cellinfer.files import durable
from cellinfer.outputs.exports._options import Options
from cellinfer.outputs.exports._results import KINDS, ResultField, Results

if TYPE_CHECKING:
    from roifile import ImagejRoi

_LARGEST = 60_000
"""Coordinates that the format can hold go up to 60,535."""
_LONGEST_COMMENT = 65_535
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0
"""Steps of a composite region, as `java.awt.geom.PathIterator` numbers them."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of all entries: the same results give the same bytes."""


def planned(results: Results, options: Options) -> tuple[str, ...]:
    """Return the files that will be written."""
    return tuple(f"roi/{kind}/{head.name}.zip" for kind in KINDS for head in results.fields)


@contextmanager
def writing(results: Results, folder: Path, options: Options) -> Iterator[Callable[[ResultField], None]]:
    """Give the function that writes one field."""
    comment = json.dumps(results.provenance).encode()
    comment = comment if len(comment) <= _LONGEST_COMMENT else b""

    def add(field: ResultField) -> None:
        for kind in KINDS:
            if max(field.labels(kind).shape) > _LARGEST:
                raise OutputError(f"Field {field.head.name} is too large for ImageJ ROIs: leave out the format roi.")
            path = folder / "roi" / kind / f"{field.head.name}.zip"
            with durable(path) as partial, zipfile.ZipFile(partial, "w") as archive:
                archive.comment = comment
                for number, region in _regions(field, kind):
                    entry = zipfile.ZipInfo(f"{number}.roi", _EPOCH)
                    archive.writestr(entry, region.tobytes(), zipfile.ZIP_DEFLATED)

    yield add


def _regions(field: ResultField, kind: str) -> Iterator[tuple[int, ImagejRoi]]:
    found = field.outlines(kind)
    for k, number in enumerate(found.ids.tolist()):
        rings = range(found.rings[found.parts[k]], found.rings[found.parts[k + 1]])
        yield number, _region([found.vertices[found.begins[ring] : found.begins[ring + 1]] for ring in rings], number)


def _region(rings: list[NDArray[np.int32]], number: int) -> ImagejRoi:
    """Make one region: a traced outline as of ImageJ's wand, or a composite one of several rings."""
    from roifile import ROI_TYPE, ImagejRoi

    corners = np.concatenate(rings)
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    place: dict[str, Any] = {"left": int(left), "top": int(top), "right": int(right), "bottom": int(bottom)}
    if len(rings) == 1:
        return ImagejRoi(
            name=str(number),
            roitype=ROI_TYPE.TRACED,
            n_coordinates=len(corners),
            integer_coordinates=corners - [left, top],
            **place,
        )
    path = _path(rings)
    return ImagejRoi(name=str(number), roitype=ROI_TYPE.RECT, shape_roi_size=path.size, multi_coordinates=path, **place)


def _path(rings: list[NDArray[np.int32]]) -> NDArray[np.float32]:
    """Return rings as one path: `move x y, line x y, ..., close` for each."""
    pieces = []
    for ring in rings:
        steps = np.empty((len(ring), 3), np.float32)
        steps[:, 0] = _LINE
        steps[0, 0] = _MOVE
        steps[:, 1:] = ring
        pieces += [steps.ravel(), np.array([_CLOSE], np.float32)]
    return np.concatenate(pieces)
