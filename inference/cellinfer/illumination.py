"""Uneven illumination: how bright each place of a plate's fields is on average, and images divided by it.

A folder may hold several plates, each lit in its own way: every plate has its own functions. The method is that of
DeepProfiler, after Singh et al. 2014 (J. Microscopy 256, 231): per plate and channel the mean of all fields, reduced
four times; its median within a disk, which takes away what is left of single cells; enlarged again; raised to its own
2nd percentile r where it is darker; divided by r. The function is 1 where the light is weakest, so that no pixel gets
brighter. An image is divided by it.

Unlike DeepProfiler, which cuts the mean off to whole numbers of 16 bits before the median, all is computed exactly; and
a field is reduced by the means of 4 x 4 pixels, without the blur that goes before its reduction.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
from cellinfer_kernels.medians import median_disk
from numpy.typing import NDArray

from cellinfer._version import __version__
from cellinfer.errors import CellinferError, ImageError, InputError
from cellinfer.files import durable
from cellinfer.images import ZChoice, check_z, read_channel
from cellinfer.journal import field_name
from cellinfer.patience import Patience, read_ahead, stalled
from cellinfer.plate import Field, Plate
from cellinfer.readers import read_plate
from cellinfer.sessions import available_cores
from cellinfer.storage import AnyPath, location, open_file

__all__ = ["DISK", "FEW", "REDUCED", "Illumination", "PlateIllumination", "compute_illumination"]

REDUCED = 4
"""How many times smaller the mean image is than the fields."""
DISK = 12
"""Radius of the median, pixels of the mean image."""
FEW = 100
"""Fields below which single cells may still show in the mean."""
_PERCENTILE = 2.0
_ANEW = "Compute them anew (--illumination auto, or cellinfer illumination)."
_ARRAYS, _FACTS, _PICTURE = "illumination.npz", "illumination.json", "illumination.png"
_LARGEST_SIDE = 2**16
_AT_ONCE = 2
"""Plates whose functions are kept at full size: fields come plate by plate, and where two meet, of both."""
_NAMED = 6
"""Plates that a note names."""
_DRAWN = 12
"""Plates in the picture."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PlateIllumination:
    """Illumination functions of one plate's channels.

    Attributes
    ----------
    plate
        Name of the plate.
    shape
        Height and width of its fields, pixels; zeros where none could be read.
    smooth
        Channel -> the smoothed mean image, `(ceil(H / 4), ceil(W / 4))` float64.
    floors
        Channel -> the 2nd percentile r of the smoothed image at full size, to which it is raised.
    used
        Names of the fields that it was made of; empty if none could be read, then there is no function.
    left_out
        Name of each field that could not be read -> why.
    """

    plate: str
    shape: tuple[int, int]
    smooth: Mapping[str, NDArray[np.float64]] = field(repr=False)
    floors: Mapping[str, float]
    used: tuple[str, ...] = field(repr=False)
    left_out: Mapping[str, str] = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides what becomes of an image."""
        content = hashlib.sha256(json.dumps([self.shape, self.floors], sort_keys=True).encode())
        for name in sorted(self.smooth):
            content.update(name.encode() + np.ascontiguousarray(self.smooth[name], "<f8").tobytes())
        return content.hexdigest()

    @property
    def bytes_full(self) -> int:
        """Bytes of the functions at full size."""
        return 4 * self.shape[0] * self.shape[1] * len(self.smooth)

    def function(self, channel: str) -> NDArray[np.float32]:
        """Make what images of a channel are divided by; see `Illumination.function`, which keeps it."""
        self.check((channel,))
        if self.is_dark(channel):
            return np.ones(self.shape, np.float32)
        floor = self.floors[channel]
        return (np.maximum(_enlarged(self.smooth[channel], self.shape), floor) / floor).astype(np.float32)

    def is_dark(self, channel: str) -> bool:
        """Tell whether a channel is left as it is since its mean image is dark."""
        return channel in self.floors and not self.floors[channel] > 0

    def check(self, channels: Iterable[str]) -> None:
        """Refuse channels that there is no function of (InputError)."""
        if not self.used:
            raise InputError(
                f"There are no illumination functions of the plate {self.plate!r}: none of its fields could be read "
                f"when they were to be made. {_ANEW}"
            )
        for channel in channels:
            if channel not in self.smooth:
                raise InputError(
                    f"There is no illumination function of channel {channel!r} of the plate {self.plate!r}: there are "
                    f"{', '.join(self.smooth)}. {_ANEW}"
                )

    def facts(self) -> dict[str, Any]:
        """Return all but the images, for JSON."""
        return {
            "plate": self.plate,
            "shape": list(self.shape),
            "channels": list(self.smooth),
            "floors": dict(self.floors),
            "fields": len(self.used),
            "used": list(self.used),
            "left_out": dict(self.left_out),
        }

    def is_sound(self) -> bool:
        """Tell whether sizes fit each other and all numbers are finite."""
        if not self.used:
            return not self.smooth
        height, width = self.shape
        small = (-(-height // REDUCED), -(-width // REDUCED))
        return (
            0 < height <= _LARGEST_SIDE
            and 0 < width <= _LARGEST_SIDE
            and all(plane.shape == small and np.isfinite(plane).all() for plane in self.smooth.values())
            and bool(np.isfinite(list(self.floors.values())).all())
        )


@dataclass(frozen=True)
class Illumination:
    """Illumination functions of one or several plates; safe to use from several threads.

    Functions of one plate are for any plate: its name may be left out, and another one's is taken as well. Of several,
    each is for its own plate only.

    Attributes
    ----------
    plates
        Name of each plate (`FieldKey.plate`) -> its functions; also of a plate none of whose fields could be read.
    z
        What became of z-stacks.
    """

    plates: Mapping[str, PlateIllumination]
    z: ZChoice = "max"
    _kept: dict[str, dict[str, NDArray[np.float32]]] = field(default_factory=dict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides what becomes of an image; of one plate alone, its name does not."""
        digests = {name: functions.digest for name, functions in self.plates.items()}
        if len(digests) == 1:
            return next(iter(digests.values()))
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    @property
    def names(self) -> str:
        """The names of the plates for people, of many plates the first only."""
        return _named(self.plates) if len(self.plates) > 1 else next(iter(self.plates))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how it was made."""
        made = {name: each for name, each in self.plates.items() if each.used}
        unread = {name: each for name, each in self.plates.items() if not each.used}
        notes = []
        if few := {name: len(each.used) for name, each in made.items() if len(each.used) < FEW}:
            fewest, most = min(few.values()), max(few.values())
            fields = f"{fewest} field{'s' * (fewest != 1)}" if fewest == most else f"{fewest} to {most} fields"
            notes.append(
                f"the illumination functions{self._of(few)} come from {fields}{' each' * (len(few) > 1)}: with fewer "
                f"than {FEW}, what the fields show may not average out"
            )
        dark = (
            (channel, [name for name in made if made[name].is_dark(channel)]) for channel in _channels(made.values())
        )
        notes += [
            f"the mean image of {channel}{self._of(names)} is dark: that channel is left as it is"
            for channel, names in dark
            if names
        ]
        if left_out := {name: why for each in made.values() for name, why in each.left_out.items()}:
            first, why = next(iter(left_out.items()))
            of = self._of(name for name, each in made.items() if each.left_out)
            notes.append(
                f"{len(left_out)} fields{of} were left out of the illumination functions, such as {first}: {why}"
            )
        if unread:
            first, why = next(iter(next(iter(unread.values())).left_out.items()))
            notes.append(
                f"there are no illumination functions{self._of(unread)}, no field of which could be read, such as "
                f"{first}: {why}"
            )
        return tuple(notes)

    def _of(self, names: Iterable[str]) -> str:
        """Say of which plates, where there are several."""
        return f" of {_named(names)}" if len(self.plates) > 1 else ""

    def of(self, plate: str | None = None) -> PlateIllumination:
        """Return the functions for a plate; those of one plate alone are for any.

        Raises
        ------
        InputError
            If there are functions of several plates, and no plate is named or not one of these.
        """
        if plate is not None and plate in self.plates:
            return self.plates[plate]
        if len(self.plates) == 1:
            return next(iter(self.plates.values()))
        if plate is None:
            raise InputError(
                f"There are illumination functions of several plates, and images alone do not say which they are of: "
                f"choose with Illumination.only(PLATE), of {_named(self.plates)}."
            )
        raise _no_plate(plate, self.plates)

    def only(self, plate: str) -> Illumination:
        """Return the functions of one of the plates alone; they are for images of any.

        Raises
        ------
        InputError
            If there are none of this plate.
        """
        if plate not in self.plates:
            raise _no_plate(plate, self.plates)
        functions = self.plates[plate]
        functions.check(functions.smooth)
        return Illumination({plate: functions}, self.z)

    def function(self, channel: str, plate: str | None = None) -> NDArray[np.float32]:
        """Return what images of a channel are divided by, `(H, W)` float32, at least 1.

        It is made once and kept, until those of further plates are asked for.

        Raises
        ------
        InputError
            If there is no such channel, or no such plate; see `of`.
        """
        functions = self.of(plate)
        with self._lock:
            kept = self._kept.pop(functions.plate, {})
            self._kept[functions.plate] = kept  # the last are those asked for last
            while len(self._kept) > _AT_ONCE:
                del self._kept[next(iter(self._kept))]
            if channel not in kept:
                kept[channel] = functions.function(channel)
            return kept[channel]

    def brightest(self) -> dict[str, tuple[float, float]]:
        """Return how many times as bright as its darkest place each channel's brightest is: least and most of plates.

        Returns
        -------
        dict
            Channel -> (least, most); the same for one plate.
        """
        found: dict[str, list[float]] = {}
        for name, functions in self.plates.items():
            for channel in functions.smooth:
                found.setdefault(channel, []).append(float(self.function(channel, name).max()))
        return {channel: (min(times), max(times)) for channel, times in found.items()}

    def correct(self, images: Mapping[str, NDArray[Any]], plate: str | None = None) -> dict[str, NDArray[np.float32]]:
        """Divide each channel of a field by its function.

        Parameters
        ----------
        images
            Channel name -> `(H, W)`, any real dtype.
        plate
            Name of the plate that the field is of; not needed if there are functions of one plate only.

        Returns
        -------
        dict
            The same names -> float32, in the units of the images, not clipped; NaN and infinity stay.

        Raises
        ------
        ImageError
            If an image has another size than the fields that the functions were made of.
        InputError
            If there is no function of a channel or of the plate; see `of`.
        """
        return {channel: self.correct_channel(image, channel, plate) for channel, image in images.items()}

    def correct_channel(self, image: NDArray[Any], channel: str, plate: str | None = None) -> NDArray[np.float32]:
        """Divide one plane by the function of its channel; see `correct`."""
        function = self.function(channel, plate)
        if image.shape != function.shape:
            raise ImageError(
                f"an image of channel {channel} has {_size(image.shape)} pixels, and the illumination functions are "
                f"for {_size(function.shape)}"
            )
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, as when files are read
            corrected: NDArray[np.float32] = np.divide(image, function, dtype=np.float32, casting="unsafe")
        return corrected

    def covers(self, plate: Plate) -> bool:
        """Tell whether each plate in a folder has functions of its own, for each of its channels."""
        return all(
            name in self.plates and channels <= set(self.plates[name].smooth)
            for name, channels in _needed(plate).items()
        )

    def check(self, plate: Plate) -> None:
        """Refuse a folder with plates or channels that there are no functions for (InputError).

        A plate that could not be read when the functions were made is not refused: its fields will say so.
        """
        for name, channels in _needed(plate).items():
            if (functions := self.of(name)).used:
                functions.check(channel for channel in plate.channels if channel in channels)

    @property
    def bytes_kept(self) -> int:
        """Bytes of the functions that are kept at full size."""
        return sum(sorted(functions.bytes_full for functions in self.plates.values())[-_AT_ONCE:])

    def save(self, folder: AnyPath) -> None:
        """Write the functions into a folder: `illumination.npz`, `illumination.json` and a picture, the json last.

        The npz holds the smoothed mean images by plate and channel; how functions are made of them is said above.

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        planes = [plane for functions in self.plates.values() for plane in functions.smooth.values()]
        with durable(folder / _ARRAYS) as partial, partial.open("wb") as file:
            # Numbered, since a channel's name may be no file's.
            np.savez(file, **{f"channel_{number}": plane for number, plane in enumerate(planes)})  # type: ignore[arg-type]
        with durable(folder / _PICTURE) as partial:
            _draw(self, partial)
        with durable(folder / _FACTS) as partial:
            text = json.dumps(self._facts(), indent=2, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8")

    def _facts(self) -> dict[str, Any]:
        return {
            "cellinfer": __version__,
            "z": self.z,
            "method": {"reduced": REDUCED, "median_disk_radius": DISK, "percentile": _PERCENTILE},
            "versions": {"numpy": np.__version__, "opencv": cv2.__version__},
            "sha256": self.digest,
            "plates": [functions.facts() for functions in self.plates.values()],
        }

    @classmethod
    def load(cls, folder: str | Path | AnyPath) -> Illumination:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If the folder holds no such functions, or they are damaged.
        """
        place = location(str(folder))
        try:
            with open_file(str(place / _FACTS)) as file:
                facts = json.loads(file.read().decode("utf-8"))
            with open_file(str(place / _ARRAYS)) as file:
                content = file.read()
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                planes = (np.asarray(arrays[f"channel_{number}"], np.float64) for number in count())
                # Without "plates" it is one plate, as written before a folder could hold several.
                parts = [_from_facts(part, planes) for part in facts.get("plates", [facts])]
            found = cls({part.plate: part for part in parts}, facts["z"])
        except FileNotFoundError as error:
            raise InputError(
                f"{place} holds no illumination functions ({_FACTS} and {_ARRAYS}): make them with `cellinfer "
                "illumination PLATE --out FOLDER`, or say --illumination auto."
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
            raise InputError(
                f"The illumination functions in {place} cannot be read ({type(error).__name__}): make them anew."
            ) from error
        if (
            not any(part.used for part in parts)
            or found.digest != facts.get("sha256")
            or not all(part.is_sound() for part in parts)
        ):
            raise InputError(f"The illumination functions in {place} were altered or damaged: make them anew.")
        return found


def compute_illumination(
    plate: str | Path | Plate,
    out: str | Path | None = None,
    *,
    z: ZChoice = "max",
    pattern: str | None = None,
    layout: str = "auto",
    channels: Mapping[str, str] | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Illumination:
    """Compute the illumination functions of each plate in a folder, in one pass over its fields.

    Memory is that of the fields being read, whatever their number, and of a 16th of a field for each plate. The result
    does not depend on how many threads read: fields are added in plate order.

    A field whose reading fails for a reason that may pass is tried again, and given up where reading does not end, as
    in a run. A plate none of whose fields can be read has no functions, which is noted: its fields will fail alone.

    Parameters
    ----------
    plate
        Folder of images, its URL, or a `Plate` already read.
    out
        Folder (or URL) to save them in; None does not.
    z
        What becomes of z-stacks, as in a run.
    pattern, layout, channels
        See `cellinfer.readers.read_plate`.
    threads
        Threads that read; 0 takes one for each core, at most 4.
    progress
        Called after every field with how many are done and how many there are.

    Returns
    -------
    Illumination
        By plate, with the fields that were used, and those that could not be read.

    Raises
    ------
    InputError
        If the fields of one plate differ in size, none of any plate can be read, or the folder is no plate.
    OutputError
        If the functions cannot be saved.
    """
    check_z(z)
    if not isinstance(plate, Plate):
        plate = read_plate(plate, pattern=pattern, layout=layout, channels=channels)
    patience = Patience(plate.root)
    waiting = Counter(each.key.plate for each in plate.fields)
    means = {name: _Means(name, plate.channels) for name in waiting}
    made: dict[str, PlateIllumination] = {}
    reading = read_ahead(
        lambda each: _Reduced.of(each, z, patience),
        plate.fields,
        threads or min(4, available_cores()),
        lambda each: _Reduced(each, problem=stalled(each)),
    )
    with closing(reading):
        for done, reduced in enumerate(reading, start=1):
            name = reduced.field.key.plate
            means[name].add(reduced)
            waiting[name] -= 1
            if not waiting[name]:
                made[name] = means.pop(name).functions()
            if progress is not None:
                progress(done, len(plate.fields))
    if not any(functions.used for functions in made.values()):
        left_out = [each for functions in made.values() for each in functions.left_out.items()]
        first, why = left_out[0] if left_out else ("it", "it has no field")
        raise InputError(f"No field of the plate {plate.name} could be read for the illumination; {first}: {why}.")
    found = Illumination(made, z)
    if out is not None:
        found.save(location(str(out)))
    return found


@dataclass(frozen=True)
class _Reduced:
    """One field: sums of the finite pixels of each 4 x 4, and how many these are; or why it cannot be read."""

    field: Field
    shape: tuple[int, int] = (0, 0)
    sums: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, NDArray[np.int64]] = dataclasses.field(default_factory=dict)
    problem: str = ""

    @classmethod
    def of(cls, each: Field, z: ZChoice, patience: Patience) -> _Reduced:
        try:
            return patience.call(lambda: cls._read(each, z))
        except CellinferError as error:
            return cls(each, problem=str(error))

    @classmethod
    def _read(cls, each: Field, z: ZChoice) -> _Reduced:
        sums, counts, shapes = {}, {}, set()
        for channel, refs in each.images.items():
            if refs:
                image = read_channel(each, channel, z=z)
                shapes.add(image.shape)
                sums[channel], counts[channel] = _block_sums(image)
        if len(shapes) != 1:
            return cls(each, problem="its channels differ in size" if shapes else "it has no image")
        return cls(each, shapes.pop(), sums, counts)


class _Means:
    """Running sums of one plate's fields, in the order in which they are added."""

    def __init__(self, plate: str, channels: tuple[str, ...]) -> None:
        self._plate, self._channels = plate, channels
        self._shape = (0, 0)
        self._sums: dict[str, Any] = dict.fromkeys(channels, 0)
        self._counts: dict[str, Any] = dict.fromkeys(channels, 0)
        self._used: list[str] = []
        self._left_out: dict[str, str] = {}

    def add(self, reduced: _Reduced) -> None:
        name = field_name(reduced.field)
        if reduced.problem:
            self._left_out[name] = reduced.problem
            return
        if self._used and reduced.shape != self._shape:
            raise InputError(
                f"The fields of the plate {self._plate} differ in size: {self._used[0]} has {_size(self._shape)} "
                f"pixels, {name} {_size(reduced.shape)}. Illumination is corrected on plates whose fields are of one "
                "size; leave it out, or part the plate."
            )
        self._shape = reduced.shape
        self._used.append(name)
        for channel, sums in reduced.sums.items():
            # Whole numbers are added exactly (their sums are below 2**63), others in the order of the plate.
            self._sums[channel] = self._sums[channel] + sums
            self._counts[channel] = self._counts[channel] + reduced.counts[channel]

    def functions(self) -> PlateIllumination:
        smooth, floors = {}, {}
        for channel in self._channels:
            if isinstance(self._counts[channel], int):  # no field that could be read has it
                continue
            smooth[channel] = median_disk(_mean(self._sums[channel], self._counts[channel]), DISK)
            floors[channel] = float(np.percentile(_enlarged(smooth[channel], self._shape), _PERCENTILE))
        return PlateIllumination(self._plate, self._shape, smooth, floors, tuple(self._used), self._left_out)


def _block_sums(image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return sums and numbers of the finite pixels of each block; those at the far edges may be smaller."""
    exact = image.dtype.kind != "f"
    if exact:
        counts = np.outer(*(np.diff(np.append(np.arange(0, n, REDUCED), n)) for n in image.shape))
        return _added(image, np.uint64).astype(np.int64), counts
    finite = np.isfinite(image)
    return _added(np.where(finite, image, 0), np.float64), _added(finite, np.int64)


def _added(image: NDArray[Any], dtype: Any) -> NDArray[Any]:
    down, across = (np.arange(0, length, REDUCED) for length in image.shape)
    return np.add.reduceat(np.add.reduceat(image, down, axis=0, dtype=dtype), across, axis=1)


def _mean(sums: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide; blocks without any finite pixel get the median of the others."""
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = sums / counts
    seen = counts > 0
    return mean if seen.all() else np.where(seen, mean, np.median(mean[seen]) if seen.any() else 0.0)


def _enlarged(small: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Enlarge a mean image to the size of the fields, linearly; a block's value is that of its middle."""
    height, width = (REDUCED * length for length in small.shape)
    large = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float64)
    return large[: shape[0], : shape[1]]


def _from_facts(facts: Mapping[str, Any], planes: Iterator[NDArray[np.float64]]) -> PlateIllumination:
    """Put together what was saved of one plate; takes as many planes as it has channels."""
    smooth = {str(name): next(planes) for name in facts["channels"]}
    height, width = map(int, facts["shape"])
    return PlateIllumination(
        plate=str(facts["plate"]),
        shape=(height, width),
        smooth=smooth,
        floors={name: float(facts["floors"][name]) for name in smooth},
        used=tuple(map(str, facts["used"])),
        left_out={str(name): str(why) for name, why in facts["left_out"].items()},
    )


def _needed(plate: Plate) -> dict[str, set[str]]:
    """Return the plates in a folder, and the channels of each."""
    needed: dict[str, set[str]] = {}
    for each in plate.fields:
        needed.setdefault(each.key.plate, set()).update(channel for channel, refs in each.images.items() if refs)
    return needed


def _no_plate(plate: str, plates: Iterable[str]) -> InputError:
    return InputError(
        f"There are no illumination functions of the plate {plate!r}: there are those of {_named(plates)}. {_ANEW}"
    )


def _channels(plates: Iterable[PlateIllumination]) -> list[str]:
    return list(dict.fromkeys(channel for functions in plates for channel in functions.smooth))


def _named(plates: Iterable[str]) -> str:
    """Name plates, the first of many only."""
    names = list(plates)
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"the plate{'s' * (len(names) > 1)} {shown}{more}"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _raised(functions: PlateIllumination, channel: str) -> NDArray[np.float64]:
    """Return a channel's function in small."""
    smooth, floor = functions.smooth[channel], functions.floors[channel]
    return np.maximum(smooth, floor) / floor if floor > 0 else np.ones_like(smooth)


def _draw(found: Illumination, path: Path) -> None:
    """Draw every function; of several plates one row each, the first of many only, with one scale for each channel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = [functions for functions in found.plates.values() if functions.used]
    drawn, channels = made[:_DRAWN], _channels(made)
    several = len(made) > 1
    columns = len(channels) if several else min(3, len(channels))
    rows = len(drawn) if several else -(-len(channels) // columns)
    across, down = 4.2 * columns, 3.8 * rows
    figure = Figure(figsize=(across, down), facecolor="white", layout=None if several else "constrained")
    FigureCanvasAgg(figure)
    if several:  # a layout of so many parts is slow to work out
        figure.subplots_adjust(0.5 / across, 0.4 / down, 1 - 0.3 / across, 1 - 0.7 / down, wspace=0.2, hspace=0.2)
    for column, channel in enumerate(channels, start=1):
        shown = {row: _raised(each, channel) for row, each in enumerate(drawn) if channel in each.smooth}
        top = max((image.max() for image in shown.values()), default=1.0)
        for row, image in shown.items():
            height, width = drawn[row].shape
            axes = figure.add_subplot(rows, columns, row * columns + column)
            picture = axes.imshow(image, cmap="viridis", vmin=1, vmax=top, extent=(0, width, height, 0))
            of = f"{drawn[row].plate}, " if several else ""
            axes.set_title(f"{of}{channel}: up to {image.max():.2f} times as bright", fontsize=9, parse_math=False)
            axes.tick_params(labelsize=7)
            figure.colorbar(picture, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    title = f"illumination of {drawn[0].plate}, from {len(drawn[0].used)} fields"
    if several:
        some = f", of which the first {len(drawn)} are drawn" if len(made) > len(drawn) else ""
        title = f"illumination of {len(made)} plates{some}; one scale for each channel"
    figure.suptitle(title, fontsize=10, parse_math=False, **({"y": 1 - 0.2 / down} if several else {}))
    figure.savefig(path, format="png", dpi=110, metadata={"Software": f"cellinfer {__version__}"})
