"""Which profiles a query should find, and which not, as rules on columns of a table.

A pair of rows is positive if the columns of `positive_same` are equal and those of `positive_different` all differ;
negative likewise. A missing value is the same as nothing and different from everything. In columns with several labels,
`a|b` or a list, rows are the same if they share any label, and different if they share none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellinfer.errors import InputError

Mask = NDArray[np.bool_]

_SEPARATOR = "|"
_MOST_LABEL_SETS = 20_000


@dataclass(frozen=True, slots=True)
class PairRules:
    """Columns that say which pairs of rows are positive and which are negative.

    These are `pos_sameby`, `pos_diffby`, `neg_sameby` and `neg_diffby` of copairs.
    """

    positive_same: Sequence[str]
    positive_different: Sequence[str] = ()
    negative_same: Sequence[str] = ()
    negative_different: Sequence[str] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            names = (value,) if isinstance(value, str) else tuple(value)
            object.__setattr__(self, field.name, names)
        for kind in ("positive", "negative"):
            same, different = getattr(self, f"{kind}_same"), getattr(self, f"{kind}_different")
            if not same and not different:
                raise InputError(f"Say which pairs are {kind}: name a column that is the same or different in them.")
            if both := sorted(set(same) & set(different)):
                raise InputError(f"{kind.capitalize()} pairs cannot have the same and a different {both[0]!r}.")

    @property
    def columns(self) -> list[str]:
        """Columns that the rules name, each once."""
        every = (getattr(self, field.name) for field in fields(self))
        return list(dict.fromkeys(name for names in every for name in names))

    def describe(self) -> str:
        """Say in words what is compared."""
        parts = []
        for kind in ("positive", "negative"):
            same, different = getattr(self, f"{kind}_same"), getattr(self, f"{kind}_different")
            words = ["same " + ", ".join(same)] * bool(same) + ["different " + ", ".join(different)] * bool(different)
            parts.append(f"{kind}s: {' and '.join(words)}")
        return "; ".join(parts)


def split_labels(cell: Any) -> frozenset[str]:
    """Return the labels of a cell: `a|b`, a list, or a single value; none if it is missing."""
    if isinstance(cell, str):
        return frozenset(part for part in map(str.strip, cell.split(_SEPARATOR)) if part)
    if isinstance(cell, Collection):
        return frozenset(map(str, cell))
    return frozenset() if pd.isna(cell) else frozenset((str(cell),))


class _Column:
    """Codes of a column's values."""

    def __init__(self, values: pd.Series) -> None:
        codes = pd.factorize(values)[0].astype(np.int64)
        missing = codes < 0
        codes[missing] = codes.max(initial=-1) + 1 + np.arange(missing.sum())  # each is unlike all others
        self._codes = codes.astype(np.int32)

    def same(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which rows have the values of some rows: `(rows, n)`."""
        return np.equal(self._codes[rows][:, None], self._codes)


class _LabelColumn:
    """Sets of labels: which sets share a label, and which labels each holds."""

    def __init__(self, values: pd.Series) -> None:
        sets = [split_labels(cell) for cell in values]
        self.sets = sets
        known = list(dict.fromkeys(sets))
        if len(known) > _MOST_LABEL_SETS:
            raise InputError(
                f"The column {values.name!r} has {len(known)} different sets of labels, more than {_MOST_LABEL_SETS}: "
                "is it a column of labels?"
            )
        number = {labels: place for place, labels in enumerate(known)}
        self._codes = np.array([number[labels] for labels in sets], np.int32)
        self.labels = sorted(set().union(*known))
        place = {label: column for column, label in enumerate(self.labels)}
        self._holds = np.zeros((len(self.labels), len(known)), np.bool_)
        for column, labels in enumerate(known):
            self._holds[[place[label] for label in labels], column] = True
        holds = self._holds.astype(np.float32)
        self._share = holds.T @ holds > 0

    def same(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which rows share a label with some rows: `(rows, n)`."""
        return np.take(self._share[self._codes[rows]], self._codes, axis=1)

    def holding(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which rows hold some labels: `(labels, n)`."""
        return np.take(self._holds[labels], self._codes, axis=1)


class Matching:
    """Positives and negatives of each query among the rows of a table.

    Parameters
    ----------
    table
        Has the columns that the rules name.
    rules
        What is positive and negative.
    multilabel
        Columns of which a row may have several values.
    queries
        Rows that ask, True or False per row; all of them by default.
    candidates
        Rows that can be found; all of them by default.
    label_by_label
        Name one of the `multilabel` columns of `positive_same` to ask once for each label of a row: positives then
        hold that label, instead of sharing any with the row. This is the multi-label average precision of copairs.

    Raises
    ------
    InputError
        If a column is missing or named wrongly.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        rules: PairRules,
        *,
        multilabel: Iterable[str] = (),
        queries: NDArray[np.bool_] | None = None,
        candidates: NDArray[np.bool_] | None = None,
        label_by_label: str | None = None,
    ) -> None:
        if missing := [name for name in rules.columns if name not in table.columns]:
            raise InputError(
                f"The table has no column {missing[0]!r}: it has {', '.join(map(str, table.columns[:20]))}."
            )
        several = set(multilabel)
        if label_by_label is not None and label_by_label not in several & set(rules.positive_same):
            raise InputError(f"{label_by_label!r} must be among the multi-label columns that positives have the same.")
        self.rules, self.size = rules, len(table)
        self._columns: dict[str, _Column | _LabelColumn] = {
            name: _LabelColumn(table[name]) if name in several else _Column(table[name]) for name in rules.columns
        }
        self._excluded = None if candidates is None else ~np.asarray(candidates, np.bool_)
        self.rows = np.arange(self.size) if queries is None else np.flatnonzero(queries)
        self.labels: NDArray[np.int64] | None = None
        self._asked = label_by_label
        if label_by_label is not None:
            self._ask_for_each_label()

    def _ask_for_each_label(self) -> None:
        column = self._label_column()
        number = {label: place for place, label in enumerate(column.labels)}
        asked = [(row, number[label]) for row in self.rows for label in sorted(column.sets[row])]
        pairs = np.array(asked, np.int64).reshape(-1, 2)
        self.rows, self.labels = pairs[:, 0], pairs[:, 1]

    def _label_column(self) -> _LabelColumn:
        column = self._columns[str(self._asked)]
        assert isinstance(column, _LabelColumn)
        return column

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.rows)

    def label_names(self, queries: NDArray[np.int64]) -> list[str]:
        """Return the label that each of some queries asked for."""
        assert self.labels is not None
        names = self._label_column().labels
        return [names[label] for label in self.labels[queries]]

    def relevance(self, part: slice) -> NDArray[np.int8]:
        """Return what all rows are to some queries: `(queries, n)`, 1 positive, -1 negative, 0 left out.

        Raises
        ------
        InputError
            If the rules make a pair both positive and negative.
        """
        rows = self.rows[part]
        same = {name: column.same(rows) for name, column in self._columns.items()}
        negative = _pairs(same, self.rules.negative_same, self.rules.negative_different)
        if self.labels is not None:
            same[str(self._asked)] = self._label_column().holding(self.labels[part])
        positive = _pairs(same, self.rules.positive_same, self.rules.positive_different)
        positive[np.arange(len(rows)), rows] = False
        if (positive & negative).any():
            raise InputError(
                f"The rules make some pairs positive and negative at once ({self.rules.describe()}): negatives should "
                "differ in a column that positives have the same."
            )
        result = positive.view(np.int8) - negative.view(np.int8)
        result[np.arange(len(rows)), rows] = 0
        if self._excluded is not None:
            result[:, self._excluded] = 0
        return result


def _pairs(same: Mapping[str, Mask], equal: Sequence[str], different: Sequence[str]) -> Mask:
    """Tell which pairs have the same values in some columns and different ones in others."""
    first, *others = [(name, True) for name in equal] + [(name, False) for name in different]
    result = same[first[0]].copy() if first[1] else ~same[first[0]]
    for name, wanted in others:
        if wanted:
            result &= same[name]
        else:
            result &= ~same[name]
    return result
