"""Does the assay work? Z'-factor and SSMD per feature from control wells, dose responses, a verdict.

Figures are computed on the per-well values of a run's `Well.parquet`. With several plates (or times) each is judged by
its own controls, and the pooled figure of a feature is the median over plates.

Rules that settle degenerate features: values that are not finite are missing; a group needs two values, else the
figures are NaN; a difference of the control means (or a spread) below 1e-12 of the values counts as zero; without a
difference every figure that divides by it is NaN, and so is SSMD without any spread.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellinfer._version import __version__
from cellinfer.assays.dose_response import DoseResponse, fit_dose_response
from cellinfer.assays.platemap import (
    PLATE,
    WELL,
    as_number,
    cell_text,
    cells_equal,
    join_platemap,
    metadata_column,
    read_platemap,
)
from cellinfer.errors import InputError
from cellinfer.files import durable, json_ready, plain_text
from cellinfer.readouts import is_biology, is_readout

Array = npt.NDArray[np.float64]

ROLE, DOSE, GROUP = "role", "dose", "plate"
"""Columns of `AssayResult.wells` beside the run's own."""

_TIME = "Metadata_Time"
_KEYS = ("Metadata_", "ImageNumber", "ObjectNumber")
_MAD_TO_SD = 1.4826
_ZERO = 1e-12
_BEST_FITTED = 3
_DRAWS = 20_000
_EXCELLENT = 0.5


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class AssayResult:
    """What `assay` found, and where it wrote it."""

    features: pd.DataFrame
    """One row per feature, best Z' first: `feature`, `z_prime`, `robust_z_prime`, `ssmd`, `robust_ssmd`,
    `signal_window`, `signal_to_background`, then n, mean and sd of negative and positive wells, and `plates`."""
    by_plate: pd.DataFrame
    """The same per plate, with a column `plate`."""
    headline: str
    """Feature that the verdict is about: the first one asked for, else the best one."""
    headline_interval: Interval | None
    """95 % interval of its Z' if the plate is a single one: how far well noise alone can move it."""
    verdict: str
    dose_responses: tuple[DoseResponse, ...]
    notes: tuple[str, ...]
    wells: pd.DataFrame
    """The run's wells with `role` (negative, positive or empty), `dose`, `plate` and the map's columns."""
    options: dict[str, Any]
    provenance: dict[str, Any]
    files: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the wells as plain data for JSON; figures that are not finite become None."""
        data: dict[str, Any] = json_ready(
            {
                "verdict": self.verdict,
                "headline": self.headline,
                "headline_z_prime_95": self.headline_interval and list(self.headline_interval),
                "features": self.features.to_dict("records"),
                "by_plate": self.by_plate.to_dict("records"),
                "dose_responses": [
                    {**asdict(response), "monotonicity": response.monotonicity._asdict()}
                    for response in self.dose_responses
                ],
                "notes": list(self.notes),
                "options": self.options,
                "provenance": self.provenance,
                "files": [str(path) for path in self.files],
            }
        )
        return data


def assay(
    run: str | os.PathLike[str],
    layout: str | os.PathLike[str],
    *,
    control_column: str,
    negative: str | float,
    positive: str | float,
    dose_column: str | None = None,
    features: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> AssayResult:
    """Judge an assay by its control wells, and fit dose responses.

    Parameters
    ----------
    run
        Folder of a finished run: holds `Well.parquet`.
    layout
        Plate map, see `cellinfer.assays.platemap`.
    control_column
        Its column that marks controls.
    negative, positive
        The value of that column in either kind of control, compared as text and as number (`-1` equals `-1.0`).
    dose_column
        Its column with doses, used as given: no unit is known. Wells without a dose are left out of the fit, except
        that negative controls without one count as dose zero. Control wells with a dose belong to the series; blank
        their dose in the map to leave them out. With several plates, each is shifted so that its negative controls have
        the mean of all. All doses of the map are one series: give one compound at a time.
    features
        The first one is what the verdict is about; each gets a dose response, beside the best three by Z'. Default: the
        best one by Z' among counts, sizes, intensities and their ratios, which the verdict then says.
    out
        Folder for `features.csv`, `features.parquet`, `assay.json`, `assay.png`, and with several plates
        `features_by_plate.csv`. Default: `assay` in the run's folder.

    Returns
    -------
    AssayResult

    Raises
    ------
    InputError
        If run or map cannot be used: no well table, no such column, feature or control value, no plate with two wells
        of either control, nothing in common between run and map.
    OutputError
        If the results cannot be written.
    """
    from cellinfer.assays.plot import draw_assay

    run = Path(run)
    platemap = read_platemap(layout)
    joined = join_platemap(_read_wells(run), platemap)
    notes = list(joined.notes)
    wells = _with_roles(joined.table, metadata_column(platemap, control_column), negative, positive)
    candidates = _candidates(wells)
    asked = [_known(name, wells) for name in features or ()]
    candidates += [name for name in dict.fromkeys(asked) if name not in candidates]
    by_plate, skipped = _by_plate(wells, candidates)
    notes += skipped
    table = _pool(by_plate)
    readouts = _readouts(table)
    headline = asked[0] if asked else str(readouts["feature"].iloc[0])
    interval = _interval(wells, headline)
    responses: list[DoseResponse] = []
    if dose_column is not None:
        wells[DOSE] = _doses(wells, metadata_column(platemap, dose_column))
        best = [name for name in readouts.loc[readouts["z_prime"].notna(), "feature"] if name not in asked]
        responses, said = _fit(wells, [*dict.fromkeys(asked), *best[:_BEST_FITTED]])
        notes += said
    result = AssayResult(
        features=table,
        by_plate=by_plate,
        headline=headline,
        headline_interval=interval,
        verdict=_verdict(table, headline, interval, named=bool(asked)),
        dose_responses=tuple(responses),
        notes=tuple(notes),
        wells=wells,
        options={
            "layout": str(layout),
            "control_column": control_column,
            "negative": negative,
            "positive": positive,
            "dose_column": dose_column,
            "features": list(asked),
        },
        provenance=_provenance(run),
    )
    folder = run / "assay" if out is None else Path(out)
    files = (*_write_tables(result, folder), folder / "assay.json", folder / "assay.png")
    result = AssayResult(**{**{name: getattr(result, name) for name in AssayResult.__slots__}, "files": files})
    with durable(folder / "assay.json") as partial:
        partial.write_text(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with durable(folder / "assay.png") as partial:
        draw_assay(result, partial)
    return result


def control_statistics(negative: Array, positive: Array) -> dict[str, Array]:
    """Compare positive with negative wells, feature by feature.

    Parameters
    ----------
    negative, positive
        (wells, features) values; what is not finite is missing.

    Returns
    -------
    dict of str to ndarray of shape (features,)
        `z_prime`: 1 - 3 (sd_p + sd_n) / |mean_p - mean_n| with sample sd (Zhang, Chung, Oldenburg 1999);
        `robust_z_prime`: the same with medians and 1.4826 MAD (1 for features of few values, where both MAD are 0);
        `ssmd`: (mean_p - mean_n) / sqrt(var_p + var_n) (Zhang 2007), and `robust_ssmd` with medians and MAD;
        `signal_window`: (|mean_p - mean_n| - 3 (sd_p + sd_n)) / sd of the group with the higher mean;
        `signal_to_background`: mean_p / mean_n; and n, mean, sd of both groups.
    """
    groups = [_moments(values) for values in (negative, positive)]
    scale = np.maximum(*(np.max(np.abs(g.values), axis=0, initial=0.0, where=np.isfinite(g.values)) for g in groups))
    low, high = groups
    mean, median = (_nonzero(b - a, scale) for a, b in ((low.mean, high.mean), (low.median, high.median)))
    sd_n, sd_p, mad_n, mad_p = (
        np.where(spread <= _ZERO * scale, 0.0, spread) for spread in (low.sd, high.sd, low.mad, high.mad)
    )
    higher_sd = np.where(high.mean >= low.mean, sd_p, sd_n)
    return {
        "z_prime": 1 - 3 * (sd_p + sd_n) / np.abs(mean),
        "robust_z_prime": 1 - 3 * (mad_p + mad_n) / np.abs(median),
        "ssmd": mean / _nonzero(np.hypot(sd_p, sd_n), 0.0),
        "robust_ssmd": median / _nonzero(np.hypot(mad_p, mad_n), 0.0),
        "signal_window": (np.abs(mean) - 3 * (sd_p + sd_n)) / _nonzero(higher_sd, 0.0),
        "signal_to_background": high.mean / _nonzero(low.mean, scale),
        "n_negative": low.n,
        "mean_negative": low.mean,
        "sd_negative": sd_n,
        "n_positive": high.n,
        "mean_positive": high.mean,
        "sd_positive": sd_p,
    }


class _Moments(NamedTuple):
    values: Array
    n: Array
    mean: Array
    sd: Array
    median: Array
    mad: Array


def _moments(values: Array) -> _Moments:
    """Location and spread per feature; NaN with fewer than two values."""
    values = np.where(np.isfinite(values), values, np.nan)
    n = np.isfinite(values).sum(axis=0).astype(np.float64)
    enough = n >= 2
    known = np.where(enough, values, 0.0)  # keeps NumPy from warning of empty columns
    median = np.nanmedian(known, axis=0)
    stats = [
        np.nanmean(known, axis=0),
        np.nanstd(known, axis=0, ddof=1),
        median,
        _MAD_TO_SD * np.nanmedian(np.abs(known - median), axis=0),
    ]
    return _Moments(values, n, *(np.where(enough, stat, np.nan) for stat in stats))


def _nonzero(values: Array, scale: Array | float) -> Array:
    """Make NaN of what is zero but for rounding, so that dividing by it gives NaN."""
    return np.where(np.abs(values) <= _ZERO * scale, np.nan, values)


def _read_wells(run: Path) -> pd.DataFrame:
    path = run / "Well.parquet"
    if not path.is_file():
        raise InputError(f"{run} has no Well.parquet: give the folder of a finished `cellinfer run`")
    try:
        wells = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise InputError(f"{path} cannot be read: {error}") from error
    if len(wells) == 0 or PLATE not in wells or WELL not in wells:
        raise InputError(f"{path} holds no wells")
    several_times = _TIME in wells and wells[_TIME].nunique() > 1
    wells[GROUP] = wells[PLATE].astype(str) + (" t" + wells[_TIME].astype(str) if several_times else "")
    return wells


def _with_roles(wells: pd.DataFrame, column: str, negative: str | float, positive: str | float) -> pd.DataFrame:
    """Mark control wells in the column `role`."""
    is_negative, is_positive = (cells_equal(wells[column], value) for value in (negative, positive))
    name = column.removeprefix("Metadata_")
    for kind, value, mask in (("negative", negative, is_negative), ("positive", positive, is_positive)):
        if not mask.any():
            there = ", ".join(sorted(cell_text(cell) for cell in wells[column].dropna().unique())[:12])
            raise InputError(f"no well of the run has {value} in {name} ({kind} control): it has {there or 'no value'}")
    if (is_negative & is_positive).any():
        raise InputError(f"negative and positive controls are the same: {negative} and {positive} in {name}")
    wells = wells.copy()
    wells[ROLE] = np.select([is_negative, is_positive], ["negative", "positive"], "")
    wells[DOSE] = math.nan
    return wells


def _candidates(wells: pd.DataFrame) -> list[str]:
    """Measured features; places, identities and image quality say nothing of biology."""
    names = [
        str(name)
        for name in wells.select_dtypes("number").columns
        if not name.startswith(_KEYS) and name != DOSE and is_biology(name)
    ]
    if not names:
        raise InputError("the run's Well.parquet has no features")
    return names


def _readouts(table: pd.DataFrame) -> pd.DataFrame:
    """Features that one could explain to a biologist; all, if none of them tells the controls apart."""
    plain = table[table["feature"].map(is_readout)]
    return plain if plain["z_prime"].notna().any() else table


def _known(name: str, wells: pd.DataFrame) -> str:
    if name in wells and name not in (ROLE, DOSE, GROUP) and pd.api.types.is_numeric_dtype(wells[name]):
        return name
    features = [column for column in map(str, wells) if not column.startswith(_KEYS)]
    close = difflib.get_close_matches(name, features, 4, 0.4)
    raise InputError(f"the run has no feature {name!r}" + (f": is it {' or '.join(close)}?" if close else ""))


def _by_plate(wells: pd.DataFrame, features: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Statistics per plate that has two wells of either control, and a note on each that has not."""
    tables, notes = [], []
    for plate, group in wells.groupby(GROUP, sort=False):
        values = group[features].to_numpy(dtype=np.float64, na_value=np.nan)
        negative, positive = (values[(group[ROLE] == role).to_numpy()] for role in ("negative", "positive"))
        if min(len(negative), len(positive)) < 2:
            notes.append(
                f"plate {plate} has {len(negative)} negative and {len(positive)} positive control wells; two of each "
                "are needed"
            )
            continue
        table = pd.DataFrame({"feature": features, **control_statistics(negative, positive)})
        table.insert(0, GROUP, str(plate))
        tables.append(table)
    if not tables:
        raise InputError("no plate can be judged: " + "; ".join(notes))
    both = pd.concat(tables, ignore_index=True)
    return both.astype({"n_negative": int, "n_positive": int}), [f"left out: {note}" for note in notes]


def _pool(by_plate: pd.DataFrame) -> pd.DataFrame:
    """Median over plates of each figure, sum of wells; best Z' first, undefined ones last."""
    groups = by_plate.drop(columns=GROUP).groupby("feature", sort=False)
    pooled = groups.median()
    for column in ("n_negative", "n_positive"):
        pooled[column] = groups[column].sum()
    pooled["plates"] = groups.size()
    pooled["_strength"] = pooled["ssmd"].abs()
    ranked = pooled.reset_index().sort_values(["z_prime", "_strength", "feature"], ascending=[False, False, True])
    return ranked.drop(columns="_strength").reset_index(drop=True)


def _interval(wells: pd.DataFrame, feature: str) -> Interval | None:
    """95 % interval of Z' for normal values on one plate, by generalised pivots (Weerahandi 1993).

    Each draw replaces the sample's mean and sd by values that could have given it: sd by its chi-squared pivot, the
    mean by its t pivot.
    """
    if wells[GROUP].nunique() > 1:
        return None
    generator = np.random.default_rng(0)
    means, sds = [], []
    for role in ("negative", "positive"):
        values = wells.loc[wells[ROLE] == role, feature].to_numpy(dtype=np.float64, na_value=np.nan)
        values = values[np.isfinite(values)]
        n = len(values)
        if n < 2:
            return None
        sd = values.std(ddof=1) * np.sqrt((n - 1) / generator.chisquare(n - 1, _DRAWS))
        sds.append(sd)
        means.append(values.mean() - sd * generator.standard_normal(_DRAWS) / math.sqrt(n))
    difference = np.abs(means[1] - means[0])
    if not difference.all():
        return None
    low, high = np.quantile(1 - 3 * (sds[0] + sds[1]) / difference, [0.025, 0.975])
    return Interval(float(low), float(high))


def _doses(wells: pd.DataFrame, column: str) -> pd.Series:
    """Doses of the wells; a negative control without one has dose zero."""
    doses = wells[column]
    if not pd.api.types.is_numeric_dtype(doses):
        if doses.notna().any():
            text = next(cell for cell in doses.dropna() if math.isnan(as_number(cell)) or str(cell).startswith("0"))
            raise InputError(f"doses must be numbers: {column.removeprefix('Metadata_')} has {text!r}")
        doses = pd.Series(math.nan, index=wells.index)
    if (doses < 0).any():
        raise InputError(f"doses cannot be negative: {column.removeprefix('Metadata_')} has {doses.min():g}")
    return doses.astype(np.float64).mask((wells[ROLE] == "negative") & doses.isna(), 0.0)


def _fit(wells: pd.DataFrame, features: list[str]) -> tuple[list[DoseResponse], list[str]]:
    """Fit each feature; say how doses were understood."""
    notes = []
    doses = wells[DOSE].to_numpy()
    levels = np.unique(doses[doses > 0])
    if len(levels) >= 4 and np.array_equal(levels, np.arange(1, len(levels) + 1)):
        notes.append(
            f"the doses 1, 2, ..., {len(levels)} look like numbers of dilution steps; they were used as given, so an "
            "EC50 is in steps, not in a concentration"
        )
    inside = int(((wells[ROLE] == "positive") & (wells[DOSE] > 0)).sum())
    if inside:
        notes.append(f"{inside} positive control wells carry a dose and are part of the dose response")
    responses = []
    for feature in features:
        response = fit_dose_response(feature, doses, aligned(wells, feature))
        if response is None:
            notes.append(f"no dose response of {feature}: it needs 4 different doses above zero and 6 wells")
        else:
            responses.append(response)
    return responses, notes


def aligned(wells: pd.DataFrame, feature: str) -> Array:
    """Values of a feature, each plate shifted so that its negative controls have the mean of all."""
    values = wells[feature].astype(np.float64).where(lambda column: np.isfinite(column))
    if wells[GROUP].nunique() == 1:
        return np.asarray(values.to_numpy(), dtype=np.float64)
    controls = values.where(wells[ROLE] == "negative")
    plate_mean = controls.groupby(wells[GROUP]).transform("mean")
    return np.asarray((values - plate_mean + controls.mean()).to_numpy(), dtype=np.float64)


def _verdict(table: pd.DataFrame, headline: str, interval: Interval | None, *, named: bool) -> str:
    """Name the category (Zhang 1999) and how the feature came to be chosen."""
    row = table[table["feature"] == headline].iloc[0]
    z, plates = float(row["z_prime"]), int(row["plates"])
    wells = f"{row['n_negative']} negative and {row['n_positive']} positive wells"
    if math.isnan(z):
        return f"No verdict: Z' of {headline} is not defined, its controls do not differ ({wells})."
    quality = (
        "Excellent assay"
        if z >= _EXCELLENT
        else "Marginal assay"
        if z >= 0
        else "Unusable assay: the control bands overlap"
    )
    spread = f"95 % interval {interval.low:.2f} to {interval.high:.2f}, " if interval else ""
    pooled = f", median of {plates} plates" if plates > 1 else ""
    text = f"{quality}: Z' = {z:.2f}{pooled} for {headline} ({spread}{wells})."
    if named:
        defined = int(table["z_prime"].notna().sum())
        rank = int((table["z_prime"] > z).sum()) + 1
        return f"{text} You named the feature; it ranks {rank} of {defined}."
    defined = int(_readouts(table)["z_prime"].notna().sum())
    return (
        f"{text} It was picked as the best of {defined} counts, sizes, intensities and ratios on these same wells, "
        "so the figure is optimistic: confirm it on other wells, or name the feature beforehand."
    )


def _provenance(run: Path) -> dict[str, Any]:
    """Versions, and the model of the run if it says so."""
    try:
        model = json.loads((run / "run.json").read_text(encoding="utf-8")).get("model")
    except (OSError, ValueError, AttributeError):
        model = None
    return {"cellinfer": __version__, "run": str(run), "model": model}


def _write_tables(result: AssayResult, folder: Path) -> tuple[Path, ...]:
    """Write the feature tables; returns their paths."""
    written = [folder / "features.csv", folder / "features.parquet"]
    with durable(written[0]) as partial:
        result.features.to_csv(partial, index=False)
    with durable(written[1]) as partial:
        result.features.to_parquet(partial, index=False)
    if result.by_plate[GROUP].nunique() > 1:
        written.append(folder / "features_by_plate.csv")
        with durable(written[-1]) as partial:
            result.by_plate.assign(plate=result.by_plate[GROUP].map(plain_text)).to_csv(partial, index=False)
    return tuple(written)
