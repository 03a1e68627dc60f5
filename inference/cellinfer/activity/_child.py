"""A process that standardises structures.

A line of JSON in, settings and a list of SMILES; one out, a list of SMILES, status and detail.
"""

from __future__ import annotations

import json
import sys
from typing import IO

from cellinfer.activity.chemistry import Standardisation, standardise_one


def serve(asked: IO[str], answered: IO[str]) -> None:
    """Answer every line until there are no more."""
    for line in asked:
        how, smiles = json.loads(line)
        settings = Standardisation(**how)
        found = [standardise_one(text, settings) for text in smiles]
        answered.write(json.dumps([[one.smiles, one.status, one.detail] for one in found]) + "\n")
        answered.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
