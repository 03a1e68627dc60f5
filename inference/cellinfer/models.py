"""The bundled models: list them, show a card, prove that a model still gives what it gave when it was made.

`recommend` and `rank`, which say what model to take, live in `cellinfer.recommend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cellinfer_models

from cellinfer.cards import ActivityCard, EmbeddingCard, ModelCard
from cellinfer.errors import ModelError
from cellinfer.golden import golden_difference, golden_result
from cellinfer.precision import Precision
from cellinfer.recommend import Recommendation, Trial, draw_trials, rank, recommend
from cellinfer.sessions import ActivitySession, open_any

__all__ = [
    "Listed",
    "Recommendation",
    "Trial",
    "bundled",
    "card",
    "draw_trials",
    "rank",
    "recommend",
    "verify",
]


@dataclass(frozen=True)
class Listed:
    """One bundled model: its card, digest, file size in bytes, summary, and file sizes in other precisions."""

    card: ModelCard | EmbeddingCard | ActivityCard
    sha256: str
    size: int
    summary: str
    variants: Mapping[str, int]


def bundled() -> list[Listed]:
    """Return the bundled models in the order of the registry."""
    found = []
    for name, entry in cellinfer_models.registry().items():
        session = open_any(name, "cpu", 1)
        variants = {precision: variant.path.stat().st_size for precision, variant in entry.variants.items()}
        found.append(Listed(session.card, session.sha256, entry.path.stat().st_size, entry.summary, variants))
    return found


def card(model: str | Path) -> ModelCard | EmbeddingCard | ActivityCard:
    """Return the card inside a bundled model or an ONNX file."""
    return open_any(model, "cpu", 1).card


def verify(model: str | Path, precision: Precision = "float32") -> str:
    """Check a model's file, card and result on its golden input.

    Parameters
    ----------
    model, precision
        See `cellinfer.sessions.open_session`.

    Returns
    -------
    str
        What was found, in one sentence.

    Raises
    ------
    ModelError
        If anything differs from the card, or fingerprints that belong to the model are missing; says what.
    """
    session = open_any(model, "cpu", precision=precision)
    what = f"{model} in {session.precision}"
    golden = session.card.golden
    if not golden:
        raise ModelError(f"The card of the model {what} has no golden result to verify against.")
    if isinstance(session, ActivitySession):
        from cellinfer.activity.models import open_activity

        open_activity(model, "cpu")  # with its fingerprints, and by the description of structures that it was taught
    found = golden_result(session)
    if found["input_sha256"] != golden.get("input_sha256"):
        raise ModelError(f"The golden input of the model {what} is another one than this version makes.")
    if difference := golden_difference(found, golden):
        raise ModelError(f"The model {what} {difference}. Reinstall cellinfer or report this machine.")
    what_of = "compounds" if isinstance(session, ActivitySession) else "crops"
    seen = f"{found['objects']} golden objects" if "objects" in found else f"{len(found['features'])} golden {what_of}"
    return f"{session.precision}, sha256 {session.sha256[:16]}…, {seen} as in its card"
