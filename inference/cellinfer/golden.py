"""A made-up field that every installation can compute exactly, and what a model must find in it.

Floating-point output differs in its last bits between processors, so a model's card keeps the number of objects and
the foreground area, or a few features, instead of a digest of the output; the input is compared by digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer.segmentation import segment_image
from cellinfer.sessions import ActivitySession, EmbeddingSession, Session

FOREGROUND_TOLERANCE = 0.01
"""Share by which the foreground area may differ between processors."""
FEATURE_TOLERANCE = 1e-3
"""Share of the largest feature by which features may differ between processors."""
_CROPS, _FEATURES = 4, 16
GOLDEN_SMILES = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "CN1CCC[C@H]1c1cccnc1",
    "C",
    "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O",
)


def golden_image() -> NDArray[np.uint16]:
    """Return a 256 x 320 uint16 field of 20 disks of different size and brightness, integers throughout."""
    rows, columns = np.mgrid[0:256, 0:320]
    image = 200 + (rows * 7919 + columns * 104729) % 23  # a fixed pattern in place of noise
    for number in range(20):
        row, column = 32 + 64 * (number // 5), 32 + 64 * (number % 5)
        radius = 10 + number % 5 * 2
        square = (rows - row) ** 2 + (columns - column) ** 2
        image += np.where(square <= radius**2, (600 + 90 * number) * (2 * radius**2 - square) // (2 * radius**2), 0)
    return np.ascontiguousarray(image, dtype=np.uint16)


def golden_labels(session: Session) -> NDArray[np.int32]:
    """Return what a model finds in the golden image."""
    return segment_image(golden_image(), session, diameter=28.0).labels


def golden_digest() -> str:
    """Return the SHA-256 of the golden image."""
    return hashlib.sha256(golden_image().tobytes()).hexdigest()


def golden_result(session: Session | EmbeddingSession | ActivitySession) -> dict[str, Any]:
    """Return what a card keeps under `golden`.

    Returns
    -------
    dict
        `input_sha256`, and of a model that finds objects `objects` and `foreground` (pixels), of one that describes
        cells `features`: of a few crops a few features, spread evenly; of one that predicts hits `features`: the
        probabilities of a few compounds in a few assays.
    """
    if isinstance(session, ActivitySession):
        probabilities, _ = session.run(golden_compounds(session))
        some = probabilities[:, np.linspace(0, probabilities.shape[1] - 1, _FEATURES).astype(int)].astype(float)
        digest = hashlib.sha256("\n".join(GOLDEN_SMILES).encode()).hexdigest()
        return {"input_sha256": digest, "features": [[float(f"{x:.6g}") for x in row] for row in some]}
    if isinstance(session, EmbeddingSession):
        features = session.run(golden_crops(session))
        chosen = features[:, np.linspace(0, features.shape[1] - 1, _FEATURES).astype(int)].astype(float)
        return {"input_sha256": golden_digest(), "features": [[float(f"{x:.6g}") for x in row] for row in chosen]}
    labels = golden_labels(session)
    objects, foreground = int(labels.max(initial=0)), int((labels > 0).sum())
    return {"input_sha256": golden_digest(), "objects": objects, "foreground": foreground}


def golden_compounds(session: ActivitySession) -> dict[str, NDArray[Any]]:
    """Return a few well-known compounds, with made-up profiles, as the network takes them."""
    from cellinfer.activity.models import encode  # needs RDKit, which models of images do without

    rows = np.arange(len(GOLDEN_SMILES))[:, None]
    profiles = {
        name: ((7 * rows + 3 * np.arange(len(features))) % 11 - 5) / 5
        for name, features in session.card.features.items()
    }
    return encode(session.card, GOLDEN_SMILES, profiles)


def golden_crops(session: EmbeddingSession) -> NDArray[np.float32]:
    """Return four windows of the golden image, continued by itself, as the network takes crops."""
    card, image = session.card, golden_image()
    low, high = card.value_range
    crops = np.empty((_CROPS, len(card.channels), card.side, card.side), np.float32)
    for crop in range(_CROPS):
        for channel in range(len(card.channels)):
            along = np.arange(card.side) + 40 * crop + 13 * channel
            window = image.take(along, axis=0, mode="wrap").take(along, axis=1, mode="wrap").astype(np.float32)
            crops[crop, channel] = low + (high - low) * (window - window.min()) / (window.max() - window.min())
    return crops


def golden_difference(found: Mapping[str, Any], golden: Mapping[str, Any]) -> str | None:
    """Compare what a model gives on its golden input with what its card says.

    Returns
    -------
    str or None
        How they differ, in words; None if they agree.
    """
    if "features" in found:
        now, then = np.array(found["features"]), np.array(golden.get("features", []), np.float64)
        if now.shape != then.shape:
            return f"gives features of shape {now.shape} on its golden input; its card has {then.shape}"
        apart, most = float(np.abs(now - then).max()), float(np.abs(then).max())
        if apart > FEATURE_TOLERANCE * most:
            return f"gives features on its golden input that differ by up to {apart:.3g} from its card's"
        return None
    close = abs(found["foreground"] - golden["foreground"]) <= FOREGROUND_TOLERANCE * golden["foreground"]
    if found["objects"] == golden["objects"] and close:
        return None
    return (
        f"gives {found['objects']} objects covering {found['foreground']} pixels on its golden input; its card says "
        f"{golden['objects']} covering {golden['foreground']}"
    )
