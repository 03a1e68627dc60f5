"""What a network must beat: one classifier per assay on Morgan fingerprints (scikit-learn)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from cellinfer.errors import InputError
from numpy.typing import NDArray

from cellinfer_training.activity.data import ActivityData
from cellinfer_training.activity.networks import MORGAN

Kind = Literal["logistic", "boosting"]


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
    kind: Kind, data: ActivityData, rows: NDArray[np.integer], balance: bool = True, seed: int = 0
) -> Baseline:
    """Fit logistic regression (C = 1) or gradient boosting (histograms), each assay on what was tested in it.

    Parameters
    ----------
    kind
        `logistic` or `boosting`.
    data, rows
        Compounds, and those that are learnt from.
    balance
        Whether hits count as much as inactives.
    seed
        Of what is random.

    Raises
    ------
    InputError
        If there is no such kind.
    """
    if kind not in get_args(Kind):
        raise InputError(f"There is no baseline {kind!r}: choose {', '.join(get_args(Kind))}.")
    bits = data.inputs(rows, [MORGAN], 1)[MORGAN]
    classifiers: list[Any] = []
    for labels in data.labels[rows].T:
        tested = labels >= 0
        if len(np.unique(labels[tested])) < 2:
            classifiers.append(float(labels[tested].mean()) if tested.any() else np.nan)
        else:
            classifiers.append(_classifier(kind, balance, seed).fit(bits[tested], labels[tested]))
    return Baseline(tuple(classifiers))


def _classifier(kind: Kind, balance: bool, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    weight = "balanced" if balance else None
    if kind == "logistic":
        return LogisticRegression(C=1.0, max_iter=2000, class_weight=weight, random_state=seed)
    return HistGradientBoostingClassifier(class_weight=weight, random_state=seed)
