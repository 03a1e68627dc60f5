"""Single images to label images, outside any plate."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cellinfer._version import __version__
from cellinfer.errors import EngineError, ImageError, InputError
from cellinfer.files import durable, output_errors
from cellinfer.images import read_image
from cellinfer.outputs.labels import write_labels, write_uncertainty
from cellinfer.plate import IMAGE_SUFFIXES
from cellinfer.precision import Precision
from cellinfer.segmentation import Channel, Merge, Tta, check_merge, check_segmentation_options, segment_image
from cellinfer.sessions import Device, Session, open_session


@dataclass(frozen=True)
class Segmented:
    """One image that was segmented.

    Attributes
    ----------
    path
        Where its labels are.
    objects, diameter
        How many there are, and their assumed median diameter (pixels).
    notes
        What was taken for granted about the image, in words.
    """

    path: Path
    objects: int
    diameter: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SegmentResult:
    """What `segment` did.

    Attributes
    ----------
    images
        The images that were segmented.
    failed
        Image path -> reason, for those that could not be read, or on which the network failed.
    model, device, precision
        Name of the model, where it ran, and in which precision.
    """

    images: tuple[Segmented, ...]
    failed: dict[str, str] = field(repr=False)
    model: str
    device: str
    precision: str

    @property
    def objects(self) -> int:
        """Objects in all images."""
        return sum(image.objects for image in self.images)

    @property
    def notes(self) -> dict[str, int]:
        """What was taken for granted about the images, and of how many of them."""
        return dict(Counter(note for image in self.images for note in image.notes))


def segment(
    images: Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path = "nuclei",
    device: Device = "auto",
    precision: Precision = "auto",
    diameter: float | None = None,
    tta: Tta = "none",
    merge: Merge = "instances",
    channel: Channel | None = None,
    invert: bool = False,
    uncertainty: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentResult:
    """Find the objects in single images; writes `<stem>_labels.tif` and a note on how it was made.

    Parameters
    ----------
    images
        Image files, or folders of them.
    out
        Folder for the label images; made if needed.
    model, device, precision
        See `cellinfer.sessions.open_session`.
    diameter, tta, merge, channel, invert
        See `cellinfer.segmentation.segment_image`.
    uncertainty
        Also write `<stem>_uncertainty.tif`: `(H, W)` float32, 0 to 1, how far the views disagree on each pixel.
    progress
        Called with how many images are done, and how many there are.

    Raises
    ------
    InputError
        If an option makes no sense (uncertainty of a single view, views that cannot be merged so), a path does not
        exist, a folder holds no image, or two images would give one label file: before any work.
    OutputError
        If a label image cannot be written.
    """
    if uncertainty and tta == "none":
        raise InputError("One view alone is never uncertain: say --tta adaptive, flips or d4 with --uncertainty.")
    check_segmentation_options(diameter, tta, merge, channel)
    files = image_files(Path(path) for path in images)
    session = open_session(model, device, precision=precision)
    check_merge(session, merge)
    done: list[Segmented] = []
    failed: dict[str, str] = {}
    for number, path in enumerate(files, 1):
        try:
            done.append(
                segment_file(
                    path,
                    Path(out),
                    session,
                    diameter=diameter,
                    tta=tta,
                    merge=merge,
                    channel=channel,
                    invert=invert,
                    uncertainty=uncertainty,
                )
            )
        except (ImageError, EngineError) as error:
            failed[str(path)] = str(error)
        if progress is not None:
            progress(number, len(files))
    return SegmentResult(tuple(done), failed, session.card.name, session.device, session.precision)


def image_files(paths: Iterable[Path]) -> list[Path]:
    """List the images that paths name: files as they are, folders by their image files, sorted.

    Raises
    ------
    InputError
        If a path does not exist, a folder holds no image, or two images would give one label file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if _is_image(p))
            if not inside:
                raise InputError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path} does not exist.")
    twice = [stem for stem, count in Counter(path.stem.casefold() for path in found).items() if count > 1]
    if twice:
        both = [str(path) for path in found if path.stem.casefold() == twice[0]]
        raise InputError(f"Two images would give {twice[0]}_labels.tif: {' and '.join(both[:2])}. Segment them apart.")
    return found


def _is_image(path: Path) -> bool:
    """Tell an image from hidden files, folders and what an earlier call wrote."""
    ours = path.stem.endswith(("_labels", "_uncertainty"))
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not ours and path.is_file()


def segment_file(
    path: Path,
    out: Path,
    session: Session,
    *,
    diameter: float | None = None,
    tta: Tta = "none",
    merge: Merge = "instances",
    channel: Channel | None = None,
    invert: bool = False,
    uncertainty: bool = False,
) -> Segmented:
    """Segment one image file and write `<stem>_labels.tif` with a note on how it was made (`<stem>_labels.json`).

    Options are those of `segment`, which checks them.

    Raises
    ------
    ImageError
        If the file is not a readable image, or the model does not take its colours.
    EngineError
        If the network fails on it.
    """
    image = read_image(path)
    try:
        found = segment_image(image, session, diameter=diameter, tta=tta, merge=merge, channel=channel, invert=invert)
    except InputError as error:
        raise ImageError(f"{path}: {error}") from error
    except EngineError as error:
        raise EngineError(f"{path}: {error}") from error
    target, doubt = out / f"{path.stem}_labels.tif", out / f"{path.stem}_uncertainty.tif"
    story = target.with_suffix(".json")
    write_labels(found.labels, target, name="Labels")
    if uncertainty and found.uncertainty is not None:
        write_uncertainty(found.uncertainty, doubt)
    elif story.is_file():  # an earlier call's, of other labels
        with output_errors(doubt):
            doubt.unlink(missing_ok=True)
    objects = int(found.labels.max(initial=0))
    note = {
        "cellinfer": __version__,
        "image": str(path),
        "model": {"name": session.card.name, "sha256": session.sha256},
        "device": session.device,
        "precision": asdict(session.choice),
        "configuration": {
            "diameter": diameter,
            "tta": tta,
            "merge": merge,
            "channel": channel,
            "invert": invert,
        },
        "diameter": found.diameter,
        "scale": found.scale,
        "objects": objects,
        "constant": found.constant,
        "notes": list(found.notes),
    }
    with durable(story) as partial:
        partial.write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Segmented(target, objects, found.diameter, found.notes)
