"""Sessions: a verified model file on a verified device. The only module that imports onnxruntime."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar, get_args

import cellinfer_models
import numpy as np
from cellinfer_models import IntegrityError
from numpy.typing import NDArray

from cellinfer.batching import Batcher
from cellinfer.cards import EMBEDDING, ActivityCard, Card, EmbeddingCard, ModelCard, card_from_metadata
from cellinfer.decoders import check_options, find_decoder
from cellinfer.errors import DeviceError, EngineError, ModelError
from cellinfer.onnxfile import has_external_data
from cellinfer.precision import Choice, Precision, choose

if TYPE_CHECKING:
    import onnxruntime

Device = Literal["auto", "cpu", "cuda"]
SEGMENTATION = "segmentation"
_log = logging.getLogger(__name__)
_NUMBERS = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
_AS_ASKED = Choice("float32", "asked for")
_TRIAL_SIDE = 256
"""Side of the tile, pixels, on which precisions are timed."""
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


_C = TypeVar("_C", bound=Card)


@dataclass(frozen=True)
class OpenModel(Generic[_C]):
    """What `Session` and `EmbeddingSession` have in common: a network on a device.

    Attributes
    ----------
    card
        What the model expects and gives.
    sha256
        Digest of the file it was built from.
    device
        `"cpu"` or `"cuda"`: where it really runs.
    threads
        Threads that one call uses on the CPU.
    choice
        Precision of the network, and why this one.
    """

    card: _C
    sha256: str
    device: str
    threads: int
    _engine: onnxruntime.InferenceSession
    choice: Choice = _AS_ASKED
    _batcher: Batcher | None = None

    def shared(self, batch: int) -> Self:
        """Return the same session for several threads whose tiles, or crops, go through the network together.

        Parameters
        ----------
        batch
            Most of them at a time; 1 leaves each thread to itself. On a GPU every batch is filled up to it.
        """
        if batch <= 1:
            return replace(self, _batcher=None)
        return replace(self, _batcher=Batcher(self._run, batch, fill=self.device != "cpu"))

    @property
    def batch(self) -> int:
        """Tiles that one call of the network may take."""
        return 1 if self._batcher is None else self._batcher.size

    @property
    def precision(self) -> str:
        """`"float32"` or `"int8"`."""
        return self.choice.precision

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network; may be called from several threads at once.

        Parameters
        ----------
        batch
            `(N, C, H, W)` float32. Of a `Session` normalised, H and W multiples of the card's `multiple`; of an
            `EmbeddingSession` crops scaled to the card's range, H and W its `side`.

        Returns
        -------
        ndarray
            `(N, outputs, H, W)` float32, of an `EmbeddingSession` `(N, features)`.

        Raises
        ------
        ModelError
            If the batch does not have the shape that the card promises.
        EngineError
            If the network fails on a single tile (on more, halves are tried first), or gives values that are not
            finite.
        """
        self._check(batch)
        return self._run(batch) if self._batcher is None else self._batcher.run(batch)

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            (output,) = self._engine.run(None, {self._engine.get_inputs()[0].name: batch})
        except Exception as error:  # onnxruntime raises a dozen unrelated types, for lack of memory too
            if len(batch) == 1:
                raise EngineError(f"The network {self.card.name!r} failed on {self.device}: {error}") from error
            _log.warning("the network failed on %d tiles (%s): trying half of them", len(batch), error)
            half = len(batch) // 2
            return np.concatenate([self._run(batch[:half]), self._run(batch[half:])])
        fields = np.asarray(output, dtype=np.float32)
        # Extremes pass NaN on, and unlike `isfinite` of every value need no memory.
        if not (np.isfinite(fields.min(initial=0)) and np.isfinite(fields.max(initial=0))):
            raise EngineError(
                f"The network {self.card.name!r} gives values that are not finite on {self.device}: its weights are "
                "damaged or too large for its precision; export it anew or take another model."
            )
        return fields

    def _check(self, batch: NDArray[np.float32]) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Session(OpenModel[ModelCard]):
    """A model that finds objects, ready to run; see `OpenModel` for its attributes."""

    def run_outputs(
        self, batch: NDArray[np.float32], settings: Mapping[str, float] | None = None
    ) -> tuple[NDArray[Any], ...]:
        """Run a network that has several outputs; may be called from several threads at once.

        Parameters
        ----------
        batch
            As in `run`.
        settings
            Numbers that the network takes besides the image, by name; its own defaults hold for the rest.

        Returns
        -------
        tuple of ndarray
            The outputs in the order of the card.

        Raises
        ------
        ModelError
            If the batch does not have the shape that the card promises, or the network knows no such setting.
        EngineError
            If the network fails.
        """
        self._check(batch)
        known = {tensor.name: tensor.type for tensor in self._engine.get_overridable_initializers()}
        if unknown := (settings or {}).keys() - known.keys():
            raise ModelError(
                f"The network {self.card.name!r} has no setting {', '.join(sorted(unknown))}; it has "
                f"{', '.join(known) or 'none'}."
            )
        feeds = {name: np.array([value], _NUMBERS[known[name]]) for name, value in (settings or {}).items()}
        try:
            return tuple(self._engine.run(self.card.outputs, {self._engine.get_inputs()[0].name: batch, **feeds}))
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise EngineError(f"The network {self.card.name!r} failed on {self.device}: {error}") from error

    def _check(self, batch: NDArray[np.float32]) -> None:
        if batch.ndim != 4 or batch.shape[1] != len(self.card.channels):
            raise ModelError(
                f"The model {self.card.name!r} takes (N, {len(self.card.channels)}, H, W) with channels "
                f"{list(self.card.channels)}; it was given an array of shape {batch.shape}."
            )


@dataclass(frozen=True)
class EmbeddingSession(OpenModel[EmbeddingCard]):
    """A model that describes single cells, ready to run; see `OpenModel` for its attributes."""

    def _check(self, batch: NDArray[np.float32]) -> None:
        shape = (len(self.card.channels), self.card.side, self.card.side)
        if batch.ndim != 4 or batch.shape[1:] != shape:
            raise ModelError(
                f"The model {self.card.name!r} takes crops of shape (N, {', '.join(map(str, shape))}); it was given an "
                f"array of shape {batch.shape}."
            )


@dataclass(frozen=True)
class ActivitySession:
    """A model that predicts hits of assays, ready to run; `cellinfer.activity.models` makes what it takes.

    Attributes
    ----------
    card, sha256, device, threads
        See `OpenModel`.
    """

    precision: ClassVar[str] = "float32"
    card: ActivityCard
    sha256: str
    device: str
    threads: int
    _engine: onnxruntime.InferenceSession

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that `run` takes."""
        return activity_inputs(self.card)

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the network; may be called from several threads at once.

        Parameters
        ----------
        arrays
            By name, see `inputs`: of graphs `cellinfer.activity.graphs.MessageTables.arrays` of the card's depth, of
            fingerprints `morgan` `(n, bits)` uint8, of profiles `(n, features)` float32 in the card's order.

        Returns
        -------
        tuple of two ndarray of shape (n, assays), float32
            Mean probability, and standard deviation over members.

        Raises
        ------
        ModelError
            If an array is missing.
        EngineError
            If the network fails, or gives values that are not finite.
        """
        if missing := [name for name in self.inputs if name not in arrays]:
            raise ModelError(f"The model {self.card.name!r} takes {', '.join(self.inputs)}; {missing[0]!r} is missing.")
        try:
            mean, spread = self._engine.run(["probability", "spread"], {name: arrays[name] for name in self.inputs})
        except Exception as error:  # onnxruntime raises a dozen unrelated types, for lack of memory too
            raise EngineError(f"The network {self.card.name!r} failed on {self.device}: {error}") from error
        if not (np.isfinite(mean).all() and np.isfinite(spread).all()):
            raise EngineError(f"The network {self.card.name!r} gives values that are not finite: export it anew.")
        return mean, spread


AnySession = Session | EmbeddingSession | ActivitySession


def activity_inputs(card: ActivityCard) -> tuple[str, ...]:
    """Return the names of the arrays that a model of a card takes, in order."""
    steps = (f"{name}_{step}" for step in range(1, card.depth) for name in ("own", "before"))
    of_graphs = ("starts", *steps, "atoms", "around", "members", "sizes")
    return tuple(name for each in card.modalities for name in (of_graphs if each == "graph" else (each,)))


def open_session(
    model: str | Path = "nuclei", device: Device = "auto", threads: int = 0, precision: Precision = "float32"
) -> Session:
    """Open a model that finds objects: a bundled one by name, or any ONNX file that carries a card.

    Parameters
    ----------
    model
        Name of a bundled model (see `cellinfer models list`), or path of an ONNX file.
    device
        `"auto"` takes a GPU where one works and the CPU elsewhere; `"cpu"` and `"cuda"` are taken at their word.
    threads
        Threads per call on the CPU; 0 takes every core that this process may use.
    precision
        Of a bundled model: `"float32"`; `"int8"`, on the CPU only; or `"auto"`, which takes 8 bit where the model has
        such a variant and it is faster here (timed once on a small tile, see `cellinfer.precision`). A file of one's
        own has the precision it has. The default gives the same pixels on every machine, whereas `cellinfer.load` and
        the command line take `"auto"`.

    Raises
    ------
    ModelError
        If the file is missing, altered, has no valid card, is not a network that the engine accepts, the model does
        not exist in that precision, or it describes cells instead of finding objects.
    DeviceError
        If the device asked for is unknown or not there.
    """
    session = open_model(model, device, threads, precision)
    if not isinstance(session, Session):
        raise ModelError(
            f"The model {str(model)!r} describes cells and finds none: give it as --embed (in Python: embed=...), "
            f"and as --model one that finds objects ({', '.join(bundled_names(SEGMENTATION))})."
        )
    return session


def open_embedder(model: str | Path, device: Device = "auto", threads: int = 0) -> EmbeddingSession:
    """Open a model that describes single cells; always in the precision that its file has.

    Parameters
    ----------
    model, device, threads
        See `open_session`.

    Raises
    ------
    ModelError
        As `open_session`; or if the model finds objects instead of describing them.
    DeviceError
        If the device asked for is unknown or not there.
    """
    session = open_model(model, device, threads)
    if not isinstance(session, EmbeddingSession):
        known = ", ".join(bundled_names(EMBEDDING)) or "an .onnx file whose card says the task embedding"
        raise ModelError(f"The model {str(model)!r} finds objects and does not describe cells: embed with {known}.")
    return session


def open_activity_model(model: str | Path, device: Device = "auto", threads: int = 0) -> ActivitySession:
    """Open a model that predicts hits of assays.

    Parameters
    ----------
    model, device, threads
        See `open_session`.

    Raises
    ------
    ModelError
        As `open_session`; or if the model looks at images.
    DeviceError
        If the device asked for is unknown or not there.
    """
    session = open_any(model, device, threads)
    if not isinstance(session, ActivitySession):
        raise ModelError(f"The model {str(model)!r} looks at images and does not predict hits of assays.")
    return session


def open_any(
    model: str | Path, device: Device = "auto", threads: int = 0, precision: Precision = "float32"
) -> AnySession:
    """Open a model of any kind; for parameters and errors see `open_session`."""
    _check_device(device)
    session = _open(model, device, threads or available_cores(), _AS_ASKED)
    if isinstance(session, ActivitySession):
        if precision == "int8":
            raise ModelError(f"The model {str(model)!r} has no int8 variant: use --precision float32 or auto.")
        return session
    return session if precision == "float32" else open_model(model, device, threads, precision)


def open_model(
    model: str | Path, device: Device = "auto", threads: int = 0, precision: Precision = "float32"
) -> Session | EmbeddingSession:
    """Open a model that looks at images; for parameters and errors see `open_session`."""
    if precision not in get_args(Precision):
        raise ModelError(f"Unknown precision {precision!r}: choose {', '.join(get_args(Precision))}.")
    _check_device(device)
    threads = threads or available_cores()
    variants = precisions(model)
    if precision == "int8" and "int8" in variants:
        if device == "cuda":
            raise DeviceError("The precision int8 is for the CPU: use --device cpu, or --precision float32.")
        return _of_images(_open(model, "cpu", threads, Choice("int8", "asked for")), model)
    exact = _of_images(_open(model, device, threads, _AS_ASKED), model)
    if precision == "int8" and exact.precision != "int8":
        raise ModelError(f"The model {str(model)!r} has no int8 variant: use --precision float32 or auto.")
    if precision == "auto":
        return _faster(model, exact, "int8" in variants)
    return exact


def _check_device(device: str) -> None:
    if device not in get_args(Device):
        raise DeviceError(f"Unknown device {device!r}: choose auto, cpu or cuda.")


def _of_images(session: AnySession, model: str | Path) -> Session | EmbeddingSession:
    if isinstance(session, ActivitySession):
        raise ModelError(f"The model {str(model)!r} predicts hits of assays and does not look at images.")
    return session


def precisions(model: str | Path) -> dict[Precision, str]:
    """Return the precisions of a bundled model and the SHA-256 of the file of each; nothing for a file of one's own."""
    entry = cellinfer_models.registry().get(model) if isinstance(model, str) else None
    if entry is None:
        return {}
    found: dict[Precision, str] = {"float32": entry.sha256}
    if "int8" in entry.variants:
        found["int8"] = entry.variants["int8"].sha256
    return found


def bundled_names(task: str) -> tuple[str, ...]:
    """Return the names of the bundled models of a task, `"segmentation"`, `"embedding"` or `"activity"`."""
    return tuple(name for name, entry in cellinfer_models.registry().items() if entry.task == task)


def _open(model: str | Path, device: Device, threads: int, choice: Choice) -> AnySession:
    content, source = _read_model(model, choice.precision)
    engine, taken = _build(content, source, device, threads)
    card = card_from_metadata(engine.get_modelmeta().custom_metadata_map, source)
    digest = cellinfer_models.digest(content)
    if choice.precision == "float32" and card.description_file["config"]["cellinfer"].get("precision") == "int8":
        choice = Choice("int8", "as the file is")
    if isinstance(card, ActivityCard):
        _check_activity_shapes(engine, card, source)
        return ActivitySession(card, digest, taken, threads, engine)
    if isinstance(card, EmbeddingCard):
        _check_embedding_shapes(engine, card, source)
        return EmbeddingSession(card, digest, taken, threads, engine, choice)
    assert isinstance(card, ModelCard)
    check_options(card.decoder, card.decoder_options)
    _check_shapes(engine, card, source)
    return Session(card, digest, taken, threads, engine, choice)


def _faster(model: str | Path, exact: Session | EmbeddingSession, has_int8: bool) -> Session | EmbeddingSession:
    """Return the session in the precision that is faster on this processor."""
    if exact.precision == "int8":
        return exact
    if not has_int8:
        return replace(exact, choice=Choice("float32", "the model has no other precision"))
    if exact.device != "cpu":
        return replace(exact, choice=Choice("float32", f"int8 is for the CPU, this runs on {exact.device}"))
    quick = _of_images(_open(model, "cpu", exact.threads, Choice("int8", "")), model)
    tile = _trial_tile(exact.card)
    engine = _onnxruntime().__version__
    key = f"onnxruntime {engine}|{exact.threads} threads|{exact.sha256}|{quick.sha256}"
    choice = choose(key, lambda: exact.run(tile), lambda: quick.run(tile))
    return replace(quick if choice.precision == "int8" else exact, choice=choice)


def _trial_tile(card: Card) -> NDArray[np.float32]:
    """Return a small tile of bright disks of the size that the model looks for."""
    if isinstance(card, EmbeddingCard):
        side, diameter = card.side, card.side / 4
    else:
        assert isinstance(card, ModelCard)
        side, diameter = -(-_TRIAL_SIDE // card.multiple) * card.multiple, card.diameter
    along = (np.arange(side) % (1.5 * diameter)) / diameter - 0.75
    disks = np.clip(1 - 4 * (along[:, None] ** 2 + along**2), 0, 1).astype(np.float32)
    return np.tile(disks, (1, len(card.channels), 1, 1))


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_engine() -> dict[str, Any]:
    """Return the network engine's version and the providers it offers; `version` is None where it is missing."""
    try:
        engine = _onnxruntime()
    except ModelError as error:
        return {"version": None, "providers": [], "problem": str(error)}
    return {"version": engine.__version__, "providers": list(engine.get_available_providers()), "problem": None}


@cache
def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "No network engine is installed: run `pip install 'cellinfer[cpu]'`, or `'cellinfer[gpu]'` for NVIDIA."
        ) from error
    onnxruntime.set_default_logger_severity(3)  # its warnings are turned into errors of ours below
    return onnxruntime


def _read_model(model: str | Path, precision: str = "float32") -> tuple[bytes, str]:
    """Read a model file once; what is checked is what runs."""
    if isinstance(model, str) and model in cellinfer_models.registry():
        try:
            return cellinfer_models.read(model, precision), model
        except IntegrityError as error:
            raise ModelError(str(error)) from error
    path = Path(model)
    if not path.is_file():
        known = ", ".join(cellinfer_models.registry())
        raise ModelError(f"There is no model {str(model)!r}: give one of {known}, or the path of an .onnx file.")
    content = path.read_bytes()
    try:
        outside = has_external_data(content)
    except ValueError as error:
        raise ModelError(f"The model {path} is not an ONNX file, or is damaged: {error}.") from error
    if outside:
        raise ModelError(f"The model {path} keeps weights in other files: only single-file models are accepted.")
    return content, str(path)


def _build(content: bytes, source: str, device: Device, threads: int) -> tuple[Any, str]:
    """Build the engine's session on the device asked for, and check that it really runs there."""
    engine = _onnxruntime()
    offered = engine.get_available_providers()
    if device == "cuda" and _PROVIDERS["cuda"] not in offered:
        raise DeviceError(
            "The device 'cuda' was asked for, but the installed onnxruntime has no CUDA support (it offers "
            f"{', '.join(offered)}). Install 'cellinfer[gpu]' in a clean environment, or use --device cpu."
        )
    wanted = ["cuda", "cpu"] if device == "auto" else [device]
    for name in (name for name in wanted if _PROVIDERS[name] in offered):
        session = _try_provider(engine, content, source, name, threads)
        if session is not None:
            return session, name
    raise DeviceError(
        f"The device {device!r} was asked for, but no network could be started on it (driver, CUDA or cuDNN missing "
        "or too old?). `cellinfer doctor` says what is there; --device cpu always works."
    )


def _try_provider(engine: Any, content: bytes, source: str, name: str, threads: int) -> Any:
    """Return a session whose first provider is the one asked for, or None if the engine fell back."""
    options = engine.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would steal the cores from measuring.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = engine.InferenceSession(content, options, providers=[_PROVIDERS[name]])
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        if name == "cuda":
            return None
        raise ModelError(f"The model {source} is not a network that onnxruntime accepts: {error}") from error
    return session if session.get_providers()[0] == _PROVIDERS[name] else None


def _check_shapes(engine: Any, card: ModelCard, source: str) -> None:
    """Refuse a network whose tensors contradict its card, or do not suit the decoder that the card names."""
    inputs, outputs = engine.get_inputs(), engine.get_outputs()
    decoder = find_decoder(card.decoder)
    if (decoder.find is None) != (len(outputs) == 1):
        takes = "one output, its fields as channels" if decoder.find is None else f"{decoder.outputs} outputs"
        raise ModelError(
            f"The decoder {card.decoder!r} takes {takes}, and the model {source} has {len(outputs)}: name the decoder "
            "that fits it in its card, or export it anew."
        )
    if decoder.outputs not in (None, len(card.outputs)):
        raise ModelError(
            f"The decoder {card.decoder!r} takes {decoder.outputs} outputs, and the card of the model {source} names "
            f"{len(card.outputs)}, {list(card.outputs)}: name the decoder that fits them."
        )
    dense = [("input", inputs, card.channels)]
    if len(outputs) == 1:
        dense.append(("output", outputs, card.outputs))
    elif sorted(tensor.name for tensor in outputs) != sorted(card.outputs):
        found = [tensor.name for tensor in outputs]
        raise ModelError(f"The model {source} has outputs {found}, but its card names {list(card.outputs)}.")
    for kind, tensors, names in dense:
        if len(tensors) != 1 or len(tensors[0].shape) != 4:
            raise ModelError(f"The model {source} must have one {kind} of shape (N, C, H, W).")
        channels = tensors[0].shape[1]
        if isinstance(channels, int) and channels != len(names):
            raise ModelError(
                f"The model {source} has {channels} {kind} channels, but its card names {len(names)}: {list(names)}."
            )
    _check_input(inputs[0], source)


def _check_embedding_shapes(engine: Any, card: EmbeddingCard, source: str) -> None:
    """Refuse a network that is not the one its card tells of."""
    wanted = [
        ("input", engine.get_inputs(), "crops", (len(card.channels), card.side, card.side)),
        ("output", engine.get_outputs(), "features", (card.features,)),
    ]
    for kind, tensors, name, shape in wanted:
        must = f"one {kind} {name!r} of 32-bit floats, shape (N, {', '.join(map(str, shape))}), N dynamic"
        found = [f"{tensor.name!r} {tensor.type} {tensor.shape}" for tensor in tensors]
        if (
            len(tensors) != 1
            or tensors[0].name != name
            or tensors[0].type != "tensor(float)"
            or tuple(tensors[0].shape[1:]) != shape
            or isinstance(tensors[0].shape[0], int)
        ):
            raise ModelError(f"The model {source} must have {must}, by its card; it has {', '.join(found) or 'none'}.")


def _check_activity_shapes(engine: Any, card: ActivityCard, source: str) -> None:
    """Refuse a network that is not the one its card tells of."""
    found, wanted = sorted(tensor.name for tensor in engine.get_inputs()), sorted(activity_inputs(card))
    if found != wanted:
        raise ModelError(f"The model {source} must have the inputs {wanted}, by its card; it has {found}.")
    outputs = {tensor.name: (tensor.type, list(tensor.shape[1:])) for tensor in engine.get_outputs()}
    must = ("tensor(float)", [len(card.assays)])
    if outputs != {"probability": must, "spread": must}:
        raise ModelError(
            f"The model {source} must have outputs 'probability' and 'spread' of 32-bit floats, shape "
            f"(N, {len(card.assays)}), by its card; it has {outputs}."
        )
    widths = {"morgan": card.morgan[1]} | {name: len(features) for name, features in card.features.items()}
    for tensor in engine.get_inputs():
        if tensor.name in widths and list(tensor.shape[1:]) != [widths[tensor.name]]:
            raise ModelError(
                f"The model {source} must have an input {tensor.name!r} of shape (N, {widths[tensor.name]}), by its "
                f"card; it has {tensor.shape}."
            )


def _check_input(tensor: Any, source: str) -> None:
    """Refuse a network that would fail on every tile: of other numbers than ours, or of one size only."""
    if tensor.type != "tensor(float)":
        raise ModelError(f"The model {source} takes {tensor.type}: export it with an input of 32-bit floats.")
    batch, _, *size = tensor.shape
    if any(isinstance(length, int) for length in size):
        raise ModelError(
            f"The model {source} takes tiles of {size[0]} x {size[1]} only: export it with dynamic height and width."
        )
    if isinstance(batch, int) and batch != 1:
        raise ModelError(
            f"The model {source} takes {batch} tiles at once: export it with a batch of 1, or a dynamic one."
        )
