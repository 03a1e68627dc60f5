"""How a run spreads over a machine: processes, threads, tiles per batch, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cellinfer.engine._memory import BASE, gigabytes, parse_memory, usable_memory
from cellinfer.errors import InputError
from cellinfer.sessions import available_cores

_PER_PROCESS = 4
"""Threads in one process beyond which they wait for Python's lock (see docs/engine.md)."""
_WORTH_A_PROCESS = 25
"""Fields per process below which starting it costs more than it saves."""
_BATCH_ON_GPU = 8


@dataclass(frozen=True)
class Plan:
    """How many of what.

    Attributes
    ----------
    workers
        Processes; 1 is this one alone.
    analysts
        Fields that each process analyses at a time, each on one thread.
    readers, writers
        Further threads of each process.
    network_threads
        Threads within one call of the network.
    batch
        Tiles, of several fields, that the network takes at once; 1: each field's thread runs its own.
    memory
        Bytes that fields in work may take in each process.
    """

    workers: int
    analysts: int
    readers: int
    writers: int
    network_threads: int
    batch: int
    memory: int

    @property
    def in_work(self) -> int:
        """Fields that a process has at a time: one ahead of each that is analysed, so that nobody waits."""
        return 2 * self.analysts + self.readers


def make_plan(
    device: str,
    fields: int,
    *,
    need: int = 0,
    workers: int = 0,
    threads: int = 0,
    readers: int = 0,
    batch: int = 0,
    memory: str | int | None = None,
) -> Plan:
    """Choose what is not given, for this machine and this many fields.

    Parameters
    ----------
    device
        `"cpu"` or `"cuda"`.
    fields
        Fields to do.
    need
        Bytes that one of them takes at its peak.
    workers, threads, readers, batch
        Processes, cores that all of them use together, threads that read in each, tiles per call of the network; 0
        chooses.
    memory
        Bytes for the whole run, such as `"4G"`; None takes most of what is free.

    Raises
    ------
    InputError
        If a number is negative, or the memory is not enough for one field.
    """
    for name, value in {"workers": workers, "threads": threads, "readers": readers, "batch": batch}.items():
        if value < 0:
            raise InputError(f"The number of {name} must not be negative; it is {value}.")
    cores = threads or available_cores()
    size = usable_memory() if memory is None else parse_memory(memory)
    most = max(1, size // (BASE + max(BASE, 2 * need)))
    on_gpu = device != "cpu"
    if not workers:
        wanted = 1 if on_gpu else math.ceil(cores / _PER_PROCESS)
        workers = max(1, min(wanted, fields // _WORTH_A_PROCESS, most))
    analysts = max(1, cores // workers)
    batch = batch or (_BATCH_ON_GPU if on_gpu else 1)
    left = size // workers - BASE
    if left <= 0:
        raise InputError(
            f"{gigabytes(size)} of memory are not enough for {workers} process{'es' * (workers > 1)}: each needs "
            f"{gigabytes(BASE)} before the first field. Allow more with --memory, or say --workers 1."
        )
    return Plan(
        workers=workers,
        analysts=analysts,
        readers=readers or max(1, min(4, analysts)),
        writers=max(1, min(2, analysts // 2)),
        network_threads=analysts if batch > 1 else 1,
        batch=batch,
        memory=left,
    )
