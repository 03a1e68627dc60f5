"""What a network must beat: one classifier per assay on Morgan fingerprints (scikit-learn)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from cellinfer.activity.metrics import mean_auroc
from cellinfer.errors import InputError
from numpy.typing import NDArray

from cellinfer_training.activity.data import ActivityData
from cellinfer_training.activity.networks import MORGAN

Kind = Literal["logistic", "boosting"]
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Of logistic regression (scikit-learn's C)."""


@dataclass(frozen=True)
class Baseline:
    """Classifiers by assay.

    Attributes
    ----------
    classifiers
        One per assay; of an assay that has but one class where it was learnt, the part of hits, NaN if never tested.
    """

    classifiers: tuple[Any, ...]

    def predict(self, data: ActivityData, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return probabilities, `(n, assays)`."""
        bits = data.inputs(rows, [MORGAN], 1)[MORGAN]
        result = np.empty((len(rows), len(self.classifiers)))
        for column, classifier in zip(result.T, self.classifiers, strict=True):
            column[:] = classifier if isinstance(classifier, float) else classifier.predict_proba(bits)[:, 1]
        return result


def fit_baseline(
    kind: Kind,
    data: ActivityData,
    training: NDArray[np.integer],
    validation: NDArray[np.integer] | None = None,
    seed: int = 0,
) -> Baseline:
    """Fit logistic regression or gradient boosting (histograms), each assay on what was tested in it.

    Hits count as much as inactives in boosting. How strong logistic regression is held back matters more than anything
    else about it: with validation compounds, the best of `STRENGTHS` by mean AUROC there is taken for all assays, and
    the classifiers learn from both parts.

    Parameters
    ----------
    kind
        `logistic` or `boosting`.
    data, training
        Compounds, and those that are learnt from.
    validation
        Further ones to choose by, and to learn from then.
    seed
        Of what is random.

    Raises
    ------
    InputError
        If there is no such kind.
    """
    if kind not in get_args(Kind):
        raise InputError(f"There is no baseline {kind!r}: choose {', '.join(get_args(Kind))}.")
    if validation is None:
        return _fit(data, training, _classifier(kind, 1.0, seed))
    strength = 1.0
    if kind == "logistic":
        tried = [_fit(data, training, _classifier(kind, each, seed)).predict(data, validation) for each in STRENGTHS]
        areas = [mean_auroc(data.labels[validation], np.nan_to_num(found)) for found in tried]
        strength = STRENGTHS[int(np.nanargmax(areas))] if np.isfinite(areas).any() else 1.0
    return _fit(data, np.concatenate([training, validation]), _classifier(kind, strength, seed))


def _fit(data: ActivityData, rows: NDArray[np.integer], classifier: Any) -> Baseline:
    from sklearn.base import clone

    bits = data.inputs(rows, [MORGAN], 1)[MORGAN]
    classifiers: list[Any] = []
    for labels in data.labels[rows].T:
        tested = labels >= 0
        if len(np.unique(labels[tested])) < 2:
            classifiers.append(float(labels[tested].mean()) if tested.any() else np.nan)
        else:
            classifiers.append(clone(classifier).fit(bits[tested], labels[tested]))
    return Baseline(tuple(classifiers))


def _classifier(kind: Kind, strength: float, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    if kind == "logistic":
        return LogisticRegression(C=strength, max_iter=2000, random_state=seed)
    return HistGradientBoostingClassifier(
        class_weight="balanced", max_bins=2, random_state=seed
    )  # bits have two values
