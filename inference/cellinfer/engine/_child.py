"""A worker process: fields come in over standard input, what became of them goes out over standard output."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from typing import IO

from cellinfer.engine._job import Job, Outcome, Worker
from cellinfer.engine._memory import reuse_freed_memory
from cellinfer.engine._plan import Plan
from cellinfer.engine._processes import Ready, Stop
from cellinfer.engine._threads import Threads
from cellinfer.plate import Field
from cellinfer.streams import receive, send


def main() -> None:
    """Work until told to stop, or until the process that gives the fields is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox, outbox = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not print into the messages
    job, plan = receive(inbox)
    try:
        _work(inbox, outbox, job, plan)
    except (EOFError, BrokenPipeError):
        pass
    except Exception as error:
        send(outbox, error)
    os._exit(0)  # a read that never returns must not keep the process


def _work(inbox: IO[bytes], outbox: IO[bytes], job: Job, plan: Plan) -> None:
    reuse_freed_memory()
    threads = Threads(Worker.open(job, plan.network_threads, plan.batch), plan)
    messages: queue.SimpleQueue[Field | Stop | EOFError] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                messages.put(receive(inbox))
        except (EOFError, OSError):
            os._exit(1)  # nobody is there to note what this process does

    threading.Thread(target=listen, daemon=True).start()
    send(outbox, Ready())
    while True:
        while not messages.empty():
            message = messages.get()
            if isinstance(message, Stop):
                for outcome in threads.stop():
                    send(outbox, outcome)
                return
            assert isinstance(message, Field)
            threads.submit(message)
        what = threads.finished(timeout=0.02)
        if isinstance(what, Outcome):
            send(outbox, what)


if __name__ == "__main__":
    main()
