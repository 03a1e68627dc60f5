"""Weakly supervised learning: a network learns to tell treatments, and what it sees by then describes cells.

Caicedo, McQuin, Goodman, Singh and Carpenter (CVPR 2018); Moshkov et al., Learning representations for image-based
profiling of perturbations (DeepProfiler). The treatment is a weak label: many treatments do nothing, and most cells of
one well look like those of the next. What matters is not the accuracy at this pretext but the features on the way.

The pretext has a trap: cells of one plate have the plate's own look in common, and a network can learn that. So its
accuracy is always measured twice, on cells that were left out of plates it has seen and on plates it has not seen. The
difference is what it reads from the batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
import torch
from cellinfer.errors import InputError
from cellinfer.files import durable
from cellinfer.profiling.columns import PLATE, WELL
from numpy.typing import NDArray
from rich.progress import MofNCompleteColumn, Progress
from torch.nn import functional

from cellinfer_training.embedding.crops import TREATMENT, CropSet, scale
from cellinfer_training.embedding.network import EfficientNet, Variant, load_imagenet_weights, start_from_imagenet
from cellinfer_training.loop import load_state, prepare, save_state

Scheme = Literal["plates", "wells", "cells"]
TRAINING, CELLS, HELD = "training", "cells", "held"
"""What a crop is for: to learn from; left out of plates that are learnt from; of a plate (or well) left out whole."""
_WATCHED = 240
"""Left-out crops of each kind that are judged after each epoch; the report judges all."""


@dataclass(frozen=True)
class Settings:
    """How to learn.

    Parameters
    ----------
    variant
        Network: `"b0"` or `"lite0"`.
    epochs, batch, rate, momentum
        Of stochastic gradient descent.
    cooling
        Whether the learning rate falls to 0 along half a cosine; otherwise it stays, as published.
    pretrained
        Whether to begin with ImageNet weights.
    scheme
        What is left out whole: `"plates"`, `"wells"`, or nothing but cells.
    held
        Names of plates (or `plate/well`) to leave out; empty: a share of them, drawn by the seed.
    share
        Share of plates, of the wells of each class, or of cells that is left out by a scheme.
    cells
        Share of the cells of what is learnt from that is left out as well, to measure the pretext there.
    seed
        Of all that is random.
    save_every
        Steps between checkpoints.
    """

    variant: Variant = "b0"
    epochs: int = 30
    batch: int = 32
    rate: float = 0.005
    momentum: float = 0.9
    cooling: bool = False
    pretrained: bool = True
    scheme: Scheme = "plates"
    held: tuple[str, ...] = ()
    share: float = 0.25
    cells: float = 0.1
    seed: int = 0
    save_every: int = 200

    def __post_init__(self) -> None:
        if self.scheme not in ("plates", "wells", "cells"):
            raise InputError(f"There is no scheme {self.scheme!r}: leave out plates, wells or cells.")
        if self.epochs < 1 or self.batch < 2 or not self.rate > 0 or self.save_every < 1:
            raise InputError("Learning needs at least one epoch, two crops in a batch and a rate above 0.")
        if not (0 < self.share < 1 and 0 < self.cells < 1):
            raise InputError("The shares that are left out lie between 0 and 1.")


@dataclass(frozen=True)
class Pretext:
    """How well a network tells treatments that it learnt.

    Attributes
    ----------
    crops
        How many were judged.
    accuracy
        Share of each class that is recognised, mean over classes: 1 / classes is chance.
    confusion
        (classes, classes): truth by row, answer by column.
    """

    crops: int
    accuracy: float
    confusion: NDArray[np.int64]


def divide(index: pd.DataFrame, settings: Settings) -> NDArray[np.str_]:
    """Say of each crop what it is for: `training`, `cells` or `held`.

    Parameters
    ----------
    index
        See `CropSet`.
    settings
        Its scheme, names, shares and seed.

    Raises
    ------
    InputError
        If a name is unknown, nothing would be left to learn from, or a class that is left out is never learnt.
    """
    rng = np.random.default_rng((settings.seed, 11))
    roles = np.full(len(index), TRAINING, dtype="<U8")
    if settings.scheme != "cells":
        groups = index[PLATE].astype(str)
        if settings.scheme == "wells":
            groups = groups + "/" + index[WELL].astype(str)
        names = set(settings.held) or _draw_groups(groups, index[TREATMENT], settings, rng)
        if unknown := sorted(names - set(groups)):
            raise InputError(f"There is no {settings.scheme[:-1]} {unknown[0]!r} to leave out.")
        roles[groups.isin(list(names)).to_numpy()] = HELD
    left = settings.share if settings.scheme == "cells" else settings.cells
    roles[(roles == TRAINING) & (rng.random(len(index)) < left)] = CELLS
    if not (roles == TRAINING).any():
        raise InputError("Nothing is left to learn from: leave out less.")
    return roles


def _draw_groups(
    groups: pd.Series[str], classes: pd.Series[str], settings: Settings, rng: np.random.Generator
) -> set[str]:
    """Draw plates, or wells of every class, to be left out; one at least of each is learnt from."""
    if settings.scheme == "plates":
        pools = [sorted(set(groups))]
    else:
        pools = [sorted(set(groups[classes == name])) for name in sorted(set(classes))]
    drawn: set[str] = set()
    for pool in pools:
        count = min(max(1, round(settings.share * len(pool))), len(pool) - 1)
        drawn |= set(rng.permutation(pool)[:count].tolist())
    if not drawn:
        raise InputError(f"There are too few {settings.scheme} to leave one out: use --leave-out cells, or more data.")
    return drawn


def balanced(labels: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw an epoch: of every class as many as the median class has, in random order.

    A class with more is sampled without repetition; of one with fewer, each is taken equally often up to one.

    Parameters
    ----------
    labels
        Class of each crop.
    rng
        Source of chance.

    Returns
    -------
    numpy.ndarray
        Places in `labels`.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    count = max(1, int(np.median([len(places) for places in members])))
    drawn = []
    for places in members:
        whole = np.tile(places, count // len(places))
        drawn += [whole, rng.permutation(places)[: count - len(whole)]]
    return rng.permutation(np.concatenate(drawn))


def vary(crops: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return crops, -1 to 1, varied as in DeepProfiler.

    With probability 0.5 a square of at least 80 % of the side is cut out and enlarged; horizontal flip and quarter
    turns; brightness by up to 10 % of the range and contrast by up to 20 % in each channel.
    """
    varied = np.empty(crops.shape, np.float32)
    side = crops.shape[-1]
    for number, crop in enumerate(crops):
        planes = crop
        if rng.random() < 0.5:
            part = int(rng.integers(math.ceil(0.8 * side), side + 1))
            top, left = rng.integers(0, side - part + 1, 2)
            cuts = crop[:, top : top + part, left : left + part]
            planes = np.stack([cv2.resize(plane, (side, side), interpolation=cv2.INTER_LINEAR) for plane in cuts])
        if rng.random() < 0.5:
            planes = planes[:, :, ::-1]
        varied[number] = np.rot90(planes, int(rng.integers(4)), (1, 2))
    varied = varied / np.float32(127.5) - np.float32(1)
    shape = (*crops.shape[:2], 1, 1)
    means = varied.mean((2, 3), keepdims=True)
    contrast = rng.uniform(0.8, 1.2, shape).astype(np.float32)
    brightness = rng.uniform(-0.2, 0.2, shape).astype(np.float32)  # a tenth of the range of 2
    return np.asarray(((varied - means) * contrast + means + brightness).clip(-1, 1), dtype=np.float32)


class Learner:
    """Learns to tell treatments; leaves `last.pt`, `log.csv` and `classes.json` in its folder.

    A run that was stopped at any moment goes on from its last checkpoint and ends as it would have: every step draws
    from a source of chance of its own.

    Parameters
    ----------
    data
        The crops.
    settings
        How to learn.
    folder
        Where the run is; one that is there is continued.
    device
        A torch device.

    Raises
    ------
    InputError
        If there is but one class, or the folder holds another run.
    """

    def __init__(self, data: CropSet, settings: Settings, folder: Path, device: str = "cpu") -> None:
        prepare(folder, device)
        self.data, self.settings, self.folder = data, settings, folder
        self.device = torch.device(device)
        self.roles = divide(data.index, settings)
        treatments = data.index[TREATMENT].astype(str).to_numpy()
        self.classes = sorted(set(treatments[self.roles == TRAINING]))
        if len(self.classes) < 2:
            raise InputError("There is only one treatment to learn: classes are told apart, so give two at least.")
        self.labels = pd.Index(self.classes).get_indexer(treatments)
        """-1 for treatments that are never learnt."""
        self.identity = _identity(data, settings)
        torch.manual_seed(settings.seed)
        self.network = EfficientNet(settings.variant, len(data.channels), len(self.classes), momentum=0.1)
        self.step, self.log = 0, list[dict[str, float]]()
        state = load_state(folder / "last.pt") if (folder / "last.pt").exists() else None
        if state is None and settings.pretrained:
            start_from_imagenet(self.network, load_imagenet_weights())
        self.network = self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.SGD(self.network.parameters(), settings.rate, settings.momentum)
        if state is not None:
            self._restore(state)

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return max(1, len(self._epoch(0)) // self.settings.batch)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.epoch_steps * self.settings.epochs

    def run(self, report: Callable[[str], None] = print, until: int | None = None) -> None:
        """Learn to the end, or up to a step; a bar on terminals, a line per epoch.

        Raises
        ------
        KeyboardInterrupt
            On Ctrl-C; what was learnt is kept.
        """
        last = self.steps if until is None else min(until, self.steps)
        try:
            self._run(report, last)
        except KeyboardInterrupt:
            self._save()
            raise
        self._save()

    def _run(self, report: Callable[[str], None], last: int) -> None:
        started, first = time.monotonic(), self.step
        losses: list[float] = []
        bar = Progress(
            *Progress.get_default_columns(), MofNCompleteColumn(), transient=True, disable=not sys.stdout.isatty()
        )
        with ThreadPoolExecutor(1) as pool, bar:
            task = bar.add_task("learning", total=self.steps, completed=self.step)
            batches = self._batches(self.step)
            coming = pool.submit(next, batches)
            while self.step < last:
                batch, coming = coming.result(), pool.submit(next, batches)
                losses.append(self._advance(*batch))
                bar.update(task, completed=self.step)
                if self.step % self.epoch_steps == 0:
                    self._note(float(np.mean(losses)))
                    losses.clear()
                    pace = (time.monotonic() - started) / max(1, self.step - first)
                    report(f"{self._line()}  {pace * (self.steps - self.step) / 60:.0f} min left")
                    self._save()
                elif self.step % self.settings.save_every == 0:
                    self._save()

    def judge(self, role: str, most: int | None = None) -> Pretext | None:
        """Return how well treatments are told among the crops of a role; None where there is none.

        Parameters
        ----------
        role
            `training`, `cells` or `held`.
        most
            Crops to judge at most, drawn by the seed; None: all.
        """
        rows = np.flatnonzero((self.roles == role) & (self.labels >= 0))
        if most is not None and len(rows) > most:
            rows = np.sort(np.random.default_rng((self.settings.seed, 14)).permutation(rows)[:most])
        if len(rows) == 0:
            return None
        answers = self._answer(rows)
        count = len(self.classes)
        confusion = np.bincount(self.labels[rows] * count + answers, minlength=count**2).reshape(count, count)
        totals = confusion.sum(1)
        shown = totals > 0
        return Pretext(len(rows), float((np.diag(confusion)[shown] / totals[shown]).mean()), confusion)

    @torch.no_grad()
    def _answer(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        self.network.eval()
        answers = []
        for first in range(0, len(rows), 128):
            crops = torch.from_numpy(scale(self.data.take(rows[first : first + 128]))).to(self.device)
            answers.append(self.network(crops).argmax(1).cpu().numpy())
        return np.concatenate(answers)

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the rows of an epoch, in order."""
        rows = np.flatnonzero(self.roles == TRAINING)
        rng = np.random.default_rng((self.settings.seed, 12, epoch))
        return np.asarray(rows[balanced(self.labels[rows], rng)], dtype=np.int64)

    def _batches(self, step: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yield batches from a step on, without end."""
        count, batch = self.epoch_steps, self.settings.batch
        epoch, order = -1, np.empty(0, np.int64)
        while True:
            if step // count != epoch:
                epoch = step // count
                order = self._epoch(epoch)
            rows = order[(step % count) * batch :][:batch]
            rng = np.random.default_rng((self.settings.seed, 13, step))
            yield vary(self.data.take(rows), rng), self.labels[rows].astype(np.int64)
            step += 1

    def _advance(self, crops: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)  # dropout of a resumed run is that of the whole
        rate = self.settings.rate
        if self.settings.cooling:
            rate *= 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        images = torch.from_numpy(crops).to(self.device, memory_format=torch.channels_last)
        loss = functional.cross_entropy(self.network(images), torch.from_numpy(labels).to(self.device))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def _note(self, loss: float) -> None:
        row = {"epoch": float(self.step // self.epoch_steps), "loss": loss}
        for role in (CELLS, HELD):
            pretext = self.judge(role, _WATCHED)
            row[role] = math.nan if pretext is None else pretext.accuracy
        self.log.append(row)
        with durable(self.folder / "log.csv") as partial:
            pd.DataFrame(self.log).to_csv(partial, index=False)

    def _line(self) -> str:
        row = self.log[-1]
        return (
            f"epoch {row['epoch']:.0f}/{self.settings.epochs}  loss {row['loss']:.3f}  accuracy on left-out cells "
            f"{row[CELLS]:.3f}"
            + (f", on left-out {self.settings.scheme} {row[HELD]:.3f}" if HELD in self.roles else "")
        )

    def _save(self) -> None:
        state = {
            "step": self.step,
            "identity": self.identity,
            "settings": asdict(self.settings),
            "classes": self.classes,
            "channels": list(self.data.channels),
            "log": self.log,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        save_state(self.folder / "last.pt", state)

    def _restore(self, state: dict[str, Any]) -> None:
        if state.get("identity") != self.identity:
            raise InputError(f"{self.folder} holds another run, of other settings or crops: choose another --out.")
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.log = int(state["step"]), list(state["log"])


def _identity(data: CropSet, settings: Settings) -> str:
    """Return what tells a run from another: its settings, its crops and their index."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    digest.update(json.dumps([list(data.channels), data.side, data.box, data.diameter]).encode())
    digest.update(pd.util.hash_pandas_object(data.index.astype(str), index=False).to_numpy().tobytes())
    for row in np.linspace(0, len(data) - 1, min(64, len(data))).astype(int):
        digest.update(data.take(np.array([row])).tobytes())
    return digest.hexdigest()
