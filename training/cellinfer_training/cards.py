"""Cards of the models that recipes make, in the BioImage.IO 0.5 layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cellinfer_training.data import CLIP, HIGH, LOW
from cellinfer_training.recipes import Recipe
from cellinfer_training.suited import SUITED

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


def describe(recipe: Recipe, evaluation: Mapping[str, Any], sets: Sequence[str] | None = None) -> dict[str, Any]:
    """Return a model's card without file digest and golden result.

    Parameters
    ----------
    recipe
        The recipe that made the model.
    evaluation
        Figures on the validation images, by set.
    sets
        What it was trained on; None names the recipe's public sets.
    """
    task = recipe.make_task()
    space = [{"type": "space", "id": axis, "size": {"min": _MULTIPLE, "step": _MULTIPLE}} for axis in "yx"]
    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": recipe.name,
        "version": "0.2.0",
        "description": recipe.description,
        "license": "BSD-3-Clause",
        "authors": [{"name": "The cellinfer developers"}],
        "cite": [_BOWL],
        "tags": ["nuclei", *(_TAGS[name] for name in recipe.modalities), "instance-segmentation", "2d"],
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
        "outputs": [
            {
                "id": "fields",
                "axes": [{"type": "batch"}, {"type": "channel", "channel_names": list(task.outputs)}, *space],
                "data": {"type": "float32"},
            }
        ],
        "training_data": {
            "sets": list(sets or _public_sets(recipe)),
            "split": "families of look-alike images, never divided between training and validation",
        },
        "config": {
            "cellinfer": {
                "task": "instance-segmentation",
                "decoder": {"kind": task.decoder, "options": dict(task.options)},
                "diameter": recipe.augmentation.diameter,
                "diameter_tolerance": 1.25,
                "multiple": _MULTIPLE,
                "tile": _TILE,
                "halo": _HALO,
                "stride": task.stride,
                **({"suited": SUITED[recipe.name]} if recipe.name in SUITED else {}),
                "evaluation": dict(evaluation),
                "recipe": asdict(recipe),
            }
        },
    }


def _public_sets(recipe: Recipe) -> list[str]:
    bowl = f"BBBC038 (Data Science Bowl 2018 stage 1, {' and '.join(recipe.modalities)}), CC0"
    return [bowl, *(["BBBC039, CC0"] if "fluorescence" in recipe.modalities else [])]
