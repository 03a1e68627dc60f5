"""GeoJSON as QuPath reads it: one collection per field, one cell with its nucleus and its measurements per feature.

Coordinates are pixels, corners of pixels being whole numbers, as in QuPath; polygons are the very outlines of the
pixels. Missing measurements are left out, since JSON has no NaN. By default only those measurements are there that one
could read out of an assay: QuPath 0.4 to 0.6 takes a time per cell that grows with the square of their number.

Source: `PathObjectTypeAdapters` of QuPath.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from cellinfer_kernels.outlines import Outlines

from cellinfer.files import durable
from cellinfer.outputs.exports._options import Options
from cellinfer.outputs.exports._results import Feature, ResultField, Results
from cellinfer.readouts import is_readout

_CLASS = {"name": "Cell", "color": [255, 200, 50]}
_IDENTITY = uuid.UUID("5f0b6a0e-6f0c-4c39-9f6e-2f6d6a9a4c11")
"""Name space of the identities of cells: the same cell of the same run has the same one in each export."""


def planned(results: Results, options: Options) -> tuple[str, ...]:
    """Return the files that will be written."""
    return tuple(f"geojson/{head.name}.geojson" for head in results.fields)


@contextmanager
def writing(results: Results, folder: Path, options: Options) -> Iterator[Callable[[ResultField], None]]:
    """Give the function that writes one field."""
    features = tuple(
        feature for feature in results.features if options.measurements == "all" or is_readout(feature.column)
    )
    head = json.dumps({"type": "FeatureCollection", "cellinfer": results.provenance}, ensure_ascii=False)

    def add(field: ResultField) -> None:
        with (
            durable(folder / "geojson" / f"{field.head.name}.geojson") as partial,
            partial.open("w", encoding="utf-8", newline="\n") as file,
        ):
            file.write(f'{head[:-1]}, "features": [')
            for place, cell in enumerate(_cells(field, features)):
                file.write(",\n" if place else "\n")
                file.write(json.dumps(cell, separators=(",", ":"), ensure_ascii=False, allow_nan=False))
            file.write("\n]}\n")

    yield add


def _cells(field: ResultField, features: tuple[Feature, ...]) -> Iterator[dict[str, Any]]:
    values = field.values(features)
    known = np.isfinite(values)
    names = np.array([feature.column for feature in features], dtype=object)
    cells, nuclei = (_geometries(field.outlines(kind)) for kind in ("Cells", "Nuclei"))
    run = f"{field.results.provenance['model_sha256']} {field.head.name}"
    for row, number in enumerate(field.numbers.tolist()):
        measured = dict(zip(names[known[row]], values[row, known[row]].tolist(), strict=True))
        cell: dict[str, Any] = {
            "type": "Feature",
            "id": str(uuid.uuid5(_IDENTITY, f"{run} {number}")),
            "geometry": cells[number],
            "nucleusGeometry": nuclei[number],
            "properties": {
                "objectType": "cell",
                "name": str(number),
                "classification": _CLASS,
                "measurements": measured,
            },
        }
        yield cell


def _geometries(found: Outlines) -> dict[int, dict[str, Any]]:
    """Return the geometry of each object."""
    corners = found.vertices.tolist()
    begins, rings, parts = found.begins.tolist(), found.rings.tolist(), found.parts.tolist()
    closed = [
        [*corners[begin:end], corners[begin]] for begin, end in pairwise(begins)
    ]  # GeoJSON repeats the first corner
    polygons = [closed[first:last] for first, last in pairwise(rings)]
    return {
        number: {"type": "Polygon", "coordinates": polygons[first]}
        if last - first == 1
        else {"type": "MultiPolygon", "coordinates": polygons[first:last]}
        for number, (first, last) in zip(found.ids.tolist(), pairwise(parts), strict=True)
    }
