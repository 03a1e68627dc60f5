"""Cards of the models that recipes make, in the BioImage.IO 0.5 layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cellinfer_models
from cellinfer.errors import InputError

from cellinfer_training.data import CLIP, HIGH, LOW
from cellinfer_training.suited import SUITED

if TYPE_CHECKING:
    from cellinfer_training.recipes import Recipe

_BOWL = {
    "text": "Caicedo et al. (2019), Nucleus segmentation across imaging experiments: the 2018 Data Science "
    "Bowl, Nature Methods 16:1247",
    "doi": "10.1038/s41592-019-0612-7",
}
_TAGS = {
    "fluorescence": "fluorescence-light-microscopy",
    "tissue": "histology",
    "brightfield": "bright-field-microscopy",
}
# A field of a usual camera (2048 or 2160 pixels) is one tile: halos between tiles would cost a quarter more pixels.
_TILE, _HALO, _MULTIPLE = 2192, 64, 16

SELECTION = "the held-out images also chose the step that was kept, so their figures flatter the model a little"
"""What a reader of validation figures should know."""


@dataclass(frozen=True)
class Provenance:
    """What a model was learnt from, and whose it is. The defaults claim nothing.

    Parameters
    ----------
    sets
        What it was trained on, with licences.
    split
        How the held-out images were kept apart.
    start
        `name` and `sha256` of the model whose weights training began with; None for random weights.
    license
        Of the model.
    authors, cite
        As in the BioImage.IO description.
    version
        Of the model.
    """

    sets: tuple[str, ...]
    split: str
    start: Mapping[str, str] | None = None
    license: str = "unstated"
    authors: tuple[str, ...] = ()
    cite: tuple[Mapping[str, str], ...] = ()
    version: str = "0.1.0"


def bundled(recipe: Recipe) -> Provenance:
    """Return the provenance of a model that its recipe makes from public images.

    Raises
    ------
    InputError
        If the model that the recipe starts from is not bundled.
    """
    released = None
    if recipe.start is not None:
        released = cellinfer_models.registry().get(recipe.start)
        if released is None:
            raise InputError(f"{recipe.name} starts from {recipe.start}, which is not bundled: make that one first.")
    return Provenance(
        sets=tuple(_public_sets(recipe)),
        split="families of look-alike images, never divided between training and validation",
        start=None if released is None else {"name": released.path.stem, "sha256": released.sha256},
        license="BSD-3-Clause",
        authors=("The cellinfer developers",),
        cite=(_BOWL,),
        version="0.2.0",
    )


def describe(recipe: Recipe, evaluation: Mapping[str, Any], provenance: Provenance | None = None) -> dict[str, Any]:
    """Return a model's card without file digest and golden result.

    Parameters
    ----------
    recipe
        The recipe that made the model.
    evaluation
        Figures on the validation images, by set.
    provenance
        What it was learnt from; None is a bundled model, made from the recipe's public sets.
    """
    task = recipe.make_task()
    # The size of an output is that of the input divided by the output's scale, as BioImage.IO has it.
    answered = [
        {
            "type": "space",
            "id": axis,
            "size": {"tensor_id": "image", "axis_id": axis, "offset": 0},
            "scale": float(task.stride),
        }
        for axis in "yx"
    ]
    fields = {
        "id": "fields",
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": list(task.outputs)}, *answered],
        "data": {"type": "float32"},
    }
    running = {
        "decoder": {"kind": task.decoder, "options": dict(task.options)},
        "multiple": _MULTIPLE,
        "tile": _TILE,
        "halo": _HALO,
        "stride": task.stride,
    }
    return lay_out(recipe, [fields], running, evaluation, provenance)


def lay_out(
    recipe: Recipe,
    outputs: Sequence[Mapping[str, Any]],
    running: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    provenance: Provenance | None = None,
) -> dict[str, Any]:
    """Return a card of any kind of network.

    Parameters
    ----------
    recipe, evaluation, provenance
        See `describe`.
    outputs
        What the network gives, as BioImage.IO describes it.
    running
        How cellinfer runs it: its decoder, the sizes of its tiles.
    """
    origin = provenance or bundled(recipe)
    kinds = ["nuclei", *(_TAGS[name] for name in recipe.modalities)] if recipe.modalities else []
    selection = {"selection": SELECTION} if "validation" in evaluation else {}
    start = {"start": dict(origin.start)} if origin.start is not None else {}
    suited = {"suited": SUITED[recipe.name]} if provenance is None and recipe.name in SUITED else {}
    space = [{"type": "space", "id": axis, "size": {"min": _MULTIPLE, "step": _MULTIPLE}} for axis in "yx"]
    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": recipe.name,
        "version": origin.version,
        "description": recipe.description,
        "license": origin.license,
        "authors": [{"name": name} for name in origin.authors],
        "cite": [dict(work) for work in origin.cite],
        "tags": [*kinds, "instance-segmentation", "2d"],
        "inputs": [
            {
                "id": "image",
                "axes": [{"type": "batch"}, {"type": "channel", "channel_names": list(recipe.channels)}, *space],
                "data": {"type": "float32"},
                "preprocessing": [
                    {
                        "id": "scale_range",
                        "kwargs": {
                            "axes": ["channel", "y", "x"] if recipe.colour else ["y", "x"],
                            "min_percentile": LOW,
                            "max_percentile": HIGH,
                        },
                    },
                    {"id": "clip", "kwargs": {"min": CLIP[0], "max": CLIP[1]}},
                ],
            }
        ],
        "outputs": list(outputs),
        "training_data": {"sets": list(origin.sets), "split": origin.split, **start, **selection},
        "config": {
            "cellinfer": {
                "task": "instance-segmentation",
                **running,
                "diameter": recipe.augmentation.diameter,
                "diameter_tolerance": 1.25,
                **suited,
                "evaluation": dict(evaluation),
                "recipe": asdict(recipe),
            }
        },
    }


def _public_sets(recipe: Recipe) -> list[str]:
    bowl = f"BBBC038 (Data Science Bowl 2018 stage 1, {' and '.join(recipe.modalities)}), CC0"
    return [bowl, *(["BBBC039, CC0"] if "fluorescence" in recipe.modalities else [])]
