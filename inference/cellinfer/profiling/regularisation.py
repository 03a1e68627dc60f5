"""Choose the regularisation of sphering without looking at the answer.

A lambda that is chosen by the score it is then judged by makes sphering look better than it is. Here it is chosen by
how well wells of one treatment find each other across plates (replicate retrieval: mean average precision by cosine
similarity), never by mechanisms of action, and what is said about it is nested: the score of each fold is that of the
lambda which the other folds chose, with transformations that saw nothing of the fold. A fixed lambda is always
reported beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from cellinfer_kernels.ranking import average_precisions, positive_ranks

from cellinfer.errors import InputError
from cellinfer.profiling.columns import PLATE, feature_columns
from cellinfer.profiling.rows import Rows, choose_rows
from cellinfer.profiling.sphering import REGULARIZATION, Sphering

Array = npt.NDArray[np.float64]

VALUES = (1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
_FOLDS = 5
_TIE = 1e-12


class Choice(NamedTuple):
    """A lambda chosen by replicate retrieval, and how much the choice is worth."""

    regularization: float
    """Chosen lambda, relative to the mean eigenvalue: the best mean over all folds, of equals the largest."""
    fixed: float
    """The lambda that nobody chose."""
    nested_score: float
    """Mean over folds of the score of the lambda that the other folds chose."""
    fixed_score: float
    """Mean over the same folds of the score of `fixed`."""
    folds: str
    """What was left out: `plates` or `treatments`."""
    tried: pd.DataFrame
    """One row per fold and lambda: `fold`, `regularization`, `score`, `queries`."""
    nested: pd.DataFrame
    """One row per fold: `fold`, `chosen` by the others, its `score`, and `fixed_score`."""
    notes: tuple[str, ...]


def choose_regularization(
    profiles: pd.DataFrame,
    controls: Rows,
    treatment: str,
    *,
    folds: Literal["auto", "plates", "treatments"] = "auto",
    values: Sequence[float] = VALUES,
    fixed: float = REGULARIZATION,
    method: str = "ZCA",
    exponent: float = -0.5,
    features: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Choice:
    """Choose lambda inside folds.

    Parameters
    ----------
    profiles
        Normalised wells with `Metadata_Plate` and a column of treatments.
    controls
        Which rows are controls: a query or a mask.
    treatment
        Column that replicates share; wells without a treatment are left out.
    folds
        `plates`: wells of the plates left out are queries, those of the other plates candidates, and the transformation
        is learnt from the controls of the other plates; takes three plates. `treatments`: wells of the treatments left
        out are queries. `auto`: plates where treatments have replicates on three or more.
    values
        Lambdas to try, relative to the mean eigenvalue; `fixed` is tried too.
    fixed
        Reported beside the chosen one.
    method, exponent, features
        As in `Sphering.fit`.
    progress
        Called with (done, all) transformations.

    Raises
    ------
    InputError
        If there are no replicates, or too few plates or treatments.
    """
    tried = sorted({float(value) for value in (*values, fixed)}, reverse=True)
    if not all(value > 0 and np.isfinite(value) for value in tried):
        raise InputError("The regularisations to try must be numbers above 0.")
    for column in (PLATE, treatment):
        if column not in profiles:
            raise InputError(f"The table has no column {column!r}: choosing a regularisation needs it.")
    task = _Task.make(profiles, choose_rows(profiles, controls, what="controls"), treatment, folds, tried)
    names = feature_columns(profiles, features)
    task.learn(profiles, names, method, exponent)
    numbers = range(task.number)
    pairs = [(test, None) for test in numbers] + [(test, out) for out in numbers for test in numbers if test != out]
    scores: dict[tuple[int, int | None], tuple[Array, int]] = {}
    for done, (test, out) in zip(count(1), pairs, strict=False):
        scores[test, out] = task.score(test, out)
        if progress is not None:
            progress(done, len(pairs))
    return _choice(task, tried, fixed, scores)


def _choice(
    task: _Task, tried: list[float], fixed: float, scores: dict[tuple[int, int | None], tuple[Array, int]]
) -> Choice:
    numbers = range(task.number)
    rows = [
        {"fold": task.names[test], "regularization": value, "score": score, "queries": scores[test, None][1]}
        for test in numbers
        for value, score in zip(tried, scores[test, None][0].tolist(), strict=True)
    ]
    outer = []
    for out in numbers:
        inner = [scores[test, out][0] for test in numbers if test != out and scores[test, out][1]]
        if not inner or not scores[out, None][1]:
            continue
        best = _best(inner)
        outer.append(
            {
                "fold": task.names[out],
                "chosen": tried[best],
                "score": float(scores[out, None][0][best]),
                "fixed_score": float(scores[out, None][0][tried.index(float(fixed))]),
            }
        )
    usable = [scores[test, None][0] for test in numbers if scores[test, None][1]]
    if not usable or not outer:
        raise InputError("No treatment has replicates to retrieve: choose a fixed regularisation.")
    chosen = tried[_best(usable)]
    nested = pd.DataFrame(outer)
    notes = list(task.notes)
    if chosen >= 1:
        notes.append(f"with a regularisation as large as {chosen:g} sphering does little: plates may do without it")
    elif chosen == tried[-1]:
        notes.append(f"the chosen regularisation {chosen:g} is the smallest that was tried")
    return Choice(
        chosen,
        float(fixed),
        float(nested["score"].mean()),
        float(nested["fixed_score"].mean()),
        task.kind,
        pd.DataFrame(rows),
        nested,
        tuple(notes),
    )


def _best(scores: list[Array]) -> int:
    """Return the index of the best mean; of equals the first, which is the largest lambda."""
    mean = np.mean(scores, axis=0)
    return int(np.flatnonzero(mean >= mean.max() - _TIE)[0])


class _Task:
    """Wells with their folds, and what is learnt from them."""

    def __init__(self, treatments: npt.NDArray[np.intp], fold: npt.NDArray[np.intp], kind: str, names: list[str]):
        self.treatments = treatments
        """Number of each row's treatment, -1 for rows that are neither query nor candidate."""
        self.fold = fold
        self.kind = kind
        self.names = names
        self.number = len(names)
        self.notes: list[str] = []

    @classmethod
    def make(
        cls, profiles: pd.DataFrame, controls: npt.NDArray[np.bool_], treatment: str, folds: str, tried: list[float]
    ) -> _Task:
        codes, names = pd.factorize(profiles[treatment], sort=True)
        codes = np.where(controls, -1, codes)
        plates, plate_names = pd.factorize(profiles[PLATE].astype(str), sort=True)
        spread = pd.DataFrame({"treatment": codes, "plate": plates})[codes >= 0]
        on_plates = spread.groupby("treatment")["plate"].nunique()
        across = len(plate_names) >= 3 and len(on_plates) > 0 and float((on_plates >= 2).mean()) >= 0.5
        if folds not in ("auto", "plates", "treatments"):
            raise InputError(f"There are no folds {folds!r}: choose plates, treatments or auto.")
        if folds == "plates" and len(plate_names) < 3:
            raise InputError(f"Leaving plates out takes three plates or more; the profiles have {len(plate_names)}.")
        if folds == "plates" or (folds == "auto" and across):
            number = min(_FOLDS, len(plate_names))
            task = cls(codes, plates % number, "plates", _name_folds([str(name) for name in plate_names], number))
        else:
            number = min(_FOLDS, len(on_plates))
            if number < 3:
                raise InputError(f"Leaving treatments out takes three treatments or more; there are {len(on_plates)}.")
            order = np.zeros(len(names), dtype=np.intp)
            order[on_plates.index.to_numpy()] = np.arange(len(on_plates))
            used = [str(names[index]) for index in on_plates.index]
            task = cls(codes, np.where(codes >= 0, order[codes] % number, -1), "treatments", _name_folds(used, number))
            if folds == "auto":
                task.notes.append("treatments were left out, for too few have replicates on three or more plates")
        task.controls, task.tried = controls, tried
        return task

    controls: npt.NDArray[np.bool_]
    tried: list[float]

    def learn(self, profiles: pd.DataFrame, names: list[str], method: str, exponent: float) -> None:
        """Keep the profiles, and how to learn from some of them."""
        self._profiles, self._names, self._method, self._exponent = profiles, names, method, exponent
        self._values = profiles[names].to_numpy(dtype=np.float64, na_value=np.nan)
        self._whole = self._sphering(np.ones(len(profiles), dtype=bool)) if self.kind == "treatments" else None

    def score(self, test: int, out: int | None) -> tuple[Array, int]:
        """Retrieve the wells of fold `test`, with nothing of fold `out`: mean average precision for each lambda."""
        away = (self.fold == out) if out is not None else np.zeros(len(self.fold), dtype=bool)
        treated = (self.treatments >= 0) & ~away
        queries = np.flatnonzero(treated & (self.fold == test))
        if self.kind == "plates":
            references = np.flatnonzero(treated & (self.fold != test))
            transformation = self._sphering(~away & (self.fold != test))
        else:
            references = np.flatnonzero(treated)
            assert self._whole is not None
            transformation = self._whole
        relevance = np.where(self.treatments[queries][:, None] == self.treatments[references], 1, -1).astype(np.int8)
        relevance[queries[:, None] == references] = 0
        asked = (relevance > 0).any(axis=1) & (relevance < 0).any(axis=1)
        queries, relevance = queries[asked], relevance[asked]
        if not len(queries):
            return np.full(len(self.tried), np.nan), 0
        rows = np.union1d(queries, references)
        scores = []
        for value in self.tried:
            sphered = transformation.regularised(value).apply_to(self._values[rows])
            length = np.linalg.norm(sphered, axis=1, keepdims=True)
            sphered /= np.where(length > 0, length, 1.0)
            found, wanted = (sphered[np.searchsorted(rows, which)] for which in (references, queries))
            ranking = positive_ranks(wanted @ found.T, relevance, tolerance=_TIE)
            scores.append(float(np.mean(average_precisions(ranking.ranks, ranking.starts).average)))
        return np.array(scores), len(queries)

    def _sphering(self, rows: npt.NDArray[np.bool_]) -> Sphering:
        return Sphering.fit(
            self._profiles[rows & self.controls],
            method=self._method,
            regularization=self.tried[-1],
            exponent=self._exponent,
            features=self._names,
        )


def _name_folds(names: list[str], number: int) -> list[str]:
    return [", ".join(names[fold::number]) for fold in range(number)]
