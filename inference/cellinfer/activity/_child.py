"""A process that reads structures: settings and SMILES come in over standard input, digests go out."""

from __future__ import annotations

import os
import sys
from typing import IO

from cellinfer.activity.digests import digest
from cellinfer.streams import receive, send


def serve(inbox: IO[bytes], outbox: IO[bytes]) -> None:
    """Answer every message until there are no more."""
    while True:
        try:
            smiles, wanted = receive(inbox)
        except EOFError:
            return
        send(outbox, digest(smiles, wanted))


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not print into the answers
    serve(sys.stdin.buffer, answers)
