"""Decode image files and planes of Zarr arrays into plain arrays, trusting nothing.

Every file is checked before decoding (size in its header, all its bytes there) and after (shape as declared, a pixel
type the rest of the package knows): a damaged file raises `ImageError` and is never analysed as if it were whole.

Pixel types that come out: uint8, uint16, uint32 and float32, in native byte order, C-contiguous. Boolean images become
0 and 1. Signed integers become unsigned ones of the same width, or float32 if any value is negative. 64-bit integers
become uint32 if they fit and are refused if not. Other floating-point types become float32. Complex images are refused.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias, TypeVar, cast, get_args

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from cellinfer.errors import ImageError, InputError
from cellinfer.plate import Field, ImageRef
from cellinfer.storage import is_array_folder, is_remote, join, open_file, read_many
from cellinfer.zarr_metadata import V2_ARRAY, V3, ArrayInfo, plane_files, read_array

Array = npt.NDArray[Any]
_T = TypeVar("_T")

ZName = Literal["max", "mean", "focus"]
ZChoice: TypeAlias = ZName | int
"""What becomes of a z-stack, see `read_channel`."""

_BAND = 32
"""Rows of a plane that are looked at at once."""

MAX_PIXELS = 2**29
"""Pixels in one plane beyond which a file is refused by its header (536 million: 1 GB of 16-bit data)."""

_LARGEST_LABEL = np.iinfo(np.int32).max


class Header(NamedTuple):
    """What a file says of one of its planes before anything is decoded."""

    shape: tuple[int, ...]
    """(height, width), or (height, width, samples) for colour."""
    dtype: str
    """Pixel type in the file, such as `uint16`."""


def read_plane(ref: ImageRef, *, max_pixels: int = MAX_PIXELS) -> Array:
    """Decode one plane of a plate.

    Parameters
    ----------
    ref
        Where the plane lies.
    max_pixels
        Larger planes are refused by their header.

    Returns
    -------
    ndarray of shape (height, width)
        uint8, uint16, uint32 or float32, see the module's rules. A colour image with three equal channels counts as
        grey.

    Raises
    ------
    ImageError
        If the file is missing, empty, damaged, too large, holds several planes while `ref` names none, or is coloured.
        Where the system refused to read it, the OSError is the cause.
    """
    image = _read(ref.path, ref.index, max_pixels)
    if image.ndim != 2:
        raise ImageError(f"{ref.path} is a colour image: a plate needs one grey image per channel, save them apart")
    return image


def parse_z(text: str) -> ZChoice:
    """Read what a user wants of a z-stack: `max`, `mean`, `focus`, or the number of a plane from 1.

    Raises
    ------
    InputError
        If the text is none of these.
    """
    word = text.strip().lower()
    for name in get_args(ZName):
        if word == name:
            return cast("ZName", name)
    if word.isascii() and word.isdigit() and int(word) >= 1:
        return int(word)
    raise InputError(f"z is {text!r}: choose max, mean, focus, or the number of one plane, from 1")


def read_channel(field: Field, channel: str, *, z: ZChoice = "max", max_pixels: int = MAX_PIXELS) -> Array:
    """Decode one channel of a field; a z-stack becomes one plane.

    Parameters
    ----------
    field
        From a `Plate`.
    channel
        Name as in `Plate.channels`.
    z
        Where the channel has several planes: `max` or `mean` for the greatest or the mean value of each pixel; `focus`
        for the sharpest plane as it is (see `sharpness`; of equally sharp ones the first), chosen for each channel of
        each field on its own; a number for that plane, from 1 in z order, and no other is read. One plane alone is the
        same for all of these.
    max_pixels
        As in `read_plane`.

    Returns
    -------
    ndarray of shape (height, width)
        As from `read_plane`. Means are computed exactly and rounded to the pixel type of the planes, halves up (of
        floating-point planes: in float64, then float32). NaN in a floating-point stack is ignored by `max` and `mean`
        where another plane has a value.

    Raises
    ------
    ImageError
        If the field lacks the channel or the plane, a plane cannot be read, or the planes of a stack differ in size.
    InputError
        If `z` is none of these.
    """
    check_z(z)
    refs = field.images.get(channel, ())
    key = field.key
    if not refs:
        has = ", ".join(field.images) or "none"
        raise ImageError(
            f"well {key.well} site {key.site} time {key.time} has no image of channel {channel} (has {has})"
        )
    if not isinstance(z, str):
        if z > len(refs):
            planes = "one plane" if len(refs) == 1 else f"{len(refs)} planes"
            raise ImageError(
                f"well {key.well} site {key.site} time {key.time} has {planes} of channel {channel}: there is no z {z}"
            )
        refs = refs[z - 1 : z]
    planes_of_stack = _same_size(refs, max_pixels)
    if len(refs) == 1:
        return next(planes_of_stack)
    if z == "mean":
        image = _mean(planes_of_stack, len(refs))
    else:
        image = _sharpest(planes_of_stack) if z == "focus" else _maximum(planes_of_stack)
    return _canonical(image, refs[0].path)


def check_z(z: ZChoice) -> None:
    """Refuse what is no choice of a plane.

    Raises
    ------
    InputError
        If `z` is neither a name that `parse_z` knows nor a whole number from 1.
    """
    numbered = isinstance(z, int) and not isinstance(z, bool) and z >= 1
    if not (numbered or z in get_args(ZName)):
        raise InputError(f"z is {z!r}: choose max, mean, focus, or the number of one plane, from 1")


def sharpness(plane: Array) -> float:
    """Return how much neighbouring pixels differ, by which `focus` chooses: the greater, the sharper.

    The mean of the squared differences between pixels two apart, along rows and along columns (Brenner et al. 1976,
    J. Histochem. Cytochem. 24, 100), in both directions. It is not divided by the brightness: light from out of focus
    is spread out in a widefield stack and gone in a confocal one, and either way the plane in focus gives more.

    Parameters
    ----------
    plane
        `(H, W)`, any real dtype.

    Returns
    -------
    float
        Squared intensity. Pairs with a pixel that is not finite are left out; 0 if there are no pairs.
    """
    total, pairs = 0.0, 0
    with np.errstate(invalid="ignore"):  # infinity from infinity
        for top in range(0, plane.shape[0], _BAND):  # in bands that stay in the processor's cache
            band = plane[top : top + _BAND + 2].astype(np.float64)
            for differences in (band[2:] - band[:-2], band[:_BAND, 2:] - band[:_BAND, :-2]):
                if plane.dtype.kind == "f":
                    differences = differences[np.isfinite(differences)]
                total += float(np.vdot(differences, differences))
                pairs += differences.size
    return total / pairs if pairs else 0.0


def _same_size(refs: tuple[ImageRef, ...], max_pixels: int) -> Iterator[Array]:
    """Decode the planes of a stack one after another."""
    shape = None
    for ref in refs:
        plane = read_plane(ref, max_pixels=max_pixels)
        shape = shape or plane.shape
        if plane.shape != shape:
            raise ImageError(
                f"{ref.path} is {_size_text(plane.shape)} but {refs[0].path} of the same stack is {_size_text(shape)}"
            )
        yield plane


def _maximum(planes: Iterator[Array]) -> Array:
    projection = next(planes)
    for plane in planes:
        projection = np.fmax(projection, plane)
    return projection


def _mean(planes: Iterator[Array], count: int) -> Array:
    """Return the mean in the planes' own type; sums of integers are exact."""
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    total: Array = np.zeros((), np.uint8)
    absent: Array = np.zeros((), np.int64)
    for plane in planes:
        dtype = np.result_type(dtype, plane)
        if plane.dtype.kind == "f":
            nan = np.isnan(plane)
            absent = absent + nan
            total = total + np.where(nan, 0, plane)  # float64
        else:  # 32 bits hold the sum of 2**16 - 1 planes of 16 bits
            narrow = count < 2**16 and dtype.itemsize <= 2
            total = np.add(total, plane, dtype=np.result_type(total, np.uint32 if narrow else np.uint64))
    if dtype.kind == "u":
        half, number = total.dtype.type(count // 2), total.dtype.type(count)
        return np.asarray((total + half) // number, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(total / (count - absent), np.float32)


def _sharpest(planes: Iterator[Array]) -> Array:
    best = next(planes)
    most = sharpness(best)
    for plane in planes:
        if (value := sharpness(plane)) > most:
            best, most = plane, value
    return best


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Array:
    """Decode any one image file: TIFF, PNG, JPEG or BMP.

    Returns
    -------
    ndarray of shape (height, width) or (height, width, 3)
        Colour in the order red, green, blue; transparency is dropped, and colour with three equal channels is returned
        as grey. Pixel types as in the module's rules.

    Raises
    ------
    ImageError
        As in `read_plane`.
    """
    return _read(os.fspath(path), (), max_pixels)


def read_labels(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.int32]:
    """Decode a label image: 0 is background, each other whole number one object.

    Returns
    -------
    ndarray of shape (height, width), int32

    Raises
    ------
    ImageError
        If the file cannot be read, is coloured, or has values that are negative, fractional or above 2**31 - 1.
    """
    path = os.fspath(path)
    image = _read(path, (), max_pixels)
    if image.ndim != 2:
        raise ImageError(f"{path} is a colour image: labels are one grey value per object")
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= _LARGEST_LABEL) or (image.dtype.kind == "f" and np.any(image != np.floor(image))):
        raise ImageError(f"{path} has values from {low} to {high}: labels are whole numbers from 0 to {_LARGEST_LABEL}")
    return image.astype(np.int32)


def read_header(ref: ImageRef, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Return size and pixel type of a plane without decoding it.

    Raises
    ------
    ImageError
        If the header is damaged or declares more than `max_pixels`.
    """
    if is_array_folder(ref.path):
        array = _array(ref.path, max_pixels)
        plane_files(array, ref.index)  # refuses an index that is not there
        return Header(array.shape[-2:], array.dtype)
    file, size = _open(ref.path, parts=True)
    with file:
        if _is_tiff(file):
            return _explain(ref.path, lambda: _tiff_header(file, size, ref, max_pixels))
        return _raster_header(ref.path, file.read(), max_pixels)


def files_of(ref: ImageRef) -> list[str]:
    """Return the files that a plane depends on, whether they are there or not.

    The image file; for an array, its metadata and the chunks of the plane (no chunks if the metadata does not tell).
    """
    if not is_array_folder(ref.path):
        return [ref.path]
    files = [join(ref.path, name) for name in (V3, V2_ARRAY)]
    try:
        return files + plane_files(read_array(ref.path), ref.index)
    except ImageError:
        return files


def _read(path: str, index: tuple[int, ...], max_pixels: int) -> Array:
    """Decode by what the first bytes say, not by the file's name."""
    if is_array_folder(path):
        array = _array(path, max_pixels)
        return _canonical(_explain(path, lambda: _stored(array, index)), path)
    file, size = _open(path, parts=bool(index))  # one page of many, perhaps of gigabytes
    with file:
        if _is_tiff(file):
            image = _explain(path, lambda: _tiff(file, size, ImageRef(path, index), max_pixels))
        elif index not in ((), (0,)):
            raise ImageError(f"{path} is no TIFF and has no page {index}")
        else:
            image = _explain(path, lambda: _raster(path, file.read(), max_pixels))
    return _canonical(_grey_if_equal(image), path)


def _open(path: str, *, parts: bool) -> tuple[BinaryIO, int]:
    """Open a file that is there and not empty, and return its size; `parts` as in `open_file`."""
    try:
        file = open_file(path, parts=parts)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
    except OSError as error:
        raise ImageError(f"cannot open {path}: {error.strerror or error}") from error
    if size == 0:
        file.close()
        raise ImageError(f"{path} is empty (0 bytes)")
    return file, size


def _explain(path: str, work: Callable[[], _T]) -> _T:
    """Run a decoder; whatever it raises becomes one `ImageError` with path and reason.

    Decoders fail on damaged files with any exception that exists (IndexError, struct.error, MemoryError ...), so
    nothing narrower than Exception will do.
    """
    try:
        return work()
    except ImageError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ImageError(f"{path} cannot be decoded: {reason}") from error


def _is_tiff(file: BinaryIO) -> bool:
    start = file.read(4)
    file.seek(0)
    return start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _check_pixels(path: str, height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"{path} declares {width} x {height} pixels")
    if height * width > max_pixels:
        raise ImageError(f"{path} declares {width} x {height} pixels, more than the limit of {max_pixels}")


def _size_text(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


# TIFF


def _tiff_header(file: BinaryIO, size: int, ref: ImageRef, max_pixels: int) -> Header:
    directory = _plain_directory(file, size, ref)
    if directory is not None:
        _check_pixels(ref.path, directory.height, directory.width, max_pixels)
        return Header((directory.height, directory.width), directory.dtype.name)
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        return _page_header(_page(tiff, ref), ref.path, max_pixels)


def _tiff(file: BinaryIO, size: int, ref: ImageRef, max_pixels: int) -> Array:
    """Decode one page: what nearly all microscopes write without tifffile, everything else with it."""
    directory = _plain_directory(file, size, ref)
    if directory is not None:
        _check_pixels(ref.path, directory.height, directory.width, max_pixels)
        image = _plain_pixels(file, size, directory)
        if image is not None:
            return image
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = _page(tiff, ref)
        header = _page_header(page, ref.path, max_pixels)
        _check_segments(page, ref.path)
        pixels: Array = page.asarray(maxworkers=1)  # parallelism is by field
        if pixels.ndim == 3 and page.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
    if pixels.shape != header.shape:
        raise ImageError(f"{ref.path} declares the shape {header.shape} but holds {pixels.shape}")
    return pixels


def _page(tiff: Any, ref: ImageRef) -> Any:
    """Return the page that a reference means."""
    pages = tiff.pages
    if len(pages) == 0:
        raise ImageError(f"{ref.path} has a TIFF header but no image: it is cut off or still being written")
    if ref.index:
        if len(ref.index) != 1 or not 0 <= ref.index[0] < len(pages):
            raise ImageError(f"{ref.path} has {len(pages)} pages, there is no page {ref.index}")
        return pages[ref.index[0]]
    first = pages[0]
    planes = sum(1 for page in pages if not page.is_reduced) if len(pages) > 1 else 1
    if first.is_imagej or first.is_shaped:  # these may store a whole stack behind a single page
        planes = max(planes, math.prod(tiff.series[0].shape) // math.prod(first.shape))
    if _METAMORPH_PLANES in first.tags:  # one page, and a tag with as many values as planes
        planes = max(planes, first.tags[_METAMORPH_PLANES].count)
    if planes > 1:
        raise ImageError(f"{ref.path} holds {planes} planes: save each as its own file, or all as OME-TIFF")
    return first


def _page_header(page: Any, path: str, max_pixels: int) -> Header:
    height, width, samples = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
    _check_pixels(path, height, width, max_pixels)
    if page.dtype is None:
        raise ImageError(f"{path} has {page.bitspersample} bits per pixel, a type of pixel that is not known")
    if page.imagedepth != 1:
        raise ImageError(f"{path} is a volume in one page: save its planes apart, or as OME-TIFF")
    return Header((height, width) if samples == 1 else (height, width, samples), page.dtype.name)


def _check_segments(page: Any, path: str) -> None:
    """Check that each strip or tile lies inside the file: tifffile fills absent ones with zeros without a word."""
    size = page.parent.filehandle.size
    offsets, counts = page.dataoffsets, page.databytecounts
    expected = math.prod(page.chunked)
    if len(offsets) < expected or len(counts) < expected:
        raise ImageError(f"{path} is cut off: {min(len(offsets), len(counts))} of {expected} strips are listed")
    for offset, count in zip(offsets, counts, strict=False):
        if offset == 0 or count == 0 or offset + count > size:
            raise ImageError(f"{path} is cut off or still being written: image data beyond its {size} bytes")


# Plain TIFF: grey, of whole bytes, in strips or tiles, with a codec of the table below. tifffile takes longer to read
# the tags of a small image than the disk takes for its pixels, and copies strip by strip; what is not plain, and what
# looks damaged, is left to it and its error messages. Only LZW is judged here: nothing else notices all its damage.

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _DESCRIPTION = 256, 257, 258, 259, 262, 266, 270
_STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _SOFTWARE, _PREDICTOR, _FORMAT = 273, 277, 278, 279, 305, 317, 339
_TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_BYTES = 322, 323, 324, 325
_SINGLE_TAGS = {_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _ROWS, _PREDICTOR, _FORMAT}
_READ_TAGS = _SINGLE_TAGS | {_DESCRIPTION, _SOFTWARE, _STRIPS, _STRIP_BYTES, *range(_TILE_WIDTH, _TILE_BYTES + 1)}
_METAMORPH_PLANES = 33629
_TAGS_OF_OTHERS = frozenset((347, 513, 514, 32996, 32997, 32998, _METAMORPH_PLANES, 34412, *range(65420, 65450)))
"""JPEG, volumes, stacks of MetaMorph, Zeiss LSM, Hamamatsu NDPI: files with rules of their own."""
_TAG_TYPES = {2: "u1", 3: "u2", 4: "u4", 16: "u8"}
_TEXT = 2
_MOST_TAGS = 4096
_KINDS = {1: "u", 2: "i", 3: "f"}
"""By the tag SampleFormat."""

_LZW, _NO_CODEC = 5, 1
_CODECS: dict[int, Callable[..., Any]] = {
    8: imagecodecs.deflate_decode,  # libdeflate
    32946: imagecodecs.deflate_decode,
    32773: imagecodecs.packbits_decode,
    34926: imagecodecs.zstd_decode,
    50000: imagecodecs.zstd_decode,
}
"""Compression -> decoder of one strip into an array; nothing tried is much faster (`benchmarks/decoding.py`)."""
_SPARE = 8
"""Bytes that the LZW kernel wants behind its data."""


class _Directory(NamedTuple):
    """Where the pixels of a plain page lie."""

    height: int
    width: int
    dtype: np.dtype[Any]
    """With the byte order of the file."""
    compression: int
    differences: bool
    """Whether each pixel is stored as its difference to the left neighbour."""
    tile: tuple[int, int]
    """Rows and columns of a tile; of a strip the width is that of the image, and the last one may have fewer rows."""
    tiled: bool
    offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


def _plain_directory(file: BinaryIO, size: int, ref: ImageRef) -> _Directory | None:
    """Read where a plain page lies; None if the page is not plain, or anything in the directory is odd."""
    if len(ref.index) > 1 or any(number < 0 for number in ref.index):
        return None
    try:
        tags, order, last = _tags(file, size, ref.index[0] if ref.index else 0)
        if not tags or (not ref.index and not (last and _is_one_plane(tags))):
            return None
        return _directory(tags, order)
    except (struct.error, ValueError, TypeError, KeyError, IndexError, OverflowError):
        return None


def _tags(file: BinaryIO, size: int, page: int) -> tuple[dict[int, npt.NDArray[Any]], str, bool]:
    """Read the tags of a page that matter; none if there is one that needs tifffile.

    Returns
    -------
    tags : dict
        Code -> values.
    order : str
        `<` or `>`.
    last : bool
        Whether no page follows.
    """
    start = file.read(16)
    order = "<" if start[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", start, 2)[0] == 43
    number, entry, pointer = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    number_size, entry_size, pointer_size = (8, 20, 8) if big else (2, 12, 4)
    at = struct.unpack_from(order + pointer, start, 8 if big else 4)[0]
    if big and struct.unpack_from(order + "HH", start, 4) != (8, 0):
        return {}, order, True
    for turn in range(page + 1):
        if not 0 < at < size:
            return {}, order, True
        file.seek(at)
        entries = struct.unpack(order + number, file.read(number_size))[0]
        if entries > _MOST_TAGS:
            return {}, order, True
        if turn < page:
            file.seek(at + number_size + entries * entry_size)
            at = struct.unpack(order + pointer, file.read(pointer_size))[0]
    table = file.read(entries * entry_size + pointer_size)
    following = struct.unpack_from(order + pointer, table, entries * entry_size)[0]
    tags: dict[int, npt.NDArray[Any]] = {}
    for place in range(0, entries * entry_size, entry_size):
        code, kind, count, value = struct.unpack_from(order + entry, table, place)
        if code in _TAGS_OF_OTHERS or code in tags:
            return {}, order, True
        if code not in _READ_TAGS:
            continue
        if (kind == _TEXT) != (code in (_DESCRIPTION, _SOFTWARE)):
            return {}, order, True
        dtype = np.dtype(order + _TAG_TYPES[kind])
        length = count * dtype.itemsize
        if length > len(value):
            begin = struct.unpack(order + pointer, value)[0]
            if begin + length > size:
                return {}, order, True
            file.seek(begin)
            value = file.read(length)
        tags[code] = np.frombuffer(value, dtype, count)
    return tags, order, following == 0


def _is_one_plane(tags: dict[int, npt.NDArray[Any]]) -> bool:
    """Say whether the description, as ImageJ and tifffile write it, tells of no stack behind this page."""
    text = tags[_DESCRIPTION].tobytes() if _DESCRIPTION in tags else b""
    if text.startswith(b"ImageJ="):
        return b"images=" not in text
    if text.startswith(b"{") and b'"shape":' in text:
        shape = json.loads(text.rstrip(b"\0"))["shape"]
        return bool(math.prod(shape) == int(tags[_WIDTH][0]) * int(tags[_LENGTH][0]))
    return not text.startswith(b"shape=")


def _hides_floats(tags: dict[int, npt.NDArray[Any]]) -> bool:
    """Say whether the writer is one that stores floating-point numbers and leaves out the tag that says so."""
    return _SOFTWARE in tags and tags[_SOFTWARE].tobytes().startswith(b"IndicaLabsImageWriter")


def _directory(tags: dict[int, npt.NDArray[Any]], order: str) -> _Directory | None:
    def one(code: int, default: int | None = None) -> int:
        if code not in tags and default is not None:
            return default
        values = tags[code]
        if values.size != 1:
            raise ValueError(f"tag {code} has {values.size} values")
        return int(values[0])

    height, width, bits, compression = one(_LENGTH), one(_WIDTH), one(_BITS, 1), one(_COMPRESSION, 1)
    kind, predictor = one(_FORMAT, 1), one(_PREDICTOR, 1)
    plain = (
        height > 0
        and width > 0
        and bits in ((16, 32, 64) if kind == 3 else (8, 16, 32, 64))
        and (bits < 32 or _FORMAT in tags or not _hides_floats(tags))
        and compression in (_NO_CODEC, _LZW, *_CODECS)
        and one(_SAMPLES, 1) == 1
        and one(_PHOTOMETRIC) in (0, 1)
        and one(_FILL_ORDER, 1) == 1
        and (predictor == 1 or (predictor == 2 and kind != 3 and compression != _NO_CODEC))
    )
    if not plain:
        return None
    tiled = _TILES in tags
    if tiled:
        tile = one(_TILE_LENGTH), one(_TILE_WIDTH)
        offsets, counts = tags[_TILES], tags[_TILE_BYTES]
    else:
        tile = min(one(_ROWS, height), height), width
        offsets, counts = tags[_STRIPS], tags[_STRIP_BYTES]
    expected = -(-height // tile[0]) * -(-width // tile[1]) if min(tile) > 0 else -1
    if not offsets.size == counts.size == expected or expected * math.prod(tile) > 4 * height * width + 2**20:
        return None  # tiles that are much larger than the image are a way to ask for memory
    dtype = np.dtype(f"{order}{_KINDS[kind]}{bits // 8}")
    offsets, counts = offsets.astype(np.int64), counts.astype(np.int64)
    return _Directory(height, width, dtype, compression, predictor == 2, tile, tiled, offsets, counts)


def _plain_pixels(file: BinaryIO, size: int, page: _Directory) -> Array | None:
    """Decode a plain page; None if its bytes are not as they should be."""
    offsets, counts = page.offsets, page.counts
    if min(offsets.min(), counts.min()) <= 0 or np.any(counts > size - offsets):
        return None
    rows = np.full(offsets.size, page.tile[0])
    if not page.tiled:
        rows[-1] = page.height - (offsets.size - 1) * page.tile[0]
    sizes = rows * page.tile[1] * page.dtype.itemsize
    if page.compression == _NO_CODEC and not np.array_equal(counts, sizes):
        return None
    if page.compression == _NO_CODEC and not page.tiled and np.array_equal(offsets[1:], offsets[:-1] + counts[:-1]):
        image = np.empty((page.height, page.width), page.dtype)
        file.seek(int(offsets[0]))
        return _native(image) if _fill(file, image) else None
    first, last = int(offsets.min()), int((offsets + counts).max())
    if last - first > 2 * int(counts.sum()) + 2**16:
        return None  # strips far apart: those of other pages lie between them
    data = np.empty(last - first + _SPARE, np.uint8)
    data[-_SPARE:] = 0
    file.seek(first)
    if not _fill(file, data[: last - first]):
        return None
    decoded = _decoded(data, offsets - first, counts, sizes, page)
    if decoded is None:
        return None
    return _arranged(_native(decoded.view(page.dtype).reshape(-1, page.tile[1])), page)


def _fill(file: BinaryIO, array: Array) -> bool:
    """Read as many bytes as the array has; False if there are fewer."""
    return file.readinto(memoryview(array).cast("B")) == array.nbytes  # type: ignore[attr-defined, no-any-return]


def _native(image: Array) -> Array:
    """Turn round the bytes of an array of our own, if need be."""
    return image if image.dtype.isnative else image.byteswap(inplace=True).view(image.dtype.newbyteorder())


def _decoded(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    page: _Directory,
) -> npt.NDArray[np.uint8] | None:
    """Decode strips one behind the other; None if a decoder does not like them, or some have another size."""
    if page.compression == _LZW:
        return _lzw(data, starts, counts, sizes, page)
    decoded = np.empty(int(sizes.sum()), np.uint8)
    begin = 0
    for start, count, size in zip(starts.tolist(), counts.tolist(), sizes.tolist(), strict=True):
        source, target = data[start : start + count], decoded[begin : begin + size]
        if page.compression == _NO_CODEC:
            target[:] = source
        else:
            try:
                if _CODECS[page.compression](source, out=target).size != size:
                    return None
            except Exception:  # each codec has errors of its own
                return None
        begin += size
    return decoded


def _lzw(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    page: _Directory,
) -> npt.NDArray[np.uint8] | None:
    """Decode with our kernel, four times as fast as imagecodecs and twice as libtiff (OpenCV); damage is an error."""
    from cellinfer_kernels import lzw  # Numba takes a while to load, and many plates do without

    first = int(starts[0])
    if lzw.is_old_style(data[first : first + int(counts[0])]):
        return None
    try:
        return lzw.decode_strips(data, starts, counts, sizes)
    except lzw.LzwError as error:
        filled_up = page.tile[0] * page.tile[1] * page.dtype.itemsize  # so some write the last strip
        try:
            return lzw.decode_strips(data, starts, counts, np.append(sizes[:-1], filled_up))[: int(sizes.sum())]
        except lzw.LzwError:
            raise error from None


def _arranged(rows: Array, page: _Directory) -> Array:
    """Make an image of its strips or tiles, each of which has its rows one below the other."""
    if page.differences:
        from cellinfer_kernels.lzw import undo_differences  # as above

        undo_differences(rows.view(f"u{rows.dtype.itemsize}"))
    if not page.tiled:
        return rows
    height, width = page.tile
    down, across = -(-page.height // height), -(-page.width // width)
    tiles = rows.reshape(down, across, height, width).swapaxes(1, 2).reshape(down * height, across * width)
    return tiles[: page.height, : page.width]


# PNG, JPEG, BMP


def _raster(path: str, data: bytes, max_pixels: int) -> Array:
    """Decode PNG, JPEG or BMP from memory (OpenCV opens no path with unicode on Windows)."""
    header = _raster_header(path, data, max_pixels)
    _check_whole(path, data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ImageError(f"{path} is damaged: its pixels cannot be decoded")
    if image.shape[:2] != header.shape[:2]:
        raise ImageError(f"{path} declares {_size_text(header.shape)} pixels but holds {_size_text(image.shape)}")
    return image[..., 2::-1] if image.ndim == 3 else image


def _raster_header(path: str, data: bytes, max_pixels: int) -> Header:
    """Read size and type from the first bytes of a PNG, JPEG or BMP."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            header = _png_header(data)
        elif data.startswith(b"\xff\xd8"):
            header = _jpeg_header(data)
        elif data.startswith(b"BM"):
            width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
            header = Header((abs(height), width) if bits <= 8 else (abs(height), width, 3), "uint8")
        else:
            raise ImageError(f"{path} is no image: its first bytes are those of no TIFF, PNG, JPEG or BMP")
    except struct.error as error:
        raise ImageError(f"{path} is cut off within its header ({len(data)} bytes)") from error
    _check_pixels(path, header.shape[0], header.shape[1], max_pixels)
    return header


def _png_header(data: bytes) -> Header:
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    return Header((height, width) if colour in (0, 4) else (height, width, 3), "uint16" if bits == 16 else "uint8")


def _jpeg_header(data: bytes) -> Header:
    """Walk the segments of a JPEG to its frame header (markers C0 to CF but C4, C8 and CC)."""
    at = 2
    while True:
        marker, length = struct.unpack_from(">HH", data, at)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            height, width, samples = struct.unpack_from(">HHB", data, at + 5)
            return Header((height, width) if samples == 1 else (height, width, 3), "uint8")
        at += 2 + length if marker != 0xFFFF else 1  # FF may be repeated as padding


def _check_whole(path: str, data: bytes) -> None:
    """Refuse files without their end: decoders paint the rest grey or black and say nothing."""
    if data.startswith(b"\x89PNG"):
        whole = _png_is_whole(data)
    elif data.startswith(b"\xff\xd8"):
        whole = b"\xff\xd9" in data[-4096:]  # some cameras add bytes after the end marker
    else:
        whole = len(data) >= struct.unpack_from("<I", data, 2)[0]
    if not whole:
        raise ImageError(f"{path} is cut off, damaged or still being written")


def _png_is_whole(data: bytes) -> bool:
    """Check every chunk's checksum up to the end chunk."""
    at, view = 8, memoryview(data)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data) or zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return False
        if kind == b"IEND":
            return True
        at = end + 4
    return False


# Zarr


def _array(path: str, max_pixels: int) -> ArrayInfo:
    """Read what an array declares, and refuse what would not fit into memory."""
    array = read_array(path)
    _check_pixels(path, array.shape[-2], array.shape[-1], max_pixels)
    if math.prod(array.chunks) > max(max_pixels, MAX_PIXELS):
        raise ImageError(f"{path} declares chunks of the shape {array.chunks}, more than the limit of {max_pixels}")
    return array


def _stored(array: ArrayInfo, index: tuple[int, ...]) -> Array:
    """Decode one plane of an array, all of whose chunks must be there."""
    files = plane_files(array, index)
    chunks = read_many(files) if is_remote(array.folder) else None
    if chunks is None:
        absent = [file for file in files if not os.path.isfile(file)]  # noqa: PTH113
    else:
        absent = [file for file, chunk in chunks.items() if isinstance(chunk, FileNotFoundError)]
    if absent:
        raise ImageError(
            f"{array.folder} lacks {len(absent)} of the {len(files)} chunks of plane {index}, such as {absent[0]}: it "
            "is still being written, or they are lost (some writers leave out chunks of zeros: have them written)"
        ) from FileNotFoundError(absent[0])
    if array.dtype.startswith("complex"):
        raise ImageError(f"{array.folder} has pixels of type {array.dtype}, which is not supported")
    from cellinfer import zarr_pixels  # the zarr package takes a while to load, and most plates do without

    image = zarr_pixels.read(array, index, chunks)
    if image.shape != array.shape[-2:] or image.dtype.name != array.dtype:
        declared = f"{_size_text(array.shape[-2:])} {array.dtype}"
        raise ImageError(f"{array.folder} declares {declared} but holds {image.shape} {image.dtype}")
    return image


# Pixel types


def native(image: Array) -> Array:
    """Return an image in numbers that the kernels compute with.

    Parameters
    ----------
    image
        Any shape, any real dtype.

    Returns
    -------
    ndarray
        The same values in native byte order, float16 as float32 and floats beyond 64 bits as float64; the array itself
        where it is so already.
    """
    target: npt.DTypeLike = image.dtype.newbyteorder("=")
    if image.dtype.kind == "f" and image.dtype.itemsize not in (4, 8):
        target = np.float32 if image.dtype.itemsize < 4 else np.float64
    return image.astype(target, copy=False)


def _grey_if_equal(image: Array) -> Array:
    """Drop transparency, and the copies of a grey image that was saved as colour."""
    if image.ndim != 3:
        return image
    if image.shape[2] in (1, 2):  # grey, grey with transparency
        return image[..., 0]
    image = image[..., :3]
    if np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2]):
        return image[..., 0]
    return image


def _canonical(image: Array, path: str) -> Array:
    """Apply the module's rules for pixel types; the last check of every image."""
    if image.ndim not in (2, 3) or image.size == 0:
        raise ImageError(f"{path} holds no image: its shape is {image.shape}")
    kind, width = image.dtype.kind, image.dtype.itemsize
    if kind == "b":
        target: npt.DTypeLike = np.uint8
    elif kind == "f":
        target = np.float32
    elif kind == "i" and image.min() < 0:
        if width == 8:
            raise ImageError(f"{path} has negative 64-bit values, which no pixel type here can hold")
        target = np.float32
    elif kind in "iu" and width == 8:
        if image.max() > np.iinfo(np.uint32).max:
            raise ImageError(f"{path} has 64-bit values up to {image.max()}, more than 32 bits can hold")
        target = np.uint32
    elif kind in "iu":
        target = f"u{width}"
    else:
        raise ImageError(f"{path} has pixels of type {image.dtype}, which is not supported")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is flagged as such later
        return np.ascontiguousarray(image, dtype=target)
