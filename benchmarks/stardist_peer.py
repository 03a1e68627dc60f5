"""StarDist's own package, trained on our training images and asked for our validation images.

Three steps, the middle ones in an environment with `stardist` and `tensorflow`:

    python -m benchmarks.stardist_peer export DATA WORK           # needs the [train] extra
    python -m benchmarks.stardist_peer train WORK --minutes 120   # resumes from the last weights
    python -m benchmarks.stardist_peer predict WORK               # label images in WORK/predictions

`python -m benchmarks.accuracy DATA --predictions stardist=WORK/predictions` then scores them beside ours.
The network is StarDist's default (U-Net, 32 rays, grid 2 x 2), with flips, quarter turns, intensity changes and noise
as its examples advise. Images are given at their own scale, as its package does.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

_RANDOM = np.random.default_rng(7)


def export(data: Path, work: Path) -> None:
    """Write both sides of the split of the `nuclei` recipe as float images and label images."""
    from cellinfer_training.recipes import RECIPES, load, split

    recipe = RECIPES["nuclei"]
    for side, samples in zip(("train", "held"), split(load(data, recipe), recipe), strict=True):
        folder = work / side
        folder.mkdir(parents=True, exist_ok=True)
        for sample in samples:
            tifffile.imwrite(folder / f"{sample.name}.tif", sample.image)
            tifffile.imwrite(folder / f"{sample.name}_labels.tif", sample.labels.astype(np.uint16))


def train(work: Path, minutes: float, batch: int = 4) -> None:
    """Train for a time, epoch by epoch; the best weights on a tenth of the training images are kept by the package."""
    from stardist.models import Config2D, StarDist2D

    images, labels = _read(work / "train")
    order = np.random.default_rng(7).permutation(len(images))
    count = max(1, len(images) // 10)
    watched, learnt = order[:count], order[count:]
    steps = 100
    config = Config2D(
        n_rays=32,
        grid=(2, 2),
        n_channel_in=1,
        train_patch_size=(256, 256),
        train_batch_size=batch,
        train_steps_per_epoch=steps,
        train_learning_rate=3e-4,
        use_gpu=False,
    )
    existed = (work / "model" / "weights_last.h5").exists()
    model = StarDist2D(None if existed else config, name="model", basedir=str(work))
    if existed:
        model.load_weights("weights_last.h5")
    log = work / "epochs.json"
    done: list[dict[str, float]] = json.loads(log.read_text()) if log.exists() else []
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        began = time.monotonic()
        history = model.train(
            [images[i] for i in learnt],
            [labels[i] for i in learnt],
            validation_data=([images[i] for i in watched], [labels[i] for i in watched]),
            augmenter=_vary,
            epochs=1,
            steps_per_epoch=steps,
        )
        loss = float(history.history["val_loss"][-1])
        if not done or loss < min(row["val_loss"] for row in done):
            model.keras_model.save_weights(str(work / "model" / "weights_chosen.h5"))
        done.append({"steps": steps * (len(done) + 1), "val_loss": loss, "seconds": time.monotonic() - began})
        log.write_text(json.dumps(done, indent=1))
    model.load_weights("weights_chosen.h5")
    model.optimize_thresholds([images[i] for i in watched], [labels[i] for i in watched])


def predict(work: Path) -> None:
    """Write the label image of every held-out image."""
    from stardist.models import StarDist2D

    model = StarDist2D(None, name="model", basedir=str(work))
    model.load_weights("weights_chosen.h5")
    folder = work / "predictions"
    folder.mkdir(exist_ok=True)
    for path in _images(work / "held"):
        found, _ = model.predict_instances(tifffile.imread(path))
        tifffile.imwrite(folder / path.name, found.astype(np.uint16))


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
    return [path for path in sorted(folder.glob("*.tif")) if not path.stem.endswith("_labels")]


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
