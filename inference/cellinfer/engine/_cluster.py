"""Fields on a dask cluster that exists already: the same function per field as everywhere else.

Workers must see the plate and the result folder under the same paths. A field that runs twice, since its worker was
thought to be lost, writes the same bytes twice.
"""

from __future__ import annotations

import queue
from typing import Any

from cellinfer.engine._job import Job, Outcome, worker_here
from cellinfer.engine._threads import Lost
from cellinfer.errors import CellinferError, EngineError, InputError
from cellinfer.journal import field_name
from cellinfer.plate import Field

_AHEAD = 2
"""Fields per thread of the cluster that are handed out at a time."""
_PATIENCE = "60s"


def analyse_field(job: Job, field: Field) -> Outcome:
    """Do one field in a dask worker, one thread to a field."""
    return worker_here(job, 1).do(field)


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
        known: dict[str, Any] = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        try:
            self._client = Client(**known, timeout="20s", set_as_default=False)
            self._client.wait_for_workers(1, timeout=_PATIENCE)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(f"No dask cluster with workers answers at {address}: {error}.") from error
        self._job = job
        self._finished: queue.SimpleQueue[tuple[Field, Any]] = queue.SimpleQueue()
        self._futures: dict[str, Any] = {}

    @property
    def capacity(self) -> int:
        """Fields that the cluster should have at a time; it may grow and shrink."""
        threads: dict[str, int] = self._client.nthreads()
        return max(1, _AHEAD * sum(threads.values()))

    def submit(self, field: Field) -> None:
        """See `Executor`."""
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
            return outcome
        if isinstance(error, KilledWorker):
            return Lost((field,), final=True)
        raise (
            error
            if isinstance(error, CellinferError)
            else EngineError(f"The dask cluster could not run a field: {type(error).__name__}: {error}")
        ) from error

    def stop(self) -> list[Outcome]:
        """See `Executor`."""
        futures, self._futures = self._futures, {}
        done = [future for future in futures.values() if future.status == "finished"]
        outcomes = [future.result() for future in done]
        self._client.cancel(list(futures.values()))
        return outcomes

    def close(self) -> None:
        """See `Executor`."""
        self._client.close(timeout=5)
