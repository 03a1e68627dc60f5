"""Single images to label images, outside any plate."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cellinfer._version import __version__
from cellinfer.errors import ImageError, InputError
from cellinfer.files import durable
from cellinfer.images import read_image
from cellinfer.outputs.labels import write_labels
from cellinfer.plate import IMAGE_SUFFIXES
from cellinfer.segmentation import Merge, Tta, segment_image
from cellinfer.sessions import Device, Session, open_session


@dataclass(frozen=True)
class Segmented:
    """One image that was segmented: where its labels are, how many objects, and their assumed diameter (pixels)."""

    path: Path
    objects: int
    diameter: float


@dataclass(frozen=True)
class SegmentResult:
    """What `segment` did.

    Attributes
    ----------
    images
        The images that were segmented.
    failed
        Image path -> reason, for those that could not be read.
    model, device
        Name of the model, and where it ran.
    """

    images: tuple[Segmented, ...]
    failed: dict[str, str] = field(repr=False)
    model: str
    device: str

    @property
    def objects(self) -> int:
        """Objects in all images."""
        return sum(image.objects for image in self.images)


def segment(
    images: Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path = "nuclei",
    device: Device = "auto",
    diameter: float | None = None,
    tta: Tta = "none",
    merge: Merge = "instances",
    progress: Callable[[int, int], None] | None = None,
) -> SegmentResult:
    """Find the objects in single images; writes `<stem>_labels.tif` and a note on how it was made.

    Parameters
    ----------
    images
        Image files, or folders of them.
    out
        Folder for the label images; made if needed.
    model, device
        See `cellinfer.sessions.open_session`.
    diameter, tta, merge
        See `cellinfer.segmentation.segment_image`.
    progress
        Called with how many images are done, and how many there are.

    Raises
    ------
    InputError
        If a path does not exist, a folder holds no image, or two images would give one label file.
    OutputError
        If a label image cannot be written.
    """
    files = image_files(Path(path) for path in images)
    session = open_session(model, device)
    done: list[Segmented] = []
    failed: dict[str, str] = {}
    for number, path in enumerate(files, 1):
        try:
            done.append(segment_file(path, Path(out), session, diameter=diameter, tta=tta, merge=merge))
        except ImageError as error:
            failed[str(path)] = str(error)
        if progress is not None:
            progress(number, len(files))
    return SegmentResult(tuple(done), failed, session.card.name, session.device)


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
    """Tell an image from hidden files, folders and the label images of an earlier call."""
    ours = path.stem.endswith("_labels")
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not ours and path.is_file()


def segment_file(
    path: Path,
    out: Path,
    session: Session,
    *,
    diameter: float | None = None,
    tta: Tta = "none",
    merge: Merge = "instances",
) -> Segmented:
    """Segment one image file and write `<stem>_labels.tif` with a note on how it was made (`<stem>_labels.json`).

    Raises
    ------
    ImageError
        If the file is not a readable grey image.
    """
    image = read_image(path)
    if image.ndim != 2:
        raise ImageError(
            f"{path} is a colour image of shape {image.shape}; the model {session.card.name!r} takes one channel "
            f"({', '.join(session.card.channels)})."
        )
    found = segment_image(image, session, diameter=diameter, tta=tta, merge=merge)
    target = out / f"{path.stem}_labels.tif"
    write_labels(found.labels, target, name="Labels")
    objects = int(found.labels.max(initial=0))
    note = {
        "cellinfer": __version__,
        "image": str(path),
        "model": {"name": session.card.name, "sha256": session.sha256},
        "device": session.device,
        "configuration": {"diameter": diameter, "tta": tta, "merge": merge},
        "diameter": found.diameter,
        "scale": found.scale,
        "objects": objects,
        "constant": found.constant,
    }
    with durable(target.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Segmented(target, objects, found.diameter)
