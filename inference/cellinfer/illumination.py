"""Uneven illumination: how bright each place of a plate's fields is on average, and images divided by it.

The method is that of DeepProfiler, after Singh et al. 2014 (J. Microscopy 256, 231): per plate and channel the mean of
all fields, reduced four times; its median within a disk, which takes away what is left of single cells; enlarged again;
raised to its own 2nd percentile r where it is darker; divided by r. The function is 1 where the light is weakest, so
that no pixel gets brighter. An image is divided by it.

Unlike DeepProfiler, which cuts the mean off to whole numbers of 16 bits before the median, all is computed exactly; and
a field is reduced by the means of 4 x 4 pixels, without the blur that goes before its reduction.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from cellinfer.plate import Field, Plate
from cellinfer.readers import read_plate
from cellinfer.sessions import available_cores
from cellinfer.storage import AnyPath, ahead, location, open_file

__all__ = ["DISK", "FEW", "REDUCED", "Illumination", "compute_illumination"]

REDUCED = 4
"""How many times smaller the mean image is than the fields."""
DISK = 12
"""Radius of the median, pixels of the mean image."""
FEW = 100
"""Fields below which single cells may still show in the mean."""
_PERCENTILE = 2.0
_ARRAYS, _FACTS, _PICTURE = "illumination.npz", "illumination.json", "illumination.png"
_LARGEST_SIDE = 2**16

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Illumination:
    """Illumination functions of a plate's channels; safe to use from several threads.

    Attributes
    ----------
    plate
        Name of the plate.
    shape
        Height and width of its fields, pixels.
    smooth
        Channel -> the smoothed mean image, `(ceil(H / 4), ceil(W / 4))` float64.
    floors
        Channel -> the 2nd percentile r of the smoothed image at full size, to which it is raised.
    used
        Names of the fields that it was made of.
    left_out
        Name of each field that could not be read -> why.
    z
        What became of z-stacks.
    """

    plate: str
    shape: tuple[int, int]
    smooth: Mapping[str, NDArray[np.float64]] = field(repr=False)
    floors: Mapping[str, float]
    used: tuple[str, ...] = field(repr=False)
    left_out: Mapping[str, str] = field(repr=False)
    z: ZChoice = "max"
    _functions: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides what becomes of an image."""
        content = hashlib.sha256(json.dumps([self.shape, self.floors], sort_keys=True).encode())
        for name in sorted(self.smooth):
            content.update(name.encode() + np.ascontiguousarray(self.smooth[name], "<f8").tobytes())
        return content.hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how it was made."""
        notes = []
        if len(self.used) < FEW:
            notes.append(
                f"the illumination functions come from {len(self.used)} field{'s' * (len(self.used) != 1)}: with fewer "
                f"than {FEW}, what the fields show may not average out"
            )
        if dark := [name for name, floor in self.floors.items() if not floor > 0]:
            notes.append(f"the mean image of {', '.join(dark)} is dark: that channel is left as it is")
        if self.left_out:
            first, why = next(iter(self.left_out.items()))
            notes.append(
                f"{len(self.left_out)} fields were left out of the illumination functions, such as {first}: {why}"
            )
        return tuple(notes)

    def function(self, channel: str) -> NDArray[np.float32]:
        """Return what images of a channel are divided by, `(H, W)` float32, at least 1; made once and kept.

        Raises
        ------
        InputError
            If there is no such channel.
        """
        if channel not in self.smooth:
            raise InputError(
                f"There is no illumination function of channel {channel!r}: there are {', '.join(self.smooth)}. "
                "Compute them anew (--illumination auto, or cellinfer illumination)."
            )
        with self._lock:
            if channel not in self._functions:
                self._functions[channel] = self._made(channel)
            return self._functions[channel]

    def _made(self, channel: str) -> NDArray[np.float32]:
        floor = self.floors[channel]
        if not floor > 0:
            return np.ones(self.shape, np.float32)
        return (np.maximum(_enlarged(self.smooth[channel], self.shape), floor) / floor).astype(np.float32)

    def correct(self, images: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Divide each channel of a field by its function.

        Parameters
        ----------
        images
            Channel name -> `(H, W)`, any real dtype.

        Returns
        -------
        dict
            The same names -> float32, in the units of the images, not clipped; NaN and infinity stay.

        Raises
        ------
        ImageError
            If an image has another size than the fields that the functions were made of.
        InputError
            If there is no function of a channel.
        """
        return {channel: self.correct_channel(image, channel) for channel, image in images.items()}

    def correct_channel(self, image: NDArray[Any], channel: str) -> NDArray[np.float32]:
        """Divide one plane by the function of its channel; see `correct`."""
        function = self.function(channel)
        if image.shape != self.shape:
            raise ImageError(
                f"an image of channel {channel} has {_size(image.shape)} pixels, and the illumination functions are "
                f"for {_size(self.shape)}"
            )
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, as when files are read
            corrected: NDArray[np.float32] = np.divide(image, function, dtype=np.float32, casting="unsafe")
        return corrected

    def check_channels(self, channels: tuple[str, ...]) -> None:
        """Refuse channels that there is no function of (InputError)."""
        for channel in channels:
            if channel not in self.smooth:
                self.function(channel)  # says so

    @property
    def bytes_kept(self) -> int:
        """Bytes of the functions at full size."""
        return 4 * self.shape[0] * self.shape[1] * len(self.smooth)

    def save(self, folder: AnyPath) -> None:
        """Write the functions into a folder: `illumination.npz`, `illumination.json` and a picture, the json last.

        The npz holds the smoothed mean images by channel; how functions are made of them is said above.

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        with durable(folder / _ARRAYS) as partial, partial.open("wb") as file:
            # Numbered, since a channel's name may be no file's.
            np.savez(file, **{f"channel_{n}": plane for n, plane in enumerate(self.smooth.values())})  # type: ignore[arg-type]
        with durable(folder / _PICTURE) as partial:
            _draw(self, partial)
        with durable(folder / _FACTS) as partial:
            text = json.dumps(self._facts(), indent=2, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8")

    def _facts(self) -> dict[str, Any]:
        return {
            "cellinfer": __version__,
            "plate": self.plate,
            "shape": list(self.shape),
            "channels": list(self.smooth),
            "floors": dict(self.floors),
            "z": self.z,
            "method": {"reduced": REDUCED, "median_disk_radius": DISK, "percentile": _PERCENTILE},
            "versions": {"numpy": np.__version__, "opencv": cv2.__version__},
            "sha256": self.digest,
            "fields": len(self.used),
            "used": list(self.used),
            "left_out": dict(self.left_out),
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
                smooth = {
                    str(name): np.asarray(arrays[f"channel_{number}"], np.float64)
                    for number, name in enumerate(facts["channels"])
                }
            height, width = map(int, facts["shape"])
            found = cls(
                plate=str(facts["plate"]),
                shape=(height, width),
                smooth=smooth,
                floors={name: float(facts["floors"][name]) for name in smooth},
                used=tuple(map(str, facts["used"])),
                left_out={str(name): str(why) for name, why in facts["left_out"].items()},
                z=facts["z"],
            )
        except FileNotFoundError as error:
            raise InputError(
                f"{place} holds no illumination functions ({_FACTS} and {_ARRAYS}): make them with `cellinfer "
                "illumination PLATE --out FOLDER`, or say --illumination auto."
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
            raise InputError(
                f"The illumination functions in {place} cannot be read ({type(error).__name__}): make them anew."
            ) from error
        if found.digest != facts.get("sha256") or not _is_sound(found):
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
    """Compute the illumination functions of a plate in one pass over its fields.

    Memory is that of the fields being read, whatever their number. The result does not depend on how many threads read:
    fields are added in plate order.

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
        With the fields that were used, and those that could not be read.

    Raises
    ------
    InputError
        If fields differ in size, none can be read, or the plate is none.
    OutputError
        If the functions cannot be saved.
    """
    check_z(z)
    if not isinstance(plate, Plate):
        plate = read_plate(plate, pattern=pattern, layout=layout, channels=channels)
    means = _Means(plate.channels)
    read = ahead(lambda each: _Reduced.of(each, z), plate.fields, threads or min(4, available_cores()))
    for done, reduced in enumerate(read, start=1):
        means.add(reduced)
        if progress is not None:
            progress(done, len(plate.fields))
    found = means.illumination(plate.name, z)
    if out is not None:
        found.save(location(str(out)))
    return found


@dataclass(frozen=True)
class _Reduced:
    """One field: sums of the finite pixels of each 4 x 4, and how many these are; or why it cannot be read."""

    name: str
    shape: tuple[int, int] = (0, 0)
    sums: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    counts: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def of(cls, each: Field, z: ZChoice) -> _Reduced:
        name = field_name(each)
        sums, counts, shapes = {}, {}, set()
        try:
            for channel, refs in each.images.items():
                if refs:
                    image = read_channel(each, channel, z=z)
                    shapes.add(image.shape)
                    sums[channel], counts[channel] = _block_sums(image)
        except CellinferError as error:
            return cls(name, problem=str(error))
        if len(shapes) != 1:
            return cls(name, problem="its channels differ in size" if shapes else "it has no image")
        return cls(name, shapes.pop(), sums, counts)


class _Means:
    """Running sums of fields, in the order in which they are added."""

    def __init__(self, channels: tuple[str, ...]) -> None:
        self._channels = channels
        self._first: _Reduced | None = None
        self._sums: dict[str, Any] = dict.fromkeys(channels, 0)
        self._counts: dict[str, Any] = dict.fromkeys(channels, 0)
        self._used: list[str] = []
        self._left_out: dict[str, str] = {}

    def add(self, reduced: _Reduced) -> None:
        if reduced.problem:
            self._left_out[reduced.name] = reduced.problem
            return
        first = self._first = self._first or reduced
        if reduced.shape != first.shape:
            raise InputError(
                f"The fields of this plate differ in size: {first.name} has {_size(first.shape)} pixels, "
                f"{reduced.name} {_size(reduced.shape)}. Illumination is corrected on plates whose fields are of one "
                "size; leave it out, or part the plate."
            )
        self._used.append(reduced.name)
        for channel, sums in reduced.sums.items():
            # Whole numbers are added exactly (their sums are below 2**63), others in the order of the plate.
            self._sums[channel] = self._sums[channel] + sums
            self._counts[channel] = self._counts[channel] + reduced.counts[channel]

    def illumination(self, plate: str, z: ZChoice) -> Illumination:
        if self._first is None:
            first, why = next(iter(self._left_out.items()), ("it", "it has no field"))
            raise InputError(f"No field of the plate {plate} could be read for the illumination; {first}: {why}.")
        smooth, floors = {}, {}
        for channel in self._channels:
            if isinstance(self._counts[channel], int):  # no field that could be read has it
                continue
            smooth[channel] = median_disk(_mean(self._sums[channel], self._counts[channel]), DISK)
            floors[channel] = float(np.percentile(_enlarged(smooth[channel], self._first.shape), _PERCENTILE))
        return Illumination(plate, self._first.shape, smooth, floors, tuple(self._used), self._left_out, z)


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


def _is_sound(found: Illumination) -> bool:
    """Tell whether sizes fit each other and all numbers are finite."""
    height, width = found.shape
    small = (-(-height // REDUCED), -(-width // REDUCED))
    return (
        0 < height <= _LARGEST_SIDE
        and 0 < width <= _LARGEST_SIDE
        and all(plane.shape == small and np.isfinite(plane).all() for plane in found.smooth.values())
        and bool(np.isfinite(list(found.floors.values())).all())
    )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _draw(found: Illumination, path: Path) -> None:
    """Draw every function with its own scale of colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = max(1, len(found.smooth))
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.2 * columns, 3.8 * rows), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for number, channel in enumerate(found.smooth):
        axes = figure.add_subplot(rows, columns, number + 1)
        floor = found.floors[channel]
        shown = np.maximum(found.smooth[channel], floor) / floor if floor > 0 else np.ones_like(found.smooth[channel])
        picture = axes.imshow(shown, cmap="viridis", vmin=1, extent=(0, found.shape[1], found.shape[0], 0))
        axes.set_title(f"{channel}: up to {shown.max():.2f} times as bright", fontsize=9, parse_math=False)
        axes.tick_params(labelsize=7)
        figure.colorbar(picture, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    figure.suptitle(f"illumination of {found.plate}, from {len(found.used)} fields", fontsize=10, parse_math=False)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": f"cellinfer {__version__}"})
