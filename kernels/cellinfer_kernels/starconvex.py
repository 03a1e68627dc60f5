"""Star-convex polygons: from labels to distances along rays, and from many polygons to the few that are objects.

Rays follow StarDist (Schmidt et al. 2018): ray k of n has the angle ``2 pi k / n``, counted from the direction of
growing columns towards growing rows; its end point lies at row ``y + d sin``, column ``x + d cos``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import kernel
from cellinfer_kernels.components import as_labels

__all__ = ["ray_directions", "ray_distances"]


def ray_directions(rays: int) -> NDArray[np.float64]:
    """Return the unit vectors (row, column) of equally spaced rays.

    Parameters
    ----------
    rays
        How many, at least 3.

    Returns
    -------
    ndarray of float64
        (2, rays).

    Raises
    ------
    ValueError
        If there are fewer than 3 rays.
    """
    if rays < 3:
        raise ValueError(f"a polygon needs at least 3 rays, got {rays}")
    angles = np.arange(rays) * (2 * np.pi / rays)
    return np.stack([np.sin(angles), np.cos(angles)])


def ray_distances(labels: NDArray[Any], rays: int = 32, step: int = 1) -> NDArray[np.float32]:
    """Measure how far every object pixel is from its object's border, along every ray.

    A ray goes in steps of one pixel and ends at the first pixel of another id or outside the image; half a pixel
    along the ray's larger component is taken back, as StarDist does. So holes and gaps within an object end a ray.

    Parameters
    ----------
    labels
        (H, W) label image.
    rays
        Number of rays, at least 3.
    step
        Pixels between samples; the first sample is the first pixel.

    Returns
    -------
    ndarray of float32
        (ceil(H / step), ceil(W / step), rays) pixels; 0 on background.

    Raises
    ------
    ValueError
        If there are fewer than 3 rays, the step is below 1, or as `cellinfer_kernels.components.as_labels`.
    """
    if step < 1:
        raise ValueError(f"step must be at least 1, got {step}")
    directions = ray_directions(rays)
    image = np.pad(as_labels(labels), 1)
    # Pixels visited by each ray, as offsets into the padded image: the origin lies on the grid, so they never change.
    reach = np.arange(1, max(image.shape) * 3 // 2 + 2)
    rows, columns = np.rint(directions[:, :, None] * reach).astype(np.int64)
    overshoot = (1 - 0.5 / np.abs(directions).max(axis=0)).astype(np.float32)
    return _ray_distances(image, rows * image.shape[1] + columns, overshoot, step)  # type: ignore[no-any-return]


@kernel
def _ray_distances(image: Any, offsets: Any, overshoot: Any, step: Any) -> Any:
    height, width = image.shape
    rays = len(offsets)
    flat = image.ravel()
    result = np.zeros(((height - 3) // step + 1, (width - 3) // step + 1, rays), np.float32)
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            origin = (i * step + 1) * width + j * step + 1
            name = flat[origin]
            if name == 0:
                continue
            for k in range(rays):
                steps = 0
                while flat[origin + offsets[k, steps]] == name:
                    steps += 1
                result[i, j, k] = steps + 1 - overshoot[k]
    return result
