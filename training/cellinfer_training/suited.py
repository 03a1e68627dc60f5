"""For which images each shipped model is meant: the card field `config.cellinfer.suited`, by model name.

What is said here follows from the training images and from the decoder; where a figure was measured, it stands in the
card's evaluation instead.
"""

from __future__ import annotations

from typing import Any

Answers = dict[str, dict[str, str]]


def _say(fit: str, **reasons: str) -> Answers:
    """Give each word one fit and its reason; underscores in names stand for hyphens."""
    return {word.replace("_", "-"): {"fit": fit, "why": why} for word, why in reasons.items()}


_ONE_PIXEL_ONE_OBJECT = "each pixel belongs to one object, so what two share goes to one of them"
_PIECES = "pieces come out as objects of their own; those of a few pixels are dropped"

_OBJECT = _say("good", nuclei="trained on nuclei") | _say(
    "poor", cells="trained on nuclei only; finds no outlines of whole cells"
)
_DIMENSION = (
    _say("good", **{"2d": "sees one plane at a time"})
    | _say("good", **{"2d+t": "each frame is segmented by itself; objects are not linked from frame to frame"})
    | _say("poor", **{"3d": "sees one plane at a time and does not link objects from plane to plane"})
)

_FLUORESCENCE: dict[str, Answers] = {
    "object": _OBJECT,
    "dimension": _DIMENSION,
    "sample": _say("good", culture="most training images show cultured cells")
    | _say("partly", tissue="few training images show fluorescent tissue, whose nuclei lie above each other"),
    "modality": _say("good", widefield="trained on DNA stains in wide-field fluorescence")
    | _say(
        "partly",
        confocal="a DNA stain looks alike, but few training images are optical sections",
        light_sheet="a DNA stain looks alike, but no training image is from a light sheet",
    )
    | _say(
        "poor",
        bright_field="looks for bright nuclei on a dark ground",
        stained="looks for bright nuclei on a dark ground, in one channel",
        dic="looks for bright nuclei on a dark ground",
        phase_contrast="looks for bright nuclei on a dark ground",
        he="looks for bright nuclei on a dark ground, in one channel",
    ),
}
_COLOUR: dict[str, Answers] = {
    "object": _OBJECT,
    "dimension": _DIMENSION,
    "sample": _say("good", tissue="most training images show sections of tissue")
    | _say("partly", culture="few training images show single cells"),
    "modality": _say("good", he="trained on haematoxylin and eosin")
    | _say("partly", stained="trained on some smears in purple dye; other dyes look different")
    | _say(
        "poor",
        widefield="looks for dark nuclei in colour",
        confocal="looks for dark nuclei in colour",
        light_sheet="looks for dark nuclei in colour",
        bright_field="needs a dye that shows the nuclei",
        dic="needs a dye that shows the nuclei",
        phase_contrast="needs a dye that shows the nuclei",
    ),
}

_DISTANCE = (
    _say(
        "good",
        elongated="the distance is scaled to each object, so a long one has one ridge and stays one",
        concave="objects are flooded from their cores, so outlines may have any shape",
        dense="the distance to the edge has a valley between objects that touch",
    )
    | _say(
        "partly",
        fragmented=_PIECES,
        heterogeneous="the image is scaled to its median object; training shows few that are much wider or narrower",
        small="the image is enlarged up to four times; specks of a few pixels are still missed",
    )
    | _say("poor", overlapping=_ONE_PIXEL_ONE_OBJECT)
)
_SMALL_NETWORK = _say("partly", dim="a small network sees faint objects, but loses some in noise")
_LARGE_NETWORK = _say(
    "good", dim="a wider network, which also sees the square root of its input, holds faint objects better"
)

_SEMANTIC = (
    _say(
        "good",
        elongated="a probability map takes any shape",
        concave="a probability map takes any shape",
    )
    | _say(
        "partly",
        fragmented=_PIECES,
        heterogeneous="one threshold for all objects",
        small="outlines are as sharp as pixels, but small gaps close",
        dim="one threshold for all objects",
    )
    | _say(
        "poor",
        dense="objects that touch become one: a probability map does not part them",
        overlapping=_ONE_PIXEL_ONE_OBJECT,
    )
)
_STAR_CONVEX = (
    _say("good", dense="every pixel votes for the outline of its own object, so those that touch are parted")
    | _say(
        "partly",
        elongated="32 rays from one point leave the ends of long objects coarse",
        overlapping="whole outlines are found if they share little, and shared pixels go to the more certain",
        fragmented=_PIECES,
        heterogeneous="the image is scaled to its median object; much larger ones come out coarse",
        small="one answer for two by two pixels, so objects a few pixels wide have few candidates",
        dim="faint objects get low probabilities and lose against their neighbours",
    )
    | _say("poor", concave="a star-convex outline cannot follow a bay that no point inside can see across")
)
_MASK_RCNN = _say(
    "good",
    heterogeneous="a pyramid of features looks for objects of every size",
    concave="each object has a mask of any shape",
) | _say(
    "partly",
    elongated="boxes of long slanting neighbours overlap, and the less certain one may be dropped",
    overlapping="each object has its own mask; shared pixels go to the more certain",
    fragmented=_PIECES,
    dense="boxes of close neighbours overlap, and the less certain one may be dropped",
    small="masks of 28 by 28 cells are fine enough, but the smallest anchors miss specks",
    dim="faint objects stay below the confidence that is asked",
)

SUITED: dict[str, dict[str, Any]] = {
    "nuclei": {"role": "fast default", **_FLUORESCENCE, "challenge": _DISTANCE | _SMALL_NETWORK},
    "nuclei-accurate": {"role": "larger and slower", **_FLUORESCENCE, "challenge": _DISTANCE | _LARGE_NETWORK},
    "nuclei-tissue": {"role": "nuclei in stained tissue", **_COLOUR, "challenge": _DISTANCE | _LARGE_NETWORK},
    "unet": {"role": "plain baseline of the study of views", **_FLUORESCENCE, "challenge": _SEMANTIC},
    "stardist": {"role": "star-convex outlines", **_FLUORESCENCE, "challenge": _STAR_CONVEX},
    "maskrcnn": {"role": "one mask per object", **_FLUORESCENCE, "challenge": _MASK_RCNN},
}
"""Model name -> the card's field `config.cellinfer.suited`."""
