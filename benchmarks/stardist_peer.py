"""StarDist's own package, trained on our training images and asked for our validation images.

Three steps, the middle ones in an environment with `stardist` and `tensorflow`:

    python -m benchmarks.stardist_peer export DATA WORK           # needs the [train] extra
    python -m benchmarks.stardist_peer train WORK --minutes 120   # resumes from the last weights
    python -m benchmarks.stardist_peer predict WORK               # label images in WORK/predictions/<set>

`python -m benchmarks.accuracy DATA PREDICTIONS --stardist WORK/predictions` then scores them beside ours.
The network is StarDist's default (U-Net, 32 rays, grid 2 x 2), with flips, quarter turns, intensity changes and noise
as its examples advise. Images are given at their own scale, as its package does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
import tifffile
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cellinfer_training.data import Sample

_ENDLESS = 100_000
"""Epochs: time ends training."""
_RANDOM = np.random.default_rng(7)


def export(data: Path, work: Path) -> None:
    """Write both sides of the split of the `nuclei` recipe as float images and label images."""
    from cellinfer_training.recipes import RECIPES, load, split

    recipe = RECIPES["nuclei"]
    for side, samples in zip(("train", "held"), split(load(data, recipe), recipe), strict=True):
        write_samples(samples, work / side)


def write_samples(samples: Sequence[Sample], folder: Path) -> None:
    """Write `<set>/<name>.tif` and `<set>/<name>_labels.tif`; sets are those of `benchmarks.accuracy`."""
    from benchmarks.accuracy import set_of

    for sample in samples:
        place = folder / set_of(sample)
        place.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(place / f"{sample.name}.tif", sample.image)
        tifffile.imwrite(place / f"{sample.name}_labels.tif", sample.labels.astype(np.uint16))


def train(work: Path, minutes: float, batch: int = 4, steps: int = 100) -> None:
    """Train for a time, or train on; the package keeps the best weights on a tenth of the training images.

    A continued run goes on from the last weights at the last learning rate, but with a new optimiser and a new count
    of epochs without progress.
    """
    from stardist.models import Config2D, StarDist2D
    from tensorflow.keras.callbacks import ModelCheckpoint

    images, labels = _read(work / "train")
    order = np.random.default_rng(7).permutation(len(images))
    count = max(1, len(images) // 10)
    watched, learnt = order[:count], order[count:]
    config = Config2D(
        n_rays=32,
        grid=(2, 2),
        n_channel_in=1,
        train_patch_size=(256, 256),
        train_batch_size=batch,
        train_steps_per_epoch=steps,
        train_learning_rate=3e-4,
        train_tensorboard=False,
        use_gpu=False,
    )
    log = work / "epochs.json"
    done: list[dict[str, float]] = json.loads(log.read_text()) if log.exists() else []
    model = StarDist2D(None if done else config, name="model", basedir=str(work))
    if done:
        model.load_weights("weights_last.h5")
        model.config.train_learning_rate = done[-1]["rate"]
    model.prepare_for_training()
    for callback in model.callbacks:
        if done and isinstance(callback, ModelCheckpoint) and callback.save_best_only:
            callback.best = min(row["val_loss"] for row in done)
    model.callbacks.append(_clock(log, done, steps, 60 * minutes))
    model.train(
        [images[i] for i in learnt],
        [labels[i] for i in learnt],
        validation_data=([images[i] for i in watched], [labels[i] for i in watched]),
        augmenter=_vary,
        epochs=_ENDLESS,
        steps_per_epoch=steps,
    )  # the last weights are saved, the best ones loaded
    model.optimize_thresholds([images[i] for i in watched], [labels[i] for i in watched])


def _clock(log: Path, done: list[dict[str, float]], steps: int, seconds: float) -> Any:
    """Return a callback that notes every epoch and ends training after a time."""
    from tensorflow.keras.callbacks import Callback

    class Clock(Callback):  # type: ignore[misc]
        """Notes epochs; stops after the one in which time runs out."""

        def on_train_begin(self, logs: Any = None) -> None:
            """Start."""
            self.start = self.epoch_start = time.monotonic()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            """Note an epoch."""
            now = time.monotonic()
            rate = float(self.model.optimizer.learning_rate.numpy())
            row = {"steps": steps * (len(done) + 1), "val_loss": float(logs["val_loss"]), "rate": rate}
            done.append(row | {"seconds": now - self.epoch_start})
            log.write_text(json.dumps(done, indent=1))
            self.epoch_start = now
            self.model.stop_training = now - self.start > seconds

    return Clock()


def predict(work: Path) -> None:
    """Write the label image of every held-out image."""
    from stardist.models import StarDist2D

    model = StarDist2D(None, name="model", basedir=str(work))
    model.load_weights("weights_best.h5")
    write_predictions(work, lambda image: model.predict_instances(image)[0])


def write_predictions(work: Path, segment: Callable[[NDArray[np.float32]], NDArray[Any]]) -> None:
    """Write `predictions/<set>/<name>.png` for every image in `held`, 16 bit."""
    for path in _images(work / "held"):
        target = (work / "predictions" / path.relative_to(work / "held")).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(target, segment(tifffile.imread(path)).astype(np.uint16))


def _vary(image: NDArray[np.float32], labels: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[Any]]:
    turns = int(_RANDOM.integers(4))
    image, labels = np.rot90(image, turns), np.rot90(labels, turns)
    if _RANDOM.random() < 0.5:
        image, labels = image[::-1], labels[::-1]
    image = image * _RANDOM.uniform(0.6, 2) + _RANDOM.uniform(-0.2, 0.2)
    return image + 0.02 * _RANDOM.uniform() * _RANDOM.normal(0, 1, image.shape), labels


def _read(folder: Path) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    paths = _images(folder)
    return [tifffile.imread(p) for p in paths], [tifffile.imread(p.with_name(f"{p.stem}_labels.tif")) for p in paths]


def _images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*/*.tif")) if not path.stem.endswith("_labels")]


def main() -> None:
    """Run one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    one = steps.add_parser("export")
    one.add_argument("data", type=Path)
    one.add_argument("work", type=Path)
    two = steps.add_parser("train")
    two.add_argument("work", type=Path)
    two.add_argument("--minutes", type=float, default=60)
    three = steps.add_parser("predict")
    three.add_argument("work", type=Path)
    given = parser.parse_args()
    if given.step == "export":
        export(given.data, given.work)
    elif given.step == "train":
        train(given.work, given.minutes)
    else:
        predict(given.work)


if __name__ == "__main__":
    main()
