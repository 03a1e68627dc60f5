"""From planes in any order to a `Plate`: the checks that every layout shares."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from cellinfer.errors import InputError
from cellinfer.plate import Field, FieldKey, ImageRef, Missing, Plate, natural_key
from cellinfer.readers._protocol import Found, Plane
from cellinfer.readers._scan import Listing
from cellinfer.wells import PLATE_FORMATS, plate_size, well_name

_Stack = dict[int | None, ImageRef]
_Stacks = dict[FieldKey, dict[str, _Stack]]


def assemble(listing: Listing, found: Found, channels: Mapping[str, str] | None = None) -> Plate:
    """Sort, check, number and (if asked) rename what a reader found.

    Parameters
    ----------
    listing
        The folder.
    found
        Planes from one reader.
    channels
        New name -> found name; only these channels are kept, in this order. None keeps all as found.

    Returns
    -------
    Plate
        Fields in plate order, numbered from 1; the numbers do not depend on `channels`.

    Raises
    ------
    InputError
        If two files claim one plane, or a channel asked for is not there.
    """
    stacks = _stack(found.planes)
    projections = [ref for stack in _all_stacks(stacks) if len(stack) > 1 and (ref := stack.pop(None, None))]
    expected = {*_regular_grid(stacks), *found.expected}
    names = _in_order({channel for _, channel in expected}, found.channels)
    rename = _renaming(names, channels)
    keys = sorted(stacks, key=lambda key: key.order)
    ignored = {*listing.ignored, *found.ignored, *(listing.relative(ref.path) for ref in projections)}
    ignored |= _unused_stores(listing, found.planes)
    plates = {key.plate for key in keys}
    return Plate(
        name=keys[0].plate if len(plates) == 1 else listing.name,
        root=listing.root,
        layout=found.layout,
        channels=tuple(rename),
        fields=tuple(
            Field(key, {new: _in_z_order(stacks[key][old]) for new, old in rename.items() if old in stacks[key]}, n)
            for n, key in enumerate(keys, start=1)
        ),
        wells=_plate_size({key.well for key in keys}, found.wells),
        missing=_missing(stacks, expected, _expected_z(stacks, found), rename),
        ignored=tuple(sorted(ignored, key=natural_key)),
        pixel_size=found.pixel_size,
        notes=(*found.notes, *_projection_note(projections)),
    )


def _stack(planes: Iterable[Plane]) -> _Stacks:
    """Group planes by field, channel and z; refuse a second file for one place."""
    stacks: _Stacks = {}
    for key, channel, z, ref in planes:
        stack = stacks.setdefault(key, {}).setdefault(channel, {})
        first = stack.setdefault(z, ref)
        if first != ref:
            at = f"well {key.well}, site {key.site}, time {key.time}, channel {channel}"
            raise InputError(
                f"two images for {at} of plate {key.plate}: {_place(first)} and {_place(ref)}; "
                "remove one, or tell them apart with --pattern"
            )
    return stacks


def _all_stacks(stacks: _Stacks) -> Iterable[_Stack]:
    return (stack for channels in stacks.values() for stack in channels.values())


def _place(ref: ImageRef) -> str:
    return ref.path if not ref.index else f"{ref.path} (page {ref.index[0]})"


def _in_z_order(stack: _Stack) -> tuple[ImageRef, ...]:
    return tuple(ref for _, ref in sorted(stack.items(), key=lambda item: item[0] or 0))


def _projection_note(projections: list[ImageRef]) -> tuple[str, ...]:
    """Say why files were left out; a stack's own planes are the data, and their maximum is taken anyway."""
    if not projections:
        return ()
    return (f"{len(projections)} stored projections are left out: the planes of their z-stacks are there",)


def _regular_grid(stacks: _Stacks) -> set[tuple[FieldKey, str]]:
    """Return the planes that exist if each well of a plate has all sites, times and channels of that plate."""
    wells: dict[str, set[str]] = {}
    places: dict[str, set[tuple[int, int, str]]] = {}
    for key, channels in stacks.items():
        wells.setdefault(key.plate, set()).add(key.well)
        places.setdefault(key.plate, set()).update((key.site, key.time, channel) for channel in channels)
    return {
        (FieldKey(plate, well, site, time), channel)
        for plate in wells
        for well in wells[plate]
        for site, time, channel in places[plate]
    }


def _in_order(names: set[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """Sort channels: first those whose order the instrument tells, then the others by name."""
    place = {name: number for number, name in reversed([*enumerate(known)])}
    return tuple(sorted(names, key=lambda name: (place.get(name, len(known)), natural_key(name))))


def _unused_stores(listing: Listing, planes: Iterable[Plane]) -> set[str]:
    """Return the OME-Zarr plates that no plane comes from, as folders that were left out."""
    folders = {store: listing.absolute(store) for store in listing.stores}
    return {
        f"{store or '.'}/"
        for store, folder in folders.items()
        if not any(plane.ref.path.startswith(folder) for plane in planes)
    }


def _plate_size(wells: set[str], grid: tuple[int, int] | None) -> int:
    """Return the size of the plate that the files tell, of a larger one if there are wells outside of it."""
    if grid is not None and any(grid[0] <= rows and grid[1] <= columns for rows, columns in PLATE_FORMATS.values()):
        wells = {*wells, well_name(*grid)}
    return plate_size(wells)


def _expected_z(stacks: _Stacks, found: Found) -> dict[tuple[FieldKey, str], set[int]]:
    """Say which planes each z-stack should have: those an index promises, and those of half of the stacks like it.

    Stacks are alike that have their plate and channel in common: instruments take fewer planes of some channels. One
    odd stack of many planes does not make all others incomplete.
    """
    counts: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    numbers: Counter[tuple[str, str]] = Counter()
    for key, channels in stacks.items():
        for channel, stack in channels.items():
            if None not in stack:
                numbers[key.plate, channel] += 1
                counts[key.plate, channel].update(z for z in stack if z is not None)
    usual = {like: {z for z, count in planes.items() if 2 * count >= numbers[like]} for like, planes in counts.items()}
    expected = {
        (key, channel): usual[key.plate, channel]
        for key, channels in stacks.items()
        for channel, stack in channels.items()
        if None not in stack
    }
    for key, channel, z in found.expected_z:
        if (planes := expected.get((key, channel))) is not None and z not in planes:
            expected[key, channel] = {*planes, z}
    return expected


def _missing(
    stacks: _Stacks,
    expected: set[tuple[FieldKey, str]],
    expected_z: Mapping[tuple[FieldKey, str], set[int]],
    rename: Mapping[str, str],
) -> tuple[Missing, ...]:
    """List expected planes that are not there, in plate order, under the new names of their channels."""
    absent = [
        Missing(key, new)
        for new, old in rename.items()
        for key, channel in expected
        if channel == old and old not in stacks.get(key, {})
    ]
    news = defaultdict(list)
    for new, old in rename.items():
        news[old].append(new)
    absent += [
        Missing(key, new, z)
        for (key, channel), planes in expected_z.items()
        for z in planes.difference(stacks[key][channel])
        for new in news[channel]
    ]
    place = {new: number for number, new in enumerate(rename)}
    return tuple(sorted(absent, key=lambda missing: (missing.key.order, place[missing.channel], missing.z or 0)))


def _renaming(names: tuple[str, ...], channels: Mapping[str, str] | None) -> dict[str, str]:
    """Return new name -> found name, checked against the channels that are there."""
    if channels is None:
        return {name: name for name in names}
    if not channels:
        raise InputError(f"no channel chosen: the plate has {', '.join(names)}")
    for name in channels.values():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"the plate has no channel {name!r}: it has {', '.join(map(repr, names))}{hint}")
    return dict(channels)
