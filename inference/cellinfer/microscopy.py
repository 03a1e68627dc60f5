"""What an image may be: the words in which a user asks for a model, and in which a card says what it is for.

The modalities are a tree: sample (culture or tissue), then labelled or label-free, then the kind of microscope. It
follows the decision tree for methods in N. Moshkov, *Application of deep learning algorithms to single-cell
segmentation and phenotypic profiling* (2022). Plain data: importing this module costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cellinfer.errors import InputError


@dataclass(frozen=True)
class Word:
    """One answer to one question about an image: what it means, and what else people call it."""

    meaning: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Modality(Word):
    """A kind of microscope image and its place in the tree."""

    samples: tuple[str, ...] = ("culture", "tissue")
    labelled: bool = True

    def path(self, sample: str | None) -> tuple[str, ...]:
        """Return the way through the tree to this modality, without its name."""
        place = sample or (self.samples[0] if len(self.samples) == 1 else " or ".join(self.samples))
        return (place, "labelled" if self.labelled else "label-free")


OBJECTS: Mapping[str, Word] = MappingProxyType(
    {
        "nuclei": Word("cell nuclei", ("nucleus",)),
        "cells": Word("whole cells", ("cell", "cytoplasm", "whole-cells")),
    }
)
SAMPLES: Mapping[str, Word] = MappingProxyType(
    {
        "culture": Word("cultured cells, mostly one layer", ("cultured", "cell-culture")),
        "tissue": Word("sections of tissue", ("section", "biopsy")),
    }
)
MODALITIES: Mapping[str, Modality] = MappingProxyType(
    {
        "widefield": Modality(
            "fluorescence, the whole depth at once", ("fluorescence", "wide-field", "epifluorescence")
        ),
        "confocal": Modality("fluorescence, one optical section", ("spinning-disk", "laser-scanning")),
        "light-sheet": Modality("fluorescence, sections lit from the side", ("lightsheet", "spim")),
        "bright-field": Modality(
            "transmitted light without a dye", ("brightfield", "transmitted"), samples=("culture",), labelled=False
        ),
        "stained": Modality(
            "transmitted light with a dye on single cells, as in smears", ("cytology", "giemsa", "papanicolaou")
        ),
        "dic": Modality("differential interference contrast", ("nomarski",), samples=("culture",), labelled=False),
        "phase-contrast": Modality("phase contrast", ("phase",), samples=("culture",), labelled=False),
        "he": Modality("haematoxylin and eosin in transmitted light", ("h&e", "h-e", "histology"), samples=("tissue",)),
    }
)
FLUORESCENCE = ("widefield", "confocal", "light-sheet")
"""The modalities in which objects shine on a dark ground."""
DIMENSIONS: Mapping[str, Word] = MappingProxyType(
    {
        "2d": Word("one plane, or a projection", ("2",)),
        "3d": Word("a volume in which objects lie above each other", ("3", "volume", "stack")),
        "2d+t": Word("a film of planes", ("time", "time-lapse", "timelapse", "film")),
    }
)
CHALLENGES: Mapping[str, Word] = MappingProxyType(
    {
        "elongated": Word("objects much longer than wide", ("long", "spindle")),
        "concave": Word("objects with bays: kidney- or horseshoe-shaped, lobed", ("lobed", "irregular")),
        "overlapping": Word("objects that share pixels", ("overlap",)),
        "fragmented": Word("objects in several pieces: micronuclei, apoptosis", ("micronuclei", "apoptotic")),
        "heterogeneous": Word("objects of very different size and brightness", ("mixed",)),
        "dense": Word("objects that touch", ("touching", "crowded", "clustered")),
        "small": Word("objects of fewer than about ten pixels across", ("tiny",)),
        "dim": Word("objects hardly brighter than what surrounds them", ("faint", "low-contrast", "noisy")),
    }
)
ASPECTS: Mapping[str, Mapping[str, Word]] = MappingProxyType(
    {
        "object": OBJECTS,
        "sample": SAMPLES,
        "modality": MODALITIES,
        "dimension": DIMENSIONS,
        "challenge": CHALLENGES,
    }
)
"""All questions, each with its answers."""


def find_word(aspect: str, word: str) -> str:
    """Return the name by which an answer is known.

    Parameters
    ----------
    aspect
        A key of `ASPECTS`.
    word
        A name or alias; case, and whether blanks, hyphens or underscores part its words, do not matter.

    Raises
    ------
    InputError
        If there is no such answer; lists those that there are.
    """
    words = ASPECTS[aspect]
    asked = "-".join(word.casefold().replace("_", " ").replace("-", " ").split())
    for name, entry in words.items():
        if asked == name or asked in entry.aliases:
            return name
    raise InputError(f"Unknown {aspect} {word!r}: known are {', '.join(words)}.")
