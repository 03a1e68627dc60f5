"""Do two back-ends find the same objects? The contract between torch, onnxruntime and its devices and precisions.

Raw outputs differ in their last bits between processors and much more between precisions; what users see are objects
and what is measured on them, so that is what is compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from cellinfer.errors import DeviceError
from cellinfer.segmentation import segment_image
from cellinfer.sessions import Session, open_session
from cellinfer_kernels.matching import average_precision, dsb_thresholds, match, score_thresholds
from numpy.typing import NDArray
from torch import nn

from cellinfer_training.data import Sample


@dataclass(frozen=True)
class Limits:
    """How far a back-end may depart from another: least shares, and largest drifts of the median object."""

    matched_50: float
    matched_90: float
    map_dsb: float
    area: float
    intensity: float


LIMITS = {
    "torch": Limits(matched_50=0.999, matched_90=0.998, map_dsb=0.995, area=0.001, intensity=0.001),
    "cuda": Limits(matched_50=0.998, matched_90=0.99, map_dsb=0.985, area=0.002, intensity=0.001),
    "int8": Limits(matched_50=0.99, matched_90=0.95, map_dsb=0.95, area=0.01, intensity=0.005),
}
"""By back-end, against onnxruntime on the CPU in floating point."""


@dataclass(frozen=True)
class Agreement:
    """How far two back-ends agree.

    Attributes
    ----------
    images, objects
        Images compared, and objects that the reference found in them.
    matched_50, matched_90
        Share of the reference's objects that the other found too, at an IoU above 0.5 and 0.9; 1 if there are none.
    map_dsb
        mAP_DSB of the other with the reference as truth, mean over images.
    area, intensity
        Median over matched objects (IoU above 0.5) of the relative difference of area and of mean intensity.
    """

    images: int
    objects: int
    matched_50: float
    matched_90: float
    map_dsb: float
    area: float
    intensity: float

    def check(self, limits: Limits, which: str) -> None:
        """Refuse an agreement beyond its limits.

        Raises
        ------
        RuntimeError
            Names the first figure out of bounds.
        """
        breach = self.breach(limits, which)
        if breach is not None:
            raise RuntimeError(breach)

    def breach(self, limits: Limits, which: str) -> str | None:
        """Return a sentence on the first figure out of bounds; None if all are within."""
        for figure in dataclasses.fields(limits):
            found, limit = getattr(self, figure.name), getattr(limits, figure.name)
            least = figure.name in ("matched_50", "matched_90", "map_dsb")
            if not (found >= limit if least else found <= limit):
                word = "at least" if least else "at most"
                return f"{which} disagree: {figure.name} is {found:.4g}, it must be {word} {limit}"
        return None

    def as_card(self) -> dict[str, float]:
        """Return the figures as a model's card states them."""
        return {name: round(value, 5) for name, value in dataclasses.asdict(self).items()}


def agreement(reference: Session, other: Session, samples: Sequence[Sample]) -> Agreement:
    """Compare the objects that two sessions find.

    Parameters
    ----------
    reference, other
        Two back-ends of one model.
    samples
        Images; their own labels play no part. Object size is each image's own, so that only networks are compared.
    """
    objects, scores, pairs = 0, [], []
    for sample in samples:
        diameter = sample.diameter if np.isfinite(sample.diameter) else reference.card.diameter
        truth, found = (segment_image(sample.image, s, diameter=diameter).labels for s in (reference, other))
        objects += int(truth.max(initial=0))
        scores.append(float(average_precision(score_thresholds(truth, found, dsb_thresholds())).mean()))
        pairs.append(np.stack(_matched(truth, found, sample.image)))
    iou, area, intensity = np.concatenate(pairs, axis=1)
    return Agreement(
        images=len(samples),
        objects=objects,
        matched_50=iou.size / objects if objects else 1.0,
        matched_90=float((iou > 0.9).sum()) / objects if objects else 1.0,
        map_dsb=float(np.mean(scores)),
        area=float(np.median(area)) if area.size else 0.0,
        intensity=float(np.median(intensity)) if intensity.size else 0.0,
    )


def _matched(
    truth: NDArray[np.int32], found: NDArray[np.int32], image: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return IoU, relative difference of area and of mean intensity of each pair of matched objects."""
    pairs = match(truth, found, 0.5)
    plane = image if image.ndim == 2 else image.mean(axis=-1)
    measured = []
    for labels, ids in ((truth, pairs.truth), (found, pairs.pred)):
        areas = np.bincount(labels.ravel())
        lights = np.bincount(labels.ravel(), weights=plane.ravel().astype(np.float64))
        measured.append((areas[ids].astype(np.float64), lights[ids] / areas[ids]))
    (area, light), (other_area, other_light) = measured
    # Normalised intensities may be near 0: the scale of the image, 1, stands in for what is darker than a tenth of it.
    drifts = np.abs(other_area - area) / area, np.abs(other_light - light) / np.maximum(np.abs(light), 0.1)
    return pairs.iou, *drifts


def torch_session(network: nn.Module, session: Session) -> Session:
    """Return a session that runs a torch network in place of its export.

    Parameters
    ----------
    network
        As deployed: from an image, and settings by name if it takes some, to what its decoder takes.
    session
        Its export.
    """
    deployed = network.eval()

    def run(names: Any, feed: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        image, settings = feed["image"], {name: value for name, value in feed.items() if name != "image"}
        with torch.no_grad():
            found = deployed(torch.from_numpy(image), **settings)
        return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]

    engine = SimpleNamespace(
        get_inputs=lambda: [SimpleNamespace(name="image")],
        get_overridable_initializers=session._engine.get_overridable_initializers,
        run=run,
    )
    return dataclasses.replace(session, _engine=engine)


def contract(network: nn.Module, path: Path, samples: Sequence[Sample], strict: bool = True) -> dict[str, Any]:
    """Compare an exported model with its torch original, and with itself on a GPU where there is one.

    Parameters
    ----------
    network
        The network as deployed.
    path
        Its export; onnxruntime on the CPU is the reference.
    samples
        Images to compare on.
    strict
        Whether a back-end that departs beyond `LIMITS` is refused. On a user's few images it is only noted: one object
        more or less is a large share of them.

    Returns
    -------
    dict
        Figures by back-end, for the card; for a back-end that is not there, why (`skipped`); for one beyond its limits,
        by how much (`breach`).

    Raises
    ------
    RuntimeError
        If `strict` and a back-end departs beyond `LIMITS`.
    """
    session = open_session(path, "cpu")
    found: dict[str, Any] = {}
    original = agreement(session, torch_session(network, session), samples)
    found["torch"] = _judged(original, LIMITS["torch"], "torch and onnxruntime", strict)
    try:
        gpu = open_session(path, "cuda")
    except DeviceError as error:
        return found | {"cuda": {"skipped": str(error)}}
    there = agreement(session, gpu, samples)
    return found | {"cuda": _judged(there, LIMITS["cuda"], "onnxruntime on the GPU and on the CPU", strict)}


def _judged(found: Agreement, limits: Limits, which: str, strict: bool) -> dict[str, Any]:
    breach = found.breach(limits, which)
    if breach is not None and strict:
        raise RuntimeError(breach)
    return found.as_card() | ({"breach": breach} if breach is not None else {})
