"""Retrieval metrics against copairs, scikit-learn, SciPy and small cases worked out by hand."""

from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.errors import InputError
from cellinfer.profiling import retrieval
from cellinfer.profiling.pairs import Matching, PairRules, split_labels
from cellinfer.profiling.retrieval import (
    average_precision,
    mean_average_precision,
    nearest_neighbour_accuracy,
    odds_ratios,
    replicate_similarity,
    score_queries,
)
from cellinfer.profiling.similarity import Similarities
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score


def wells(seed: int = 0, plates: int = 4, treatments: int = 12, signal: float = 1.0) -> pd.DataFrame:
    """Wells of a few plates: each treatment once per plate, three classes, and three control wells."""
    random = np.random.default_rng(seed)
    names = [f"T{number:02d}" for number in range(treatments)] + ["DMSO"] * 3
    centres = {name: random.normal(size=20) * signal for name in [*names, "one", "two", "three"]}
    rows = []
    for plate in range(plates):
        shift = random.normal(size=20) * 0.5
        for place, name in enumerate(names):
            kind = None if name == "DMSO" else ("one", "two", "three")[place % 3]
            centre = shift + (0 if kind is None else centres[kind] + centres[name])
            rows.append((f"P{plate}", f"A{place + 1:02d}", name, kind, centre + random.normal(size=20)))
    table = pd.DataFrame(
        [row[:4] for row in rows], columns=["Metadata_Plate", "Metadata_Well", "Metadata_t", "Metadata_moa"]
    )
    values = pd.DataFrame(np.array([row[4] for row in rows])).add_prefix("Cells_f")
    return pd.concat([table, values], axis=1)


def features(table: pd.DataFrame) -> np.ndarray:
    return table.filter(like="Cells_").to_numpy()


RULES = [
    PairRules(["Metadata_t"], [], [], ["Metadata_t"]),
    PairRules(["Metadata_t"], ["Metadata_Plate"], ["Metadata_Plate"], ["Metadata_t"]),
    PairRules(["Metadata_moa"], ["Metadata_t"], [], ["Metadata_moa", "Metadata_t"]),
    PairRules(["Metadata_moa"], ["Metadata_t", "Metadata_Plate"], ["Metadata_Plate"], ["Metadata_moa"]),
]


@pytest.mark.parametrize("metric", ["cosine", "correlation", "euclidean"])
@pytest.mark.parametrize("rules", RULES)
def test_average_precision_is_that_of_copairs(rules: PairRules, metric: str) -> None:
    copairs_map = pytest.importorskip("copairs.map")
    table = wells(treatments=9).dropna(ignore_index=True)
    ours = average_precision(table, rules, metric=metric)
    lists = [list(names) for names in (rules.positive_same, rules.positive_different)]
    lists += [list(names) for names in (rules.negative_same, rules.negative_different)]
    theirs = copairs_map.average_precision(
        table.filter(like="Metadata_"), features(table), *lists, distance=metric, progress_bar=False
    )
    for name in ("average_precision", "normalized_average_precision", "n_pos_pairs", "n_total_pairs"):
        np.testing.assert_allclose(ours[name], theirs[name].astype(float), atol=1e-6, err_msg=name)


def test_multilabel_average_precision_is_that_of_copairs() -> None:
    multilabel = pytest.importorskip("copairs.map.multilabel")
    table = wells(treatments=10, plates=2).dropna(ignore_index=True)
    table["Metadata_moa"] = [
        f"{kind}|extra" if row % 5 == 0 else kind for row, kind in enumerate(table["Metadata_moa"])
    ]
    rules = PairRules(["Metadata_moa"], ["Metadata_t"], [], ["Metadata_moa"])
    ours = average_precision(table, rules, multilabel="Metadata_moa")
    meta = table.filter(like="Metadata_").assign(Metadata_moa=table["Metadata_moa"].str.split("|"))
    theirs = multilabel.average_precision(
        meta,
        features(table),
        ["Metadata_moa"],
        ["Metadata_t"],
        [],
        ["Metadata_moa"],
        "Metadata_moa",
        progress_bar=False,
    )
    keys = ["Metadata_Plate", "Metadata_Well", "Metadata_moa"]
    both = ours.merge(theirs, on=keys, suffixes=("", "_theirs"))
    assert len(both) == len(ours) == len(theirs)
    for name in ("average_precision", "normalized_average_precision", "n_pos_pairs", "n_total_pairs"):
        np.testing.assert_allclose(both[name], both[f"{name}_theirs"], atol=1e-6, err_msg=name)


def test_mean_average_precision_is_that_of_copairs(tmp_path: Path) -> None:
    copairs_map = pytest.importorskip("copairs.map")
    table = wells(signal=0.3).dropna(ignore_index=True)
    scored = average_precision(table, PairRules(["Metadata_t"], [], [], ["Metadata_t"]))
    ours = mean_average_precision(scored, "Metadata_t")
    theirs = copairs_map.mean_average_precision(
        scored, ["Metadata_t"], null_size=40_000, threshold=0.05, seed=1, progress_bar=False, cache_dir=tmp_path
    )
    assert ours["Metadata_t"].tolist() == theirs["Metadata_t"].tolist()
    for name in ("mean_average_precision", "mean_normalized_average_precision"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
    np.testing.assert_allclose(ours["p_value"], theirs["p_value"], atol=4 * 0.5 / 200)
    assert (ours["p_value_error"] == 0).all()  # three positives among 47: all 16,215 lists are gone through
    np.testing.assert_allclose(ours["corrected_p_value"], stats.false_discovery_control(ours["p_value"]), rtol=1e-12)


@given(st.integers(0, 10_000), st.sampled_from(["cosine", "correlation", "euclidean"]), st.integers(1, 5000))
@settings(max_examples=25)
def test_scores_are_those_of_scikit_learn_whatever_the_memory(seed: int, metric: str, memory: int) -> None:
    random = np.random.default_rng(seed)
    values, kinds = random.normal(size=(25, 6)), pd.DataFrame({"kind": random.integers(0, 4, 25)})
    matching = Matching(kinds, PairRules(["kind"], [], [], ["kind"]))
    scores = score_queries(Similarities(values, metric), matching, depths=(1, 3), memory=memory, threads=2)
    distance = {"cosine": "cosine", "correlation": "correlation", "euclidean": "euclidean"}[metric]
    alike = -cdist(values, values, distance)
    for place, row in enumerate(scores.rows):
        others = np.arange(25) != row
        truth = (kinds["kind"] == kinds["kind"][row]).to_numpy()[others]
        order = np.argsort(-alike[row, others])
        assert scores.average_precision[place] == pytest.approx(average_precision_score(truth, alike[row, others]))
        assert scores.precision_at[3][place] == pytest.approx(truth[order][:3].mean())
        assert scores.nearest[place] == np.flatnonzero(others)[order[0]]
        assert scores.hits_top[place] == truth[order[0]]


def test_folds_of_enrichment_are_those_of_the_percentile_and_fisher() -> None:
    random = np.random.default_rng(2)
    values, kinds = random.normal(size=(700, 8)), pd.DataFrame({"kind": random.integers(0, 12, 700)})
    values[:, :3] += 0.8 * random.normal(size=(12, 3))[kinds["kind"]]
    scores = score_queries(
        Similarities(values), Matching(kinds, PairRules(["kind"], [], [], ["kind"])), zero_cells="infinite"
    )
    corrected = score_queries(Similarities(values), Matching(kinds, PairRules(["kind"], [], [], ["kind"])))
    alike = 1 - cdist(values, values, "cosine")
    infinite = 0
    for row in range(700):
        others = np.arange(700) != row
        same, near = (kinds["kind"] == kinds["kind"][row])[others], alike[row, others]
        above = near > np.percentile(near, 99)
        cells = [[np.sum(above & same), np.sum(above & ~same)], [np.sum(~above & same), np.sum(~above & ~same)]]
        expected = stats.fisher_exact(cells).statistic
        assert scores.folds_of_enrichment[row] == pytest.approx(expected)
        if np.isfinite(expected):
            assert corrected.folds_of_enrichment[row] == pytest.approx(expected)
        else:
            infinite += 1
            (a, b), (c, d) = np.array(cells) + 0.5
            assert corrected.folds_of_enrichment[row] == pytest.approx(a * d / (b * c))
    assert corrected.n_corrected == infinite and scores.n_corrected == 0


def test_odds_ratios_by_hand() -> None:
    counts = [np.array(values) for values in ([1, 0, 2, 2], [2, 2, 2, 2], [3, 3, 5, 2], [100, 100, 100, 100])]
    odds, corrected = odds_ratios(*counts)
    np.testing.assert_allclose(odds, [96 / 2, 0, 2.5 * 95.5 / (0.5 * 3.5), 2.5 * 98.5 / (0.5 * 0.5)])
    assert corrected == 2
    assert np.isinf(odds_ratios(*counts, "infinite")[0][2:]).all()


def test_classes_match_when_any_label_is_shared() -> None:
    table = pd.DataFrame({"moa": ["a|b", "b | c", "c", None, ["a", "d"], "e"], "t": range(6)})
    matching = Matching(table, PairRules(["moa"], [], [], ["moa"]), multilabel=["moa"])
    relevance = matching.relevance(slice(0, 6))
    assert relevance[0].tolist() == [0, 1, -1, -1, 1, -1]
    assert relevance[2].tolist() == [-1, 1, 0, -1, -1, -1]
    assert relevance[3].tolist() == [-1, -1, -1, 0, -1, -1]  # nothing is the same as a missing value
    assert split_labels("a| b|") == {"a", "b"} and split_labels(3) == {"3"} and split_labels(np.nan) == set()


def test_candidates_and_queries_can_be_some_rows() -> None:
    table = pd.DataFrame({"kind": list("aabbc")})
    rules = PairRules(["kind"], [], [], ["kind"])
    only = np.array([True, True, True, False, True])
    matching = Matching(table, rules, queries=table["kind"].isin(["a", "b"]).to_numpy(), candidates=only)
    assert matching.relevance(slice(0, 4)).tolist() == [
        [0, 1, -1, 0, -1],
        [1, 0, -1, 0, -1],
        [-1, -1, 0, 0, -1],
        [-1, -1, 1, 0, -1],
    ]
    scores = score_queries(Similarities(np.eye(5)), matching)
    assert scores.rows.tolist() == [0, 1, 3]
    assert score_queries(Similarities(np.eye(5)), matching, min_positives=2).summary()["n_queries"] == 0


def test_rules_that_contradict_each_other_are_refused() -> None:
    table = pd.DataFrame({"a": [1, 1, 2], "b": [1, 2, 2]})
    with pytest.raises(InputError, match="positive and negative at once"):
        Matching(table, PairRules(["a"], [], [], ["b"])).relevance(slice(0, 3))
    with pytest.raises(InputError, match="the same and a different 'a'"):
        PairRules(["a"], ["a"], [], ["b"])
    with pytest.raises(InputError, match="name a column"):
        PairRules(["a"])
    with pytest.raises(InputError, match="no column 'z'"):
        Matching(table, PairRules(["z"], [], [], ["b"]))


def test_alike_profiles_are_ranked_last_wherever_they_stand() -> None:
    table = pd.DataFrame({"kind": list("aaabbb")})
    same = np.tile(np.arange(1.0, 8), (6, 1)) * [[1], [2], [3], [1], [5], [7]]
    scores = score_queries(Similarities(same), Matching(table, PairRules(["kind"], [], [], ["kind"])))
    np.testing.assert_allclose(scores.average_precision, (1 / 4 + 2 / 5) / 2)


def test_memory_grows_with_rows_and_not_with_pairs() -> None:
    table = pd.DataFrame({"kind": np.arange(6000) % 1500})
    matching = Matching(table, PairRules(["kind"], [], [], ["kind"]))
    similarities = Similarities(np.random.default_rng(0).normal(size=(6000, 10)))
    tracemalloc.start()
    try:
        scores = score_queries(similarities, matching, memory=4 << 20, threads=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(scores) == 6000
    assert peak < 24 << 20  # all pairs would take 288 MB


@pytest.mark.parametrize("metric", ["cosine", "correlation"])
def test_profiles_without_direction_are_like_nothing(metric: str) -> None:
    values = np.random.default_rng(0).normal(size=(5, 4))
    values[2] = 0.0 if metric == "cosine" else 0.1
    made = Similarities(values, metric)  # type: ignore[arg-type]
    assert made.without_direction == 1
    assert (made.block(np.arange(5))[2] == 0).all() and (made.block(np.array([2])) == 0).all()


def test_extreme_values_keep_their_direction() -> None:
    values = np.random.default_rng(0).normal(size=(6, 4))
    plain = Similarities(values).block(np.arange(6))
    for factor in (1e-200, 1e200):
        np.testing.assert_allclose(Similarities(values * factor).block(np.arange(6)), plain, atol=1e-12)


def test_float32_gives_nearly_the_same() -> None:
    table = wells()
    ours = [
        average_precision(table, PairRules(["Metadata_t"], [], [], ["Metadata_t"]), precision=precision)
        for precision in ("float64", "float32")
    ]
    np.testing.assert_allclose(ours[0]["average_precision"], ours[1]["average_precision"], atol=1e-6)


def test_nearest_neighbour_accuracy_leaves_compound_and_batch_out() -> None:
    table = pd.DataFrame(
        {
            "moa": ["a", "a", "a", "b", "b", "c", None],
            "compound": ["1", "1", "2", "3", "4", "5", "9"],
            "batch": ["x", "x", "x", "x", "y", "y", "x"],
        }
    )
    angles = np.radians([0, 1, 20, 50, 12, 90, 0.5])
    similarities = Similarities(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    # 0 and 1 are next to each other, but of one compound: then comes 4 (b); 2 finds 4 too; 3 finds 2; 4 finds 2.
    found = nearest_neighbour_accuracy(similarities, table, label="moa", compound="compound")
    assert found.n_queries == 5 and found.n_left_out == 1
    assert found.table["nearest"].tolist() == [4, 4, 4, 2, 2]
    assert found.accuracy == 0
    plain = nearest_neighbour_accuracy(similarities, table, label="moa")
    assert plain.table["nearest"].tolist()[:2] == [1, 0] and plain.accuracy == pytest.approx(2 / 5)
    # Only the b of the other batch remains.
    strict = nearest_neighbour_accuracy(similarities, table, label="moa", compound="compound", batch="batch")
    assert strict.table["row"].tolist() == [3, 4]
    assert strict.table["nearest"].tolist() == [4, 2]


def test_replicates_are_compared_with_random_wells() -> None:
    table = wells(signal=1.5)
    treated = table["Metadata_t"].where(table["Metadata_t"] != "DMSO")
    found = replicate_similarity(Similarities(features(table), "correlation"), treated, draws=2000)
    assert len(found.table) == 12 and (found.table["n_replicates"] == 4).all()
    expected = np.corrcoef(features(table[table["Metadata_t"] == "T03"]))[np.triu_indices(4, 1)]
    assert found.table["median_similarity"][3] == pytest.approx(np.median(expected))
    assert found.share_reproducible > 0.9
    random = np.random.default_rng(1)
    noise = pd.Series(np.repeat(np.arange(100), 4), name="t")
    chance = replicate_similarity(Similarities(random.normal(size=(400, 30))), noise, draws=2000)
    assert chance.share_reproducible < 0.12
    assert stats.kstest(chance.table["p_value"], "uniform").pvalue > 1e-3


def test_random_sets_never_hold_two_rows_of_a_treatment() -> None:
    members = [np.arange(start, start + size) for start, size in ((0, 1), (1, 5), (6, 2), (8, 9))]
    sets = retrieval._one_of_each(np.random.default_rng(0), members, 3, 500)
    kind = np.repeat([0, 1, 2, 3], [1, 5, 2, 9])
    assert all(len(set(kind[one])) == 3 for one in sets)
    assert set(sets.ravel()) == set(range(17))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table.drop(columns="Metadata_t"), "no column 'Metadata_t'"),
        (lambda table: table.assign(Metadata_t=None), "have nothing in 'Metadata_t'"),
        (lambda table: table.assign(Metadata_t=range(len(table))), "has a positive"),
        (lambda table: table.assign(Metadata_t="x"), "has a negative"),
        (lambda table: table.assign(Cells_f3=np.nan), "finite"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(change: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        average_precision(change(wells()), PairRules(["Metadata_t"], [], [], ["Metadata_t"]))  # type: ignore[operator]


def test_options_out_of_range_are_refused() -> None:
    matching = Matching(pd.DataFrame({"kind": list("aab")}), PairRules(["kind"], [], [], ["kind"]))
    alike = Similarities(np.eye(3))
    for options, says in (({"depths": [0]}, "at least 1"), ({"zero_cells": "drop"}, "Zero cells")):
        with pytest.raises(InputError, match=says):
            score_queries(alike, matching, **options)
    with pytest.raises(InputError, match="do not fit"):
        score_queries(Similarities(np.eye(4)), matching)
    for arguments in ((np.eye(3), "manhattan"), (np.eye(3), "cosine", "float16"), (np.zeros((0, 3)),)):
        with pytest.raises(InputError):
            Similarities(*arguments)
    with pytest.raises(InputError, match="replicates"):
        replicate_similarity(alike, pd.Series(list("abc"), name="t"))


def ljosa(folder: Path) -> pd.DataFrame:
    """Well means of BBBC021 with compound, concentration and mechanism; controls have none."""
    place = folder / "profiles" / "bbbc021_ljosa"
    profiles = pd.read_csv(place / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz")
    images = pd.read_csv(place / "BBBC021_v1_image.csv.gz").rename(
        columns={
            "Image_Metadata_Plate_DAPI": "Image_Metadata_Plate",
            "Image_Metadata_Well_DAPI": "Image_Metadata_Well",
            "Image_Metadata_Compound": "compound",
            "Image_Metadata_Concentration": "concentration",
        }
    )
    images["Image_Metadata_Plate"] = images["Image_Metadata_Plate"].str.split("/").str[-1]
    keys = ["Image_Metadata_Plate", "Image_Metadata_Well"]
    known = images[[*keys, "compound", "concentration"]].drop_duplicates()
    classes = pd.read_csv(place / "BBBC021_v1_moa.csv")
    return profiles.merge(known, on=keys).merge(classes, on=["compound", "concentration"], how="left")


@pytest.mark.realdata
def test_mechanisms_of_bbbc021(data_folder: Path) -> None:
    table = ljosa(data_folder)
    assert len(table) == 632
    names = [name for name in table if name.startswith(("Cells_", "Nuclei_", "Cytoplasm_"))]
    control = table["compound"] == "DMSO"
    plate = table["Image_Metadata_Plate"]
    mean, sd = (getattr(table[names].where(control).groupby(plate), kind)() for kind in ("mean", "std"))
    scaled = (table[names] - mean.loc[plate].to_numpy()) / sd.loc[plate].to_numpy()
    kept = table["moa"].notna() & ~control
    usable = scaled.loc[kept].replace([np.inf, -np.inf], np.nan).dropna(axis=1)
    names = list(usable)
    table = pd.concat([table.loc[kept].drop(columns=scaled.columns), usable], axis=1)
    groups = table.groupby(["compound", "concentration", "moa"])
    weeks = groups["Image_Metadata_Plate"].agg(lambda plates: "|".join(sorted({name.split("_")[0] for name in plates})))
    treatments = pd.concat([weeks.rename("week"), groups[names].mean()], axis=1).reset_index()
    assert len(treatments) == 103
    alike = Similarities(treatments[names])
    nsc = nearest_neighbour_accuracy(alike, treatments, label="moa", compound="compound")
    strict = nearest_neighbour_accuracy(
        alike, treatments, label="moa", compound="compound", batch="week", multilabel=["week"]
    )
    assert nsc.n_queries == 103 and nsc.accuracy > 0.7 and nsc.interval.low < nsc.accuracy < nsc.interval.high
    assert strict.n_queries <= 103 and strict.accuracy > 0.5
    print(nsc[:4], strict[:4])


@pytest.mark.realdata
def test_real_plates_agree_with_copairs(data_folder: Path) -> None:
    copairs_map = pytest.importorskip("copairs.map")
    table = pd.read_csv(data_folder / "profiles" / "jump_moa" / "Yokogawa_US_20X_5Ch.csv.gz")
    names = [
        name for name in table if name.startswith(("Cells_", "Nuclei_", "Cytoplasm_")) and table[name].notna().all()
    ]
    table["Metadata_broad_sample"] = table["Metadata_broad_sample"].fillna("DMSO")
    rules = PairRules(["Metadata_broad_sample"], [], [], ["Metadata_broad_sample"])
    ours = average_precision(table, rules, features=names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = copairs_map.average_precision(
            table[["Metadata_broad_sample"]],
            table[names].to_numpy(),
            ["Metadata_broad_sample"],
            [],
            [],
            ["Metadata_broad_sample"],
            progress_bar=False,
        )
    np.testing.assert_allclose(ours["average_precision"], theirs["average_precision"], atol=1e-6)
