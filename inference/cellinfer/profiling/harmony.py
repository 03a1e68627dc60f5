"""Harmony: profiles of several batches brought together, without being told what any well got.

Wells are clustered softly so that each cluster holds wells of all batches; within each cluster, what sets a batch apart
is fitted by a linear model and taken off. Clusters make the correction follow the biology: one batch's toxic wells are
compared with another's toxic wells, not with its controls. Korsunsky et al. (2019), Fast, sensitive and accurate
integration of single-cell data with Harmony, Nature Methods 16:1289; found among the best for Cell Painting by Arevalo
et al. (2024), Evaluating batch correction methods for image-based cell profiling, Nature Communications 15:6516.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.profiling.columns import PLATE, feature_columns
from cellinfer.profiling.rows import group_rows

Array = NDArray[np.float64]
_ROUNDS_OF_CLUSTERING = 20
_ROUNDS_OF_LLOYD = 25
_SAME_PLACE = 1e-9
"""Sum of distances of rows from the centroids below which more centroids would stand where others do."""
_BLOCKS = 20
"""Wells are moved between clusters a twentieth at a time, so that the balance of batches is seen while it changes."""
_SETTLED_CLUSTERS, _SETTLED = 1e-5, 1e-4
"""Relative changes of the objective at which clustering, and the whole, have settled."""
_WELLS_A_CLUSTER, _MOST_CLUSTERS = 30, 100
_MOST_COMPONENTS = 100


@dataclass(frozen=True)
class HarmonyOptions:
    """How batches are brought together; the defaults are those of the paper.

    Parameters
    ----------
    diversity
        Penalty on clusters in which batches are not mixed (theta); 0 leaves clusters to themselves.
    clusters
        How many; None takes one for 30 rows, at most 100.
    softness
        Width of cluster membership (sigma).
    ridge
        Penalty on corrections (lambda): a batch of few rows is moved less.
    rounds
        Most rounds of clustering and correcting.
    components
        Principal components in which batches are brought together; None takes all there are, at most 100.
    seed
        Of the first clusters and of the order in which rows are moved.

    Raises
    ------
    InputError
        If a number makes no sense.
    """

    diversity: float = 2.0
    clusters: int | None = None
    softness: float = 0.1
    ridge: float = 1.0
    rounds: int = 10
    components: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("diversity", 0.0), ("ridge", 0.0)):
            if not getattr(self, name) >= least:
                raise InputError(f"The option {name} of Harmony must be at least {least}; it is {getattr(self, name)}.")
        if not self.softness > 0:
            raise InputError(f"The option softness of Harmony must be above 0; it is {self.softness}.")
        for name in ("clusters", "rounds", "components"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"The option {name} of Harmony must be at least 1; it is {value}.")


@dataclass(frozen=True)
class Harmonised:
    """Rows brought together.

    Attributes
    ----------
    values
        `(n, d)` float64: the corrected rows.
    objectives
        The objective after each round; it falls.
    notes
        What a reader should know, in words.
    """

    values: Array
    objectives: tuple[float, ...]
    notes: tuple[str, ...] = field(default=())


def harmonise(
    profiles: pd.DataFrame,
    *,
    by: Sequence[str] = (PLATE,),
    features: Iterable[str] | None = None,
    options: HarmonyOptions | None = None,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return profiles in which batches are brought together, and notes on how.

    Principal components are corrected, and each feature is moved by what its components were moved: features keep their
    names and their units, and what the components left out stays as it was.

    Parameters
    ----------
    profiles
        One row per well (or other unit), features on comparable scales: normalised, best sphered.
    by
        Columns of metadata that tell batches apart.
    features
        Columns to correct; None takes all features.
    options
        See `HarmonyOptions`.

    Raises
    ------
    InputError
        If a column is missing, a feature holds a value that is not finite, or a batch is not named.
    """
    names = feature_columns(profiles, features)
    values = profiles[names].to_numpy(np.float64)
    _refuse_holes(values, names)
    codes = group_rows(profiles, by).codes
    if profiles[list(by)].isna().to_numpy().any():
        raise InputError(f"Some rows have no value in {', '.join(by)}: give every row its batch, or leave them out.")
    found = harmonise_values(values, codes, options)
    moved = profiles.copy()
    moved[names] = found.values
    return moved, found.notes


def harmonise_values(values: NDArray[Any], batches: NDArray[Any], options: HarmonyOptions | None = None) -> Harmonised:
    """Bring the rows of several batches together.

    Parameters
    ----------
    values
        `(n, d)` real and finite.
    batches
        `(n,)` whole numbers: the batch of each row.
    options
        See `HarmonyOptions`.

    Returns
    -------
    Harmonised
        Corrected rows. The same rows in the same order give the same values; another order changes the blocks in
        which rows are moved, and with it the last digits or, where clusters are not clear, more.
    """
    options = options or HarmonyOptions()
    rows = np.ascontiguousarray(values, np.float64)  # sums of other orders differ in the last digit
    _refuse_holes(rows, [str(number) for number in range(rows.shape[1])])
    _, codes = np.unique(np.asarray(batches), return_inverse=True)
    count = int(codes.max(initial=-1)) + 1
    if count < 2:
        return Harmonised(rows.copy(), (), ("there is one batch only: nothing was brought together",))
    centred = rows - rows.mean(axis=0)
    components = _components(centred, options.components)
    scores = centred @ components.T
    membership = np.zeros((len(rows), count))
    membership[np.arange(len(rows)), codes] = 1.0
    clusters = options.clusters or int(np.clip(round(len(rows) / _WELLS_A_CLUSTER), 1, _MOST_CLUSTERS))
    state = _Harmony(scores, membership, min(clusters, len(rows)), options)
    corrected, objectives = state.run()
    notes = (
        f"Harmony moved {count} batches in {len(components)} principal components, {len(state.centroids)} clusters, "
        f"{len(objectives)} rounds",
    )
    return Harmonised(rows + (corrected - scores) @ components, tuple(objectives), notes)


class _Harmony:
    """The state of one run, in the paper's letters: Z scores, R clusters of rows, Phi batches of rows, Y centroids."""

    def __init__(self, scores: Array, membership: Array, clusters: int, options: HarmonyOptions) -> None:
        self.options, self.original, self.membership = options, scores, membership
        self.random = np.random.default_rng(options.seed)
        self.share = membership.mean(axis=0)
        self.unit = _unit(scores)
        self.centroids = _unit(_first_centroids(self.unit, clusters, self.random))
        self.clusters = self._softmax(self._distances())

    def run(self) -> tuple[Array, list[float]]:
        corrected = self.original
        objectives: list[float] = []
        for _ in range(self.options.rounds):
            objectives.append(self._cluster())
            corrected = self._correct()
            self.unit = _unit(corrected)
            if len(objectives) > 1 and _has_settled(objectives, _SETTLED):
                break
        return corrected, objectives

    def _distances(self) -> Array:
        """Return `(n, clusters)` squared distances on the unit sphere."""
        return 2 * (1 - self.unit @ self.centroids.T)

    def _softmax(self, distances: Array) -> Array:
        weights = np.exp((distances.min(axis=1, keepdims=True) - distances) / self.options.softness)
        return weights / weights.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]

    def _cluster(self) -> float:
        """Move rows between clusters until that settles; return the objective."""
        found: list[float] = []
        self.centroids = _unit(self.clusters.T @ self.unit)
        for _ in range(_ROUNDS_OF_CLUSTERING):
            distances = self._distances()
            self._move(self._softmax(distances))
            found.append(self._objective(distances))
            self.centroids = _unit(self.clusters.T @ self.unit)
            if len(found) > 1 and _has_settled(found, _SETTLED_CLUSTERS):
                break
        return found[-1]

    def _move(self, pull: Array) -> None:
        """Give each row new clusters by its distances, discounted where its batch has more than its share."""
        observed = self.clusters.T @ self.membership
        expected = np.outer(self.clusters.sum(axis=0), self.share)
        for block in np.array_split(self.random.permutation(len(pull)), min(_BLOCKS, len(pull))):
            batches = self.membership[block]
            old = self.clusters[block]
            observed -= old.T @ batches
            expected -= np.outer(old.sum(axis=0), self.share)
            rarity = ((expected + 1) / (observed + 1)) ** self.options.diversity
            new = pull[block] * (batches @ rarity.T)
            new /= new.sum(axis=1, keepdims=True)
            self.clusters[block] = new
            observed += new.T @ batches
            expected += np.outer(new.sum(axis=0), self.share)

    def _objective(self, distances: Array) -> float:
        """Return k-means error + entropy + diversity penalty."""
        observed = self.clusters.T @ self.membership
        expected = np.outer(self.clusters.sum(axis=0), self.share)
        error = float((self.clusters * distances).sum())
        entropy = float((self.clusters * np.log(np.maximum(self.clusters, 1e-300))).sum())
        mixing = float((observed * np.log((observed + 1) / (expected + 1))).sum())
        return error + self.options.softness * (entropy + self.options.diversity * mixing)

    def _correct(self) -> Array:
        """Fit, cluster by cluster, what sets each batch apart, and take it off; what clusters share stays.

        With one indicator per batch the ridge regression needs no matrix inverse: rows of a batch are weighted by their
        place in the cluster, and the common part follows from the batches' parts.
        """
        corrected = self.original.copy()
        for cluster in self.clusters.T:
            weighted = self.membership * cluster[:, None]
            weight = weighted.sum(axis=0)
            sums = weighted.T @ self.original
            shrunk = weight / (weight + self.options.ridge) if self.options.ridge else (weight > 0).astype(np.float64)
            means = sums / np.maximum(weight, 1e-300)[:, None]
            # Normal equations of  sum_b w_b |m_b - c - e_b|^2 + ridge |e_b|^2:  e_b = shrunk_b (m_b - c).
            steady = weight * (1 - shrunk)
            common = (
                (steady[:, None] * means).sum(axis=0) / steady.sum()
                if steady.sum() > 0
                else means[weight > 0].mean(axis=0)
            )
            effects = shrunk[:, None] * (means - common)
            effects[weight <= 0] = 0
            corrected -= weighted @ effects
        return corrected


def _components(centred: Array, most: int | None) -> Array:
    """Return principal axes as rows, those without any variance left out; signs settled."""
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    real = int((sizes > sizes[0] * max(centred.shape) * np.finfo(np.float64).eps).sum()) if sizes.size else 0
    if real == 0:
        raise InputError("All rows are the same: there are no batches to bring together.")
    return axes[: min(real, most or _MOST_COMPONENTS)]


def _first_centroids(unit: Array, clusters: int, random: np.random.Generator) -> Array:
    """Return k-means++ centroids after some rounds of Lloyd's; a centroid that loses its rows stays where it is."""
    chosen = [int(random.integers(len(unit)))]
    nearest = np.maximum(1 - unit @ unit[chosen[0]], 0)
    while len(chosen) < clusters and nearest.sum() > _SAME_PLACE:
        chosen.append(int(random.choice(len(unit), p=nearest / nearest.sum())))
        nearest = np.minimum(nearest, np.maximum(1 - unit @ unit[chosen[-1]], 0))
    centroids = unit[chosen]
    for _ in range(_ROUNDS_OF_LLOYD):
        owner = (unit @ centroids.T).argmax(axis=1)
        held = np.eye(len(chosen))[owner]
        sizes = held.sum(axis=0)
        moved = np.where(sizes[:, None] > 0, held.T @ unit, centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = _unit(moved)
    return centroids


def _unit(rows: Array) -> Array:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def _has_settled(objectives: list[float], share: float) -> bool:
    before, now = objectives[-2:]
    return abs(before - now) < share * abs(before)


def _refuse_holes(values: Array, names: Sequence[str]) -> None:
    holes = ~np.isfinite(values)
    if holes.any():
        first = names[int(holes.any(axis=0).argmax())]
        raise InputError(
            f"The feature {first!r} has values that are not finite ({int(holes.sum())} in all features): "
            "select features first, or leave out such rows."
        )
