"""Tanimoto similarities against their twin and RDKit."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer_kernels import tanimoto
from cellinfer_kernels.reference import tanimoto as twin
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rdkit import DataStructs


def bits(rows: int, length: int, density: float, seed: int) -> np.ndarray:
    """Random fingerprints, some of them empty, some of them equal."""
    random = np.random.default_rng(seed)
    drawn = random.random((rows, length)) < density * random.random((rows, 1))
    if rows > 3:
        drawn[1] = drawn[3]
        drawn[2] = False
    return drawn


FINGERPRINTS = st.builds(
    bits, st.integers(0, 12), st.just(150), st.sampled_from([0.0, 0.1, 1.0]), st.integers(0, 10_000)
)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=140)))
def test_packing_equals_the_twin(drawn: np.ndarray) -> None:
    np.testing.assert_array_equal(tanimoto.pack(drawn), twin.pack(drawn))


@given(FINGERPRINTS, FINGERPRINTS)
def test_similarities_equal_the_twin(one: np.ndarray, other: np.ndarray) -> None:
    queries, database = tanimoto.pack(one), tanimoto.pack(other)
    np.testing.assert_array_equal(
        tanimoto.similarities(queries, database), twin.similarities(queries, database), strict=True
    )


@given(FINGERPRINTS, FINGERPRINTS, st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_nearest_equals_the_twin(one: np.ndarray, other: np.ndarray, seed: int, groups: int) -> None:
    random = np.random.default_rng(seed)
    queries, database = tanimoto.pack(one), tanimoto.pack(other)
    asked, known = random.integers(0, groups, len(one)), random.integers(0, groups, len(other))
    for given_groups in ((), (asked, known)):
        ours = tanimoto.nearest(queries, database, *given_groups)
        expected = twin.nearest(queries, database, *given_groups)
        np.testing.assert_array_equal(ours.row, expected.row)
        np.testing.assert_array_equal(ours.similarity, expected.similarity)


def test_similarities_are_those_of_rdkit() -> None:
    drawn = bits(60, 2048, 0.1, 5)
    packed = tanimoto.pack(drawn)
    vectors = []
    for row in drawn:
        vector = DataStructs.ExplicitBitVect(2048)
        vector.SetBitsFromList(np.flatnonzero(row).tolist())
        vectors.append(vector)
    expected = np.array([DataStructs.BulkTanimotoSimilarity(vector, vectors) for vector in vectors])
    np.testing.assert_array_equal(tanimoto.similarities(packed, packed), expected)
    fold = np.arange(60) % 3
    found = tanimoto.nearest(packed, packed, fold, fold)
    expected[fold[:, None] == fold] = -1
    np.testing.assert_array_equal(found.similarity, expected.max(axis=1))


def test_what_cannot_be_compared_is_refused() -> None:
    packed = tanimoto.pack(np.ones((2, 100)))
    with pytest.raises(ValueError, match="cannot be compared"):
        tanimoto.similarities(packed, packed[:, :1])
    with pytest.raises(ValueError, match="must be packed"):
        tanimoto.nearest(packed.astype(float), packed)
    with pytest.raises(ValueError, match="both or for neither"):
        tanimoto.nearest(packed, packed, [0, 1])
    with pytest.raises(ValueError, match="a number for each"):
        tanimoto.nearest(packed, packed, [0], [0, 1])
    with pytest.raises(ValueError, match="a row each"):
        tanimoto.pack(np.ones(3))
