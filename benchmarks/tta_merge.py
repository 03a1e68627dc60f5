"""Merge eight test-time augmentation maps of 2048 x 2048 pixels: cellinfer, ttach, PyTorch, NumPy.

Every contestant gets the same eight maps in the coordinates of their views and returns their mean, restored.
"""

from __future__ import annotations

import numpy as np
import torch
import ttach
from _peers import alternate, report
from cellinfer_kernels.views import D4, augment, merge_probabilities, restore
from numpy.typing import NDArray

SIDE, ROUNDS = 2048, 15
OURS = "cellinfer"
CORES = torch.get_num_threads()
TRANSFORMS = ttach.Compose([ttach.HorizontalFlip(), ttach.Rotate90(angles=[0, 90, 180, 270])])


def view_names() -> list[str]:
    """Name each transform of ttach by what it does to a small image."""
    image = np.arange(6).reshape(2, 3)
    by_look = {augment(image, name).tobytes(): name for name in D4}
    turned = [one.augment_image(torch.from_numpy(image)[None, None])[0, 0] for one in TRANSFORMS]
    return [by_look[np.ascontiguousarray(one).tobytes()] for one in turned]


def with_ttach(tensors: list[torch.Tensor], threads: int = 1) -> NDArray[np.float32]:
    """Merge as `ttach.SegmentationTTAWrapper` does."""
    torch.set_num_threads(threads)
    merger = ttach.base.Merger(type="mean", n=len(TRANSFORMS))
    for transform, tensor in zip(TRANSFORMS, tensors, strict=True):
        merger.append(transform.deaugment_mask(tensor))
    return merger.result[0].numpy()


def with_torch(tensors: list[torch.Tensor]) -> NDArray[np.float32]:
    """Restore into one buffer without intermediate sums."""
    torch.set_num_threads(1)
    total = torch.zeros_like(tensors[0])
    for transform, tensor in zip(TRANSFORMS, tensors, strict=True):
        total.add_(transform.deaugment_mask(tensor))
    return total.div_(len(tensors))[0].numpy()


def with_numpy(maps: list[NDArray[np.float32]], names: list[str]) -> NDArray[np.float32]:
    """Restore whole maps, then add."""
    total = np.zeros(maps[0].shape, np.float32)
    for one, name in zip(maps, names, strict=True):
        total += restore(one, name)
    return total / np.float32(len(maps))


def main() -> None:
    names = view_names()
    rng = np.random.default_rng(0)
    image = rng.random((1, SIDE, SIDE), dtype=np.float32)
    maps = [augment(image * np.float32(rng.uniform(0.9, 1.0)), name) for name in names]
    tensors = [torch.from_numpy(one)[None] for one in maps]
    out = np.empty_like(image)
    seconds, answers = alternate(
        {
            OURS: lambda: merge_probabilities(maps, names),
            "cellinfer, into given array": lambda: merge_probabilities(maps, names, out),
            "ttach": lambda: with_ttach(tensors),
            f"ttach, {CORES} threads": lambda: with_ttach(tensors, CORES),
            "torch, in place": lambda: with_torch(tensors),
            "numpy, our turns": lambda: with_numpy(maps, names),
        },
        ROUNDS,
    )
    for answer in answers.values():
        np.testing.assert_allclose(answer, answers[OURS], rtol=1e-6)
    report(
        "tta_merge",
        f"mean of {len(names)} maps, {SIDE} x {SIDE} pixels, float32",
        OURS,
        seconds,
        ["cellinfer", "numpy", "numba", "torch", "ttach"],
        threads="one each, unless said otherwise: a plate is analysed with one thread per field",
    )


if __name__ == "__main__":
    main()
