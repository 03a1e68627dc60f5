"""Learning to predict hits: seeded, resumable, stopped when the validation compounds are predicted no better."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cellinfer.activity.metrics import mean_auroc
from cellinfer.errors import InputError
from cellinfer.files import durable
from numpy.typing import NDArray
from scipy import special

from cellinfer_training.activity.data import ActivityData
from cellinfer_training.activity.losses import hit_weights, masked_logistic_loss
from cellinfer_training.activity.networks import GRAPH, MORGAN, ActivityNetwork, Architecture
from cellinfer_training.loop import load_state, prepare, save_state

_PREDICTED = 500
"""Compounds that are predicted together."""
_USUAL = Architecture()


@dataclass(frozen=True)
class Settings:
    """How to learn.

    Parameters
    ----------
    epochs
        At most.
    batch
        Compounds of a step.
    rate, first_rate, last_rate
        The learning rate rises evenly from the first one for `warm_up` epochs, and then falls to the last one by a
        constant factor a step (as chemprop has it).
    warm_up
        Epochs.
    decay
        Half of this times the squared weights is added to the loss. It holds back what rare substructures say.
    patience
        Epochs without a better prediction of validation compounds after which learning stops; 0: never.
    balance
        Whether hits of an assay count as much as its inactives.
    seed
        Of all that is random.
    """

    epochs: int = 30
    batch: int = 50
    rate: float = 1e-3
    first_rate: float = 1e-4
    last_rate: float = 1e-4
    warm_up: float = 2.0
    decay: float = 0.0
    patience: int = 10
    balance: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.patience < 0 or self.warm_up < 0 or self.decay < 0:
            raise InputError("Learning needs at least one epoch and a compound in a batch, and nothing below 0.")
        if not min(self.rate, self.first_rate, self.last_rate) > 0:
            raise InputError("Learning rates are above 0.")

    def rate_at(self, step: int, epoch_steps: int) -> float:
        """Learning rate of a step."""
        rising = self.warm_up * epoch_steps
        if step < rising:
            return self.first_rate + (self.rate - self.first_rate) * step / rising
        falling = max(1.0, self.epochs * epoch_steps - rising)
        return float(self.rate * (self.last_rate / self.rate) ** min(1.0, (step - rising) / falling))


_SUITED = {
    GRAPH: Settings(epochs=40, rate=4e-3, first_rate=4e-4, last_rate=2e-4),
    MORGAN: Settings(epochs=20, decay=3e-4),
}


def usual_settings(modalities: Sequence[str]) -> Settings:
    """Return how networks that see these usually learn best.

    Graphs alone and fingerprints alone have rates and penalties of their own, which validation folds of 6,567 compounds
    in 24 assays asked for.
    """
    return _SUITED.get(modalities[0], Settings()) if len(modalities) == 1 else Settings()


class Learner:
    """Teaches one network; leaves `last.pt`, which holds the best one too, and `log.csv` in its folder.

    A run that was stopped goes on from its last epoch and ends as it would have: every step draws from a source of
    chance of its own. The best network is that with the largest mean area under the ROC curve over assays that have
    hits and inactives among the validation compounds; if none has, that with the smallest loss there.

    Parameters
    ----------
    data
        Compounds.
    modalities
        What the network sees.
    training, validation
        Rows of `data`; compounds that are to be judged later are in neither.
    folder
        Where the run is; one that is there is continued.
    architecture, settings, device
        What learns, and how.

    Raises
    ------
    InputError
        If there is nothing to learn from or to stop by, compounds are in both parts or have no profile, or the folder
        holds another run.
    """

    def __init__(
        self,
        data: ActivityData,
        modalities: Sequence[str],
        training: NDArray[np.integer],
        validation: NDArray[np.integer],
        folder: Path,
        architecture: Architecture = _USUAL,
        settings: Settings | None = None,
        device: str = "cpu",
    ) -> None:
        prepare(folder, device)
        settings = settings or usual_settings(modalities)
        self.data, self.modalities, self.settings, self.folder = data, tuple(modalities), settings, folder
        self.training, self.validation = np.asarray(training, np.int64), np.asarray(validation, np.int64)
        self.device = torch.device(device)
        self._check()
        identity = json.dumps([data.sha256, self.modalities, asdict(architecture), asdict(settings)])
        rows = self.training.tobytes() + b"|" + self.validation.tobytes()
        self.identity = hashlib.sha256(identity.encode() + rows).hexdigest()
        torch.manual_seed(settings.seed)
        self.network = ActivityNetwork(data.widths(modalities), len(data.assays), architecture)
        self.network.fit_profiles({name: values[self.training] for name, values in data.profiles.items()})
        self.network = self.network.to(self.device)
        weights = hit_weights(data.labels[self.training]) if settings.balance else None
        self._weights = None if weights is None else torch.from_numpy(weights).to(self.device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), settings.rate, weight_decay=settings.decay)
        self.epoch, self.best, self.best_epoch = 0, -math.inf, 0
        self.log: list[dict[str, float]] = []
        self._best_state = copy.deepcopy(self.network.state_dict())
        if (folder / "last.pt").exists():
            self._restore()

    def _check(self) -> None:
        if np.intersect1d(self.training, self.validation).size:
            raise InputError("Compounds are both learnt from and validated on: divide them.")
        for what, rows in (("learn from", self.training), ("validate on", self.validation)):
            if not rows.size or not (self.data.labels[rows] >= 0).any():
                raise InputError(f"There are no labelled compounds to {what}: choose other folds.")
        labels = self.data.labels[self.training]
        if not ((labels == 1).any(axis=0) & (labels == 0).any(axis=0)).any():
            raise InputError("No assay has both hits and inactives among the compounds that are learnt from.")
        missing = ~self.data.complete(self.modalities)[np.concatenate([self.training, self.validation])]
        if missing.any():
            raise InputError(
                f"{int(missing.sum())} compounds lack a profile of {', '.join(self.modalities)}: leave them out."
            )

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.training) // self.settings.batch)

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to learn."""
        waited = self.epoch - self.best_epoch
        return self.epoch >= self.settings.epochs or bool(self.settings.patience and waited >= self.settings.patience)

    def run(self, report: Callable[[str], None] = print, until: int | None = None) -> ActivityNetwork:
        """Learn to the end, or up to an epoch; a line per epoch. Returns the best network so far."""
        while not self.finished and (until is None or self.epoch < until):
            loss = self._learn_epoch()
            self.epoch += 1
            report(self._judge(loss))
            self._save()
        return self.best_network()

    def best_network(self) -> ActivityNetwork:
        """Return the network that predicts validation compounds best."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(self._best_state)
        return network.eval()

    def _learn_epoch(self) -> float:
        self.network.train()
        order = np.random.default_rng((self.settings.seed, 21, self.epoch)).permutation(self.training)
        losses = []
        for number in range(self.epoch_steps):
            step = self.epoch * self.epoch_steps + number
            torch.manual_seed(self.settings.seed * 1_000_003 + step)  # dropout of a resumed run is that of the whole
            for group in self.optimiser.param_groups:
                group["lr"] = self.settings.rate_at(step, self.epoch_steps)
            rows = order[number * self.settings.batch :][: self.settings.batch]
            labels = torch.from_numpy(self.data.tested(rows)).to(self.device)
            # With dropout every bond is dropped by itself, so each needs a row
            merge = not self.network.architecture.dropout
            loss = masked_logistic_loss(logits_of(self.network, self.data, rows, merge), labels, self._weights)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            losses.append(float(loss.detach()))
        return float(np.mean(losses))

    def _judge(self, loss: float) -> str:
        logits = predict(self.network, self.data, self.validation)
        labels = self.data.tested(self.validation)
        held = float(masked_logistic_loss(torch.from_numpy(logits), torch.from_numpy(labels)))
        area = mean_auroc(self.data.labels[self.validation], logits)
        if not math.isfinite(held):
            raise InputError(f"The loss is {held} after epoch {self.epoch}: choose a smaller rate.")
        score = area if math.isfinite(area) else -held
        if score > self.best:
            self.best, self.best_epoch = score, self.epoch
            self._best_state = copy.deepcopy(self.network.state_dict())
        self.log.append({"epoch": float(self.epoch), "loss": loss, "validation_loss": held, "validation_auroc": area})
        return (
            f"epoch {self.epoch}/{self.settings.epochs}  loss {loss:.4f}  validation loss {held:.4f}, AUROC {area:.4f} "
            f"(best in epoch {self.best_epoch})"
        )

    def _save(self) -> None:
        with durable(self.folder / "log.csv") as partial:
            pd.DataFrame(self.log).to_csv(partial, index=False)
        state = {
            "step": self.epoch * self.epoch_steps,
            "identity": self.identity,
            "epoch": self.epoch,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_network": self._best_state,
            "log": self.log,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        save_state(self.folder / "last.pt", state)

    def _restore(self) -> None:
        state: dict[str, Any] = load_state(self.folder / "last.pt")
        if state.get("identity") != self.identity:
            raise InputError(f"{self.folder} holds another run, of other settings or compounds: choose another --out.")
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.best, self.best_epoch = int(state["epoch"]), float(state["best"]), int(state["best_epoch"])
        self.log, self._best_state = list(state["log"]), state["best_network"]


def logits_of(
    network: ActivityNetwork, data: ActivityData, rows: NDArray[np.integer], merge: bool = True
) -> torch.Tensor:
    """Return the logits of some compounds, `(n, assays)`, in one go."""
    arrays = data.inputs(rows, tuple(network.widths), network.architecture.depth, merge)
    device = next(network.parameters()).device
    logits: torch.Tensor = network(*(torch.from_numpy(arrays[name]).to(device) for name in network.inputs))
    return logits


@torch.no_grad()
def predict(network: ActivityNetwork, data: ActivityData, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the logits of compounds, `(n, assays)`; the network is left as it was."""
    learning = network.training
    network.eval()
    parts = [
        logits_of(network, data, rows[first : first + _PREDICTED]).cpu().numpy()
        for first in range(0, len(rows), _PREDICTED)
    ]
    network.train(learning)
    return np.concatenate([np.empty((0, len(data.assays)), np.float32), *parts])


def probabilities_of(network: ActivityNetwork, data: ActivityData, rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the probabilities of compounds, `(n, assays)`."""
    return np.asarray(special.expit(predict(network, data, rows).astype(np.float64)))


@dataclass(frozen=True)
class Parts:
    """Rows of compounds that are learnt from, validated on, and judged on."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def divide(data: ActivityData, fold: int | None, usable: NDArray[np.bool_] | None = None, turn: int = 0) -> Parts:
    """Divide compounds by fold: one is judged on, another one validated on.

    Parameters
    ----------
    data
        Compounds with folds.
    fold
        The one that is judged on; None: none is.
    usable
        `(n,)` compounds that take part; None: all.
    turn
        0: the fold after the one that is judged on is validated on (of the first, after the last), 1: the one after
        that, and so on, round and round among those that are not judged on.

    Raises
    ------
    InputError
        If there is no such fold, or there are too few.
    """
    taking_part = np.ones(len(data), bool) if usable is None else usable
    folds = np.unique(data.folds[data.folds >= 0])
    fewest = 2 if fold is None else 3
    if len(folds) < fewest:
        judged = "" if fold is None else "one is judged on and "
        raise InputError(f"There are {len(folds)} folds; {judged}one validated on, so take {fewest} at least.")
    if fold is not None and fold not in folds:
        raise InputError(f"There is no fold {fold}: there are {', '.join(map(str, folds))}.")
    others = folds if fold is None else np.roll(folds, -1 - int(np.searchsorted(folds, fold)))[:-1]
    test, validation = data.folds == fold, data.folds == others[turn % len(others)]
    training = (data.folds >= 0) & ~test & ~validation
    return Parts(*(np.flatnonzero(rows & taking_part) for rows in (training, validation, test)))


def learn_members(
    data: ActivityData,
    modalities: Sequence[str],
    parts: Sequence[Parts],
    folder: Path,
    architecture: Architecture = _USUAL,
    settings: Settings | None = None,
    device: str = "cpu",
    report: Callable[[str], None] = print,
) -> list[ActivityNetwork]:
    """Teach an ensemble: a network for each division, from a seed and in a folder of its own; see `Learner`.

    Raises
    ------
    InputError
        As `Learner`, or if there is no member.
    """
    if not parts:
        raise InputError("An ensemble has at least one member.")
    usual, networks = settings or usual_settings(modalities), []
    for member, part in enumerate(parts):
        own = replace(usual, seed=usual.seed + 1000 * member)
        learner = Learner(
            data, modalities, part.training, part.validation, folder / f"member-{member}", architecture, own, device
        )
        networks.append(learner.run(lambda line, member=member: report(f"member {member}  {line}")))  # type: ignore[misc]
    return networks


def unseen(
    data: ActivityData, networks: Sequence[ActivityNetwork], parts: Sequence[Parts]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Predict validation compounds by those members only that did not learn from them.

    Parameters
    ----------
    data
        Compounds.
    networks, parts
        Members of an ensemble, and what each learnt from and was validated on.

    Returns
    -------
    rows : ndarray of shape (n,)
        Compounds that some member was validated on, in order.
    probabilities : ndarray of shape (n, assays)
        Their mean over members that were.
    """
    summed = np.zeros((len(data), len(data.assays)))
    count = np.zeros(len(data), np.int64)
    for network, part in zip(networks, parts, strict=True):
        summed[part.validation] += probabilities_of(network, data, part.validation)
        count[part.validation] += 1
    rows = np.flatnonzero(count)
    return rows, summed[rows] / count[rows, None]
