"""Profiles as a model wants them: the features that it was trained on, made the same way.

`cellinfer profile` says in `profile.json` how it made profiles; the card of a model that was trained on them repeats
it. From either the same is asked of another screen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellinfer.errors import InputError, ModelError
from cellinfer.profiling.rows import examples, numbers, with_numbers

KEPT = (
    "site",
    "well",
    "normalisation",
    "reference",
    "scope",
    "spread",
    "clip",
    "sphering",
    "sphering_scope",
    "regularization",
    "exponent",
    "harmony",
)
"""Settings of `cellinfer profile` that decide what a value means, besides the choice of features."""
_NUMBERS = ("clip", "regularization", "exponent")


@dataclass(frozen=True)
class Wanted:
    """What is asked of profiles.

    Attributes
    ----------
    source
        Who asks.
    features
        Names, in order.
    settings
        Of `cellinfer profile`, some of `KEPT`; None where they are not known.
    """

    source: str
    features: tuple[str, ...]
    settings: Mapping[str, Any] | None


def stated_settings(table: Path) -> dict[str, Any] | None:
    """Return how `cellinfer profile` made a table, those of `KEPT`; None if the folder does not say that it did."""
    try:
        info = json.loads((table.parent / "profile.json").read_text(encoding="utf-8"))
        return _settings(info) if table.name in info["files"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_wanted(source: str | os.PathLike[str]) -> Wanted:
    """Read what a model wants of profiles, or what an earlier result of `cellinfer profile` has.

    Parameters
    ----------
    source
        Name of a bundled model or path of an ONNX file, with `NAME=` in front if it sees several kinds of profiles; or
        the folder of a result.

    Raises
    ------
    InputError
        If the result is not finished, the model sees no profiles or several kinds, or features are components that
        other wells would give another meaning.
    ModelError
        If the model is not usable.
    """
    wanted = _of_result(Path(source)) if Path(source).is_dir() else _of_model(str(source))
    method = str((wanted.settings or {}).get("sphering", ""))
    if method.startswith("PCA"):
        raise InputError(
            f"{wanted.source} has profiles sphered by {method}, whose components are others in every screen: only ZCA "
            "and ZCA-cor keep features. Apply its sphering.npz instead, or train on other profiles."
        )
    return wanted


def _of_result(folder: Path) -> Wanted:
    try:
        info = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
        settings = _settings(info)
        features = pd.read_csv(folder / "features.csv", keep_default_na=False)
        kept = features.loc[features["kept"].astype(str) == "True", "feature"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{folder} is no finished result of `cellinfer profile`: give one, or a model.") from None
    return Wanted(str(folder), tuple(kept.astype(str)), settings)


def _of_model(source: str) -> Wanted:
    from cellinfer.sessions import open_activity_model

    name, equals, path = source.partition("=")
    if not (equals and name.isidentifier()):
        name, path = "", source
    card = open_activity_model(path, device="cpu", threads=1).card
    kinds = list(card.features)
    if not kinds:
        raise InputError(f"The model {card.name!r} sees structures only: it wants no profiles.")
    if (name and name not in kinds) or (not name and len(kinds) > 1):
        raise InputError(
            f"The model {card.name!r} sees profiles of {', '.join(kinds)}: choose one, as {kinds[0]}={path}."
        )
    kind = name or kinds[0]
    settings = card.profiles.get(kind)
    if settings is not None and not _makes_sense(settings):
        raise ModelError(
            f"The card of the model {card.name!r} says of {kind!r} what this version does not know: {dict(settings)}."
        )
    return Wanted(f"the model {card.name!r}", card.features[kind], settings)


def _makes_sense(settings: Mapping[str, Any]) -> bool:
    return all(
        name in KEPT
        and (isinstance(value, int | float) and not isinstance(value, bool) if name in _NUMBERS else type(value) is str)
        for name, value in settings.items()
    )


def _settings(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they came out: what was left out, found or chosen instead of what was asked for."""
    settings = {name: info["settings"][name] for name in KEPT}
    steps = {step["name"]: step["parameters"] for step in info["steps"]}
    if settings["normalisation"] != "none":
        settings["reference"] = "controls" if steps["normalise"]["against"] == "controls" else "all"
    if "sphere" not in steps:
        settings["sphering"] = "none"
    elif info["regularization"] is not None:
        settings["regularization"] = info["regularization"]["chosen"]
    if settings["sphering"] == "none":
        settings["regularization"] = 0.1 if isinstance(settings["regularization"], str) else settings["regularization"]
    return settings


def keep_wanted(table: pd.DataFrame, names: list[str], wanted: Wanted) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep exactly the features that are wanted, in their order.

    Parameters
    ----------
    table, names
        Profiles and their features.
    wanted
        What is asked for.

    Returns
    -------
    profiles, features : DataFrame
        The latter as `Selection.features` has it.

    Raises
    ------
    InputError
        If some are not there.
    """
    there = set(names)
    if missing := [name for name in wanted.features if name not in there]:
        raise InputError(
            f"{len(missing)} of the {len(wanted.features)} features of {wanted.source} were not measured here: "
            f"{examples(missing)}. Measure the same channels and families of features, with channels of the same names."
        )
    kept = set(wanted.features)
    why = pd.DataFrame({"feature": names, "kept": [name in kept for name in names]})
    why["operation"] = np.where(why["kept"], "", "wanted")
    why["reason"] = np.where(why["kept"], "", f"is none of {wanted.source}")
    others = [name for name in table.columns if name not in there]
    return table[[*others, *wanted.features]], why


def fill_gaps(table: pd.DataFrame, names: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Set missing values of normalised profiles to 0, the centre of what they were normalised against; say how many.

    A feature that is wanted cannot be left out, and sphering needs every value.
    """
    values: npt.NDArray[np.float64] = numbers(table, names)
    gaps = np.isnan(values)
    if not gaps.any():
        return table, []
    empty = [name for name, column in zip(names, gaps.T, strict=True) if column.all()]
    note = (
        f"{int(gaps.sum())} values in {int(gaps.any(axis=0).sum())} features are missing and were set to 0, the centre "
        "of the reference, for every feature is wanted"
    )
    notes = [note, *([f"{len(empty)} wanted features have no value in any well: {examples(empty)}"] if empty else [])]
    return with_numbers(table, names, np.where(gaps, 0.0, values)), notes
