"""OME-Zarr plates (NGFF 0.5 or 0.4): images with the labels of nuclei and cells beside them, in a pyramid.

Source: the specification at https://ngff.openmicroscopy.org/0.5/. One store per plate, one image per well and site;
time points are an axis of it. Labels are made smaller by leaving pixels out, images by averaging.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cellinfer_kernels.normalise import percentiles
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.journal import field_name
from cellinfer.outputs.exports._files import durable_folder
from cellinfer.outputs.exports._options import Ngff, Options
from cellinfer.outputs.exports._results import KINDS, Analysed, Images, ResultField, Results
from cellinfer.plate import Field, FieldKey
from cellinfer.wells import parse_well, row_letters

_CHUNK = 1024
_SMALLEST = 256
"""The last level of a pyramid is at most so wide and high, pixels."""
_NUCLEAR = "0000FF"
_COLOURS = ("00FF00", "FF0000", "FF00FF", "00FFFF", "FFFF00", "FFFFFF")

_Spot = tuple[str, str, int]
"""Plate, well, site."""


def planned(results: Results, options: Options) -> tuple[str, ...]:
    """Return the stores that will be written."""
    return tuple(_store_name(plate) for plate in dict.fromkeys(head.key.plate for head in results.fields))


@contextmanager
def writing(results: Results, folder: Path, options: Options) -> Iterator[Callable[[ResultField], None]]:
    """Give the function that adds one field."""
    assert options.plate is not None
    images = Images(results, options.plate)
    heads: dict[str, list[Analysed]] = defaultdict(list)
    for head in results.fields:
        heads[head.key.plate].append(head)
    with ExitStack() as stack:
        stores: dict[str, _Store] = {}

        def add(field: ResultField) -> None:
            plate = field.head.key.plate
            if plate not in stores:
                partial = stack.enter_context(durable_folder(folder / _store_name(plate)))
                stores[plate] = _Store(partial, plate, results, heads[plate], options.ngff)
            shape = field.labels("Nuclei").shape
            stores[plate].add(field, images.read(field.head, (shape[0], shape[1])))

        yield add


class _Store:
    """The store of one plate while it grows."""

    def __init__(self, folder: Path, plate: str, results: Results, heads: Sequence[Analysed], ngff: Ngff) -> None:
        self._results = results
        self._node = _Node(folder, ngff)
        # All images have all times of the plate: one that failed stays without chunks, and the others in step.
        self._times = sorted({head.key.time for head in heads})
        self._moves = len(self._times) > 1
        self._sites: dict[str, list[int]] = defaultdict(list)
        for _, well, site in dict.fromkeys(head.key[:3] for head in heads):
            self._sites[well].append(site)
        self._node.group("", self._plate(plate), {"cellinfer": results.provenance})
        for row in dict.fromkeys(_well_path(well).split("/")[0] for well in self._sites):
            self._node.group(row, {})
        for well, sites in self._sites.items():
            listed = [{"path": str(site)} for site in sites]
            self._node.group(_well_path(well), {"well": {"images": listed} | self._node.version_04})
        self._spot: _Spot | None = None
        self._open: dict[str, list[Any]] = {}

    def add(self, field: ResultField, images: Mapping[str, NDArray[Any]]) -> None:
        """Add the images and labels of a field."""
        key = field.head.key
        path = f"{_well_path(key.well)}/{key.site}"
        if self._spot != key[:3]:
            self._spot = (key.plate, key.well, key.site)
            self._begin(path, field, images)
        time = self._times.index(key.time)
        self._put(path, time, {self._results.channels.index(name): plane for name, plane in images.items()}, _averaged)
        for kind in KINDS:
            self._put(f"{path}/labels/{kind}", time, {None: field.labels(kind).astype(np.uint32)}, _thinned)

    def _plate(self, name: str) -> dict[str, Any]:
        """Describe the rows and columns in use."""
        places = {well: parse_well(well) for well in self._sites}
        rows, columns = (sorted({place[axis] for place in places.values()}) for axis in (0, 1))
        wells = [
            {"path": _well_path(well), "rowIndex": rows.index(row), "columnIndex": columns.index(column)}
            for well, (row, column) in places.items()
        ]
        return {
            "plate": {
                "name": name,
                "rows": [{"name": row_letters(row)} for row in rows],
                "columns": [{"name": str(column)} for column in columns],
                "wells": wells,
                "field_count": max(map(len, self._sites.values())),
            }
            | self._node.version_04
        }

    def _begin(self, path: str, field: ResultField, images: Mapping[str, NDArray[Any]]) -> None:
        """Write what describes an image and its labels, and their arrays without content."""
        shape = field.labels("Nuclei").shape
        lead = (len(self._times),) if self._moves else ()
        axes = "tcyx" if self._moves else "cyx"
        channels = self._results.channels
        missing = [name for name in channels if name not in images]
        dtype = np.result_type(*images.values())
        dtype = np.dtype(np.uint8) if dtype == np.bool_ else dtype
        omero = {"omero": {"channels": self._shown(images)} | self._node.version_04}
        key = field.head.key
        said: dict[str, Any] = {"plate": key.plate, "well": key.well, "site": key.site, "times": self._times}
        said |= {"missing_channels": missing} if missing else {}
        self._node.group(path, self._pyramid(f"{key.well} {key.site}", axes, shape) | omero, {"cellinfer": said})
        self._open = {path: self._node.arrays(path, axes, (*lead, len(channels), *shape), dtype)}
        self._node.group(f"{path}/labels", {"labels": list(KINDS)})
        for kind in KINDS:
            inside = f"{path}/labels/{kind}"
            axes = "tyx" if self._moves else "yx"
            described = {"image-label": {"source": {"image": "../../"}} | self._node.version_04}
            self._node.group(inside, self._pyramid(kind, axes, shape) | described)
            self._open[inside] = self._node.arrays(inside, axes, (*lead, *shape), np.dtype(np.uint32))

    def _put(
        self,
        path: str,
        time: int,
        planes: Mapping[int | None, NDArray[Any]],
        smaller: Callable[[NDArray[Any]], NDArray[Any]],
    ) -> None:
        """Fill all levels of an image; a channel that the field lacks stays without chunks."""
        for channel, full in planes.items():
            level = full
            for number, array in enumerate(self._open[path]):
                level = smaller(level) if number else level
                if array.shape[-2:] != level.shape or not np.can_cast(level.dtype, array.dtype):
                    raise InputError(
                        f"The time points of {path} differ in size or pixel type, which OME-Zarr cannot hold: leave "
                        "out ome-zarr."
                    )
                place = (*((time,) if self._moves else ()), *(() if channel is None else (channel,)))
                array[(*place, slice(None), slice(None))] = level

    def _pyramid(self, name: str, axes: str, shape: tuple[int, ...]) -> dict[str, Any]:
        size = self._results.pixel_size
        unit = {} if size is None else {"unit": "micrometer"}
        kinds: dict[str, dict[str, str]] = {"t": {"type": "time"}, "c": {"type": "channel"}}
        datasets = [
            {
                "path": str(level),
                "coordinateTransformations": [
                    {
                        "type": "scale",
                        "scale": [(size or 1.0) * 2.0**level if axis in "yx" else 1.0 for axis in axes],
                    }
                ],
            }
            for level in range(_levels(shape))
        ]
        described = [{"name": axis} | kinds.get(axis, {"type": "space"} | unit) for axis in axes]
        image = {"name": name, "axes": described, "datasets": datasets} | self._node.version_04
        return {"multiscales": [image]}

    def _shown(self, images: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
        """Say how viewers should show the channels: colour, and the grey values from black to bright."""
        nuclear = self._results.info["configuration"].get("nuclei")
        colours = iter(_COLOURS * (len(self._results.channels) // len(_COLOURS) + 1))
        channels = []
        for name in self._results.channels:
            colour = _NUCLEAR if name == nuclear else next(colours)
            channels.append({"label": name, "color": colour, "window": _window(images.get(name)), "active": True})
        return channels


class _Node:
    """Groups and arrays of one store, in one version of the format."""

    def __init__(self, folder: Path, ngff: Ngff) -> None:
        self._folder, self._ngff = folder, ngff
        self.version_04: dict[str, str] = {"version": "0.4"} if ngff == "0.4" else {}
        """Up to 0.4 each part says its version, later only the group does."""

    def group(self, path: str, ome: dict[str, Any], more: Mapping[str, Any] | None = None) -> None:
        """Make a group with OME metadata, and others beside them."""
        import zarr

        content = ome if self._ngff == "0.4" else {"ome": {"version": "0.5"} | ome} if ome else {}
        place = self._folder / path
        zarr.create_group(place, zarr_format=2 if self._ngff == "0.4" else 3, attributes={**content, **(more or {})})

    def arrays(self, path: str, axes: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[Any]:
        """Make the arrays of a pyramid, largest first, without content."""
        return [self._array(f"{path}/{level}", axes, _halved(shape, level), dtype) for level in range(_levels(shape))]

    def _array(self, path: str, axes: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        import numcodecs
        import zarr
        from zarr.codecs import BloscCodec

        chunks = (*(1 for _ in shape[:-2]), *(min(side, _CHUNK) for side in shape[-2:]))
        options: dict[str, Any] = {"shape": shape, "chunks": chunks, "dtype": dtype, "fill_value": 0}
        # An absent chunk means an absent plane; one of zeros is written.
        options["config"] = {"write_empty_chunks": True}
        if self._ngff == "0.4":
            return zarr.create_array(
                self._folder / path,
                zarr_format=2,
                compressors=numcodecs.Blosc("zstd", 5, numcodecs.Blosc.SHUFFLE),
                chunk_key_encoding={"name": "v2", "separator": "/"},
                **options,
            )
        return zarr.create_array(
            self._folder / path,
            zarr_format=3,
            compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),
            dimension_names=list(axes),
            **options,
        )


def _store_name(plate: str) -> str:
    """Return a name that is safe in file names, as that of the plate's fields."""
    name = field_name(Field(FieldKey(plate, "A01", 1, 1), {}))
    return name.removesuffix("_A01_s1_t1") + ".ome.zarr"


def _well_path(well: str) -> str:
    row, column = parse_well(well)
    return f"{row_letters(row)}/{column}"


def _levels(shape: tuple[int, ...]) -> int:
    levels = 1
    while max(_halved(shape, levels - 1)[-2:]) > _SMALLEST:
        levels += 1
    return levels


def _halved(shape: tuple[int, ...], times: int) -> tuple[int, ...]:
    """Return the shape of a level: every other row and column, the first one included."""
    return (*shape[:-2], *(-(-side // 2**times) for side in shape[-2:]))


def _window(plane: NDArray[Any] | None) -> dict[str, float]:
    """Return the grey values shown as black and as bright, and the least and most there are."""
    finite = np.zeros(1) if plane is None else plane[np.isfinite(plane)]
    values = finite if finite.size else np.zeros(1)
    low, high = (float(value) for value in percentiles(values, (0.1, 99.9)))
    least, most = float(values.min()), float(values.max())
    return {"start": low, "end": max(high, low + 1e-6), "min": least, "max": max(most, least + 1e-6)}


def _thinned(labels: NDArray[Any]) -> NDArray[Any]:
    return labels[::2, ::2]


def _averaged(image: NDArray[Any]) -> NDArray[Any]:
    """Return the means of 2 x 2 pixels; the last row and column count twice where they are odd ones."""
    height, width = image.shape
    even = np.pad(image, ((0, height % 2), (0, width % 2)), mode="edge")
    exact = np.float32 if image.dtype.itemsize <= 2 else np.float64
    means = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean(axis=(1, 3), dtype=exact)
    rounded: NDArray[Any] = means if image.dtype.kind == "f" else np.rint(means)
    return rounded.astype(image.dtype)
