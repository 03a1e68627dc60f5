"""Late fusion: one prediction from those of several modalities.

Predictions are probabilities `(n, assays)`, one table per modality, NaN where a modality has none (a compound without
a profile): then the others decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from cellinfer.activity.metrics import AUROC
from cellinfer.errors import InputError

Predictions = NDArray[np.float64]
_SMALLEST = 1e-6
"""Probabilities are held this far from 0 and 1 where their logit is taken."""


def largest(predictions: Sequence[ArrayLike]) -> Predictions:
    """Return the largest probability that any modality gives, as published (Moshkov et al. 2023)."""
    stacked = _stacked(predictions)
    filled = np.where(np.isnan(stacked), -np.inf, stacked).max(0)
    return np.where(np.isfinite(filled), filled, np.nan)


def average(predictions: Sequence[ArrayLike]) -> Predictions:
    """Return the mean probability of those modalities that give one."""
    stacked = _stacked(predictions)
    known = ~np.isnan(stacked)
    result = np.full(stacked.shape[1:], np.nan)
    np.divide(np.where(known, stacked, 0.0).sum(0), known.sum(0), out=result, where=known.any(0))
    return result


@dataclass(frozen=True)
class LearnedFusion:
    """Weights of modalities, for each assay its own.

    Attributes
    ----------
    weights
        `(modalities, assays)`, not negative.
    offsets
        `(assays,)`
    learned
        `(assays,)` whether there was something to learn from; else every modality counts the same.
    """

    weights: NDArray[np.float64]
    offsets: NDArray[np.float64]
    learned: NDArray[np.bool_]

    def __call__(self, predictions: Sequence[ArrayLike]) -> Predictions:
        """Return fused probabilities; what a missing modality would weigh goes to the others.

        Raises
        ------
        InputError
            If there are not as many tables, or assays, as were learned from.
        """
        stacked = _stacked(predictions)
        if (len(stacked), stacked.shape[2]) != self.weights.shape:
            raise InputError(
                f"The weights are of {self.weights.shape[0]} modalities and {self.weights.shape[1]} assays, the "
                f"predictions of {len(stacked)} and {stacked.shape[2]}."
            )
        known = ~np.isnan(stacked)
        weights = np.where(known, self.weights[:, None, :], 0.0)
        total, present = self.weights.sum(0), weights.sum(0)
        summed = (weights * np.where(known, _logits(stacked), 0.0)).sum(0)
        scale = np.ones_like(present)
        np.divide(np.broadcast_to(total, present.shape), present, out=scale, where=present > 0)
        return np.where(known.any(0), special.expit(self.offsets + scale * summed), np.nan)


def learn(validation: Sequence[ArrayLike], labels: ArrayLike, shrinkage: float = 1.0) -> LearnedFusion:
    """Learn how much each modality counts for each assay: logistic stacking.

    The fused logit is an offset and a weighted sum of the modalities' logits, with weights of at least 0. The logistic
    loss, summed over compounds, has `shrinkage` times the squared distance from equal weights (1 / modalities) and from
    no offset added, so that an assay with few labels stays near the mean of its modalities.

    Parameters
    ----------
    validation
        Predictions of compounds that no modality's model was trained on, and that are not to be judged later: with the
        training compounds' own predictions the most overfitted modality would win, with those of the test compounds
        the result would be an optimist's.
    labels
        `(n, assays)` of these compounds: 1, 0, -1.
    shrinkage
        See above.

    Returns
    -------
    LearnedFusion

    Raises
    ------
    InputError
        If predictions and labels do not fit, or the shrinkage is not above 0.
    """
    stacked, known = _stacked(validation), np.asarray(labels)
    if known.shape != stacked.shape[1:]:
        raise InputError(f"Predictions of shape {stacked.shape[1:]} and labels of shape {known.shape} do not fit.")
    if not shrinkage > 0:
        raise InputError(f"The shrinkage must be above 0, not {shrinkage}.")
    logits = _logits(stacked)
    modalities, _, assays = stacked.shape
    weights, offsets = np.full((modalities, assays), 1 / modalities), np.zeros(assays)
    learned = np.zeros(assays, bool)
    for assay in range(assays):
        rows = (known[:, assay] >= 0) & ~np.isnan(logits[:, :, assay]).any(0)
        truth = known[rows, assay]
        if len(np.unique(truth)) < 2:
            continue
        found = _stack(logits[:, rows, assay], truth.astype(np.float64), shrinkage)
        weights[:, assay], offsets[assay], learned[assay] = found[:-1], found[-1], True
    return LearnedFusion(weights, offsets, learned)


def _stack(logits: NDArray[np.float64], truth: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """Return weights and offset of one assay; the loss is convex, so there is one best answer."""
    modalities = len(logits)
    centre = np.append(np.full(modalities, 1 / modalities), 0.0)
    design = np.vstack([logits, np.ones(logits.shape[1])])

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        fused = parameters @ design
        apart = parameters - centre
        value = np.logaddexp(0, fused).sum() - truth @ fused + shrinkage * apart @ apart
        return float(value), design @ (special.expit(fused) - truth) + 2 * shrinkage * apart

    bounds = [(0.0, None)] * modalities + [(None, None)]
    from scipy.optimize import minimize  # slow to import, and predicting needs none of it

    return np.asarray(minimize(loss, centre, jac=True, method="L-BFGS-B", bounds=bounds).x, np.float64)


def retrospective(tables: Mapping[str, pd.DataFrame], figure: str = AUROC) -> pd.DataFrame:
    """Take for each assay the modality that turned out best: an oracle, which no prediction can use.

    It needs the answers, and so says what a perfect choice among modalities could reach (the union in Moshkov et al.),
    not what a user will get. Being the best of several noisy figures, it is too high even for that.

    Parameters
    ----------
    tables
        Modality -> figures by assay, as `cellinfer.activity.metrics.score_assays` gives them.
    figure
        The one to compare.

    Returns
    -------
    DataFrame
        Indexed by assay: the best figure under its name, NaN where no modality has one, and its `modality`.

    Raises
    ------
    InputError
        If there is no table.
    """
    if not tables:
        raise InputError("There is no modality to choose from.")
    every = pd.DataFrame({name: table[figure] for name, table in tables.items()})
    known = every.notna().any(axis=1)
    best = every[known].idxmax(axis=1).reindex(every.index, fill_value="")
    return pd.DataFrame({figure: every.max(axis=1), "modality": best})


def _stacked(predictions: Sequence[ArrayLike]) -> Predictions:
    tables = [np.asarray(each, np.float64) for each in predictions]
    if not tables or any(each.ndim != 2 or each.shape != tables[0].shape for each in tables):
        raise InputError(f"Predictions must be tables of one shape, not {[each.shape for each in tables]}.")
    stacked = np.stack(tables)
    if ((stacked < 0) | (stacked > 1)).any():
        raise InputError("Predictions must be probabilities: some are not between 0 and 1.")
    return stacked


def _logits(probabilities: Predictions) -> Predictions:
    return np.asarray(special.logit(np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)), np.float64)
