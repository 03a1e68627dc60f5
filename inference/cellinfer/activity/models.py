"""Models that predict hits of assays: open one, and predict compounds with it.

RDKit is needed by models that see structures only.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cellinfer_models
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cellinfer.cards import ActivityCard
from cellinfer.errors import InputError, ModelError
from cellinfer.sessions import ActivitySession, Device, open_activity_model

if TYPE_CHECKING:
    from cellinfer.activity.structures import Structures

__all__ = ["ActivityModel", "Prediction", "encode", "open_activity"]

BATCH = 1_000
"""Compounds that go through the network together: of many, more surroundings are the same."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of compounds.

    Attributes
    ----------
    probability, spread
        `(n, assays)` float32: mean over members, and their standard deviation (0 of a single network).
    unknown
        `(n,)` whether a compound has an element that the model cannot tell from others; all false without structures.
    """

    probability: NDArray[np.float32]
    spread: NDArray[np.float32]
    unknown: NDArray[np.bool_]


@dataclass(frozen=True)
class ActivityModel:
    """A model with what lies beside it.

    Attributes
    ----------
    session
        The network.
    fingerprints
        `(compounds, words)` uint64 packed Morgan fingerprints of what it was trained on, for its applicability domain;
        None where it comes without them.
    compounds
        Their names; None where they are not known.
    """

    session: ActivitySession
    fingerprints: NDArray[np.uint64] | None
    compounds: tuple[str, ...] | None = None

    @property
    def card(self) -> ActivityCard:
        """What the model expects and gives."""
        return self.session.card

    def predict(
        self,
        smiles: Sequence[str] | Structures | None = None,
        profiles: Mapping[str, pd.DataFrame] | None = None,
        batch: int = BATCH,
    ) -> Prediction:
        """Predict compounds.

        Parameters
        ----------
        smiles
            n standardised structures, perhaps described already; needed by models that see `graph` or `morgan`.
        profiles
            Name -> n rows in the same order, with the card's features among their columns, as they were measured.
        batch
            Compounds at a time.

        Returns
        -------
        Prediction

        Raises
        ------
        InputError
            If something that the model sees is missing, or a structure cannot be read.
        EngineError
            If the network fails.
        """
        if batch < 1:
            raise InputError("A batch has at least one compound.")
        tables = {name: _chosen(self.card, name, profiles) for name in self.card.features}
        counts = {*([] if smiles is None else [len(smiles)]), *(len(table) for table in tables.values())}
        if len(counts) != 1:
            raise InputError(f"Structures and profiles must be of the same compounds; there are {sorted(counts)} rows.")
        n = counts.pop()
        mean, spread = (np.empty((n, len(self.card.assays)), np.float32) for _ in range(2))
        unknown = np.zeros(n, bool)
        texts = smiles if smiles is None or isinstance(smiles, Sequence) else smiles.smiles
        for rows in _batches(texts, n, batch):
            if smiles is None or isinstance(smiles, Sequence):
                some = _described(self.card, None if smiles is None else [smiles[row] for row in rows])
            else:
                some = smiles.take(rows)
            arrays = _encoded(self.card, some, {name: table[rows] for name, table in tables.items()})
            mean[rows], spread[rows] = self.session.run(arrays)
            if some is not None and some.graphs is not None:
                unknown[rows] = some.graphs.unknown
        return Prediction(mean, spread, unknown)


def _batches(smiles: Sequence[str] | None, n: int, batch: int) -> Iterator[NDArray[np.int64]]:
    """Yield rows; compounds of a similar size go together, for a batch is as wide as its largest one."""
    order = np.arange(n) if smiles is None else np.argsort([len(text) for text in smiles], kind="stable")
    for first in range(0, n, batch):
        yield order[first : first + batch]


def _chosen(card: ActivityCard, name: str, profiles: Mapping[str, pd.DataFrame] | None) -> NDArray[np.float32]:
    table = (profiles or {}).get(name)
    if table is None:
        raise InputError(f"The model {card.name!r} sees profiles of {name!r}: give a table of them.")
    if missing := [feature for feature in card.features[name] if feature not in table]:
        raise InputError(
            f"The profiles {name!r} lack {len(missing)} of the {len(card.features[name])} features that the model "
            f"{card.name!r} sees, such as {missing[0]!r}."
        )
    return table[list(card.features[name])].to_numpy(np.float32)


def encode(
    card: ActivityCard, smiles: Sequence[str] | None = None, profiles: Mapping[str, ArrayLike] | None = None
) -> dict[str, NDArray[Any]]:
    """Return the arrays that the network of a card takes.

    Parameters
    ----------
    card
        What the model expects.
    smiles
        n structures.
    profiles
        Name -> `(n, features)` in the card's order.

    Raises
    ------
    InputError
        If the model sees what is not given, or a structure cannot be read.
    """
    return _encoded(card, _described(card, smiles), profiles or {})


def _described(card: ActivityCard, smiles: Sequence[str] | None) -> Structures | None:
    """Describe structures as a model sees them; None where it sees none, or there are none."""
    kinds = {card.morgan} if "morgan" in card.modalities else set()
    if smiles is None or not (kinds or "graph" in card.modalities):
        return None
    from cellinfer.activity.structures import describe

    return describe(smiles, graphs="graph" in card.modalities, fingerprints=kinds)


def _encoded(
    card: ActivityCard, structures: Structures | None, profiles: Mapping[str, ArrayLike]
) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name in card.modalities:
        if name in card.features:
            arrays[name] = np.ascontiguousarray(profiles[name], np.float32)
        elif structures is None:
            raise InputError(f"The model {card.name!r} sees structures: give SMILES.")
        elif name == "graph":
            from cellinfer.activity.graphs import message_tables

            assert structures.graphs is not None
            arrays |= message_tables(structures.graphs, card.depth).arrays()
        else:
            packed = structures.fingerprints[card.morgan]
            arrays[name] = np.unpackbits(packed.view(np.uint8), axis=1, bitorder="little")
    return arrays


def open_activity(model: str | Path, device: Device = "auto", threads: int = 0) -> ActivityModel:
    """Open a model that predicts hits of assays, with the fingerprints that lie beside it.

    Parameters
    ----------
    model, device, threads
        See `cellinfer.sessions.open_activity_model`.

    Raises
    ------
    ModelError
        If the model is not usable, describes structures otherwise than this version does, or the file of fingerprints
        is missing or altered.
    DeviceError
        If the device asked for is unknown or not there.
    """
    session = open_activity_model(model, device, threads)
    card = session.card
    if "graph" in card.modalities:
        _check_featuriser(card)
    if card.fingerprints is None:
        return ActivityModel(session, None)
    entry = cellinfer_models.registry().get(model) if isinstance(model, str) else None
    folder = cellinfer_models.folder() if entry is not None else Path(model).parent
    return ActivityModel(session, *_read_fingerprints(card, folder))


def _check_featuriser(card: ActivityCard) -> None:
    from cellinfer.activity.graphs import FEATURISER

    if card.featuriser != FEATURISER:
        raise ModelError(
            f"The model {card.name!r} describes atoms and bonds as {card.featuriser!r}, this version as "
            f"{FEATURISER!r}: use the version that made it, or train it anew."
        )


def _read_fingerprints(card: ActivityCard, folder: Path) -> tuple[NDArray[np.uint64], tuple[str, ...] | None]:
    assert card.fingerprints is not None
    name, digest = card.fingerprints
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"The fingerprints {path} of the model {card.name!r} cannot be read ({error.strerror})."
        ) from error
    if cellinfer_models.digest(content) != digest:
        raise ModelError(f"The fingerprints {path} are not those that the model {card.name!r} was made with.")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            packed: NDArray[np.uint64] = file["fingerprints"]
            names = file.get("compounds")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"The fingerprints {path} of the model {card.name!r} are no such archive.") from error
    if packed.dtype != np.uint64 or packed.shape != (card.compounds, card.morgan[1] // 64):
        raise ModelError(f"The fingerprints {path} are not of the {card.compounds} compounds that the card names.")
    if names is not None and (names.dtype.kind != "U" or names.shape != (card.compounds,)):
        raise ModelError(f"The names of compounds in {path} are not of the {card.compounds} that the card names.")
    return packed, None if names is None else tuple(names.tolist())
