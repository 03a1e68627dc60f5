"""Which model for these images, why, and why not the others.

Two sources answer. The cards say for which images a model is meant (`config.cellinfer.suited`, in the words of
`cellinfer.microscopy`). A sample image shows how well a model agrees with itself when the image is turned and mirrored.
Agreement is not accuracy: a model may be sure and wrong. So cards decide, agreement parts those that cards hold for
equal, and a model that finds nothing in the image comes last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cellinfer_kernels.components import boundaries
from cellinfer_kernels.consensus import merge_instances
from cellinfer_kernels.normalise import percentiles, rescale
from cellinfer_kernels.views import D4, augment, restore
from numpy.typing import NDArray

from cellinfer.cards import ModelCard
from cellinfer.decoders import DECODERS
from cellinfer.errors import InputError
from cellinfer.files import durable
from cellinfer.images import read_image
from cellinfer.microscopy import FLUORESCENCE, MODALITIES, find_word
from cellinfer.segmentation import estimate_diameter, segment_image
from cellinfer.sessions import SEGMENTATION, Device, Session, bundled_names, open_session

_SIDE = 1024
_SHOWN = 384
_OUTLINE = (1.0, 0.35, 0.85)
Verdict = Literal["good", "partly", "poor", "unsaid"]


@dataclass(frozen=True)
class Question:
    """What is known of the images; None where it was not said. Words are those of `cellinfer.microscopy`."""

    object: str | None = None
    sample: str | None = None
    modality: str | None = None
    dimension: str | None = None
    challenges: tuple[str, ...] = ()

    @property
    def path(self) -> tuple[str, ...]:
        """The way through the tree of modalities to this one; empty without a modality."""
        if self.modality is None:
            return ()
        return (*MODALITIES[self.modality].path(self.sample), self.modality)

    @property
    def asked(self) -> tuple[tuple[str, str], ...]:
        """Every aspect that was said, with its word."""
        needs = {"object": self.object, "sample": self.sample, "modality": self.modality, "dimension": self.dimension}
        said = tuple((aspect, word) for aspect, word in needs.items() if word is not None)
        return said + tuple(("challenge", word) for word in self.challenges)


@dataclass(frozen=True)
class Answer:
    """What a card says of one word that was asked."""

    aspect: str
    word: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Trial:
    """A model tried on an image.

    Attributes
    ----------
    model
        Name, or path, by which it was asked for.
    agreement
        0 to 1; None if it found nothing or was not tried. See `rank`.
    objects
        Objects that most views found.
    diameter
        Median object diameter (pixels) that was assumed.
    seconds
        For all views.
    refused
        Why it was not tried; None if it was.
    notes
        What was taken for granted about the image, in words.
    labels
        `(H, W)` int32, in the part of the image that was looked at; None if it was not tried.
    """

    model: str
    agreement: float | None = None
    objects: int = 0
    diameter: float | None = None
    seconds: float = 0.0
    refused: str | None = None
    notes: tuple[str, ...] = ()
    labels: NDArray[np.int32] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Candidate:
    """A model, what its card says to the question, and its trial if there was an image."""

    model: str
    role: str
    answers: tuple[Answer, ...]
    figures: dict[str, float]
    """mAP_DSB on the card's validation images, by set."""
    trial: Trial | None = None

    def among(self, *verdicts: Verdict) -> tuple[Answer, ...]:
        """Return the answers with one of these verdicts."""
        return tuple(answer for answer in self.answers if answer.verdict in verdicts)

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why it cannot be taken at all; empty if it can. A challenge alone is no obstacle."""
        stated = tuple(f"{a.word}: {a.why}" for a in self.among("poor") if a.aspect != "challenge")
        return (*stated, self.trial.refused) if self.trial is not None and self.trial.refused else stated

    @property
    def unsaid(self) -> tuple[str, ...]:
        """Words, challenges apart, of which the card says nothing."""
        return tuple(answer.word for answer in self.among("unsaid") if answer.aspect != "challenge")

    @property
    def cost(self) -> tuple[float, ...]:
        """What speaks against it, weightiest first; smaller is better."""
        blind = self.trial is not None and self.trial.agreement is None
        doubts = len(self.among("partly")) + len(self.among("unsaid"))
        agreement = 0.0 if self.trial is None else self.trial.agreement or 0.0
        return (blind, len(self.unsaid), len(self.among("poor")), doubts, -agreement)


@dataclass(frozen=True)
class Recommendation:
    """Which model, why, why not the others, and what else to do.

    Attributes
    ----------
    question
        What was asked, in canonical words.
    path
        Where that stands in the tree of modalities.
    model
        The model to take; None if none fits.
    why
        Reasons for it.
    why_not
        Every other model, with the reason against it.
    advice
        What to do beside, or instead.
    trials
        Models tried on the image, best first; empty without an image.
    """

    question: Question
    path: tuple[str, ...]
    model: str | None
    why: tuple[str, ...]
    why_not: dict[str, str]
    advice: tuple[str, ...]
    trials: tuple[Trial, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything but pixels as plain data for JSON."""
        plain = asdict(self)
        for trial in plain["trials"]:
            del trial["labels"]
        return plain


def recommend(
    *,
    modality: str | None = None,
    dimension: str | None = "2d",
    challenges: Sequence[str] = (),
    object: str | None = "nuclei",
    sample: str | None = None,
    image: str | Path | NDArray[Any] | None = None,
    models: Sequence[str | Path] = (),
    device: Device = "auto",
) -> Recommendation:
    """Recommend a model for a kind of image, and try the candidates on a sample if one is given.

    Parameters
    ----------
    modality, dimension, challenges, object, sample
        What the images are, in the words (or aliases) of `cellinfer.microscopy`; None leaves a question open.
    image
        A sample: a file, or pixels as `cellinfer.segmentation.segment_image` takes them. Every model that the cards
        do not rule out is tried on it.
    models
        Paths of models to consider beside the bundled ones.
    device
        Where candidates are tried.

    Raises
    ------
    InputError
        If neither a modality nor an image is given, a word is unknown (lists those that are known), or the image
        cannot be read.
    ModelError
        If a model cannot be opened.
    """
    if modality is None and image is None:
        raise InputError(f"Say which modality ({', '.join(MODALITIES)}), or give a sample image, or both.")
    question = Question(
        _word("object", object),
        _word("sample", sample),
        _word("modality", modality),
        _word("dimension", dimension),
        tuple(dict.fromkeys(find_word("challenge", word) for word in challenges)),
    )
    _check_sample(question)
    names = [*bundled_names(SEGMENTATION), *map(str, models)]
    candidates = [_judge(name, open_session(name, "cpu", 1).card, question) for name in names]
    trials: tuple[Trial, ...] = ()
    if image is not None:
        tried = [candidate.model for candidate in candidates if not candidate.obstacles]
        trials = tuple(rank(image, tried, device=device))
        by_model = {trial.model: trial for trial in trials}
        candidates = [_with_trial(candidate, by_model.get(candidate.model)) for candidate in candidates]
    return _decide(question, candidates, trials)


def rank(
    image: str | Path | NDArray[Any], models: Sequence[str | Path] | None = None, *, device: Device = "auto"
) -> list[Trial]:
    """Try models on an image and rank them by how well their eight views agree.

    The middle of the image (at most 1024 x 1024 pixels) is turned and mirrored into its eight views, each is segmented,
    and objects of different views that overlap by half are one. The agreement is the mean over all objects that *any*
    view found of (share of the views that found it) x (mean IoU of these views); an object that only one view found
    counts 0, so a model cannot look sure by finding something else each time. It is not accuracy.

    Parameters
    ----------
    image
        A file, or pixels as `cellinfer.segmentation.segment_image` takes them.
    models
        Names or paths; None takes all bundled models that find objects.
    device
        Where they run.

    Returns
    -------
    list of Trial
        Best first; then those that found nothing; then those that do not take such an image.
    """
    pixels = image if isinstance(image, np.ndarray) else read_image(image)
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))):
        raise InputError(f"A sample image has the shape (height, width) or (height, width, 3), not {pixels.shape}.")
    window = middle(pixels)
    names = list(bundled_names(SEGMENTATION)) if models is None else [str(model) for model in models]
    trials = [_try(window, name, open_session(name, device)) for name in names]
    return sorted(trials, key=lambda t: (t.refused is not None, t.agreement is None, -(t.agreement or 0.0)))


def middle(image: NDArray[Any], side: int = _SIDE) -> NDArray[Any]:
    """Cut the middle of an image, at most `side` pixels high and wide."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def draw_trials(image: str | Path | NDArray[Any], trials: Sequence[Trial], path: Path) -> Path:
    """Draw the middle of an image as it is and with the outlines that each model found, side by side.

    Parameters
    ----------
    image
        As in `rank`.
    trials
        From `rank`; those without labels are left out.
    path
        The PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [trial for trial in trials if trial.labels is not None]
    pixels = image if isinstance(image, np.ndarray) else read_image(image)
    picture = middle(_for_the_eye(middle(pixels)), _SHOWN).repeat(2, axis=0).repeat(2, axis=1)
    columns = min(3, 1 + len(shown))
    rows = -(-(1 + len(shown)) // columns)
    figure = Figure(figsize=(5 * columns, 5.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in places:
        place.set_axis_off()
    places[0].imshow(picture)
    places[0].set_title("image")
    for place, trial in zip(places[1:], shown, strict=False):
        assert trial.labels is not None
        painted = picture.copy()
        labels = middle(trial.labels, _SHOWN).repeat(2, axis=0).repeat(2, axis=1)
        painted[boundaries(labels)] = _OUTLINE
        place.imshow(painted)
        agreement = "nothing found" if trial.agreement is None else f"agreement {trial.agreement:.3f}"
        place.set_title(f"{trial.model}: {trial.objects} objects, {agreement}")
    with durable(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
    return path


def _word(aspect: str, word: str | None) -> str | None:
    return None if word is None else find_word(aspect, word)


def _check_sample(question: Question) -> None:
    if question.modality is None or question.sample is None:
        return
    samples = MODALITIES[question.modality].samples
    if question.sample not in samples:
        raise InputError(f"The modality {question.modality!r} is for {' or '.join(samples)}, not {question.sample}.")


def _judge(name: str, card: ModelCard, question: Question) -> Candidate:
    """Put the question to a card."""
    answers = []
    for aspect, word in question.asked:
        found = card.suited.of(aspect, word)
        answers.append(
            Answer(aspect, word, "unsaid", "the card does not say")
            if found is None
            else Answer(aspect, word, found.fit, found.why)
        )
    return Candidate(name, card.suited.role, tuple(answers), _figures(card))


def _figures(card: ModelCard) -> dict[str, float]:
    sets = card.description_file["config"]["cellinfer"].get("evaluation", {}).get("validation", {})
    return {name: float(row["map_dsb"]) for name, row in sets.items() if isinstance(row, dict) and "map_dsb" in row}


def _with_trial(candidate: Candidate, trial: Trial | None) -> Candidate:
    return Candidate(candidate.model, candidate.role, candidate.answers, candidate.figures, trial)


def _try(image: NDArray[Any], name: str, session: Session) -> Trial:
    """Segment every view of an image, and compare."""
    start = time.perf_counter()
    try:
        diameter = estimate_diameter(image, session) or session.card.diameter
        found = [segment_image(_turn(image, view), session, diameter=diameter) for view in D4]
    except InputError as error:  # the model does not take such an image
        return Trial(name, refused=str(error))
    stack = np.stack([restore(one.labels, view) for one, view in zip(found, D4, strict=True)])
    every = merge_instances(stack, min_votes=1)
    labels = merge_instances(stack).labels
    alike = every.votes / every.views * np.nan_to_num(every.mean_iou)
    objects = int(labels.max(initial=0))
    return Trial(
        name,
        float(alike.mean()) if objects else None,
        objects,
        float(diameter),
        time.perf_counter() - start,
        notes=found[0].notes,
        labels=labels,
    )


def _turn(image: NDArray[Any], view: str) -> NDArray[Any]:
    """Turn an image `(H, W)` or `(H, W, C)` into a view."""
    if image.ndim == 2:
        return augment(image, view)
    return np.ascontiguousarray(np.moveaxis(augment(np.moveaxis(image, -1, 0), view), 0, -1))


def _decide(question: Question, candidates: list[Candidate], trials: tuple[Trial, ...]) -> Recommendation:
    open_to = [c for c in candidates if not c.obstacles and (c.trial is not None or not c.unsaid)]
    found = [c for c in open_to if c.trial is None or c.trial.agreement is not None]
    best = min(found, key=lambda c: c.cost, default=None)
    why_not = {c.model: _against(c, best) for c in candidates if c is not best}
    advice = tuple(_advice(question, candidates, best))
    why = () if best is None else tuple(_for(best, trials))
    return Recommendation(question, question.path, best.model if best else None, why, why_not, advice, trials)


def _for(best: Candidate, trials: tuple[Trial, ...]) -> list[str]:
    """Give the reasons for a model."""
    reasons = [f"{a.word}: {a.why}" for a in best.among("good")]
    reasons += [f"{a.word}, in part: {a.why}" for a in best.among("partly")]
    if best.trial is not None and best.trial.agreement is not None:
        agreement, objects = best.trial.agreement, best.trial.objects
        reasons.append(f"its eight views agree by {agreement:.3f} on {objects} objects of the sample")
        surer = [t.model for t in trials if t.agreement is not None and t.agreement > agreement]
        if surer:
            reasons.append(f"{', '.join(surer)} agreed better, but the cards count for more: agreement is not accuracy")
    return reasons


def _against(other: Candidate, best: Candidate | None) -> str:
    """Give the reason why a model is not the one recommended."""
    if other.obstacles:
        return "; ".join(other.obstacles)
    if other.trial is not None and other.trial.agreement is None:
        return "finds nothing in the sample"
    if other.unsaid:
        return f"the card does not say whether it suits {', '.join(other.unsaid)}"
    assert best is not None  # nothing speaks against it, so it would be the one
    if (other.cost[:-1]) != (best.cost[:-1]):
        strong = {(a.aspect, a.word) for a in best.among("good")}
        weaker = [a for a in other.answers if a.verdict != "good" and (a.aspect, a.word) in strong]
        weaker += [a for a in other.among("poor") if a not in weaker]
        return "; ".join(f"{a.word}: {a.why}" for a in weaker) or "its card names more reservations"
    reason = f"as well suited by its card ({other.role})" if other.role else "as well suited by its card"
    if other.trial is not None and best.trial is not None:
        return f"{reason}; its views agree no better on the sample ({other.trial.agreement:.3f})"
    common = sorted(best.figures.keys() & other.figures.keys())
    if common:
        figures = (f"{other.figures[name]:.3f} against {best.figures[name]:.3f} on {name}" for name in common)
        reason += f"; mAP_DSB {', '.join(figures)}"
    return reason


def _advice(question: Question, candidates: list[Candidate], best: Candidate | None) -> list[str]:
    """Say what to do beside the recommended model, or instead of one."""
    if best is not None:
        said = [
            f"No model that fits copes well with {a.word} ({a.why}): look at the result, or {_fine_tune(best.model)}."
            for a in best.among("poor")
        ]
        if best.unsaid:
            said.append(f"Its card does not say whether it suits {', '.join(best.unsaid)}: look at the result.")
        return said
    said = []
    if question.dimension == "3d":
        said.append(
            "No model sees volumes. Where objects do not lie above each other, `cellinfer run` takes the maximum "
            "projection of a stack, so ask again with 2d; where they do, use a volumetric tool, as cellinfer runs "
            "networks on planes only."
        )
    if question.object == "cells" and question.modality in (None, *FLUORESCENCE):
        said.append(
            "Whole cells in fluorescence need no model of their own: `cellinfer run` finds the nuclei and grows cells "
            "from them in the channel of the cytoplasm."
        )
    silent = [c.model for c in candidates if not c.obstacles and c.unsaid]
    if silent and all(c.trial is None for c in candidates):
        said.append(f"Cards that do not say: {', '.join(silent)}. Try them with a sample image.")
    if any(c.trial is not None and c.trial.agreement is None and c.trial.refused is None for c in candidates):
        said.append("Models that should suit find nothing: check that the sample has contrast and shows such objects.")
    if question.dimension != "3d":
        nearest = min(candidates, key=lambda c: (len(c.obstacles), c.cost), default=None)
        if nearest is not None:
            said.append(f"With about ten annotated images, {_fine_tune(nearest.model)}.")
        said.append(
            "Or bring a trained network: as one ONNX file with a card, whose decoder is one of "
            f"{', '.join(DECODERS)}; `--model` considers it here."
        )
    return said


def _fine_tune(model: str) -> str:
    return f"fine-tune: `python -m cellinfer_training fine-tune {model} FOLDER --out RUN`"


def _for_the_eye(image: NDArray[Any]) -> NDArray[np.float32]:
    """Scale an image to 0..1 in three colours: percentiles 1 and 99.7; grey as its square root."""
    if image.ndim == 3:
        image = image[..., 0] if image.shape[2] == 1 else image[..., :3]
    low, high = percentiles(image.reshape(len(image), -1), (1.0, 99.7))
    if not high > low:
        return np.zeros((*image.shape[:2], 3), np.float32)
    scaled = np.clip(rescale(image.reshape(len(image), -1), low, high), 0, 1).reshape(image.shape)
    return scaled if image.ndim == 3 else np.sqrt(np.stack([scaled] * 3, axis=-1))
