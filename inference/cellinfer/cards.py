"""Model cards: what a network expects and what its output means.

A card travels inside its ONNX file (metadata key `cellinfer`, as JSON) and beside it as YAML. Its layout follows the
BioImage.IO model description 0.5 where that has a field; the rest stands under `config: cellinfer`. A missing or
inconsistent field is refused when the model is loaded, never guessed.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cellinfer.errors import InputError, ModelError
from cellinfer.microscopy import ASPECTS, find_word

METADATA_KEY = "cellinfer"
Fit = Literal["good", "partly", "poor"]
_PREPROCESSING = ["scale_range", "clip"]
_LARGEST_MULTIPLE = 4096
"""Pixels; fields are continued by one multiple on every side."""


@dataclass(frozen=True)
class Suitability:
    """How well a model suits one kind of image, and why."""

    fit: Fit
    why: str


@dataclass(frozen=True)
class Suited:
    """What a model is for, in its author's words.

    Attributes
    ----------
    role
        A few words that tell it from its siblings, such as "fast default".
    answers
        Aspect -> word -> suitability; aspects and words are those of `cellinfer.microscopy`.
    """

    role: str = ""
    answers: Mapping[str, Mapping[str, Suitability]] = field(default_factory=dict)

    def of(self, aspect: str, word: str) -> Suitability | None:
        """Return what the card says of one kind of image; None where it does not say."""
        return self.answers.get(aspect, {}).get(word)


@dataclass(frozen=True)
class ModelCard:
    """What the pipeline needs to know about a model, read from its description.

    Parameters
    ----------
    name, version, description, license
        As in the BioImage.IO description.
    channels
        Input channels in order, by meaning (for example `("DNA",)`).
    percentiles
        Percentiles of a field that are scaled to 0 and 1.
    clip
        Range in which scaled values are held.
    diameter
        Median object diameter, in pixels, at which the model works best.
    diameter_tolerance
        Largest factor by which an image's diameter may differ before it is rescaled.
    multiple
        Height and width of an input must be multiples of this.
    tile
        Side of the square input tiles, pixels.
    halo
        Pixels at a tile's rim whose output is not used; rounded up to `multiple`, it must leave one multiple.
    stride
        Input pixels per output pixel, a divisor of `multiple`; 1 where the card does not say.
    outputs
        Output fields in order (for example `("foreground", "distance")`); of a network with several outputs, their
        names.
    decoder
        Kind of decoder that turns the output into labels.
    decoder_options
        Keyword arguments of that decoder.
    suited
        For which images the model is meant; says nothing where the card does not.
    description_file
        The whole description, as it stands in the file.
    """

    name: str
    version: str
    description: str
    license: str
    channels: tuple[str, ...]
    percentiles: tuple[float, float]
    clip: tuple[float, float]
    diameter: float
    diameter_tolerance: float
    multiple: int
    tile: int
    halo: int
    stride: int
    outputs: tuple[str, ...]
    decoder: str
    decoder_options: Mapping[str, float]
    suited: Suited = field(repr=False)
    description_file: Mapping[str, Any] = field(repr=False)

    @property
    def golden(self) -> Mapping[str, Any]:
        """Golden input and result, if the card has them."""
        return dict(self.description_file["config"]["cellinfer"].get("golden", {}))


def parse_card(description: Mapping[str, Any], source: str) -> ModelCard:
    """Check a model description and return its card.

    Parameters
    ----------
    description
        Nested mapping in the BioImage.IO 0.5 layout.
    source
        What to call the model in errors (its name or path).

    Raises
    ------
    ModelError
        If a field is missing or does not make sense; the message names the field.
    """
    look = _Lookup(description, source)
    _check_preprocessing(look, source)
    scale, clip = (look.inside("inputs", 0, "preprocessing", step, "kwargs") for step in range(len(_PREPROCESSING)))
    inner = look.inside("config", "cellinfer")
    ours = inner.mapping()
    card = ModelCard(
        name=str(look("name")),
        version=str(look("version")),
        description=str(look("description")),
        license=str(look("license")),
        channels=_channel_names(look, source, "inputs"),
        percentiles=(float(scale.number("min_percentile")), float(scale.number("max_percentile"))),
        clip=(float(clip.number("min")), float(clip.number("max"))),
        diameter=float(inner.number("diameter")),
        diameter_tolerance=float(inner.number("diameter_tolerance")),
        multiple=inner.whole("multiple"),
        tile=inner.whole("tile"),
        halo=inner.whole("halo"),
        stride=inner.whole("stride") if "stride" in ours else 1,
        outputs=_output_names(look, source),
        decoder=str(inner("decoder", "kind")),
        decoder_options={
            name: inner.number("decoder", "options", name) for name in inner.mapping("decoder", "options")
        },
        suited=_parse_suited(ours.get("suited", {}), source),
        description_file=description,
    )
    _check(card, source)
    if "golden" in ours:
        inner.mapping("golden")
    return card


def card_from_metadata(metadata: Mapping[str, str], source: str) -> ModelCard:
    """Return the card stored in an ONNX file's metadata.

    Raises
    ------
    ModelError
        If the file has no card, or one that is not understood.
    """
    if METADATA_KEY not in metadata:
        raise ModelError(
            f"The model {source} has no card: its ONNX metadata lack the key {METADATA_KEY!r}. "
            "Export it with cellinfer_training.export, which writes one."
        )
    try:
        description = json.loads(metadata[METADATA_KEY])
    except ValueError as error:
        raise ModelError(f"The card inside the model {source} is not valid JSON ({error}).") from error
    except RecursionError as error:
        raise ModelError(f"The card inside the model {source} is nested too deeply: write it anew.") from error
    return parse_card(description, source)


def _parse_suited(stated: Mapping[str, Any], source: str) -> Suited:
    """Read the optional field `suited`; a word that nobody would find is refused."""
    where = f"The card of the model {source} makes no sense: config.cellinfer.suited"
    try:
        unknown = sorted(stated.keys() - {*ASPECTS, "role"})
        answers = {
            aspect: {find_word(aspect, word): _parse_suitability(answer) for word, answer in stated[aspect].items()}
            for aspect in ASPECTS
            if aspect in stated
        }
    except InputError as error:
        raise ModelError(f"{where}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{where} must give every word a fit ({', '.join(get_args(Fit))}) and a why.") from error
    if unknown:
        raise ModelError(f"{where} has {', '.join(unknown)}; known are role, {', '.join(ASPECTS)}.")
    return Suited(str(stated.get("role", "")), answers)


def _parse_suitability(answer: Mapping[str, Any]) -> Suitability:
    if answer["fit"] not in get_args(Fit):
        raise ValueError(answer["fit"])
    return Suitability(answer["fit"], str(answer["why"]))


class _Lookup:
    """Walks a nested description and names the field that is missing, or of the wrong kind, in its error."""

    def __init__(self, root: Any, source: str, prefix: tuple[str | int, ...] = ()) -> None:
        self._root, self._source, self._prefix = root, source, prefix

    def __call__(self, *path: str | int) -> Any:
        found: Any = self._root
        for step in path:
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                raise ModelError(f"The card of the model {self._source} lacks the field {self._name(path)}.") from None
        return found

    def inside(self, *path: str | int) -> _Lookup:
        """Return a lookup that begins at a field."""
        return _Lookup(self(*path), self._source, (*self._prefix, *path))

    def mapping(self, *path: str | int) -> Mapping[str, Any]:
        """Return a field that has named fields inside."""
        found = self(*path)
        if not isinstance(found, Mapping):
            raise self._wrong(path, found, "a mapping of names")
        return found

    def items(self, *path: str | int) -> Sequence[Any]:
        """Return a field that is a list; text is none."""
        found = self(*path)
        if not isinstance(found, list | tuple):
            raise self._wrong(path, found, "a list, as in a BioImage.IO description 0.5")
        return found

    def number(self, *path: str | int) -> float:
        """Return a finite number as it stands, whole or not."""
        found = self(*path)
        if isinstance(found, bool) or not isinstance(found, int | float) or not _is_finite(found):
            raise self._wrong(path, found, "a finite number")
        return found

    def whole(self, *path: str | int) -> int:
        """Return a whole number; none is rounded."""
        found = self.number(*path)
        if found != int(found):
            raise self._wrong(path, found, "a whole number")
        return int(found)

    def _name(self, path: tuple[str | int, ...]) -> str:
        return ".".join(map(str, (*self._prefix, *path)))

    def _wrong(self, path: tuple[str | int, ...], found: Any, must: str) -> ModelError:
        given = reprlib.repr(found)
        return ModelError(
            f"The card of the model {self._source} gives {self._name(path)} as {given}: it must be {must}."
        )


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def _check_preprocessing(look: _Lookup, source: str) -> None:
    """Refuse other steps than ours: a network must see images as it was trained on them."""
    path = ("inputs", 0, "preprocessing")
    steps = [look(*path, number, "id") for number in range(len(look.items(*path)))]
    if steps != _PREPROCESSING:
        raise ModelError(
            f"The card of the model {source} asks for the preprocessing {reprlib.repr(steps)}; this version has "
            f"{_PREPROCESSING}, in this order: put other steps into the network itself."
        )


def _channel_names(look: _Lookup, source: str, tensors: str) -> tuple[str, ...]:
    """Return the channels of the first of the inputs or outputs."""
    path = (tensors, 0, "axes")
    for number in range(len(look.items(*path))):
        if look.mapping(*path, number).get("type") == "channel":
            return tuple(str(name) for name in look.items(*path, number, "channel_names"))
    raise ModelError(f"The card of the model {source} names no channels: {tensors}.0.axes has no axis of that type.")


def _output_names(look: _Lookup, source: str) -> tuple[str, ...]:
    """Return the channels of the one output, or the names of several."""
    count = len(look.items("outputs"))
    if count > 1:
        return tuple(str(look("outputs", number, "id")) for number in range(count))
    return _channel_names(look, source, "outputs")


def _check(card: ModelCard, source: str) -> None:
    low, high = card.percentiles
    multiple = max(card.multiple, 1)
    rim = -(-card.halo // multiple) * multiple  # tiles are laid by whole multiples
    problems = [
        (not 0 <= low < high <= 100, f"percentiles {card.percentiles} are not two rising numbers in 0..100"),
        (not card.clip[0] < card.clip[1], f"clip range {card.clip} is empty"),
        (not card.diameter > 0, f"diameter {card.diameter} is not positive"),
        (not card.diameter_tolerance >= 1, f"diameter_tolerance {card.diameter_tolerance} is below 1"),
        (not 1 <= card.multiple <= _LARGEST_MULTIPLE, f"multiple {card.multiple} is not in 1..{_LARGEST_MULTIPLE}"),
        (card.tile % multiple != 0, f"tile {card.tile} is not a multiple of {card.multiple}"),
        (card.halo < 0 or card.tile - 2 * rim < multiple, f"halo {card.halo} leaves nothing of a tile"),
        (card.stride < 1 or card.multiple % max(card.stride, 1) != 0, f"stride {card.stride} does not divide multiple"),
        (not card.channels, "no input channel"),
    ]
    for wrong, why in problems:
        if wrong:
            raise ModelError(f"The card of the model {source} makes no sense: {why}.")
