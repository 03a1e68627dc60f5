"""RoIAlign as two matrix products.

Bilinear sampling of a regular grid is separable: the samples of a box are `R @ map @ C.T`, where the rows of `R` and
`C` hold interpolation weights. Matrix products are what processors do best, and their gradient is one more product
instead of a scatter. The result is that of ONNX RoiAlign, mode `avg`, `half_pixel` coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLES = 2
"""Points per bin and axis whose mean is taken."""


def roi_align(maps: Tensor, boxes: Tensor, owners: Tensor, bins: int, stride: int) -> Tensor:
    """Cut boxes out of feature maps.

    Parameters
    ----------
    maps
        `(N, C, h, w)`.
    boxes
        `(R, 4)` in pixels of the image.
    owners
        `(R,)` int64: the map of each box, rising.
    bins
        Side of the result.
    stride
        Pixels of the image per pixel of the maps.

    Returns
    -------
    Tensor
        `(R, C, bins, bins)`.
    """
    height, width = maps.shape[2:]
    rows = _weights(boxes[:, 0], boxes[:, 2], bins, height, stride).to(maps.dtype)
    columns = _weights(boxes[:, 1], boxes[:, 3], bins, width, stride).to(maps.dtype)
    counts = torch.bincount(owners, minlength=len(maps)).tolist()
    # All boxes of one map share one product over its rows.
    parts = [
        torch.einsum("rph,chw->rcpw", share, plane)
        for share, plane in zip(torch.split(rows, counts), maps, strict=True)
    ]
    return torch.einsum("rcpw,rqw->rcpq", torch.cat(parts), columns)


def cut_masks(labels: Tensor, ids: Tensor, boxes: Tensor, owners: Tensor, bins: int) -> Tensor:
    """Return how much of each bin of a box its object covers, `(R, bins, bins)` in 0..1.

    Parameters
    ----------
    labels
        `(N, H, W)`, object numbers.
    ids
        `(R,)`: number of each box's object.
    boxes, owners, bins
        As in `roi_align`.
    """
    masks = (labels[owners] == ids[:, None, None]).float()
    rows = _weights(boxes[:, 0], boxes[:, 2], bins, masks.shape[1], 1)
    columns = _weights(boxes[:, 1], boxes[:, 3], bins, masks.shape[2], 1)
    return torch.einsum("rph,rhw,rqw->rpq", rows, masks, columns)


def _weights(first: Tensor, last: Tensor, bins: int, size: int, stride: int) -> Tensor:
    """Return the weights `(R, bins, size)` of linear interpolation, averaged over each bin's samples."""
    steps = (torch.arange(bins * SAMPLES, device=first.device) + 0.5) / (bins * SAMPLES)
    places = (first[:, None] + (last - first)[:, None] * steps) / stride - 0.5
    held = places.clamp(0, size - 1)
    weights = (1 - (held[..., None] - torch.arange(size, device=first.device)).abs()).clamp(min=0)
    weights = weights * ((places >= -1) & (places <= size))[..., None]  # ONNX: farther out, nothing is read
    return weights.reshape(len(places), bins, SAMPLES, size).mean(2)
