"""Label and uncertainty images: one OME-TIFF per field and kind, readable by napari, Fiji and QuPath."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from cellinfer.files import durable
from cellinfer.storage import AnyPath


def write_labels(labels: NDArray[np.int32], path: AnyPath, *, name: str, pixel_size: float | None = None) -> None:
    """Write a label image.

    Parameters
    ----------
    labels
        `(H, W)` int32. Written as uint16 where ids fit, as int32 otherwise, never wrapped.
    path
        Where to; ends in `.ome.tiff` or `.tif`.
    name
        Channel name in the file.
    pixel_size
        Micrometres per pixel, if known.
    """
    small = labels.max(initial=0) <= np.iinfo(np.uint16).max
    _write(labels.astype(np.uint16) if small else labels, path, name, pixel_size)


def write_uncertainty(uncertainty: NDArray[np.float32], path: AnyPath, *, pixel_size: float | None = None) -> None:
    """Write an uncertainty image, see `cellinfer.segmentation.Segmentation`.

    Parameters
    ----------
    uncertainty
        `(H, W)` float32, 0 to 1; written as it is.
    path, pixel_size
        As in `write_labels`.
    """
    _write(uncertainty, path, "Uncertainty", pixel_size)


def _write(image: NDArray[Any], path: AnyPath, name: str, pixel_size: float | None) -> None:
    metadata: dict[str, object] = {"axes": "YX", "Channel": {"Name": [name]}}
    if pixel_size is not None:
        metadata |= {f"PhysicalSize{axis}": pixel_size for axis in "XY"}
        metadata |= {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    ome = path.name.lower().endswith((".ome.tif", ".ome.tiff"))
    # Encoded here: this deflate takes a third of the time of tifffile's, for files half as large again. No predictor:
    # ImageJ undoes none with deflate.
    encoded = imagecodecs.zlibng_encode(np.ascontiguousarray(image).tobytes(), level=2)
    with durable(path) as partial:
        tifffile.imwrite(
            partial,
            iter([encoded]),
            shape=image.shape,
            dtype=image.dtype,
            compression="zlib",
            rowsperstrip=image.shape[0],
            photometric="minisblack",
            ome=ome,
            metadata=metadata if ome else {"axes": "YX"},
        )
