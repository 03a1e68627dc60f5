"""Flow fields (Cellpose, Stringer et al. 2021): from labels to the way to each object's middle, and following it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import kernel
from cellinfer_kernels.components import as_mask, group

__all__ = ["follow", "heat_flows"]


def heat_flows(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Point every object pixel to its object's middle, along the gradient of heat that spreads from there.

    A source at the object's pixel nearest to the median of its rows and columns gives one unit of heat per step; each
    step averages 3 x 3 pixels, outside the object is always cold. After twice as many steps as the bounding box's
    height and width together, the gradient of the logarithm of heat is taken by central differences and scaled to
    length 1.

    Parameters
    ----------
    labels
        2-D label image. Of an object in several pieces only those that heat reaches over edges or corners have a flow.

    Returns
    -------
    ndarray of float32
        (2, H, W) rows' and columns' components, of length 1 in objects; 0 on background and where no heat comes or
        its gradient vanishes.

    Raises
    ------
    ValueError
        As `cellinfer_kernels.components.as_labels`.
    """
    objects = group(labels)
    return _heat_flows(objects.begins, objects.pixels, *objects.shape)  # type: ignore[no-any-return]


@kernel
def _heat_flows(begins: Any, pixels: Any, height: Any, width: Any) -> Any:
    flows = np.zeros((2, height, width), np.float32)
    for k in range(len(begins) - 1):
        mine = pixels[begins[k] : begins[k + 1]]
        rows = mine // width
        columns = mine % width
        top = rows.min()
        left = columns.min()
        tall = rows.max() - top + 1
        wide = columns.max() - left + 1
        middle = np.argmin((rows - np.median(rows)) ** 2 + (columns - np.median(columns)) ** 2)
        inside = np.zeros((tall + 2, wide + 2))
        for i in range(len(mine)):
            inside[rows[i] - top + 1, columns[i] - left + 1] = 1 / 9
        heat = np.zeros((tall + 2, wide + 2))
        sums = np.zeros((tall + 2, wide + 2))
        for _ in range(2 * (tall + wide - 2)):
            heat[rows[middle] - top + 1, columns[middle] - left + 1] += 1
            for y in range(1, tall + 1):
                for x in range(1, wide + 1):
                    sums[y, x] = heat[y, x - 1] + heat[y, x] + heat[y, x + 1]
            for y in range(1, tall + 1):
                for x in range(1, wide + 1):
                    heat[y, x] = inside[y, x] * (sums[y - 1, x] + sums[y, x] + sums[y + 1, x])
        heat = np.log1p(heat)
        for i in range(len(mine)):
            y = rows[i] - top + 1
            x = columns[i] - left + 1
            down = heat[y + 1, x] - heat[y - 1, x]
            right = heat[y, x + 1] - heat[y, x - 1]
            length = np.sqrt(down * down + right * right)
            if length > 1e-20:
                flows[0, rows[i], columns[i]] = down / length
                flows[1, rows[i], columns[i]] = right / length
    return flows


def follow(flows: NDArray[Any], mask: NDArray[Any], steps: int = 200) -> NDArray[np.float32]:
    """Let every pixel of a mask drift with the flow (Euler steps, bilinear interpolation).

    Parameters
    ----------
    flows
        (2, H, W) rows' and columns' components, pixels per step; finite. Outside the mask they count as 0.
    mask
        (H, W); pixels that start.
    steps
        How often each moves. Positions are held within the image.

    Returns
    -------
    ndarray of float32
        (P, 2) rows and columns where the mask's pixels, in raster order, come to be.

    Raises
    ------
    ValueError
        If shapes do not fit.
    """
    field = np.asarray(flows, np.float32)
    if field.ndim != 3 or field.shape[0] != 2:
        raise ValueError(f"flows must have shape (2, H, W), got {field.shape}")
    inside = as_mask(mask, field.shape[1:])
    # Both components side by side: each step reads four neighbours.
    pairs = np.ascontiguousarray(np.moveaxis(np.where(inside, field, np.float32(0)), 0, -1))
    return _follow(pairs, np.argwhere(inside), int(steps))  # type: ignore[no-any-return]


@kernel
def _follow(flows: Any, starts: Any, steps: Any) -> Any:
    height, width = flows.shape[:2]
    ends = np.empty((len(starts), 2), np.float32)
    for i in range(len(starts)):
        y = np.float32(starts[i, 0])
        x = np.float32(starts[i, 1])
        for _ in range(steps):
            row = np.int64(y)
            column = np.int64(x)
            below = min(row + 1, height - 1)
            right = min(column + 1, width - 1)
            v = y - np.float32(row)
            u = x - np.float32(column)
            a = (np.float32(1) - v) * (np.float32(1) - u)
            b = (np.float32(1) - v) * u
            c = v * (np.float32(1) - u)
            d = v * u
            f = flows[row, column]
            g = flows[row, right]
            h = flows[below, column]
            k = flows[below, right]
            dy = a * f[0] + b * g[0] + c * h[0] + d * k[0]
            dx = a * f[1] + b * g[1] + c * h[1] + d * k[1]
            if dy == 0 and dx == 0:
                break
            y = min(max(y + dy, np.float32(0)), np.float32(height - 1))
            x = min(max(x + dx, np.float32(0)), np.float32(width - 1))
        ends[i, 0] = y
        ends[i, 1] = x
    return ends
