"""File-name patterns that are recognised without being told: one table of data.

Order matters: of the patterns that match (nearly) as many files as the best one, the first is taken, so patterns that
say more about a name stand before patterns that say less. Pieces in braces come from `PIECES`. Letters match in
either case.
"""

from __future__ import annotations

from typing import NamedTuple

PIECES = {
    "ext": r"(?:\.ome)?\.(?:tiff?|png|jpe?g|bmp)",
    # Small letters above p are no rows but tags: `s1`, `w2`, `z3`, `t4`.
    "well": r"(?P<well>(?-i:[A-Z]|[a-p]|A[A-F]|a[a-f])-?\d{1,2})",
    # For patterns with little else: `c1.tif` or `s3_raw.tif` are no wells.
    "sure_well": r"(?P<well>(?-i:[A-P]\d{1,2}|[a-p]\d\d|A[A-F]\d\d))",
    # What stands before the well names the plate, except for the plain word.
    "plate": r"(?:well[_ -]?|(?P<plate>[^/]+?)[_ -](?:well[_ -]?)?)??",
    "guid": r"(?:[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12})?",
    # Time and z of an ImageXpress export are folders.
    "folders": r"(?:.*?/)??(?:TimePoint_(?P<time>\d+)/)?(?:ZStep_(?P<z>\d+)/)?",
    "site": r"(?:sites?|s|fields?|fld|fov|f|pos(?:ition)?|img)?[_ -]?(?P<site>\d+)",
    # A name that starts with a letter; `ch1`, `w1`, `c01` and `d0` are read as their number.
    "channel": r"(?=[A-Z])(?:(?:channel|chan|ch|c|w|d)[_ -]?(?=\d+(?:\.|$)))?(?P<channel>[^/_]+?)",
    "number": r"(?:channel|chan|ch|c|w|d)[_ -]?(?P<channel>\d+)",
}


class BuiltIn(NamedTuple):
    """One built-in pattern."""

    name: str
    example: str
    regex: str
    on_path: bool = False
    """Matched against the path below the plate's folder instead of the file's name."""


PATTERNS: tuple[BuiltIn, ...] = (
    BuiltIn(
        "channel-number-row-column",
        "Channel1-01-A-01.tif",
        r"{number}-\d+-(?P<row>[A-Z]{{1,2}})-(?P<col>\d{{1,2}}){ext}",
    ),
    BuiltIn(
        "opera",
        "r01c01f01p01-ch1sk1fk1fl1.tiff",
        r"r(?P<row>\d+)c(?P<col>\d+)(?:f(?P<site>\d+))?(?:p(?P<z>\d+))?(?:rc\d+)?"
        r"(?:[_-]?ch(?P<channel>\d+))?(?:sk(?P<time>\d+))?(?:fk\d+)?(?:fl\d+)?{ext}",
    ),
    BuiltIn(
        "cellvoyager",
        "Plate1_A01_T0001F001L01A01Z01C01.tif",
        r"{plate}{well}_T(?P<time>\d+)F(?P<site>\d+)L\d+A\d+Z(?P<z>\d+)C(?P<channel>\d+){ext}",
    ),
    BuiltIn(
        "well-field-channel",
        "A01_F001_C01.tif",
        r"{plate}{well}_(?:T(?P<time>\d+)_?)?F(?P<site>\d+)_?(?:Z(?P<z>\d+)_?)?C(?P<channel>\d+){ext}",
    ),
    BuiltIn("name-well-site", "ch1_A01_s1.tif", r"{number}[_ -]{sure_well}(?:[_ -]{site})?{ext}"),
    BuiltIn(
        "imagexpress",
        "Plate1_A01_s1_w1.tif",
        r"{folders}{plate}{well}(?:_s(?P<site>\d+?)|_w(?P<channel>\d+?))+{guid}{ext}",
        on_path=True,
    ),
    BuiltIn(
        "well-site-channel-z-time",
        "A01_s1_z2_w1_t3.tif",
        r"{plate}{well}(?:_s(?P<site>\d+?)|_w(?P<channel>\d+?)|_z(?P<z>\d+?)|_t(?P<time>\d+?))+{guid}{ext}",
    ),
    BuiltIn(
        "cellomics",
        "Plate1_A01f00d0.tif",
        r"{plate}{well}_?f(?P<site>\d+)d(?P<channel>\d+){ext}",
    ),
    BuiltIn(
        "incell",
        "A - 01(fld 01 wv DAPI - DAPI).tif",
        r"(?P<row>[A-Z]{{1,2}}) - (?P<col>\d+) ?\(fld (?P<site>\d+) wv (?P<channel>[^)]+?)"
        r"(?: z (?P<z>\d+))?(?: time (?P<time>\d+)[^)]*)?\){ext}",
    ),
    BuiltIn("well-site-name", "A01_site1_DAPI.tif", r"{plate}{well}[_ -]{site}[_ -]{channel}{ext}"),
    BuiltIn("well-name", "A01_DAPI.tif", r"{plate}{sure_well}[_ -]{channel}{ext}"),
    BuiltIn("well-site", "A01_1.tif", r"{plate}{sure_well}[_ -]{site}{ext}"),
    BuiltIn("well", "Plate1_A01.tif", r"{folders}{plate}{sure_well}{guid}{ext}", on_path=True),
    BuiltIn(
        "well-folder-site-channel",
        "A01/s1_w1.tif",
        r"(?:.*?/)??{sure_well}/(?:[^/]*?_)?s(?P<site>\d+)_w(?P<channel>\d+?){guid}{ext}",
        on_path=True,
    ),
    BuiltIn(
        "well-folder-site-name", "A01/site1_DAPI.tif", r"(?:.*?/)??{sure_well}/{site}[_ -]{channel}{ext}", on_path=True
    ),
    BuiltIn(
        "well-site-folders-name", "A01/site1/DAPI.tif", r"(?:.*?/)??{sure_well}/{site}/{channel}{ext}", on_path=True
    ),
    BuiltIn("well-folder-name", "A01/DAPI.tif", r"(?:.*?/)??{sure_well}/{channel}{ext}", on_path=True),
)
