"""Static 8-bit quantisation of an exported model: smaller, faster on CPUs, and as good within a stated limit.

Weights are signed bytes, one scale per output channel; activations are unsigned bytes (onnxruntime has fast kernels
for that pairing only) with ranges from training images. Which calibration is used, and which layers stay in floating
point, is decided by the score on training images; validation images only say what it cost.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cellinfer_models
import cv2
import numpy as np
import onnx
from cellinfer.errors import InputError, ModelError
from cellinfer.files import output_errors
from cellinfer.segmentation import LARGEST_SCALE
from cellinfer.sessions import Session, open_session
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from cellinfer_training.assess import assess, summarise
from cellinfer_training.data import Sample
from cellinfer_training.export import register_variant, write_model
from cellinfer_training.graphs import after_last_convolution, before_first_convolution, rewrite
from cellinfer_training.parity import LIMITS, agreement

Calibration = Literal["minmax", "percentile", "entropy"]
Part = Literal["first", "last"]

TRAINING_LIMIT = 0.003
"""Largest loss of mAP_DSB on training images with which a plan is taken."""
LIMIT = 0.005
"""Largest loss of mAP_DSB on validation images with which a quantised model may be written."""
_QUANTISED = ["Conv", "Relu", "Add", "MaxPool", "Resize", "DepthToSpace", "Slice"]
_SIDE = 256
_CROPS = 40
_TRIALS = 60


@dataclass(frozen=True)
class Plan:
    """How activations' ranges are found, and which ends of the network stay in floating point."""

    calibration: Calibration = "minmax"
    floating: tuple[Part, ...] = ("first",)


PLANS = (
    Plan("minmax"),
    Plan("percentile"),
    Plan("minmax", ("first", "last")),
    Plan("percentile", ("first", "last")),
    Plan("entropy", ("first", "last")),
)
"""Fastest to compute first; the first that is good enough is taken."""


@dataclass(frozen=True)
class Trial:
    """A plan, its mAP_DSB on training images, and how much that is below the model in floating point."""

    plan: Plan
    score: float
    loss: float


def quantise(
    model: Path, training: Sequence[Sample], held: Sequence[Sample], out: Path, plans: Sequence[Plan] = PLANS
) -> Path:
    """Quantise a model; the result has its own card, which says how and at what cost.

    Parameters
    ----------
    model
        An ONNX file with a card, in floating point.
    training
        Images it was trained on: they set ranges and decide on the plan.
    held
        Images it was not trained on: they say what quantising cost.
    out
        The `.onnx` file to write; its card goes beside it with `.yaml`.
    plans
        What to try, in turn.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If no training image has objects.
    OutputError
        If the folder of `out` cannot be written.
    ModelError
        If no plan loses at most `TRAINING_LIMIT`, or the result loses more than `LIMIT` or departs from the model in
        floating point beyond `cellinfer_training.parity.LIMITS`. Nothing is written then.
    """
    with output_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / out.name
        taken, trials = _first_good(model, training, candidate, plans)
        slow, fast = (open_session(path, "cpu") for path in (model, candidate))
        before, after = (summarise(assess(session, list(held))) for session in (slow, fast))
        loss = round(before["all"]["map_dsb"] - after["all"]["map_dsb"], 4)
        if loss > LIMIT:
            raise _refusal(model, f"in 8 bits it loses {loss} mAP_DSB on validation images (at most {LIMIT})")
        parity = agreement(slow, fast, held)
        breach = parity.breach(LIMITS["int8"], "int8 and float32")
        if breach is not None:
            raise _refusal(model, breach)
        description = json.loads(json.dumps(dict(slow.card.description_file)))
        ours = description["config"]["cellinfer"]
        ours["precision"] = "int8"
        ours["evaluation"] = {**ours.get("evaluation", {}), "validation": after}
        ours["quantisation"] = {
            "of_sha256": slow.sha256,
            "calibration": taken.plan.calibration,
            "floating": list(taken.plan.floating),
            "training_images": {"map_dsb_loss": taken.loss, "plans_tried": len(trials)},
            "validation_images": {"map_dsb_float32": before["all"]["map_dsb"], "map_dsb_loss": loss},
        }
        ours["parity"] = {**ours.get("parity", {}), "int8": parity.as_card()}
        description["description"] = f"{description['description']} Quantised to 8 bit: {loss:+.4f} mAP_DSB lost."
        write_model(onnx.load(candidate), description, out)
    return out


def release(path: Path, name: str) -> Path:
    """Copy a quantised model and its card into `cellinfer_models` and enter it as a variant of the bundled `name`.

    Raises
    ------
    InputError
        If it was made from another model than the one that is bundled now.
    """
    card = open_session(path, "cpu").card.description_file["config"]["cellinfer"]
    if card["quantisation"]["of_sha256"] != cellinfer_models.registry()[name].sha256:
        raise InputError(f"{path} was quantised from another model than the bundled {name!r}: quantise that one.")
    target = cellinfer_models.folder() / f"{name}.int8.onnx"
    for suffix in (".onnx", ".yaml"):
        shutil.copyfile(path.with_suffix(suffix), target.with_suffix(suffix))
    register_variant(target, name, "int8")
    cellinfer_models.registry.cache_clear()
    return target


def compare_plans(
    model: Path, training: Sequence[Sample], folder: Path, plans: Sequence[Plan] = PLANS
) -> Iterator[tuple[Trial, Path]]:
    """Quantise by each plan in turn and score it on training images, diameters known.

    Yields
    ------
    Trial, Path
        How a plan did, and its network (in `folder`, without a card of its own).
    """
    prepared = rewrite(onnx.load(model))
    session = open_session(model, "cpu")
    crops = list(calibration_crops(training, session))
    if not crops:
        raise InputError("No training image has objects: there is nothing to calibrate on.")
    trials = _trial_images(training)
    best = _score(session, trials)
    for plan in plans:
        path = folder / f"{plan.calibration}-{'-'.join(plan.floating)}.onnx"
        _quantise(prepared, crops, plan, path)
        score = _score(open_session(path, "cpu"), trials)
        yield Trial(plan, score, round(best - score, 4)), path


def calibration_crops(
    samples: Sequence[Sample], session: Session, number: int = _CROPS, side: int = _SIDE
) -> Iterator[NDArray[np.float32]]:
    """Yield crops `(1, C, side, side)` of training images, chosen at random, as the network would see them."""
    random = np.random.default_rng(0)
    diameter = session.card.diameter
    usable = [sample for sample in samples if np.isfinite(sample.diameter)]
    for index in random.permutation(len(usable))[:number]:
        image = usable[index].image
        scale = float(np.clip(diameter / usable[index].diameter, 1 / LARGEST_SCALE, LARGEST_SCALE))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        resized = np.atleast_3d(cv2.resize(image, None, fx=scale, fy=scale, interpolation=method))
        rows, columns = (max(0, side - length) for length in resized.shape[:2])
        padded = np.pad(resized, ((0, rows), (0, columns), (0, 0)), mode="symmetric")
        top, left = (random.integers(length - side + 1) for length in padded.shape[:2])
        yield np.ascontiguousarray(padded[top : top + side, left : left + side].transpose(2, 0, 1)[None], np.float32)


def _first_good(
    model: Path, training: Sequence[Sample], target: Path, plans: Sequence[Plan]
) -> tuple[Trial, list[Trial]]:
    """Try plans until one is good enough and leave its network in `target`."""
    trials: list[Trial] = []
    for trial, path in compare_plans(model, training, target.parent, plans):
        trials.append(trial)
        print(f"{trial.plan}: {trial.score:.4f} on training images, {trial.loss:+.4f} lost")
        if trial.loss <= TRAINING_LIMIT:
            path.replace(target)
            return trial, trials
    least = min(trial.loss for trial in trials)
    raise _refusal(model, f"every plan loses more than {TRAINING_LIMIT} mAP_DSB on training images, the best {least}")


def _refusal(model: Path, why: str) -> ModelError:
    return ModelError(f"{model} cannot be quantised: {why}; use it in floating point.")


def _trial_images(samples: Sequence[Sample]) -> list[Sample]:
    """Take images evenly from all of them; the largest would decide alone how long this takes."""
    usable = [sample for sample in samples if np.isfinite(sample.diameter) and sample.labels.size < 400_000]
    return usable[:: max(1, len(usable) // _TRIALS)]


def _score(session: Session, samples: Sequence[Sample]) -> float:
    precisions = [assess(session, [sample], diameter=sample.diameter)[0].map_dsb for sample in samples]
    return round(float(np.mean(precisions)), 4)


class _Crops(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Calibration images in the form that onnxruntime asks for."""

    def __init__(self, name: str, crops: Sequence[NDArray[np.float32]]) -> None:
        self._feeds = iter([{name: crop} for crop in crops])

    def get_next(self) -> Any:
        return next(self._feeds, None)


def _quantise(prepared: onnx.ModelProto, crops: Sequence[NDArray[np.float32]], plan: Plan, target: Path) -> None:
    """Write the 8-bit network of a plan; its metadata are those of the network it was made from."""
    floating = before_first_convolution(prepared) if "first" in plan.floating else []
    floating += after_last_convolution(prepared) if "last" in plan.floating else []
    with _quiet():
        quantize_static(
            prepared,
            target,
            _Crops(prepared.graph.input[0].name, crops),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method={
                "minmax": CalibrationMethod.MinMax,
                "percentile": CalibrationMethod.Percentile,
                "entropy": CalibrationMethod.Entropy,
            }[plan.calibration],
            op_types_to_quantize=_QUANTISED,
            nodes_to_exclude=floating,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence onnxruntime's advice, which we follow already, and its progress."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
