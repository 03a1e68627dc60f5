"""Every column of a run's tables: what it is, in what unit, by whose definition, and how it was checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from cellinfer.measurement import DEFAULTS, Options, chosen_families
from cellinfer.quality import IMAGE_FEATURES


class Described(NamedTuple):
    """A column as users see it."""

    column: str
    """With `<Object>`, `<Channel>`, `<Channel2>` for what differs from run to run."""
    family: str
    unit: str
    definition: str
    source: str
    """Whose definition it is."""
    oracle: str
    """What independent implementation it is compared with in the tests; empty: none."""
    tolerance: float
    """Largest median relative difference to that."""


_ID = "Every cell has one id in all its compartments."
_RELATIONS = (
    ("Nuclei", "Children_Cells_Count", "1 if the nucleus has a cell."),
    ("Nuclei", "Children_Cytoplasm_Count", "1 if the nucleus has a cytoplasm."),
    ("Cells", "Parent_Nuclei", f"Number of the cell's nucleus. {_ID}"),
    ("Cells", "Children_Cytoplasm_Count", "1 if the cell has a cytoplasm, 0 if it is all nucleus."),
    ("Cytoplasm", "Parent_Nuclei", f"Number of its nucleus. {_ID}"),
    ("Cytoplasm", "Parent_Cells", f"Number of its cell. {_ID}"),
)
_ABOVE = "both above the field's background; NaN where one is missing or the divisor is not above it."
_RATIOS = (
    ("Cells_Ratio_NucleusCellArea", "Area of the nucleus over that of the cell."),
    (
        "Cells_Ratio_NucleusCytoplasmMeanIntensity_<Channel>",
        f"Mean of the nucleus over that of the cytoplasm, {_ABOVE}",
    ),
    ("Cells_Ratio_NucleusCytoplasmMedianIntensity_<Channel>", f"Median over median, {_ABOVE}"),
    ("Cells_Ratio_NucleusCytoplasmIntegratedIntensity_<Channel>", f"Sum over sum, {_ABOVE}"),
    (
        "Cells_Ratio_NucleusRingMeanIntensity_<Channel>",
        f"Mean of the nucleus over that of a ring of cytoplasm beside it, a quarter nucleus diameter wide, {_ABOVE}",
    ),
)
_VIEWS = (
    ("Nuclei_TTA_VoteFraction", "Share of the views that have the nucleus; with test-time augmentation only."),
    ("Nuclei_TTA_MeanIoU", "Mean overlap (intersection over union) of its outlines in pairs of views."),
    ("Nuclei_TTA_Entropy", "Mean over its pixels of the entropy of the views' votes, bits."),
    ("Nuclei_TTA_Views", "How many views were asked."),
)
_FIELD = (
    ("Image_Count_Nuclei", "1", "Nuclei that were kept."),
    ("Image_Count_Cells", "1", "Cells that were kept."),
    ("Image_Count_EdgeNuclei", "1", "Nuclei left out because they touch the edge of the field."),
    ("Image_Segmentation_Diameter", "px", "Nucleus diameter that segmentation went by."),
    ("Image_Segmentation_Scale", "1", "Factor by which the image was resized for the network."),
    (
        "Image_Measurement_FullScale_<Channel>",
        "intensity",
        "What was taken for the value of a saturated pixel, for the grey levels of textures and Costes' thresholds.",
    ),
)


def feature_table(families: Sequence[str] | None = None, options: Options | None = None) -> pd.DataFrame:
    """List every numeric column of the tables that a run writes.

    Parameters
    ----------
    families
        Families of measurements, as in `cellinfer.measure`; None: all.
    options
        Their parameters; None: CellProfiler's defaults.

    Returns
    -------
    pandas.DataFrame
        One row per column (per channel or pair of channels where it says `<Channel>`), fields of `Described`.

    Raises
    ------
    InputError
        If a family is unknown.
    """
    return pd.DataFrame(
        [*_measured(families, options or DEFAULTS), *_derived(), *_of_images()], columns=Described._fields
    )


def _measured(families: Sequence[str] | None, options: Options) -> Iterator[Described]:
    for family in chosen_families(families):
        for count, features in enumerate(family.declared(options)):
            channels = ("<Channel>", "<Channel2>")[:count]
            for feature in features:
                yield Described(
                    feature.column("<Object>", *channels),
                    family.name,
                    feature.unit,
                    feature.definition,
                    family.source,
                    feature.oracle or family.oracle,
                    feature.tolerance or family.tolerance,
                )


def _derived() -> Iterator[Described]:
    for name, column, text in _RELATIONS:
        yield Described(f"{name}_{column}", "Relations", "1", text, "CellProfiler RelateObjects", "", 0.0)
    for column, text in _RATIOS:
        yield Described(column, "Ratio", "1", text, "cellinfer", "", 0.0)
    for column, text in _VIEWS:
        unit = "bits" if column.endswith("Entropy") else "1"
        yield Described(column, "TTA", unit, text, "Moshkov et al. 2020", "", 0.0)


def _of_images() -> Iterator[Described]:
    for column, unit, text in _FIELD:
        yield Described(column, "Image", unit, text, "cellinfer", "", 0.0)
    for feature in IMAGE_FEATURES:
        yield Described(
            feature.column("<Channel>"),
            "Image",
            feature.unit,
            feature.definition,
            feature.source,
            "centrosome, scikit-image, NumPy",
            1e-10,
        )


def feature_page(table: pd.DataFrame) -> str:
    """Write a feature table as a Markdown page, a section per family.

    Parameters
    ----------
    table
        From `feature_table`.
    """
    lines = [
        "# Columns",
        "",
        "Written by `cellinfer features list --markdown`. `<Object>` is `Nuclei`, `Cells` or `Cytoplasm`. Names, units",
        "and values are CellProfiler's unless a definition says otherwise; intensities are in the image's own units,",
        "where CellProfiler divides by the largest value of the pixel type. *Checked* names the independent",
        "implementation that tests and `benchmarks/features.py` compare with, and the largest median relative",
        "difference allowed.",
        "",
        "Rules: ids may have gaps; an id without a pixel has no row. One pixel has area 1, perimeter, axes and Feret",
        "diameters 0, radii 1, and no value (NaN) where a shape or a pair of pixels is needed (FormFactor, Zernike",
        "moments, Texture, Pearson's correlation). Pixels that are NaN or infinite are left out of a channel's values;",
        "without any other the value is NaN. Texture's grey levels and Costes' thresholds need to know the value of a",
        "saturated pixel: 255 or 65535 for 8 or 16 bits; for other types 1 if no pixel is above 16, else 65535; or",
        "`--full-scale`. `Image_Measurement_FullScale_<Channel>` says what was taken.",
        "",
    ]
    for family, rows in table.groupby("family", sort=False):
        lines += [f"## {family}", ""]
        for (source, oracle, tolerance), part in rows.groupby(["source", "oracle", "tolerance"], sort=False):
            checked = f" Checked: {oracle}, {tolerance:g}." if oracle else ""
            lines += [f"Source: {source}.{checked}", "", "| column | unit | definition |", "|---|---|---|"]
            lines += [f"| `{row.column}` | {row.unit} | {row.definition} |" for row in part.itertuples()]
            lines.append("")
    return "\n".join(lines)
