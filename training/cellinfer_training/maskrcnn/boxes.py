"""Boxes: anchors, overlap, and the numbers by which one box is described from another."""

from __future__ import annotations

import torch
from torch import Tensor

STRIDES = (4, 8, 16)
SIDES = (16.0, 32.0, 64.0)
"""Side of the square anchor at each stride, pixels."""
RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors at every place."""
_STEPS = (0.1, 0.1, 0.2, 0.2)
"""Typical deviations, which become 1 for the network."""
_LARGEST = 4.0
"""Largest logarithm of a change of size, so that no box becomes infinite."""


def anchors(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Lay anchors over an image.

    Parameters
    ----------
    height, width
        Of the image in pixels, multiples of the largest stride.
    device
        Where the result is made.

    Returns
    -------
    Tensor
        `(M, 4)` float32, by level, row, column and ratio.
    """
    levels = []
    for stride, side in zip(STRIDES, SIDES, strict=True):
        rows, columns = (
            (torch.arange(length // stride, device=device, dtype=torch.float32) + 0.5) * stride
            for length in (height, width)
        )
        ratios = torch.tensor(RATIOS, device=device)
        sides = torch.stack([side * ratios.sqrt(), side / ratios.sqrt()], dim=-1)
        middle = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)[:, :, None]
        levels.append(torch.cat([middle - sides / 2, middle + sides / 2], dim=-1).reshape(-1, 4))
    return torch.cat(levels)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of every pair of boxes, `(A, 4)` and `(B, 4)` to `(A, B)`."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None] - shared).clamp(min=1e-6)


def encode(boxes: Tensor, base: Tensor) -> Tensor:
    """Describe boxes from base boxes, both `(..., 4)`: shift by the base's size, logarithm of the change of size."""
    sides, base_sides = (b[..., 2:] - b[..., :2] for b in (boxes, base))
    shift = (boxes[..., :2] + sides / 2 - base[..., :2] - base_sides / 2) / base_sides
    return torch.cat([shift, torch.log(sides / base_sides)], dim=-1) / boxes.new_tensor(_STEPS)


def decode(numbers: Tensor, base: Tensor) -> Tensor:
    """Return the boxes that `encode` describes."""
    numbers = numbers * numbers.new_tensor(_STEPS)
    sides = base[..., 2:] - base[..., :2]
    middle = base[..., :2] + sides / 2 + numbers[..., :2] * sides
    half = sides * torch.exp(numbers[..., 2:].clamp(max=_LARGEST)) / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Cut boxes `(..., 4)` to the image."""
    rows, columns = boxes[..., 0::2].clamp(0, height), boxes[..., 1::2].clamp(0, width)
    return torch.stack([rows[..., 0], columns[..., 0], rows[..., 1], columns[..., 1]], dim=-1)
