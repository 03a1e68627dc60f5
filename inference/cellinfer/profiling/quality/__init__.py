"""Which wells and fields of a plate are not to be trusted, and why.

Every field and well is compared with reference wells by median and MAD: the negative controls if there are six, and
the whole plate. What a treatment can change (counts, debris, intensities, the profile as a whole) is judged by the more
lenient of the two, and only warned of; it counts as a fault in a negative control, which got no treatment, and in a
well whose treatment did not do so to its other wells. What no treatment does (blur, saturation, images that cannot be
read) is a fault anywhere. Limits are never tighter than a floor, so that a plate without faults is not searched for the
least good of its good wells.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cellinfer._version import __version__
from cellinfer.errors import InputError
from cellinfer.files import durable, json_ready
from cellinfer.outputs.frames import write_csv, write_parquet
from cellinfer.outputs.runinfo import package_versions
from cellinfer.profiling.columns import PLATE, SITE, WELL
from cellinfer.profiling.quality._limits import Limit, limit, wider
from cellinfer.profiling.quality._measures import (
    GROUP,
    MEASURES,
    Measure,
    add_signal,
    channels_of,
    count_debris,
    debris_shares,
    field_measures,
    floors,
    profile_features,
    succeeded,
    well_measures,
)
from cellinfer.profiling.quality._outliers import FEWEST, outlyingness
from cellinfer.profiling.quality._plates import edge_trends, plate_shifts, saturated_plates
from cellinfer.profiling.quality._roles import NEGATIVE, POSITIVE, ROLE, TREATMENT, Roles, with_roles
from cellinfer.profiling.quality._tables import (
    FIELD_KEY,
    REASON,
    TIME,
    WELL_KEY,
    QualityTables,
    read_quality_tables,
)
from cellinfer.wells import well_sort_key

DEVIATIONS = 4.0
"""Robust standard deviations from the reference beyond which a value is out, where no floor is farther."""
QC = "Metadata_QC_"
PASS, SEVERITY, REASONS = f"{QC}Pass", f"{QC}Severity", f"{QC}Reasons"
_FAILING_FIELDS = 0.5
_FEWEST_REPLICATES = 2
_SHARED = 1 / 3
_PLAIN = ("Failed", "Constant", "NotFinite", "Empty", "Fields")
_OK, _WARN, _FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class QualityControl:
    """What `quality_control` found.

    Attributes
    ----------
    wells, fields
        One row each: keys, `Metadata_QC_Pass`, `Metadata_QC_Severity` (ok, warn, fail), `Metadata_QC_Reasons` (joined
        by "; "), `Metadata_QC_Control` (negative, positive or empty) and every measure as `Metadata_QC_<Measure>`.
    limits
        What was compared with what: a row for each plate, level, measure and reference.
    edges
        Per plate and measure, wells at the border of the plate against those inside.
    notes
        What could not be judged, what was taken for granted, trends over plates.
    unjudged
        Plates whose wells could be compared with nothing.
    """

    wells: pd.DataFrame
    fields: pd.DataFrame
    limits: pd.DataFrame
    edges: pd.DataFrame
    notes: tuple[str, ...]
    unjudged: tuple[str, ...]
    options: dict[str, Any]
    provenance: dict[str, Any]
    channels: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def summary(self) -> tuple[str, ...]:
        """One sentence per plate on its wells, and one on its control wells."""
        return tuple(line for _, plate in self.wells.groupby([PLATE, TIME], sort=False) for line in _summary(plate))

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the tables of measures as plain values for JSON; what is not finite becomes None."""
        flagged = self.wells[self.wells[SEVERITY] != _OK]
        data: dict[str, Any] = json_ready(
            {
                "summary": list(self.summary),
                "notes": list(self.notes),
                "unjudged": list(self.unjudged),
                "flagged": flagged[[*WELL_KEY, SEVERITY, f"{QC}Control", REASONS]].to_dict("records"),
                "limits": self.limits.to_dict("records"),
                "edges": self.edges.to_dict("records"),
                "options": self.options,
                "provenance": self.provenance,
                "files": [str(path) for path in self.files],
            }
        )
        return data


def quality_control(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    layout: str | os.PathLike[str] | None = None,
    control_column: str | None = None,
    negative: str | float | None = None,
    positive: str | float | None = None,
    controls: str | None = None,
    treatment_columns: Sequence[str] = (),
    deviations: float = DEVIATIONS,
    strict: bool = False,
    out: str | os.PathLike[str] | None = None,
) -> QualityControl:
    """Flag wells and fields of runs, with reasons, and write tables and a picture of them.

    Parameters
    ----------
    runs
        Folder of a finished run, or several; also a folder with CellProfiler's `Image.csv`, or that table.
    layout
        Plate map, see `cellinfer.assays.platemap`.
    control_column, negative, positive
        Its column that marks controls, and the values of that column in negative and (if there are) positive ones.
    controls
        Instead of the former two, which wells are negative controls, as a query of pandas over the columns of the
        wells and the map: `Metadata_Compound == "DMSO"`.
    treatment_columns
        Columns of the map that say together what a well got, such as compound and dose. A well that differs from the
        two or more others of its treatment is faulty; without this nothing tells a toxic dose from a lost drop.
    deviations
        Robust standard deviations beyond which a value is out, at least 1.
    strict
        Wells and fields that are warned of do not pass either.
    out
        Folder for `Well.parquet`, `Well.csv`, `Field.parquet`, `Field.csv`, `qc.json` and `qc.png`; default: `qc` in
        the run's folder.

    Returns
    -------
    QualityControl

    Raises
    ------
    InputError
        If a table cannot be read, or no well is a control of the kind asked for.
    OutputError
        If a file cannot be written.
    """
    paths = [Path(run) for run in ([runs] if isinstance(runs, (str, os.PathLike)) else runs)]
    if out is None and len(paths) > 1:
        raise InputError("quality control of several runs needs --out: the folder for its tables and picture")
    tables = read_quality_tables(paths)
    result = judge_quality(
        tables,
        Roles(layout, control_column, negative, positive, controls, tuple(treatment_columns)),
        deviations=deviations,
        strict=strict,
    )
    return _written(result, tables, Path(tables.runs[0]["folder"]) / "qc" if out is None else Path(out))


def judge_quality(
    tables: QualityTables, roles: Roles | None = None, *, deviations: float = DEVIATIONS, strict: bool = False
) -> QualityControl:
    """Flag wells and fields of tables; writes nothing.

    Parameters
    ----------
    tables
        See `QualityTables`.
    roles
        Which wells are controls, and which got the same treatment; None knows of none.
    deviations, strict
        As for `quality_control`.

    Raises
    ------
    InputError
        If no well is a control of the kind asked for, or `deviations` makes no sense.
    """
    if not deviations >= 1:
        raise InputError(f"limits must lie at least 1 robust standard deviation away, not {deviations:g}")
    roles = roles or Roles()
    fields, channels = _grouped(tables.fields), channels_of(tables.fields)
    measured = field_measures(fields, channels)
    wells = well_measures(fields, measured, channels)
    add_signal(wells, tables.wells, channels)
    wells, notes = with_roles(wells, roles)
    fields = fields[[GROUP, *FIELD_KEY, *(c for c in ("Image_Status", REASON, "Image_QC_Flags") if c in fields)]]
    fields = pd.concat([fields, measured], axis=1).merge(wells[[*WELL_KEY, ROLE, TREATMENT]], on=WELL_KEY, how="left")
    wells, fields = _with_debris(wells, fields, tables)
    wells, more = _with_distances(wells, tables)
    judged_fields, field_limits = _compare(fields, wells, "field", deviations)
    judged_wells, well_limits = _compare(wells, wells, "well", deviations)
    for judged in (judged_fields, judged_wells):
        _doubt_single_channels(judged, channels, _nuclear(tables))
    for place, found in _of_images(fields).items():
        judged_fields[place] = _without_repeats(found + judged_fields[place])
    _weigh_wells(judged_wells, wells)
    _add_fields_to_wells(judged_wells, wells, judged_fields, fields)
    limits = pd.DataFrame([*field_limits, *well_limits], columns=_Compared._fields)
    well_table, field_table = (
        _table(wells, judged_wells, WELL_KEY, strict),
        _table(fields, judged_fields, FIELD_KEY, strict),
    )
    edges, trends = edge_trends(wells[well_table.loc[wells.index, SEVERITY] != _FAIL])
    unjudged = tuple(group for group in wells[GROUP].unique() if group not in set(limits["plate"]))
    notes += [
        *tables.notes,
        *more,
        *_notes(wells, limits, unjudged),
        *saturated_plates(limits),
        *plate_shifts(wells),
        *trends,
    ]
    return QualityControl(
        wells=_in_plate_order(well_table),
        fields=_in_plate_order(field_table),
        limits=limits,
        edges=edges,
        notes=tuple(notes),
        unjudged=unjudged,
        options={**roles.to_dict(), "deviations": deviations, "strict": strict},
        provenance={"cellinfer": __version__, "versions": package_versions(), "runs": list(tables.runs)},
        channels=channels,
    )


class _Finding(NamedTuple):
    """One reason why a field or well is flagged."""

    severity: str
    measure: str
    text: str
    side: int = 0


class _Compared(NamedTuple):
    """What the values of one measure on one plate were compared with."""

    plate: str
    level: str
    measure: str
    judged: str
    """Which wells: negative controls, or the others."""
    reference: str
    n: int
    centre: float
    spread: float
    low: float
    high: float


_Findings = dict[Any, list[_Finding]]


def _grouped(fields: pd.DataFrame) -> pd.DataFrame:
    several_times = fields[TIME].nunique() > 1
    group = fields[PLATE].astype(str) + (" t" + fields[TIME].astype(str) if several_times else "")
    return fields.assign(**{GROUP: group}).reset_index(drop=True)


def _with_debris(wells: pd.DataFrame, fields: pd.DataFrame, tables: QualityTables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add the share of objects that are debris; reference are the negative controls' objects, if there are any."""
    if tables.nuclei is None or not len(tables.nuclei):
        return wells, fields
    nuclei = tables.nuclei.merge(wells[[*WELL_KEY, GROUP, ROLE]], on=WELL_KEY, how="inner")
    controls = nuclei[ROLE] == NEGATIVE
    reference = controls | ~controls.groupby(nuclei[GROUP]).transform("any")
    odd = count_debris(nuclei, reference, _nuclear(tables))
    return tuple(  # type: ignore[return-value]
        table.merge(debris_shares(nuclei, odd, keys), on=keys, how="left") if set(keys) <= set(nuclei) else table
        for table, keys in ((wells, WELL_KEY), (fields, FIELD_KEY))
    )


def _nuclear(tables: QualityTables) -> str | None:
    """Return the channel in which nuclei were looked for; None if no run says so."""
    return next((run.get("nuclei") for run in tables.runs if run.get("nuclei")), None)


def _with_distances(wells: pd.DataFrame, tables: QualityTables) -> tuple[pd.DataFrame, list[str]]:
    """Add how far profiles and embeddings of wells lie from the others of the plate, controls also among themselves."""
    notes = []
    for name, source in (("Profile", tables.wells), ("Embedding", tables.embeddings)):
        if source is None:
            continue
        names = profile_features(source) if name == "Profile" else [c for c in source if "_Embedding_" in str(c)]
        if not names:
            notes.append(f"no {name.lower()} of wells is judged: the table has no features")
            continue
        values = wells[WELL_KEY].merge(source[[*WELL_KEY, *names]], on=WELL_KEY, how="left")[names]
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        wells = wells.assign(**{name: np.nan, f"_{name}": np.nan})
        for places in wells.groupby(GROUP, sort=False).indices.values():
            controls = places[(wells[ROLE] == NEGATIVE).to_numpy()[places]]
            wells.loc[wells.index[places], name] = outlyingness(numbers[places])
            wells.loc[wells.index[controls], f"_{name}"] = outlyingness(numbers[controls])
    return wells, notes


def _columns_of(table: pd.DataFrame) -> list[tuple[Measure, str | None, str]]:
    """Return measure, channel and name of each measured column, in the order of measures."""
    return [
        (measure, column[len(measure.name) + 1 :] or None, column)
        for measure in MEASURES
        for column in map(str, table)
        if column == measure.name or column.startswith(f"{measure.name}_")
    ]


def _compare(
    table: pd.DataFrame, wells: pd.DataFrame, level: str, deviations: float
) -> tuple[_Findings, list[_Compared]]:
    """Compare every field or well with the references of its plate."""
    findings: _Findings = {index: [] for index in table.index}
    limits: list[_Compared] = []
    for judged in _judgements(table, wells, level, deviations):
        for index, value in judged.values.items():
            findings[index] += judged.findings(float(value))
        limits += judged.compared()
    return findings, limits


def _doubt_single_channels(findings: _Findings, channels: Sequence[str], nuclear: str | None) -> None:
    """Only warn of a focus that is out in few channels, none of them nuclear: a treatment may have moved the stain."""
    for index, found in findings.items():
        blurred = [finding for finding in found if finding.measure.startswith("Focus_")]
        if f"Focus_{nuclear}" in (finding.measure for finding in blurred) or 2 * len(blurred) > len(channels):
            continue
        doubted = {
            id(finding): finding._replace(severity=_WARN, text=f"{finding.text}, or what it shows has moved")
            for finding in blurred
        }
        findings[index] = [doubted.get(id(finding), finding) for finding in found]


class _Judgement(NamedTuple):
    """Values of one measure on one plate, and the limits that hold for them."""

    plate: str
    level: str
    measure: Measure
    channel: str | None
    column: str
    kind: str
    """Which wells: negative controls, or the others."""
    values: pd.Series
    low: Limit | None
    high: Limit | None

    def findings(self, value: float) -> Iterator[_Finding]:
        """Say whether and how a value is out."""
        measure = self.measure
        for side, found, meaning in ((-1, self.low, measure.low), (1, self.high, measure.high)):
            if not meaning or found is None:
                continue
            bound = found.low if side < 0 else found.high
            if side * (value - bound) > 0:
                spread = found.centre * float(np.expm1(found.spread)) if measure.logarithmic else found.spread
                text = (
                    f"{measure.text.format(self.channel)} {_number(value)}, {found.reference} {_number(found.centre)} "
                    f"± {_number(spread, 2)}, limit {_number(bound)}: {meaning}"
                )
                yield _Finding(_FAIL if measure.technical else _WARN, self.column, text, side)

    def compared(self) -> list[_Compared]:
        """Return the limits as rows."""
        there = dict.fromkeys(found for found in (self.low, self.high) if found is not None)
        return [_Compared(self.plate, self.level, self.column, self.kind, *found) for found in there]


def _judgements(table: pd.DataFrame, wells: pd.DataFrame, level: str, deviations: float) -> Iterator[_Judgement]:
    """Find the limits for the controls of each plate, and for its other wells, measure by measure."""
    for measure, channel, column in _columns_of(table):
        among = f"_{column}" if f"_{column}" in table else column  # distances of controls from each other
        for group, rows in table.groupby(GROUP, sort=False):
            mine = wells[wells[GROUP] == group]
            find = partial(
                _found, measure, channel, mine, 1.0 if level == "field" else mine["Fields"].median(), deviations
            )
            is_control = rows[ROLE] == NEGATIVE
            by_controls = find(rows.loc[is_control, among], "negative controls")
            by_plate = find(rows[column], f"{level}s of the plate") or find(table[column], f"{level}s of all plates")
            what = (str(group), level, measure, channel, column)
            if is_control.any():
                own = rows.loc[is_control, among if by_controls else column]
                yield _Judgement(*what, "negative controls", own, by_controls or by_plate, by_controls or by_plate)
            lenient = wider(by_controls if among == column else None, by_plate)
            yield _Judgement(*what, f"other {level}s", rows.loc[~is_control, column], *lenient)


def _found(
    measure: Measure,
    channel: str | None,
    wells: pd.DataFrame,
    per: float,
    deviations: float,
    values: pd.Series,
    reference: str,
) -> Limit | None:
    """Find the limits that reference values give."""
    if not values.notna().any():
        return None
    floor = floors(measure, channel, wells, float(values.median()), per)
    return limit(values.to_numpy(dtype=np.float64), reference, measure, floor, deviations)


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def _of_images(fields: pd.DataFrame) -> _Findings:
    """Return what needs no comparison: fields that failed, constant planes, pixels that are not finite, no cells."""
    findings: _Findings = {index: [] for index in fields.index}
    done = succeeded(fields)
    for index in fields.index[~done]:
        reason = str(fields[REASON].get(index, "")) if REASON in fields else ""
        findings[index].append(_Finding(_FAIL, "Failed", f"analysis failed: {reason or 'no reason is known'}"))
    for index, flags in (fields["Image_QC_Flags"] if "Image_QC_Flags" in fields else pd.Series(dtype=str)).items():
        for flag in str(flags or "").split("; "):
            channel, _, text = flag.partition(": ")
            if text.startswith("constant"):
                findings[index].append(_Finding(_FAIL, "Constant", f"image of {channel} is {text}"))
            elif text.endswith("not finite"):
                findings[index].append(_Finding(_WARN, "NotFinite", f"image of {channel}: {text}"))
    if "Cells" in fields:
        for index in fields.index[done & (fields["Cells"] == 0)]:
            findings[index].append(_Finding(_WARN, "Empty", "no cells"))
    return findings


def _without_repeats(found: list[_Finding]) -> list[_Finding]:
    """Put first what needs no comparison, and leave out what only follows from it."""
    kinds = {one.measure for one in found}
    plain = [one for one in found if one.measure in _PLAIN]
    if kinds & {"Failed", "Constant"}:
        return plain
    follows = ("Cells", "Brightest") if "Empty" in kinds else ()
    return [*plain, *(one for one in found if one.measure not in _PLAIN and not one.measure.startswith(follows))]


def _weigh_wells(findings: _Findings, wells: pd.DataFrame) -> None:
    """Tell what is a fault from what a treatment may have done: by controls, and by wells of the same treatment."""
    same: dict[Any, list[Any]] = {}
    for index, treatment in wells[TREATMENT].items():
        if treatment:
            same.setdefault(treatment, []).append(index)
    known = wells.notna()
    flagged = {(index, one.measure, one.side) for index, found in findings.items() for one in found}
    for index, found in findings.items():
        for place, one in enumerate(found):
            if one.severity == _FAIL:
                continue
            if wells.at[index, ROLE] == NEGATIVE:
                found[place] = one._replace(severity=_FAIL, text=f"{one.text} (in a negative control)")
                continue
            others = [other for other in same.get(wells.at[index, TREATMENT], ()) if other != index]
            others = [other for other in others if known[one.measure][other]]
            if len(others) < _FEWEST_REPLICATES:
                continue
            alike = sum((other, one.measure, one.side) in flagged for other in others)
            if alike <= _SHARED * len(others):
                told = f"{one.text} (but not in {len(others) - alike} of {len(others)} other wells of its treatment)"
                found[place] = one._replace(severity=_FAIL, text=told)
            else:
                told = f"{one.text} (as in {alike} of {len(others)} other wells of its treatment)"
                found[place] = one._replace(text=told)


def _add_fields_to_wells(
    findings: _Findings, wells: pd.DataFrame, field_findings: _Findings, fields: pd.DataFrame
) -> None:
    """Say of each well which of its fields fail, and whether any cell is left to make a profile of."""
    by_well = fields.groupby(WELL_KEY, sort=False).indices
    for index, row in wells.iterrows():
        places = by_well[tuple(row[key] for key in WELL_KEY)]
        failed = [i for i in fields.index[places] if any(f.severity == _FAIL for f in field_findings[i])]
        found = findings[index]
        broken = [f for i in failed for f in field_findings[i] if f.measure in ("Failed", "Constant")]
        if failed and len(places) == 1:
            found[:0] = broken
        elif failed:
            share = len(failed) / len(places)
            sites = ", ".join(str(fields.at[i, SITE]) for i in failed[:8]) + (", ..." if len(failed) > 8 else "")
            first = next(f.text for f in field_findings[failed[0]] if f.severity == _FAIL)
            text = f"{len(failed)} of {len(places)} fields fail (site {sites}, first: {first})"
            found.insert(0, _Finding(_FAIL if share > _FAILING_FIELDS else _WARN, "Fields", text))
        if row["FailedFields"] < row["Fields"] and row.get("Cells", np.nan) == 0:
            found.append(_Finding(_FAIL, "Empty", "no cells in any field: nothing to make a profile of"))
        found[:] = _without_repeats(found)


def _table(rows: pd.DataFrame, findings: _Findings, keys: list[str], strict: bool) -> pd.DataFrame:
    """Return the table that is written: keys, verdict, reasons, measures."""
    severities = [_worst(findings[index]) for index in rows.index]
    verdict = {
        PASS: [severity == _OK or (severity == _WARN and not strict) for severity in severities],
        SEVERITY: severities,
        REASONS: ["; ".join(one.text.replace("; ", ", ") for one in findings[index]) for index in rows.index],
        f"{QC}Control": rows[ROLE].to_numpy(),
    }
    columns = [column for _, _, column in _columns_of(rows)]
    counts = [column for column in ("Fields", "FailedFields") if column in rows]
    measures = rows[[*counts, *columns]].add_prefix(QC)
    return pd.concat([rows[keys], pd.DataFrame(verdict, index=rows.index), measures], axis=1)


def _worst(findings: list[_Finding]) -> str:
    there = {one.severity for one in findings}
    return _FAIL if _FAIL in there else _WARN if _WARN in there else _OK


def _in_plate_order(table: pd.DataFrame) -> pd.DataFrame:
    place = table[WELL].map(well_sort_key)
    keys = [PLATE, "_well", *(key for key in (SITE, TIME) if key in table)]
    return table.assign(_well=place).sort_values(keys, kind="stable").drop(columns="_well").reset_index(drop=True)


def _notes(wells: pd.DataFrame, limits: pd.DataFrame, unjudged: tuple[str, ...]) -> list[str]:
    """Say what was compared with what where that is not what one would expect."""
    notes = [
        f"plate {group} could not be judged: it has fewer than {FEWEST} wells and fields with values to compare, so "
        "only failed, constant and empty fields are flagged"
        for group in unjudged
    ]
    for group, plate in wells.groupby(GROUP, sort=False):
        controls = int((plate[ROLE] == NEGATIVE).sum())
        if group in unjudged:
            continue
        if not (wells[ROLE] == NEGATIVE).any():
            notes.append(
                f"plate {group}: no controls are known, so wells are compared with all {len(plate)} of the plate"
            )
        elif controls < FEWEST:
            notes.append(
                f"plate {group} has {controls} negative control wells, fewer than {FEWEST}: they too are compared with "
                f"all {len(plate)} wells"
            )
        mine = limits[(limits["plate"] == group) & (limits["level"] == "well")]
        if mine.empty:
            notes.append(f"plate {group} has {len(plate)} wells: only its fields are compared, its wells are too few")
        elif mine["reference"].str.endswith("of all plates").any():
            notes.append(f"plate {group} has {len(plate)} wells, so they are compared with those of all plates")
    return notes


def _summary(plate: pd.DataFrame) -> list[str]:
    """Return a sentence on a plate's wells, then one on its controls."""
    name = str(plate[PLATE].iloc[0])
    counts = {severity: int((plate[SEVERITY] == severity).sum()) for severity in (_OK, _WARN, _FAIL)}
    lines = [
        f"{name}: of {len(plate)} wells {counts[_FAIL]} fail, {counts[_WARN]} are warned of, {counts[_OK]} are without "
        "finding"
    ]
    for kind in (NEGATIVE, POSITIVE):
        mine = plate[plate[f"{QC}Control"] == kind]
        failed = mine.loc[mine[SEVERITY] == _FAIL, WELL]
        if len(failed):
            lines.append(
                f"{name}: {len(failed)} of {len(mine)} {kind} control wells fail ({', '.join(failed[:12])}): what is "
                "normalised by them would carry the fault on, leave them out"
            )
        elif len(mine):
            lines.append(f"{name}: all {len(mine)} {kind} control wells pass")
    return lines


def _written(result: QualityControl, tables: QualityTables, folder: Path) -> QualityControl:
    """Write tables, JSON and picture; returns the result with their paths and what the picture lacks."""
    from cellinfer.profiling.quality._picture import draw_quality

    files = tuple(
        folder / name for name in ("Well.parquet", "Well.csv", "Field.parquet", "Field.csv", "qc.json", "qc.png")
    )
    for table, parquet, csv in ((result.wells, files[0], files[1]), (result.fields, files[2], files[3])):
        write_parquet(table, parquet)
        write_csv(table, csv)
    with durable(files[-1]) as partial:
        more = draw_quality(result, tables, partial)
    result = replace(result, files=files, notes=(*result.notes, *more))
    with durable(files[-2]) as partial:
        partial.write_text(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return result
