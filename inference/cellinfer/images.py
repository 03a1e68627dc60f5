"""Decode image files and planes of Zarr arrays into plain arrays, trusting nothing.

Every file is checked before decoding (size in its header, all its bytes there) and after (shape as declared, a pixel
type the rest of the package knows): a damaged file raises `ImageError` and is never analysed as if it were whole.

Pixel types that come out: uint8, uint16, uint32 and float32, in native byte order, C-contiguous. Boolean images become
0 and 1. Signed integers become unsigned ones of the same width, or float32 if any value is negative. 64-bit integers
become uint32 if they fit and are refused if not. Other floating-point types become float32. Complex images are refused.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from cellinfer.errors import ImageError
from cellinfer.plate import Field, ImageRef
from cellinfer.zarr_metadata import V2_ARRAY, V3, ArrayInfo, plane_files, read_array

Array = npt.NDArray[Any]
_T = TypeVar("_T")

MAX_PIXELS = 2**29
"""Pixels in one plane beyond which a file is refused by its header (536 million: 1 GB of 16-bit data)."""

_LZW = 5
"""The TIFF compression that OpenCV decodes 1.5 to 3 times faster than tifffile; it is slower with the others."""
_PRIVATE_TAG = 32768
"""TIFF tags from here on make OpenCV print warnings."""
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


def read_channel(field: Field, channel: str, *, max_pixels: int = MAX_PIXELS) -> Array:
    """Decode one channel of a field; a z-stack becomes its maximum projection.

    Parameters
    ----------
    field
        From a `Plate`.
    channel
        Name as in `Plate.channels`.
    max_pixels
        As in `read_plane`.

    Returns
    -------
    ndarray of shape (height, width)
        As from `read_plane`. NaN in a floating-point stack is ignored where another plane has a value.

    Raises
    ------
    ImageError
        If the field lacks the channel, a plane cannot be read, or the planes of a stack differ in size.
    """
    refs = field.images.get(channel, ())
    if not refs:
        key, has = field.key, ", ".join(field.images) or "none"
        raise ImageError(
            f"well {key.well} site {key.site} time {key.time} has no image of channel {channel} (has {has})"
        )
    projection = read_plane(refs[0], max_pixels=max_pixels)
    for ref in refs[1:]:
        plane = read_plane(ref, max_pixels=max_pixels)
        if plane.shape != projection.shape:
            raise ImageError(
                f"{ref.path} is {_size_text(plane.shape)} but {refs[0].path} of the same stack is "
                f"{_size_text(projection.shape)}"
            )
        projection = np.fmax(projection, plane)
    return _canonical(projection, refs[0].path)


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
    if os.path.isdir(ref.path):  # noqa: PTH112  once per image
        array = _array(ref.path, max_pixels)
        plane_files(array, ref.index)  # refuses an index that is not there
        return Header(array.shape[-2:], array.dtype)
    with _open(ref.path) as file:
        if _is_tiff(file):
            return _explain(ref.path, lambda: _tiff_header(file, ref, max_pixels))
        return _raster_header(ref.path, file.read(), max_pixels)


def files_of(ref: ImageRef) -> list[str]:
    """Return the files that a plane depends on, whether they are there or not.

    The image file; for an array, its metadata and the chunks of the plane (no chunks if the metadata does not tell).
    """
    if not os.path.isdir(ref.path):  # noqa: PTH112
        return [ref.path]
    files = [os.path.join(ref.path, name) for name in (V3, V2_ARRAY)]  # noqa: PTH118
    try:
        return files + plane_files(read_array(ref.path), ref.index)
    except ImageError:
        return files


def _read(path: str, index: tuple[int, ...], max_pixels: int) -> Array:
    """Decode by what the first bytes say, not by the file's name."""
    if os.path.isdir(path):  # noqa: PTH112
        array = _array(path, max_pixels)
        return _canonical(_explain(path, lambda: _stored(array, index)), path)
    with _open(path) as file:
        if _is_tiff(file):
            image = _explain(path, lambda: _tiff(file, ImageRef(path, index), max_pixels))
        elif index not in ((), (0,)):
            raise ImageError(f"{path} is no TIFF and has no page {index}")
        else:
            image = _explain(path, lambda: _raster(path, file.read(), max_pixels))
    return _canonical(_grey_if_equal(image), path)


def _open(path: str) -> BinaryIO:
    """Open a file that is there and not empty."""
    try:
        file = open(path, "rb")  # noqa: PTH123, SIM115  the caller closes it
        size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ImageError(f"cannot open {path}: {error.strerror or error}") from error
    if size == 0:
        file.close()
        raise ImageError(f"{path} is empty (0 bytes)")
    return file


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


def _tiff_header(file: BinaryIO, ref: ImageRef, max_pixels: int) -> Header:
    with tifffile.TiffFile(file) as tiff:
        return _page_header(_page(tiff, ref), ref.path, max_pixels)


def _tiff(file: BinaryIO, ref: ImageRef, max_pixels: int) -> Array:
    """Decode one page; with OpenCV where that is faster and gives the same."""
    with tifffile.TiffFile(file) as tiff:
        page = _page(tiff, ref)
        header = _page_header(page, ref.path, max_pixels)
        _check_segments(page, ref.path)
        image = _by_opencv(page, file, header) if len(tiff.pages) == 1 else None
        if image is None:
            image = page.asarray(maxworkers=1)  # parallelism is by field
            if image.ndim == 3 and page.axes == "SYX":
                image = np.moveaxis(image, 0, -1)
    if image.shape != header.shape:
        raise ImageError(f"{ref.path} declares the shape {header.shape} but holds {image.shape}")
    return image


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


def _by_opencv(page: Any, file: BinaryIO, header: Header) -> Array | None:
    """Decode a plain grey 8- or 16-bit page; None if it is not one, or OpenCV does not agree with the header."""
    plain = (
        page.compression == _LZW
        and header.dtype in ("uint8", "uint16")
        and page.bitspersample in (8, 16)
        and page.photometric == 1  # black is zero; OpenCV would invert or colour the others
        and len(header.shape) == 2
        and "Orientation" not in page.tags  # OpenCV would turn the image
        and all(tag.code < _PRIVATE_TAG for tag in page.tags)
    )
    if not plain:
        return None
    file.seek(0)
    image = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape != header.shape or image.dtype.name != header.dtype:
        return None
    return image


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
    absent = [file for file in files if not os.path.isfile(file)]  # noqa: PTH113
    if absent:
        raise ImageError(
            f"{array.folder} lacks {len(absent)} of the {len(files)} chunks of plane {index}, such as {absent[0]}: it "
            "is still being written, or they are lost (some writers leave out chunks of zeros: have them written)"
        ) from FileNotFoundError(absent[0])
    if array.dtype.startswith("complex"):
        raise ImageError(f"{array.folder} has pixels of type {array.dtype}, which is not supported")
    from cellinfer import zarr_pixels  # the zarr package takes a while to load, and most plates do without

    image = zarr_pixels.read(array, index)
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
