"""The training loop: seeded, resumable at any step, keeps an averaged model and the best one so far."""

from __future__ import annotations

import copy
import csv
import io
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cellinfer.errors import DeviceError, InputError, OutputError
from cellinfer.files import durable, output_errors
from numpy.typing import NDArray
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn

from cellinfer_training.augment import CropSampler

Loss = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""From output and target to parts and their sum under `loss`."""
Objective = Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]
"""From network, images and target to the same."""
Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Parameters
    ----------
    steps
        Optimiser steps in all; the learning rate falls to zero along half a cosine over them.
    """

    steps: int = 12_000
    batch: int = 8
    rate: float = 2e-3
    warm_up: int = 200
    decay: float = 0.01
    averaging: float = 0.998
    check_every: int = 500

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        progress = min(1.0, step / self.steps)
        return self.rate * min(1.0, (step + 1) / self.warm_up) * 0.5 * (1 + math.cos(math.pi * progress))


def prepare(folder: Path, device: str) -> None:
    """Make the folder of a run and see that its device is there, before anything that takes long.

    Raises
    ------
    DeviceError
        If the device is unknown or not there.
    OutputError
        If the folder cannot be made or written.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise DeviceError(f"Unknown device {device!r}: choose cpu or cuda.")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"torch sees no device {device}: use --device cpu, or install torch for CUDA and its driver.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(f"{folder} cannot hold a run ({error.strerror}): choose another --out.") from error


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises
    ------
    InputError
        If it is damaged or missing.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        int(state["step"])
    except Exception as error:  # damage shows as anything from EOFError to KeyError
        raise InputError(
            f"{path} is damaged: delete {path.with_name('last.pt')} and run the same command again, to train anew."
        ) from error
    return state


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    content = io.BytesIO()  # writing to a full disk, torch says RuntimeError
    torch.save(state, content)
    with durable(path) as partial:
        partial.write_bytes(content.getbuffer())


def resume_step(folder: Path, identity: str = "") -> int:
    """Return the step that a run in `folder` would continue from; 0 for a new one.

    Parameters
    ----------
    folder
        Where the run is.
    identity
        What tells the run from others, see `Trainer`; empty continues any.

    Raises
    ------
    InputError
        If the folder holds another run, or a damaged one.
    """
    last = folder / "last.pt"
    if not last.exists():
        return 0
    state = load_state(last)
    _check_identity(state, folder, identity)
    return int(state["step"])


def _check_identity(state: Mapping[str, Any], folder: Path, identity: str) -> None:
    """Refuse a run of other settings or images; one that does not say what it is of is continued."""
    stored = state.get("identity", "")
    if identity and stored and stored != identity:
        raise InputError(
            f"{folder} holds another run, of other settings (steps, channel), images, masks or starting weights: "
            "choose another --out."
        )


def of_output(loss: Loss) -> Objective:
    """Return the objective of a network whose output is all that its loss needs."""

    def objective(network: nn.Module, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        with torch.autocast(image.device.type, torch.bfloat16):
            output = network(image)
        return loss(output.float(), target)

    return objective


class Trainer:
    """Trains a network and leaves `last.pt`, `best.pt` and `log.csv` in its folder.

    Parameters
    ----------
    network, objective
        What is trained, and what is to become small.
    sampler
        Where training batches come from.
    validation
        Fixed batches on which the averaged model is compared.
    folder
        Where checkpoints and the log go. A `last.pt` found there is continued.
    schedule, device
        How long and how fast; a torch device.
    frozen_statistics
        Whether batch normalisation keeps the statistics it came with, as fine-tuning on few images needs.
    identity
        Digest of whatever makes this run another than the next, such as settings and images; kept in `last.pt`.

    Raises
    ------
    InputError
        If the folder holds a run of another identity, or a damaged one.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        sampler: CropSampler,
        validation: list[Batch],
        folder: Path,
        schedule: Schedule,
        device: str = "cpu",
        frozen_statistics: bool = False,
        identity: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device(device)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval()
        self.objective, self.sampler, self.validation = objective, sampler, validation
        self.folder, self.schedule, self.frozen_statistics = folder, schedule, frozen_statistics
        self.identity = identity
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=schedule.rate, weight_decay=schedule.decay)
        self.step, self.best = 0, math.inf
        if (folder / "last.pt").exists():
            self._restore(folder / "last.pt")
        else:
            (folder / "log.csv").unlink(missing_ok=True)  # of a run whose state was deleted

    def run(self, report: Callable[[str], None] = print) -> None:
        """Train to the end of the schedule; a bar on terminals, a line at each check.

        Raises
        ------
        InputError
            If the loss on the validation batches is not a number.
        KeyboardInterrupt
            On Ctrl-C; what was learnt is kept.
        """
        try:
            self._run(report)
        except KeyboardInterrupt:
            # At the step of a check the state is kept by the check, or the check must be made again.
            if self.step % self.schedule.check_every and self.step < self.schedule.steps:
                self._save("last.pt", self._state())
            raise

    def _run(self, report: Callable[[str], None]) -> None:
        running: list[float] = []
        started, first = time.monotonic(), self.step
        if self.step == 0 and self.frozen_statistics and math.isinf(self.best):
            self._check(math.nan)  # a model that comes trained competes with what becomes of it
        bar = Progress(
            *Progress.get_default_columns(), MofNCompleteColumn(), transient=True, disable=not sys.stdout.isatty()
        )
        with ThreadPoolExecutor(1) as pool, bar:
            task = bar.add_task("training", total=self.schedule.steps, completed=self.step)
            coming = pool.submit(self.sampler.batch, self.schedule.batch)
            while self.step < self.schedule.steps:
                batch, coming = coming.result(), pool.submit(self.sampler.batch, self.schedule.batch)
                running.append(self._advance(batch))
                bar.update(task, completed=self.step)
                if self.step % self.schedule.check_every == 0 or self.step == self.schedule.steps:
                    row = self._check(float(np.mean(running)))
                    running.clear()
                    pace = (time.monotonic() - started) / max(1, self.step - first)
                    left = pace * (self.schedule.steps - self.step) / 60
                    report(
                        f"step {self.step}/{self.schedule.steps}  train {row['train']:.4f}  validation "
                        f"{row['validation']:.4f}  best {self.best:.4f}  {pace:.2f} s/step, {left:.0f} min left"
                    )

    def _advance(self, batch: Batch) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate_at(self.step)
        self._set_modes()
        loss = self._loss(self.network, batch)["loss"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._follow()
        return float(loss.detach())

    def _set_modes(self) -> None:
        """Put the network into training, except for normalisation that keeps its statistics."""
        self.network.train()
        if self.frozen_statistics:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def _loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        image, target = (torch.from_numpy(part).to(self.device) for part in batch)
        return self.objective(network, image.to(memory_format=torch.channels_last), target)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged model towards the trained one; faster at first, while the average is still noise."""
        keep = min(self.schedule.averaging, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)

    @torch.no_grad()
    def _check(self, train: float) -> dict[str, float]:
        parts: dict[str, list[float]] = {}
        for batch in self.validation:
            for name, value in self._loss(self.average, batch).items():
                parts.setdefault(name, []).append(float(value))
        means = {name: float(np.mean(values)) for name, values in parts.items()}
        row = {"step": self.step, "rate": self.schedule.rate_at(self.step), "train": train}
        row |= {"validation": means.pop("loss"), **means}
        if not math.isfinite(row["validation"]):
            raise InputError(
                f"The loss on held-out images is {row['validation']} at step {self.step}: run the same command again "
                "to go on from the last good step, and if it comes back, look for faulty images or masks."
            )
        improved = row["validation"] < self.best
        self.best = min(self.best, row["validation"])
        # The best first: a run stopped between the two checks this step again, and loses nothing.
        if improved:
            self._save("best.pt", {"step": self.step, "network": self.average.state_dict()})
        self._save("last.pt", self._state())
        self._append(row)
        return row

    def _append(self, row: dict[str, float]) -> None:
        log = self.folder / "log.csv"
        fresh = not log.exists()
        with output_errors(log), log.open("a", newline="") as table:
            writer = csv.DictWriter(table, row.keys())
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best": self.best,
            "identity": self.identity,
            "schedule": asdict(self.schedule),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def _save(self, name: str, state: dict[str, Any]) -> None:
        save_state(self.folder / name, state)

    def _restore(self, path: Path) -> None:
        state = load_state(path)
        _check_identity(state, self.folder, self.identity)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.best = state["step"], state["best"]
