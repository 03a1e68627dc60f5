"""From networks of activity to one ONNX file with its card, and the fingerprints of what they were trained on."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cellinfer.activity.applicability import similarity_limit
from cellinfer.activity.graphs import FEATURISER
from cellinfer.cards import ACTIVITY, parse_activity_card
from cellinfer.errors import InputError
from cellinfer.files import durable, json_ready
from cellinfer.sessions import open_activity_model
from numpy.typing import NDArray

from cellinfer_training.activity.data import BITS, RADIUS, ActivityData
from cellinfer_training.activity.networks import GRAPH, ActivityNetwork, Ensemble
from cellinfer_training.export import OPSET, quiet, write_model

TOLERANCE = 1e-5
"""Largest difference of probabilities between torch and onnxruntime that an export may have."""
_COMPARED = (1, 7, 40)
"""Compounds on which they are compared, in batches of so many."""
_PAPERS = (
    {
        "text": "Moshkov et al. (2023), Predicting compound activity from phenotypic profiles and chemical structures, "
        "Nature Communications 14:1967",
        "doi": "10.1038/s41467-023-37570-1",
    },
    {
        "text": "Yang et al. (2019), Analyzing Learned Molecular Representations for Property Prediction, Journal of "
        "Chemical Information and Modeling 59:3370",
        "doi": "10.1021/acs.jcim.9b00237",
    },
)


@dataclass(frozen=True)
class Description:
    """What the card of an activity model says, beside what follows from networks and data.

    Parameters
    ----------
    name, text, license
        As in the BioImage.IO description.
    fold
        The fold that was not learnt from; None: everything was.
    evaluation
        Figures on that fold.
    facts
        Further fields under `config.cellinfer`.
    standardisation
        What was done to structures, by the names of `cellinfer.activity.molecules.Standardisation`; None: not known.
    """

    name: str
    text: str
    license: str
    fold: int | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    standardisation: Mapping[str, Any] | None = None


def export_activity(
    members: Sequence[ActivityNetwork],
    data: ActivityData,
    rows: NDArray[np.integer],
    description: Description,
    path: Path,
) -> float:
    """Write networks as one model, with its card and fingerprints beside it.

    Parameters
    ----------
    members
        Networks of the same modalities and architecture.
    data, rows
        Compounds, and those of them that were learnt from or validated on.
    description
        What the card says.
    path
        The `.onnx` file to write; the card goes beside it, and `<stem>.fingerprints.npz` if there are structures.

    Returns
    -------
    float
        Largest difference between torch and onnxruntime, of means and spreads.

    Raises
    ------
    InputError
        If there are no members, or they differ in what they see.
    RuntimeError
        If torch and onnxruntime differ by more than `TOLERANCE`; nothing is left behind then.
    """
    if not members or any((m.widths, m.architecture) != (members[0].widths, members[0].architecture) for m in members):
        raise InputError("An ensemble has members, all of the same modalities and architecture.")
    ensemble = Ensemble([member.cpu() for member in members]).eval()
    packed = _archive(data.packed[rows], [data.compounds[row] for row in rows]) if data.smiles else None
    beside = path.with_name(f"{path.stem}.fingerprints.npz")
    stated = _lay_out(members[0], len(members), data, rows, description)
    files = None if packed is None else {"file": beside.name, "sha256": hashlib.sha256(packed).hexdigest()}
    stated["config"]["cellinfer"][ACTIVITY]["fingerprints"] = files
    parse_activity_card(stated, path.stem)  # refused now rather than after the work
    arrays = _inputs(members[0], data, rows[:2] if len(rows) > 1 else np.repeat(rows, 2))
    with quiet():
        program = torch.onnx.export(
            ensemble,
            tuple(torch.from_numpy(array) for array in arrays.values()),
            input_names=list(arrays),
            output_names=["probability", "spread"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(tuple(_dynamic(name, array, data) for name, array in arrays.items()),),
            verbose=False,
        )
    assert program is not None
    if packed is not None:
        with durable(beside) as partial:
            partial.write_bytes(packed)
    return write_model(
        program.model_proto, stated, path, lambda file: _difference(ensemble, data, rows, file), TOLERANCE
    )


def _archive(packed: NDArray[np.uint64], compounds: Sequence[str]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, fingerprints=packed, compounds=np.array(compounds, np.str_))
    return content.getvalue()


def _dynamic(name: str, array: NDArray[np.generic], data: ActivityData) -> dict[int, Any]:
    """Say which sizes of an input may change: rows, and the width of tables of places."""
    rows = {0: torch.export.Dim.DYNAMIC}
    return rows | {1: torch.export.Dim.DYNAMIC} if array.dtype == np.int64 and array.ndim == 2 else rows


def _inputs(network: ActivityNetwork, data: ActivityData, rows: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
    arrays = data.inputs(rows, tuple(network.widths), network.architecture.depth)
    return {name: arrays[name] for name in network.inputs}


@torch.no_grad()
def _difference(ensemble: Ensemble, data: ActivityData, rows: NDArray[np.integer], path: Path) -> float:
    session = open_activity_model(path, device="cpu", threads=1)
    network = ensemble.members[0]
    assert isinstance(network, ActivityNetwork)
    drawn = np.random.default_rng(0).permutation(rows)
    worst = 0.0
    for count in _COMPARED:
        arrays = _inputs(network, data, drawn[:count])
        true = ensemble(*(torch.from_numpy(array) for array in arrays.values()))
        for found, expected in zip(session.run(arrays), true, strict=True):
            worst = max(worst, float(np.abs(found - expected.numpy()).max()))
    return worst


def _lay_out(
    network: ActivityNetwork, members: int, data: ActivityData, rows: NDArray[np.integer], description: Description
) -> dict[str, Any]:
    labels = data.labels[rows]
    modalities = [
        {"name": name}
        | ({"features": list(data.features[name])} if name in data.features else {})
        | ({"profiles": dict(data.made[name])} if name in data.made else {})
        for name in network.widths
    ]
    stated: dict[str, Any] = {"readouts": int((labels >= 0).sum())}
    if description.standardisation is not None:
        stated["standardisation"] = dict(description.standardisation)
    if data.smiles and (limit := similarity_limit(data.packed[rows])) is not None:
        stated["similarity_limit"] = round(limit, 4)
    digest = hashlib.sha256(data.sha256.encode() + np.asarray(rows, np.int64).tobytes()).hexdigest()
    activity = {
        "modalities": modalities,
        "assays": list(data.assays),
        "members": members,
        "depth": network.architecture.depth if GRAPH in network.widths else 1,
        "featuriser": {"graph": FEATURISER, "morgan": {"radius": RADIUS, "bits": BITS}},
        "training": {"compounds": len(rows), "sha256": digest, **stated},
        "fold": description.fold,
    }
    laid_out: dict[str, Any] = json_ready(
        {
            "format_version": "0.5.4",
            "type": "model",
            "name": description.name,
            "version": "0.1.0",
            "description": description.text,
            "license": description.license,
            "authors": [{"name": "The cellinfer developers"}],
            "cite": [dict(paper) for paper in _PAPERS],
            "tags": ["compounds", "activity", "assays"],
            "inputs": [{"id": name, "data": {"type": "float32"}} for name in network.widths],
            "outputs": [
                {
                    "id": name,
                    "axes": [{"type": "batch"}, {"type": "index", "id": "assay", "size": len(data.assays)}],
                    "data": {"type": "float32"},
                }
                for name in ("probability", "spread")
            ],
            "config": {
                "cellinfer": {
                    "task": ACTIVITY,
                    ACTIVITY: activity,
                    "evaluation": dict(description.evaluation),
                    **description.facts,
                }
            },
        }
    )
    return laid_out
