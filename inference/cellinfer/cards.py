"""Model cards: what a network expects and what its output means.

A card travels inside its ONNX file (metadata key `cellinfer`, as JSON) and beside it as YAML. Its layout follows the
BioImage.IO model description 0.5 where that has a field; the rest stands under `config: cellinfer`. A missing or
inconsistent field is refused when the model is loaded, never guessed.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cellinfer.descriptions import Description
from cellinfer.errors import InputError, ModelError
from cellinfer.microscopy import ASPECTS, find_word

METADATA_KEY = "cellinfer"
Fit = Literal["good", "partly", "poor"]
EMBEDDING = "embedding"
"""Task of models that describe single cells."""
ACTIVITY = "activity"
"""Task of models that predict hits of assays; models of any other task find objects."""
_PREPROCESSING = ["scale_range", "clip"]
_LARGEST_MULTIPLE = 4096
"""Pixels; fields are continued by one multiple on every side."""
_LARGEST_SIDE, _MOST_FEATURES = 4096, 65_536
_DEEPEST = 16
"""Steps of message passing."""
_RANGES = ((-1.0, 1.0), (0.0, 1.0))
_ACTIVITY_FIELDS = {"modalities", "assays", "members", "depth", "featuriser", "training", "fingerprints", "fold"}
_STEPS, _SALTS = ("cleanup", "uncharge", "refuse"), ("strip", "keep", "refuse")
_EMBEDDING_FIELDS = {"side", "range", "box", "diameter", "features", "each_channel", "mask_neighbours"}


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
class Card:
    """What is known of every model.

    Parameters
    ----------
    name, version, description, license
        As in the BioImage.IO description.
    channels
        Input channels in order, by meaning (for example `("DNA",)`).
    description_file
        The whole description, as it stands in the file.
    """

    name: str
    version: str
    description: str
    license: str
    channels: tuple[str, ...]
    description_file: Mapping[str, Any] = field(repr=False)

    @property
    def golden(self) -> Mapping[str, Any]:
        """Golden input and result, if the card has them."""
        return dict(self.description_file["config"]["cellinfer"].get("golden", {}))


@dataclass(frozen=True)
class ModelCard(Card):
    """What the pipeline needs to know about a model that finds objects, beside what every `Card` says.

    Parameters
    ----------
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
    """

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


@dataclass(frozen=True)
class EmbeddingCard(Card):
    """What the pipeline needs to know about a model that describes single cells, beside what every `Card` says.

    Parameters
    ----------
    side
        Height and width of the network's input, pixels.
    value_range
        What the darkest and the brightest pixel of a crop are scaled to: (-1, 1) or (0, 1).
    box
        Side of the square that is cut out around a nucleus, pixels.
    diameter
        Median nucleus diameter, pixels, at which the box was meant: elsewhere it is scaled with the nuclei. None takes
        it as it is.
    features
        How many numbers the network gives for one crop.
    each_channel
        Whether every channel goes through the network alone. Then the card names one channel, whatever it shows;
        otherwise the network sees the card's channels together, in their order.
    mask_neighbours
        Whether other cells are blotted out of a crop unless the user says otherwise.
    """

    side: int
    value_range: tuple[float, float]
    box: int
    diameter: float | None
    features: int
    each_channel: bool
    mask_neighbours: bool


@dataclass(frozen=True)
class ActivityCard(Card):
    """What is needed to know about a model that predicts hits of assays, beside what every `Card` says.

    Parameters
    ----------
    modalities
        What the network sees, in order: `graph`, `morgan`, or the names of profiles.
    features
        Profile -> its features in order.
    profiles
        Profile -> how `cellinfer profile` made those that it was trained on, by the names of its settings; those that
        it did not make are not there.
    assays
        Their names, in the order of the output.
    members
        Networks whose mean and spread the model gives.
    depth
        Steps of message passing; 1 where there is no graph.
    featuriser
        How structures are described, see `cellinfer.activity.graphs.FEATURISER`.
    morgan
        Radius and bits of fingerprints.
    compounds, compounds_sha256
        How many it was trained on, and a digest of them and their labels.
    fingerprints
        Name and SHA-256 of the file, beside the model's, with the packed fingerprints of these compounds; None where
        there is none.
    fold
        The fold that it has not seen; None where it has seen everything.
    standardisation
        What was done to structures before training, as `cellinfer.activity.molecules.Standardisation` has it; None
        where that is not known.
    similarity_limit
        Tanimoto similarity to the nearest training compound below which a compound is outside of what the model knows;
        None where it is not stated.
    """

    modalities: tuple[str, ...]
    features: Mapping[str, tuple[str, ...]] = field(repr=False)
    profiles: Mapping[str, Mapping[str, Any]] = field(repr=False)
    assays: tuple[str, ...] = field(repr=False)
    members: int
    depth: int
    featuriser: str
    morgan: tuple[int, int]
    compounds: int
    compounds_sha256: str
    fingerprints: tuple[str, str] | None
    fold: int | None
    standardisation: Mapping[str, Any] | None
    similarity_limit: float | None

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """Figures of an evaluation, if the card has them."""
        return dict(self.description_file["config"]["cellinfer"].get("evaluation", {}))


def parse_card(description: Mapping[str, Any], source: str) -> ModelCard:
    """Check the description of a model that finds objects and return its card.

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
    look = Description(description, source)
    _check_preprocessing(look, source)
    scale, clip = (look.inside("inputs", 0, "preprocessing", step, "kwargs") for step in range(len(_PREPROCESSING)))
    inner = look.inside("config", "cellinfer")
    ours = inner.mapping()
    card = ModelCard(
        **_common(look, source),
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
    )
    _check(card, source)
    return card


def parse_embedding_card(description: Mapping[str, Any], source: str) -> EmbeddingCard:
    """Check the description of a model that describes single cells and return its card; see `parse_card`."""
    look = Description(description, source)
    inner = look.inside("config", "cellinfer", EMBEDDING)
    card = EmbeddingCard(
        **_common(look, source),
        side=inner.whole("side"),
        value_range=_value_range(inner, source),
        box=inner.whole("box"),
        diameter=None if inner("diameter") is None else float(inner.number("diameter")),
        features=inner.whole("features"),
        each_channel=inner.truth("each_channel"),
        mask_neighbours=inner.truth("mask_neighbours"),
    )
    if unknown := sorted(inner.mapping().keys() - _EMBEDDING_FIELDS):
        raise ModelError(
            f"The card of the model {source} has the field config.cellinfer.embedding.{unknown[0]}, which this version "
            f"does not know: known are {', '.join(sorted(_EMBEDDING_FIELDS))}."
        )
    _check_scaling(look, card, source)
    _check_embedding(card, source)
    return card


def parse_activity_card(description: Mapping[str, Any], source: str) -> ActivityCard:
    """Check the description of a model that predicts hits of assays and return its card; see `parse_card`."""
    look = Description(description, source)
    inner = look.inside("config", "cellinfer", ACTIVITY)
    modalities = [inner.inside("modalities", place) for place in range(len(inner.items("modalities")))]
    profiles = [each for each in modalities if "features" in each.mapping()]
    file = ("fingerprints", "file"), ("fingerprints", "sha256")
    trained = inner.mapping("training")
    card = ActivityCard(
        **_common(look, source, has_channels=False),
        modalities=tuple(str(each("name")) for each in modalities),
        features={str(each("name")): tuple(map(str, each.items("features"))) for each in profiles},
        profiles={str(each("name")): each.mapping("profiles") for each in profiles if "profiles" in each.mapping()},
        assays=tuple(map(str, inner.items("assays"))),
        members=inner.whole("members"),
        depth=inner.whole("depth"),
        featuriser=str(inner("featuriser", "graph")),
        morgan=(inner.whole("featuriser", "morgan", "radius"), inner.whole("featuriser", "morgan", "bits")),
        compounds=inner.whole("training", "compounds"),
        compounds_sha256=str(inner("training", "sha256")),
        fingerprints=None if inner("fingerprints") is None else (str(inner(*file[0])), str(inner(*file[1]))),
        fold=None if inner("fold") is None else inner.whole("fold"),
        standardisation=_standardisation(inner, source),
        similarity_limit=float(inner.number("training", "similarity_limit")) if "similarity_limit" in trained else None,
    )
    if unknown := sorted(inner.mapping().keys() - _ACTIVITY_FIELDS):
        raise ModelError(
            f"The card of the model {source} has the field config.cellinfer.activity.{unknown[0]}, which this version "
            f"does not know: known are {', '.join(sorted(_ACTIVITY_FIELDS))}."
        )
    _check_activity(card, source)
    return card


def _standardisation(inner: Description, source: str) -> dict[str, Any] | None:
    place = ("training", "standardisation")
    if place[1] not in inner.mapping(place[0]):
        return None
    stated = dict(inner.mapping(*place))
    if stated.keys() != {*_STEPS, "salts", "largest"} or stated["salts"] not in _SALTS:
        raise ModelError(
            f"The card of the model {source} says of structures {reprlib.repr(stated)}: config.cellinfer.activity."
            f"training.standardisation must have {', '.join(_STEPS)}, salts ({', '.join(_SALTS)}) and largest."
        )
    steps = {name: inner.truth(*place, name) for name in _STEPS}
    return {**steps, "salts": stated["salts"], "largest": inner.whole(*place, "largest")}


def _check_activity(card: ActivityCard, source: str) -> None:
    profiles = [name for name in card.modalities if name not in ("graph", "morgan")]
    bits, beside = card.morgan[1], card.fingerprints
    problems = [
        (not card.modalities, "no modality"),
        (len(set(card.modalities)) < len(card.modalities), f"the modalities {list(card.modalities)} repeat one"),
        (sorted(profiles) != sorted(card.features), f"features of {sorted(card.features)} for profiles of {profiles}"),
        (any(not names for names in card.features.values()), "a profile without features"),
        (any(len(set(names)) < len(names) for names in card.features.values()), "features of equal names"),
        (not card.assays, "no assay"),
        (len(set(card.assays)) < len(card.assays), "assays of equal names"),
        (card.members < 1, f"{card.members} members"),
        (not 1 <= card.depth <= _DEEPEST, f"depth {card.depth} is not in 1..{_DEEPEST}"),
        (card.morgan[0] < 0 or bits < 64 or bits % 64 or bits > _MOST_FEATURES, f"fingerprints of {bits} bits"),
        (card.compounds < 1, f"{card.compounds} compounds that it was trained on"),
        (not 0 <= (card.similarity_limit or 0.0) <= 1, f"similarity_limit {card.similarity_limit} is not in 0..1"),
        (beside is not None and not set(beside[0]).isdisjoint("/\\:"), "fingerprints that do not lie beside the model"),
    ]
    for wrong, why in problems:
        if wrong:
            raise ModelError(f"The card of the model {source} makes no sense: {why}.")


def _common(look: Description, source: str, has_channels: bool = True) -> dict[str, Any]:
    """Return the fields that every card has."""
    texts = {name: str(look(name)) for name in ("name", "version", "description", "license")}
    channels = _channel_names(look, source, "inputs") if has_channels else ()
    if "golden" in look.mapping("config", "cellinfer"):
        look.mapping("config", "cellinfer", "golden")
    return texts | {"channels": channels, "description_file": look.mapping()}


def _value_range(inner: Description, source: str) -> tuple[float, float]:
    found = tuple(float(inner.number("range", end)) for end in range(len(inner.items("range"))))
    if found not in _RANGES:
        raise ModelError(
            f"The card of the model {source} gives config.cellinfer.embedding.range as {list(found)}: it must be "
            "[-1, 1] or [0, 1]."
        )
    return found[0], found[1]


def _check_scaling(look: Description, card: EmbeddingCard, source: str) -> None:
    """Refuse a preprocessing that is not the one of `range`; crops are scaled by it alone, so none need be stated."""
    path = ("inputs", 0, "preprocessing")
    if "preprocessing" not in look.mapping("inputs", 0):
        return
    low, high = card.value_range
    scale = {"id": "scale_range", "kwargs": {"min_percentile": 0, "max_percentile": 100}}
    linear = {"id": "scale_linear", "kwargs": {"gain": high - low, "offset": low}}
    allowed: list[list[Any]] = [[], [scale, linear] if card.value_range != (0, 1) else [scale]]
    stated = [
        {"id": look(*path, number, "id"), "kwargs": _without_axes(look.mapping(*path, number, "kwargs"))}
        for number in range(len(look.items(*path)))
    ]
    if stated not in allowed:
        raise ModelError(
            f"The card of the model {source} asks for the preprocessing {reprlib.repr(stated)}, which is not what its "
            f"range {list(card.value_range)} says: leave it out, or say {allowed[1]}."
        )


def _without_axes(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != "axes"}


def _check_embedding(card: EmbeddingCard, source: str) -> None:
    problems = [
        (not 8 <= card.side <= _LARGEST_SIDE, f"side {card.side} is not in 8..{_LARGEST_SIDE}"),
        (not 2 <= card.box <= _LARGEST_SIDE, f"box {card.box} is not in 2..{_LARGEST_SIDE}"),
        (card.diameter is not None and not card.diameter > 0, f"diameter {card.diameter} is not positive"),
        (not 1 <= card.features <= _MOST_FEATURES, f"features {card.features} is not in 1..{_MOST_FEATURES}"),
        (not card.channels, "no input channel"),
        (
            card.each_channel and len(card.channels) != 1,
            f"each_channel says that channels go through the network alone, and it names {len(card.channels)} of them",
        ),
        (len(set(card.channels)) < len(card.channels), f"the channels {list(card.channels)} repeat one"),
    ]
    for wrong, why in problems:
        if wrong:
            raise ModelError(f"The card of the model {source} makes no sense: {why}.")


def card_from_metadata(metadata: Mapping[str, str], source: str) -> ModelCard | EmbeddingCard | ActivityCard:
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
    task = Description(description, source).mapping("config", "cellinfer").get("task")
    if task == ACTIVITY:
        return parse_activity_card(description, source)
    return parse_embedding_card(description, source) if task == EMBEDDING else parse_card(description, source)


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


def _check_preprocessing(look: Description, source: str) -> None:
    """Refuse other steps than ours: a network must see images as it was trained on them."""
    path = ("inputs", 0, "preprocessing")
    steps = [look(*path, number, "id") for number in range(len(look.items(*path)))]
    if steps != _PREPROCESSING:
        raise ModelError(
            f"The card of the model {source} asks for the preprocessing {reprlib.repr(steps)}; this version has "
            f"{_PREPROCESSING}, in this order: put other steps into the network itself."
        )


def _channel_names(look: Description, source: str, tensors: str) -> tuple[str, ...]:
    """Return the channels of the first of the inputs or outputs."""
    path = (tensors, 0, "axes")
    for number in range(len(look.items(*path))):
        if look.mapping(*path, number).get("type") == "channel":
            return tuple(str(name) for name in look.items(*path, number, "channel_names"))
    raise ModelError(f"The card of the model {source} names no channels: {tensors}.0.axes has no axis of that type.")


def _output_names(look: Description, source: str) -> tuple[str, ...]:
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
