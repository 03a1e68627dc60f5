"""One field from pixels to labels: cellinfer, StarDist (TensorFlow) and Cellpose 3, in turn, on the same threads.

    python benchmarks/segmentation_speed.py --stardist ~/stardist/bin/python --cellpose ~/cellpose/bin/python

Each contestant lives in a process of its own, since their packages do not fit one environment: `pip install stardist
tensorflow` and `pip install "cellpose<4"` make the peers'. Every run is noted in `results/segmentation_speed.runs.json`
as soon as it ends; started again, the script does only what is missing (`--fresh` forgets). `--quick` takes a small
field and writes nothing to `results`.

What is timed: cellinfer from raw pixels to labels, with its bundled model. The peers' networks have the architecture of
their published models (2D_versatile_fluo, cyto3) and random weights, since weights cannot be had offline; that changes
no network's time. What they then make of network output is timed on the output that a perfect network would give for
this field, so that there are as many objects as there should be. Cellpose runs at scale 1, which favours it over its
default for nuclei of this size, and its separate size model is not run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RUNS = HERE / "results" / "segmentation_speed.runs.json"
RESULT = HERE / "results" / "segmentation_speed.json"
DIAMETER = 27.0
"""Median diameter of the simulated nuclei, pixels."""
ROUNDS = {"cellinfer": 7, "stardist": 3, "cellpose": 1}
Run = Callable[[], dict[str, float]]


def main() -> None:
    """Measure what is missing and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stardist", help="Python interpreter that has stardist and tensorflow")
    parser.add_argument("--cellpose", help="Python interpreter that has cellpose 3")
    parser.add_argument("--model", default="nuclei", help="cellinfer's model: a bundled one, or an .onnx file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=2048, help="height and width of the field")
    parser.add_argument("--quick", action="store_true", help="a field of 512 x 512, one round, nothing kept")
    parser.add_argument("--fresh", action="store_true", help="forget the runs of an earlier call")
    options = parser.parse_args()
    side = 512 if options.quick else options.side
    pythons = {"cellinfer": sys.executable, "stardist": options.stardist, "cellpose": options.cellpose}
    with tempfile.TemporaryDirectory() as folder:
        field = make_field(side, Path(folder))
        setting = {"side": side, "threads": options.threads, "model": model_digest(options.model)}
        notes = {} if options.quick or options.fresh else read_notes(setting)
        measure(pythons, field, options, notes, setting)
    summarise(notes, setting, keep=not options.quick)


def make_field(side: int, folder: Path) -> Path:
    """Simulate a field and keep its image and truth."""
    import numpy as np
    from cellinfer.simulate import simulate_field

    field = simulate_field((side, side), seed=1)
    path = folder / "field.npz"
    np.savez(path, image=field.dna, truth=field.nuclei)
    return path


def model_digest(model: str) -> str:
    """Digest of cellinfer's model, so that runs of two models are never mixed."""
    from cellinfer.sessions import open_session

    return open_session(model, "cpu").sha256


def read_notes(setting: dict[str, Any]) -> dict[str, Any]:
    """Return the runs of an earlier call with the same setting."""
    if not RUNS.exists():
        return {}
    kept = json.loads(RUNS.read_text())
    return dict(kept["notes"]) if kept["setting"] == setting else {}


def measure(
    pythons: dict[str, str | None], field: Path, options: argparse.Namespace, notes: dict[str, Any], setting: Any
) -> None:
    """Run the contestants in turn until each has its rounds; a contestant that is not there is left out, by name."""
    wanted = {name: 1 if options.quick else rounds for name, rounds in ROUNDS.items()}
    missing = {
        name: wanted[name] - len(notes.get(name, {}).get("runs", []))
        for name, python in pythons.items()
        if python is not None
    }
    for name in sorted(pythons.keys() - missing.keys() - notes.keys()):
        print(f"{name} is left out: give its interpreter with --{name}")
    workers: dict[str, Contestant] = {}
    try:
        for name in (name for name, rounds in missing.items() if rounds > 0):
            try:
                workers[name] = Contestant(name, str(pythons[name]), field, options)
            except (OSError, RuntimeError) as error:
                print(f"{name} is left out: {error}")
        for turn in range(max([0, *missing.values()])):
            for name in [name for name in workers if turn < missing[name]]:
                note = notes.setdefault(name, {"about": workers[name].about, "runs": []})
                note["runs"].append(workers[name].run())
                print(f"{name:10} {note['runs'][-1]}", flush=True)
                if not options.quick:
                    RUNS.parent.mkdir(exist_ok=True)
                    RUNS.write_text(json.dumps({"setting": setting, "notes": notes}, indent=1) + "\n")
    finally:
        for worker in workers.values():
            worker.stop()


class Contestant:
    """A contestant in a process of its own."""

    def __init__(self, name: str, python: str, field: Path, options: argparse.Namespace) -> None:
        threads = str(options.threads)
        variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment = os.environ | dict.fromkeys(variables, threads) | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [python, str(Path(__file__).resolve()), "serve", name, str(field), threads, options.model]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about: dict[str, Any] = self._read()

    def run(self) -> dict[str, float]:
        """Run once; seconds by part."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return dict(self._read())

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:  # its runs are noted: nothing is lost
            self._process.kill()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # packages print what they like; only our lines are JSON objects
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError("it ended before it answered; its messages are above")


def serve(name: str, field: str, threads: int, model: str) -> None:
    """Be a contestant: say what you are, then run once per line of input."""
    import numpy as np

    arrays = np.load(field)
    makers = {"cellinfer": make_cellinfer, "stardist": make_stardist, "cellpose": make_cellpose}
    about, run = makers[name](arrays["image"], arrays["truth"], threads, model)
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        print(json.dumps({part: round(seconds, 4) for part, seconds in run().items()}), flush=True)


def make_cellinfer(image: Any, truth: Any, threads: int, model: str) -> tuple[dict[str, Any], Run]:
    """`segment_image` in both precisions, diameter given and estimated."""
    import dataclasses

    import cellinfer_models
    import onnx
    from cellinfer.segmentation import segment_image
    from cellinfer.sessions import open_session, precisions
    from cellinfer_kernels.matching import average_precision, dsb_thresholds, score_thresholds
    from cellinfer_training.graphs import multiply_adds

    spent = [0.0]

    class Timed:
        """The network's engine, with a clock."""

        def __init__(self, engine: Any) -> None:
            self.engine = engine
            self.get_inputs = engine.get_inputs

        def run(self, *arguments: Any) -> Any:
            started = time.perf_counter()
            result = self.engine.run(*arguments)
            spent[0] += time.perf_counter() - started
            return result

    names = [name for name in ("float32", "int8") if name in precisions(model) or name == "float32"]
    sessions = {name: open_session(model, "cpu", threads, name) for name in names}  # type: ignore[arg-type]
    sessions = {name: dataclasses.replace(s, _engine=Timed(s._engine)) for name, s in sessions.items()}
    cases = [(name, given) for name in names for given in (True, False)]

    def segment(name: str, given: bool) -> Any:
        return segment_image(image, sessions[name], diameter=DIAMETER if given else None).labels

    def run() -> dict[str, float]:
        found = {}
        for name, given in cases:
            spent[0] = 0.0
            started = time.perf_counter()
            segment(name, given)
            case = f"{name}, diameter {'given' if given else 'estimated'}"
            found[case] = time.perf_counter() - started
            found[f"{case}: network"] = spent[0]
        return found

    labels = {name: segment(name, False) for name in names}
    scores = {
        name: round(float(average_precision(score_thresholds(truth, found, dsb_thresholds())).mean()), 4)
        for name, found in labels.items()
    }
    registry = cellinfer_models.registry()
    content = cellinfer_models.read(model) if model in registry else Path(model).read_bytes()
    about = {
        "versions": versions("cellinfer", "onnxruntime", "numba", "numpy"),
        "objects": int(truth.max()),
        "map_dsb_on_this_field": scores,
        "multiply_adds_per_pixel": round(multiply_adds(onnx.load_from_string(content))),
        "chosen_by_auto": dataclasses.asdict(open_session(model, "cpu", threads, "auto").choice),
    }
    return about, run


def make_stardist(image: Any, truth: Any, threads: int, model: str) -> tuple[dict[str, Any], Run]:
    """StarDist2D as in 2D_versatile_fluo: normalise, network, non-maximum suppression."""
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from csbdeep.utils import normalize
    from stardist import edt_prob, star_dist
    from stardist.models import Config2D, StarDist2D

    config = Config2D(
        n_rays=32,
        grid=(2, 2),
        n_channel_in=1,
        unet_n_depth=3,
        unet_n_filter_base=32,
        unet_kernel_size=(3, 3),
        unet_n_conv_per_depth=2,
        net_conv_after_unet=128,
    )
    with tempfile.TemporaryDirectory() as folder:
        network = StarDist2D(config, name="random", basedir=folder)
    network.thresholds = {"prob": 0.479071, "nms": 0.3}  # those of 2D_versatile_fluo
    prob, dist = edt_prob(truth)[::2, ::2], star_dist(truth, 32)[::2, ::2]

    def run() -> dict[str, float]:
        clock = [time.perf_counter()]
        normalised = normalize(image, 1, 99.8)
        clock.append(time.perf_counter())
        network.predict(normalised, show_tile_progress=False)
        clock.append(time.perf_counter())
        network._instances_from_prediction(image.shape, prob, dist)
        clock.append(time.perf_counter())
        parts = dict(zip(("normalise", "network", "labels"), np.diff(clock), strict=True))
        return {"total": clock[-1] - clock[0], **parts}

    network.predict(normalize(image[:256, :256], 1, 99.8), show_tile_progress=False)
    labels, _ = network._instances_from_prediction(image.shape, prob, dist)
    about = {
        "versions": versions("stardist", "tensorflow", "numpy"),
        "objects": int(labels.max()),
        "multiply_adds_per_pixel": round(_tensorflow_multiply_adds(network.keras_model)),
    }
    return about, run


def _tensorflow_multiply_adds(model: Any) -> float:
    """Multiply-adds of the convolutions per input pixel, from layer shapes on a 256 x 256 image."""
    import tensorflow as tf

    side, total = 256, 0.0
    wanted = [layer for layer in model.layers if hasattr(layer, "kernel")]
    probe = tf.keras.Model(model.input, [layer.output for layer in wanted])
    for layer, output in zip(wanted, probe(tf.zeros((1, side, side, 1))), strict=True):
        total += float(tf.size(layer.kernel)) * output.shape[1] * output.shape[2]
    return total / side**2


def make_cellpose(image: Any, truth: Any, threads: int, model: str) -> tuple[dict[str, Any], Run]:
    """Cellpose 3 as in cyto3: normalise, network in tiles, masks from flows."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    from cellpose import core, dynamics, resnet_torch, transforms
    from torch.utils.flop_counter import FlopCounterMode

    network = resnet_torch.CPnet([2, 32, 64, 128, 256], 3, sz=3, mkldnn=core.check_mkl(False), diam_mean=30.0).eval()
    flows = dynamics.labels_to_flows([truth.astype(np.int32)], device=torch.device("cpu"))[0]
    field, cellprob = 5.0 * flows[2:4].astype(np.float32), np.where(truth > 0, 6.0, -6.0).astype(np.float32)

    def prepared(pixels: Any) -> Any:
        two = np.stack([pixels, np.zeros_like(pixels)], axis=-1).astype(np.float32)
        return transforms.normalize_img(two)[None]

    def run() -> dict[str, float]:
        clock = [time.perf_counter()]
        tiles = prepared(image)
        clock.append(time.perf_counter())
        core.run_net(network, tiles)
        clock.append(time.perf_counter())
        dynamics.compute_masks(field, cellprob)
        clock.append(time.perf_counter())
        parts = dict(zip(("normalise", "network", "labels"), np.diff(clock), strict=True))
        return {"total": clock[-1] - clock[0], **parts}

    core.run_net(network, prepared(image[:224, :224]))
    plain = resnet_torch.CPnet([2, 32, 64, 128, 256], 3, sz=3, mkldnn=False).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain(torch.zeros(1, 2, 224, 224))
    masks = dynamics.compute_masks(field[:, :512, :512], cellprob[:512, :512])
    about = {
        "versions": versions("cellpose", "torch", "numpy"),
        "objects_in_512x512": int((masks[0] if isinstance(masks, tuple) else masks).max()),
        "multiply_adds_per_pixel": round(counter.get_total_flops() / 2 / 224**2),
        "note": "per pixel of a tile; tiles of 224 overlap by a tenth, so each pixel is computed about 1.4 times",
    }
    return about, run


def versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages."""
    from importlib.metadata import version

    return {package: version(package) for package in packages}


def summarise(notes: dict[str, Any], setting: dict[str, Any], keep: bool) -> None:
    """Print medians and ratios; write them to `results`."""
    sys.path.insert(0, str(HERE))
    from _peers import machine

    medians = {
        name: {part: round(statistics.median(run[part] for run in note["runs"]), 4) for part in note["runs"][0]}
        for name, note in notes.items()
    }
    ours = {part: seconds for part, seconds in medians["cellinfer"].items() if not part.endswith("network")}
    ratios = {
        peer: {case: round(medians[peer]["total"] / seconds, 1) for case, seconds in ours.items()}
        for peer in medians
        if peer != "cellinfer"
    }
    for name, parts in medians.items():
        print(f"{name}: " + ", ".join(f"{part} {seconds:.3f} s" for part, seconds in parts.items()))
    for peer, cases in ratios.items():
        print(f"{peer} takes " + ", ".join(f"{ratio} x ({case})" for case, ratio in cases.items()))
    side, threads = setting["side"], setting["threads"]
    record = {
        "task": f"one simulated field of {side} x {side} pixels to labels, {threads} threads",
        "median_s": medians,
        "times_slower_than_ours": ratios,
        "contestants": {name: note["about"] for name, note in notes.items()},
        "runs_s": {name: note["runs"] for name, note in notes.items()},
        "model_sha256": setting["model"],
        "machine": machine(),
    }
    if keep:
        RESULT.write_text(json.dumps(record, indent=2) + "\n")
        print(f"written to {RESULT}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    else:
        main()
