"""How much memory there is, how much a field needs, and room for no more fields than fit."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cellinfer.errors import CellinferError, EngineError, InputError
from cellinfer.images import read_header
from cellinfer.plate import Field

BASE = 400 * 2**20
"""Bytes that a process holds besides fields: the interpreter, compiled kernels, the network and its buffers."""
_PER_FIELD = 40 * 2**20
_PER_PIXEL, _PER_PLANE, _WITH_VIEWS = 90, 12, 60
"""Bytes at the peak: of any field, per pixel, per pixel of each channel, and per pixel more with several views.

Measured on fields of 1, 4 and 17 megapixels with 2 and 5 channels (docs/engine.md), where a field took 10 to 30 % less.
"""
_SHARE = 0.7
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def parse_memory(text: str | int) -> int:
    """Read a number of bytes such as `"4G"`, `"800M"` or `4294967296`; units count in steps of 1,024.

    Raises
    ------
    InputError
        If it is no such number.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", str(text), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if size <= 0:
        raise InputError(f"The memory {text!r} is no size: say, for example, --memory 4G.")
    return size


def usable_memory() -> int:
    """Return how many bytes a run takes without being told: most of what is free now, within the container's limit."""
    free = _free()
    for path in _limits():
        with suppress(OSError, ValueError):  # "max", or no such file
            free = min(free, int(path.read_text(encoding="ascii")))
    return int(_SHARE * free)


def _limits() -> Iterator[Path]:
    """Return the files with the limits of the control groups that this process is in, as batch systems set them."""
    yield from _CGROUPS
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, kinds, group = line.split(":", 2)
            base, name = (_CGROUPS[0], "memory.max") if not kinds else (_CGROUPS[1], "memory.limit_in_bytes")
            if not kinds or "memory" in kinds.split(","):
                below = [part for part in group.split("/") if part]
                for depth in range(1, len(below) + 1):
                    yield base.parent.joinpath(*below[:depth], name)


def _free() -> int:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if os.name == "nt":
        return _free_on_windows()
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 * 2**30


def _free_on_windows() -> int:
    status = (ctypes.c_ulonglong * 8)()
    ctypes.memset(status, 0, ctypes.sizeof(status))
    ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(status)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status[2])  # ullAvailPhys


def reuse_freed_memory() -> None:
    """Let this process keep the memory of one field for the next one, where its C library is glibc.

    Otherwise each large array is fetched from the system anew and filled with zeros, which costs a field 5 % of its
    time. It is a setting of the whole process: for programs of ours, not for others that call `cellinfer.run`.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that it takes
        mallopt(_M_TRIM_THRESHOLD, 512 * 2**20)
        mallopt(_M_ARENA_MAX, 3)  # threads share what is kept


def field_bytes(
    field: Field,
    *,
    enlarged: float = 1.0,
    views: bool = False,
    more: Callable[[int, int], int] = lambda pixels, channels: 0,
) -> int:
    """Return how many bytes a field needs at its peak, by the header of its first plane; 0 if that cannot be read.

    Parameters
    ----------
    field
        The field.
    enlarged
        Factor by which the image is enlarged for the network.
    views
        Whether the network sees it in several views.
    more
        What else is done with it takes so many bytes, by its pixels and channels.
    """
    planes = [refs[0] for refs in field.images.values() if refs]
    if not planes:
        return 0
    try:
        height, width = read_header(planes[0]).shape[:2]
    except CellinferError:
        return 0  # reading it will say what is wrong
    network = (_PER_PIXEL + _WITH_VIEWS * views) * max(1.0, enlarged) ** 2
    rest = more(height * width, len(planes))
    return _PER_FIELD + round(height * width * (network + _PER_PLANE * len(planes))) + rest


class Room:
    """Bytes that fields in work may take together.

    Parameters
    ----------
    size
        Bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._changed = threading.Condition()

    def refusal(self, need: int) -> EngineError:
        """Return why a field is refused that would not even fit alone."""
        return EngineError(
            f"the field needs about {gigabytes(need)} of memory and a process may take {gigabytes(self.size)} for "
            "fields: take fewer processes (--workers 1), or allow more with --memory, on a machine that has it"
        )

    def take(self, need: int) -> None:
        """Wait until there is room for `need` bytes, and take it."""
        with self._changed:
            self._changed.wait_for(lambda: need <= self._free)
            self._free -= need

    def give_back(self, need: int) -> None:
        """Give room back."""
        with self._changed:
            self._free += need
            self._changed.notify_all()


def gigabytes(size: int) -> str:
    """Return a number of bytes for people."""
    return f"{size / 2**30:.1f} GB"
