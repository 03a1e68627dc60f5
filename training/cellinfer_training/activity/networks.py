"""Networks that predict hits of assays from a compound's graph, fingerprint or profile, or from several of these.

The graph network is the directed message passing network of Yang et al., Analyzing Learned Molecular Representations
for Property Prediction, Journal of Chemical Information and Modeling 59, 2019 (chemprop). It is written for the tables
of `cellinfer.activity.graphs.message_tables`: a step's matrix is applied to states before they are gathered and added
up, which is the same, sums being linear, and has fewer rows where equal states are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from cellinfer.activity.graphs import ATOM_FEATURES, BOND_FEATURES
from cellinfer.errors import InputError
from numpy.typing import NDArray
from torch import Tensor, nn

Readout = Literal["mean", "sum", "norm"]
GRAPH, MORGAN = "graph", "morgan"
NORM = 100.0
"""What sums over atoms are divided by in the readout `norm`, as in chemprop."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network.

    Parameters
    ----------
    hidden
        Width of states, and of hidden layers of the head.
    depth
        Steps of message passing.
    readout
        How a molecule follows from its atoms: their `mean`, their `sum`, or a hundredth of it (`norm`).
    layers
        Hidden layers of the head.
    dropout
        Part of the numbers that is dropped while learning.
    """

    hidden: int = 300
    depth: int = 3
    readout: Readout = "mean"
    layers: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.depth < 1 or self.layers < 0 or not 0 <= self.dropout < 1:
            raise InputError(
                "A network has a width and depth of at least 1, no negative number of layers, and a dropout from 0 to "
                f"below 1, not {self}."
            )
        if self.readout not in get_args(Readout):
            raise InputError(f"There is no readout {self.readout!r}: choose {', '.join(get_args(Readout))}.")


def gather_sum(rows: Tensor, places: Tensor) -> Tensor:
    """Add up rows by a table of places.

    Parameters
    ----------
    rows
        `(n, H)`
    places
        `(m, W)` int64; n stands for a row of zeros.

    Returns
    -------
    Tensor of shape (m, H)
    """
    padded = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
    return padded[places].sum(1)


class GraphEncoder(nn.Module):
    """Directed message passing: from the tables of molecules to a row of numbers each."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        hidden = architecture.hidden
        self.architecture, self.width = architecture, hidden
        self.start = nn.Linear(ATOM_FEATURES + BOND_FEATURES, hidden, bias=False)
        self.message = nn.Linear(hidden, hidden, bias=False)
        self.atom = nn.Linear(ATOM_FEATURES + hidden, hidden)
        self.dropout = nn.Dropout(architecture.dropout)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that `forward` takes, see `MessageTables.arrays`."""
        steps = (f"{name}_{step}" for step in range(1, self.architecture.depth) for name in ("own", "before"))
        return ("starts", *steps, "atoms", "around", "members", "sizes")

    def forward(self, *arrays: Tensor) -> Tensor:
        """Return `(M, hidden)`."""
        starts, *steps, atoms, around, members, sizes = arrays
        first = self.start(starts)
        state = torch.relu(first)
        for own, before in zip(steps[::2], steps[1::2], strict=True):
            state = self.dropout(torch.relu(first[own] + gather_sum(self.message(state), before)))
        seen = torch.cat([atoms, gather_sum(state, around)], dim=1)
        pooled = gather_sum(self.dropout(torch.relu(self.atom(seen))), members)
        if self.architecture.readout == "mean":
            return pooled / sizes
        return pooled / NORM if self.architecture.readout == "norm" else pooled


class FingerprintEncoder(nn.Module):
    """Fingerprints as they are: the head sees every bit."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.width, self.inputs = bits, (MORGAN,)

    def forward(self, bits: Tensor) -> Tensor:
        """Return `(M, bits)` numbers."""
        return bits.float()


class ProfileEncoder(nn.Module):
    """Profiles, such as of morphology or expression, standardised inside the network; missing values count as mean."""

    mean: Tensor
    scale: Tensor

    def __init__(self, name: str, features: int) -> None:
        super().__init__()
        self.width, self.inputs = features, (name,)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def fit(self, profiles: NDArray[np.floating]) -> None:
        """Take mean and standard deviation from the profiles that are learnt from; NaN is missing."""
        known = np.isfinite(profiles)
        count = np.maximum(known.sum(0), 1)
        values = np.where(known, profiles, 0.0).astype(np.float64)
        mean = values.sum(0) / count
        deviation = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(0) / count)
        deviation[deviation <= 1e-6 * np.maximum(1e-6, np.abs(mean))] = 1.0  # a constant says nothing
        self.mean.copy_(torch.from_numpy(mean.astype(np.float32)))
        self.scale.copy_(torch.from_numpy(deviation.astype(np.float32)))

    def forward(self, profiles: Tensor) -> Tensor:
        """Return `(M, features)` standardised."""
        values = (profiles - self.mean) / self.scale
        return torch.where(torch.isnan(values), torch.zeros_like(values), values)


class ActivityNetwork(nn.Module):
    """One or several encoders side by side (early fusion), and a head with a logit per assay.

    Parameters
    ----------
    widths
        Modality -> how many numbers it has: `graph` (any number, its width is the architecture's), `morgan` (bits), or
        the name of a profile (features). In this order they are put side by side.
    assays
        How many logits there are.
    architecture
        Sizes.
    """

    def __init__(self, widths: Mapping[str, int], assays: int, architecture: Architecture = Architecture()) -> None:
        super().__init__()
        if not widths or assays < 1:
            raise InputError("A network needs at least one modality to see and one assay to predict.")
        self.widths, self.assays, self.architecture = dict(widths), assays, architecture
        self.encoders = nn.ModuleList([_encoder(name, width, architecture) for name, width in widths.items()])
        sizes = [sum(encoder.width for encoder in self._each()), *[architecture.hidden] * architecture.layers]
        layers: list[nn.Module] = []
        for given, made in pairwise(sizes):
            layers += [nn.Dropout(architecture.dropout), nn.Linear(given, made), nn.ReLU()]
        self.head = nn.Sequential(*layers, nn.Dropout(architecture.dropout), nn.Linear(sizes[-1], assays))

    def _each(self) -> Sequence[GraphEncoder | FingerprintEncoder | ProfileEncoder]:
        return list(self.encoders)  # type: ignore[arg-type]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that `forward` takes, in order."""
        return tuple(name for encoder in self._each() for name in encoder.inputs)

    def fit_profiles(self, profiles: Mapping[str, NDArray[np.floating]]) -> None:
        """Standardise profiles by those that are learnt from; see `ProfileEncoder.fit`."""
        for name, encoder in zip(self.widths, self._each(), strict=True):
            if isinstance(encoder, ProfileEncoder):
                encoder.fit(profiles[name])

    def forward(self, *arrays: Tensor) -> Tensor:
        """Return logits, `(M, assays)`."""
        given, parts = list(arrays), []
        for encoder in self._each():
            count = len(encoder.inputs)
            parts.append(encoder(*given[:count]))
            given = given[count:]
        logits: Tensor = self.head(torch.cat(parts, dim=1))
        return logits


def _encoder(name: str, width: int, architecture: Architecture) -> nn.Module:
    if name == GRAPH:
        return GraphEncoder(architecture)
    return FingerprintEncoder(width) if name == MORGAN else ProfileEncoder(name, width)


class Ensemble(nn.Module):
    """Networks of one kind together: mean and spread of their probabilities."""

    def __init__(self, members: Sequence[ActivityNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (divisor n) over members, each `(M, assays)`."""
        every = torch.stack([torch.sigmoid(member(*arrays)) for member in self.members])
        mean = every.mean(0)
        return mean, torch.sqrt(((every - mean) ** 2).mean(0))
