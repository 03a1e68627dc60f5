"""Fields on a dask cluster that exists already: the same function per field as everywhere else.

Workers must see the plate and the result folder under the same paths. A field that runs twice, since its worker was
thought to be lost, writes the same bytes twice.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cellinfer.engine._job import Job, Outcome, worker_here
from cellinfer.engine._threads import Lost
from cellinfer.errors import CellinferError, EngineError, InputError
from cellinfer.journal import field_name
from cellinfer.plate import Field

_AHEAD = 2
"""Fields per thread of the cluster that are handed out at a time."""
_PATIENCE = 60
"""Seconds that workers have to come up, or to end a field."""
_EVERY = 5.0
_LOOKS = 10
"""Seconds that a shared file system has to show a file that a worker has written."""


def analyse_field(job: Job, field: Field) -> Outcome:
    """Do one field in a dask worker, one thread to a field."""
    return worker_here(job).do(field)


@contextmanager
def _lost_scheduler() -> Iterator[None]:
    """Say in one sentence that the scheduler does not answer any more."""
    try:
        yield
    except (OSError, TimeoutError) as error:  # dask's own are of these kinds
        raise EngineError(f"The dask cluster's scheduler does not answer any more: {error}.") from error


class Cluster:
    """Fields on a dask cluster; see `cellinfer.engine._threads.Executor`.

    Parameters
    ----------
    job
        What is done.
    address
        Of the scheduler, such as `tcp://10.0.0.1:8786`, or the path of its scheduler file.

    Raises
    ------
    InputError
        If dask is not installed, or no scheduler answers at the address.
    """

    def __init__(self, job: Job, address: str) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise InputError("A cluster needs dask: run `pip install 'cellinfer[dask]'`.") from error
        in_file = address.endswith(".json")
        if in_file and not Path(address).is_file():
            raise InputError(f"There is no scheduler file {address}: is the cluster running?")
        known: dict[str, Any] = {"scheduler_file": address} if in_file else {"address": address}
        client = None
        try:
            client = Client(**known, timeout="20s", set_as_default=False)
            client.wait_for_workers(1, timeout=_PATIENCE)
        except (OSError, ValueError, TimeoutError) as error:
            if client is not None:
                client.close(timeout=5)
            raise InputError(f"No dask cluster with workers answers at {address}: {error}.") from error
        self._client = client
        self._job = job
        self._finished: queue.SimpleQueue[tuple[Field, Any]] = queue.SimpleQueue()
        self._futures: dict[str, Any] = {}
        self._capacity, self._counted = 1, float("-inf")
        self._seen = False

    @property
    def capacity(self) -> int:
        """Fields that the cluster should have at a time; it may grow and shrink, and is asked every few seconds."""
        if time.monotonic() - self._counted > _EVERY:
            with _lost_scheduler():
                self._capacity = max(1, _AHEAD * sum(self._client.nthreads().values()))
            self._counted = time.monotonic()
        return self._capacity

    def submit(self, field: Field) -> None:
        """See `Executor`."""
        with _lost_scheduler():
            future = self._client.submit(analyse_field, self._job, field, pure=False)
        self._futures[field_name(field)] = future
        future.add_done_callback(lambda done: self._finished.put((field, done)))

    def finished(self, timeout: float) -> Outcome | Lost | None:
        """See `Executor`."""
        from distributed import KilledWorker

        try:
            field, future = self._finished.get(timeout=timeout)
        except queue.Empty:
            return None
        self._futures.pop(field_name(field), None)
        if future.cancelled():
            raise EngineError("The dask cluster dropped a field: is its scheduler still there?")
        error = future.exception()
        if error is None:
            outcome: Outcome = future.result()
            self._look(outcome)
            return outcome
        if isinstance(error, KilledWorker):  # dask blames all fields of a worker for its end
            return Lost((field,), kills=2)
        raise (
            error
            if isinstance(error, CellinferError)
            else EngineError(f"The dask cluster could not run a field: {type(error).__name__}: {error}")
        ) from error

    def stop(self) -> Iterator[Outcome]:
        """See `Executor`."""
        with suppress(OSError):  # the cluster may be what has gone
            at_work = {key for keys in self._client.processing().values() for key in keys}
            self._client.cancel([future for future in self._futures.values() if future.key not in at_work])
            for future in self._futures.values():
                if future.key in at_work or future.status == "finished":
                    with suppress(Exception):  # the error that stopped the run is the one to be told
                        yield future.result(timeout=_PATIENCE)

    def _look(self, outcome: Outcome) -> None:
        """See that the workers' first result is where this process will look for it."""
        shard = self._job.shard(outcome.entry.field)
        if self._seen or outcome.entry.status != "ok":
            return
        for _ in range(_LOOKS):
            if shard.exists():
                self._seen = True
                return
            time.sleep(1)
        raise EngineError(
            f"The cluster's workers say that they wrote {shard}, and it is not there: plate and result folder must "
            "have the same paths on every machine."
        )

    def close(self) -> None:
        """See `Executor`."""
        self._client.close(timeout=5)
