"""Decoding: every codec gives the same pixels, every damage gives an error."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from cellinfer import images
from cellinfer.errors import ImageError
from cellinfer.images import Header, read_channel, read_header, read_image, read_labels, read_plane
from cellinfer.plate import Field, FieldKey, ImageRef

CODECS = (None, "lzw", "zlib", "zstd", "packbits", "lzma")


def picture(dtype=np.uint16, shape=(37, 53), seed=0):
    """Smooth enough to be compressed, with values all over the type's range."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(shape), (0, 0), 1.5)
    noise = (noise - noise.min()) / np.ptp(noise)
    info = np.iinfo(dtype)
    return np.rint(noise * info.max).astype(dtype)


def write(path, image, **options):
    tifffile.imwrite(path, image, metadata=None, **options)
    return path


# what comes out


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 5}, {"tile": (16, 32)}, {"bigtiff": True}])
def test_every_kind_of_tiff_gives_its_pixels(tmp_path, codec, dtype, order, options):
    image = picture(dtype)
    predictor = codec not in (None, "packbits")
    path = write(tmp_path / "a.tif", image, compression=codec, predictor=predictor, byteorder=order, **options)
    read = read_image(path)
    np.testing.assert_array_equal(read, image)
    assert read.dtype == dtype and read.dtype.isnative and read.flags.c_contiguous
    assert read_header(ImageRef(str(path))) == Header(image.shape, np.dtype(dtype).name)


def test_what_is_plain_is_read_without_tifffile_and_the_rest_with_it(tmp_path, monkeypatch):
    plain = {
        "lzw": {"compression": "lzw", "predictor": True},
        "tiles": {"compression": "zlib", "tile": (16, 32)},
        "white is zero": {"photometric": "miniswhite"},
        "turned": {"extratags": [(274, 3, 1, 6, True)]},
        "private tag": {"extratags": [(65000, 3, 1, 1, True)]},
        "from ImageJ": {"description": "ImageJ=1.53t\nmin=0.0"},
        "from tifffile": {"description": '{"shape": [37, 53]}'},
    }
    others = {
        "lzma": {"compression": "lzma"},
        "palette": {"photometric": "palette", "colormap": np.zeros((3, 2**16), np.uint16)},
        "MetaMorph stack": {"extratags": [(33629, 4, 1, 1, True)]},
    }
    images_read = []
    original = tifffile.TiffFile
    monkeypatch.setattr(images.tifffile, "TiffFile", lambda file: images_read.append(file) or original(file))
    for name, options in {**plain, **others}.items():
        path = write(tmp_path / f"{name}.tif", picture(), **options)
        images_read.clear()
        np.testing.assert_array_equal(read_image(path), picture())
        assert bool(images_read) == (name in others), name


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 1], bool, np.uint8),
        ([0, 127], np.int8, np.uint8),
        ([-1, 127], np.int8, np.float32),
        ([0, 32767], np.int16, np.uint16),
        ([-5, 32767], np.int16, np.float32),
        ([0, 2**32 - 1], np.uint32, np.uint32),
        ([0, 2**31 - 1], np.int32, np.uint32),
        ([-(2**20), 2**20], np.int32, np.float32),
        ([0, 2**32 - 1], np.uint64, np.uint32),
        ([0, 2**32 - 1], np.int64, np.uint32),
        ([-0.5, 1.5], np.float16, np.float32),
        ([-0.5, np.nan], np.float32, np.float32),
        ([1e300, np.inf], np.float64, np.float32),
    ],
)
def test_pixel_types_by_rule(tmp_path, values, dtype, expected):
    image = np.tile(np.array(values, dtype=dtype), (4, 3))
    for order in "<>":
        read = read_image(write(tmp_path / "a.tif", image, byteorder=order, photometric="minisblack"))
        assert read.dtype == expected
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(read, image.astype(expected))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.full((4, 4), 2**32, np.uint64), "64-bit values up to 4294967296"),
        (np.full((4, 4), -1, np.int64), "negative 64-bit"),
        (np.full((4, 4), 1j, np.complex64), "type complex64"),
    ],
)
def test_pixel_types_that_are_refused(tmp_path, image, reason):
    with pytest.raises(ImageError, match=reason):
        read_image(write(tmp_path / "a.tif", image))


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "tif"])
@pytest.mark.parametrize("folder", ["plain", "größe µm ヒト"])
def test_other_formats_and_unicode_paths(tmp_path, suffix, folder):
    image = picture(np.uint8)
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / f"Бild.{suffix}"
    path.write_bytes(cv2.imencode(f".{suffix}", image)[1].tobytes())
    read = read_image(path)
    assert read.dtype == np.uint8
    np.testing.assert_allclose(read.astype(int), image, atol=12 if suffix == "jpg" else 0)
    assert read_header(ImageRef(str(path))) == Header(image.shape, "uint8")


def test_png_of_16_bit(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", picture())[1].tobytes())
    np.testing.assert_array_equal(read_image(path), picture())
    assert read_header(ImageRef(str(path))).dtype == "uint16"


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_colour_comes_as_red_green_blue(tmp_path, suffix):
    image = np.stack([picture(np.uint8, seed=s) for s in range(3)], axis=-1)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(cv2.imencode(f".{suffix}", image[..., ::-1])[1].tobytes())
    read = read_image(path)
    np.testing.assert_array_equal(read, image)
    assert read.flags.c_contiguous
    with pytest.raises(ImageError, match=r"colour image.*save them apart"):
        read_plane(ImageRef(str(path)))


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_tiff_of_any_layout(tmp_path, samples, planar):
    image = np.stack([picture(seed=s) for s in range(samples)], axis=-1)
    stored = image if planar == "contig" else np.moveaxis(image, -1, 0)
    options = {"photometric": "rgb", "planarconfig": planar, "extrasamples": ["unassalpha"] * (samples - 3)}
    read = read_image(write(tmp_path / "a.tif", stored, **options))
    np.testing.assert_array_equal(read, image[..., :3])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_grey_saved_as_colour_is_grey(tmp_path, channels):
    image = picture(np.uint8)
    path = tmp_path / "a.png"
    if channels == 2:  # grey with transparency, which OpenCV does not write
        raw = np.stack([image, np.full_like(image, 9)], axis=-1)
        path.write_bytes(grey_alpha_png(raw))
    else:
        layers = [image] * 3 + [np.full_like(image, 9)] * (channels - 3)
        path.write_bytes(cv2.imencode(".png", np.stack(layers, axis=-1))[1].tobytes())
    np.testing.assert_array_equal(read_plane(ImageRef(str(path))), image)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey_alpha_png(image):
    height, width = image.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 4, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# pages


def test_a_page_of_many(tmp_path):
    stack = np.stack([picture(seed=s) for s in range(4)])
    path = str(write(tmp_path / "a.tif", stack, photometric="minisblack", compression="lzw"))
    for page in range(4):
        np.testing.assert_array_equal(read_plane(ImageRef(path, (page,))), stack[page])
        assert read_header(ImageRef(path, (page,))) == Header(stack.shape[1:], "uint16")
    for index in ((4,), (-1,), (0, 1)):
        with pytest.raises(ImageError, match="has 4 pages, there is no page"):
            read_plane(ImageRef(path, index))


@pytest.mark.parametrize("options", [{"metadata": None}, {"imagej": True}, {}, {"ome": True}])
def test_a_stack_is_not_taken_for_a_plane(tmp_path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([picture()] * 3), photometric="minisblack", **options)
    with pytest.raises(ImageError, match="holds 3 planes"):
        read_image(path)


def test_a_metamorph_stack_is_not_taken_for_a_plane(tmp_path):
    three = (33629, 5, 3, (1, 1) * 3, True)
    with pytest.raises(ImageError, match="holds 3 planes"):
        read_image(write(tmp_path / "a.stk.tif", picture(), extratags=[three]))


@pytest.mark.parametrize("description", ['{"shape": [3, 37, 53]}', "shape=(3,37,53)", "ImageJ=1.53t\nimages=3\n"])
def test_what_a_description_says_of_a_stack_is_believed(tmp_path, description):
    path = write(tmp_path / "a.tif", picture(), description=description)
    with path.open("rb") as file:
        assert (
            images._plain_directory(file, path.stat().st_size, ImageRef(str(path))) is None
        )  # tifffile knows what to make of it
    with path.open("rb") as file:
        assert images._plain_directory(file, path.stat().st_size, ImageRef(str(path), (0,))) is not None


def test_a_small_copy_behind_the_image_does_no_harm(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(picture(), metadata=None)
        tiff.write(picture()[::4, ::4], metadata=None, subfiletype=1)
    np.testing.assert_array_equal(read_image(path), picture())


def test_other_files_have_one_page(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", picture())[1].tobytes())
    np.testing.assert_array_equal(read_plane(ImageRef(str(path), (0,))), picture())
    with pytest.raises(ImageError, match="no page"):
        read_plane(ImageRef(str(path), (1,)))


# damage


def test_files_that_are_not_there_or_empty(tmp_path):
    with pytest.raises(ImageError, match=r"cannot open .*gone.tif: No such file") as error:
        read_image(tmp_path / "gone.tif")
    assert isinstance(error.value.__cause__, FileNotFoundError)
    with pytest.raises(ImageError, match="cannot open"):
        read_image(tmp_path)
    (tmp_path / "empty.tif").touch()
    with pytest.raises(ImageError, match=r"empty.tif is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.tif")


@pytest.mark.parametrize(
    "header", [b"II*\0\0\0\0\0", b"MM\0*\0\0\0\0", b"II*\0\x08\0\0\0", b"II*\0", b"II+\0\x08\0\0\0"]
)
def test_a_tiff_of_a_header_only(tmp_path, header):
    path = tmp_path / "a.tif"
    path.write_bytes(header)
    with pytest.raises(ImageError, match=r"a\.tif"):
        read_image(path)
    with pytest.raises(ImageError, match=r"a\.tif"):
        read_header(ImageRef(str(path)))


@pytest.mark.parametrize("codec", [*CODECS, "libtiff", "libtiff lzw"])
def test_a_cut_off_tiff_is_never_an_image(tmp_path, codec):
    path = tmp_path / "a.tif"
    if codec in ("libtiff", "libtiff lzw"):  # puts its directory behind the pixels
        options = [cv2.IMWRITE_TIFF_COMPRESSION, 5 if codec == "libtiff lzw" else 1]
        path.write_bytes(cv2.imencode(".tif", picture(), options)[1].tobytes())
    else:
        write(path, picture(), compression=codec, rowsperstrip=8)
    data = path.read_bytes()
    np.testing.assert_array_equal(read_image(path), picture())
    for length in (*range(1, 300, 23), *np.linspace(300, len(data) - 8, 12).astype(int)):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError, match=r"a\.tif"):
            read_image(path)


def segments(path):
    """Return offsets and sizes of the strips of a file."""
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts


def declare_height(path, rows):
    """Overwrite the height of an image, and leave the pixels."""
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].tags[257].valueoffset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, place, rows)
    path.write_bytes(data)


def test_lzw_that_holds_too_much_is_damage_but_for_a_filled_up_last_strip(tmp_path):
    full = write(tmp_path / "full.tif", picture(shape=(30, 30)), compression="lzw", rowsperstrip=10)
    declare_height(full, 24)  # its last strip still has 10 rows
    np.testing.assert_array_equal(read_image(full), picture(shape=(30, 30))[:24])
    path = write(tmp_path / "whole.tif", picture(shape=(24, 30)), compression="lzw", rowsperstrip=10)
    whole = path.read_bytes()
    declare_height(path, 21)  # its last strip still has 4 rows
    with pytest.raises(ImageError, match="cannot be decoded: LZW strip 3 of 3 holds more than its 60 bytes"):
        read_image(path)
    path.write_bytes(whole)
    swapped = bytearray(path.read_bytes())
    offsets, counts = segments(path)
    long, short = (bytes(swapped[offsets[k] : offsets[k] + counts[k]]) for k in (0, 2))
    assert len(short) < len(long)
    swapped[offsets[1] : offsets[1] + len(short)] = short
    path.write_bytes(swapped)
    with pytest.raises(ImageError, match="LZW strip 2 of 3 ends after 240 of its 600 bytes"):
        read_image(path)


@pytest.mark.parametrize("codec", ["lzw", "zlib", None])
def test_files_in_memory_take_the_quick_way_too(tmp_path, codec):
    data = write(tmp_path / "a.tif", picture(), compression=codec).read_bytes()  # as those from a store
    directory = images._plain_directory(io.BytesIO(data), len(data), ImageRef("a.tif"))
    assert directory is not None
    np.testing.assert_array_equal(images._plain_pixels(io.BytesIO(data), len(data), directory), picture())


def test_lzw_of_before_tiff_5_is_left_to_tifffile(tmp_path):
    path = write(tmp_path / "a.tif", np.zeros((2, 3), np.uint8), compression="lzw")
    data = bytearray(path.read_bytes())
    offset, count = segments(path)[0][0], segments(path)[1][0]
    codes = [256, 7, 258, 259, 257]  # 7, 7 7, 7 7 7; least significant bit first
    bits = sum(code << (9 * place) for place, code in enumerate(codes))
    old = bits.to_bytes(6, "little")
    assert count <= len(old)
    data[offset:] = old
    data = data.replace(struct.pack("<HHIHH", 279, 3, 1, count, 0), struct.pack("<HHIHH", 279, 3, 1, len(old), 0))
    path.write_bytes(data)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].databytecounts == (len(old),)
    np.testing.assert_array_equal(read_image(path), np.full((2, 3), 7))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64, np.float32])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 7}, {"tile": (16, 48)}])
def test_the_quick_way_gives_what_tifffile_gives(tmp_path, codec, dtype, order, layout):
    image = picture(np.uint16).astype(dtype)
    predictor = codec not in (None, "packbits") and np.dtype(dtype).kind != "f" and np.dtype(dtype).itemsize < 8
    path = write(
        tmp_path / "a.tif",
        image,
        compression=codec,
        predictor=predictor,
        byteorder=order,
        photometric="minisblack",
        **layout,
    )
    with path.open("rb") as file:
        directory = images._plain_directory(file, path.stat().st_size, ImageRef(str(path)))
        if codec == "lzma":
            assert directory is None
            return
        quick = images._plain_pixels(file, path.stat().st_size, directory)
    np.testing.assert_array_equal(quick, tifffile.imread(path))
    assert quick.dtype == dtype and quick.dtype.isnative


@pytest.mark.parametrize("codec", ["lzw", "zlib", "packbits", None])
@pytest.mark.parametrize("layout", [{"rowsperstrip": 7}, {"tile": (16, 32), "bigtiff": True, "byteorder": ">"}])
def test_of_a_damaged_file_the_quick_way_reads_no_other_image_than_tifffile(tmp_path, caplog, codec, layout):
    path = tmp_path / "a.tif"
    whole = write(path, picture(), compression=codec, predictor=codec in ("lzw", "zlib"), **layout).read_bytes()
    rng = np.random.default_rng(8)
    same = 0
    for attempt in range(60):
        data = bytearray(whole)
        for place in rng.integers(4, 400 if attempt % 3 else len(data), rng.integers(1, 4)):
            data[place] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        with path.open("rb") as file:
            directory = images._plain_directory(file, path.stat().st_size, ImageRef(str(path)))
            if directory is None or directory.height * directory.width > 10_000:
                continue
            try:
                quick = images._plain_pixels(file, path.stat().st_size, directory)
            except ValueError as error:
                assert str(error).startswith("LZW strip")
                continue
        if quick is not None:
            np.testing.assert_array_equal(quick, tifffile.imread(path))
            same += 1
    assert same > 5


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_a_cut_off_picture_is_never_an_image(tmp_path, suffix):
    data = cv2.imencode(f".{suffix}", picture(np.uint8))[1].tobytes()
    path = tmp_path / f"a.{suffix}"
    for length in (*range(1, 60, 7), *np.linspace(60, len(data) - 3, 12).astype(int)):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError, match=rf"a\.{suffix}"):
            read_image(path)


@pytest.mark.parametrize("codec", ["lzw", "zlib", "zstd", "lzma"])
def test_zeroed_blocks_of_a_compressed_tiff_are_noticed(tmp_path, codec):
    path = write(tmp_path / "a.tif", picture(shape=(200, 200)), compression=codec)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(path)


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path):
    data = bytearray(cv2.imencode(".png", picture())[1].tobytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match="cut off, damaged"):
        read_image(path)


def test_random_damage_gives_an_image_of_the_declared_shape_or_an_image_error(tmp_path):
    rng = np.random.default_rng(3)
    path = tmp_path / "a"
    for suffix in ("png", "jpg", "bmp"):
        whole = cv2.imencode(f".{suffix}", picture(np.uint8))[1].tobytes()
        damage(path, whole, rng)
    for codec in ("lzw", "zlib", "zstd", "packbits", None):
        damage(path, write(tmp_path / "b.tif", picture(), compression=codec).read_bytes(), rng)
        damage(path, write(tmp_path / "b.tif", picture(), compression=codec, tile=(16, 16)).read_bytes(), rng)


def damage(path, whole, rng):
    """Write random bytes into a file, first half of the times into its header."""
    for attempt in range(30):
        data = bytearray(whole)
        for place in rng.integers(4, 64 if attempt % 2 else len(data), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            image = read_image(path, max_pixels=10_000)
        except ImageError as error:
            assert str(path) in str(error)
        else:
            assert image.ndim in (2, 3) and image.size


@pytest.mark.parametrize("content", [b"<html>404 Not Found</html>", b"PK\x03\x04", b"\0" * 100, b"GIF89a"])
def test_what_is_no_image(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="is no image: its first bytes"):
        read_image(path)


def giant(kind):
    """Make a small file that declares 60,000 x 60,000 pixels."""
    side = 60_000
    if kind == "png":
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
            + chunk(b"IEND", b"")
        )
    if kind == "bmp":
        return b"BM" + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, side, side, 1, 8, 0, 0, 0, 0, 0, 0)
    if kind == "jpg":
        return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\x01\x11\x00\xff\xd9"
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
            (277, 3, 1, 1), (278, 4, 1, side), (279, 4, 1, 4)]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory + bytes(4)


@pytest.mark.parametrize("kind", ["tif", "png", "jpg", "bmp"])
def test_giant_dimensions_are_refused_by_the_header(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(giant(kind))
    for read in (read_image, lambda p: read_plane(ImageRef(str(p))), lambda p: read_header(ImageRef(str(p)))):
        with pytest.raises(ImageError, match="declares 60000 x 60000 pixels, more than the limit"):
            read(path)


def test_the_limit_can_be_set(tmp_path):
    path = write(tmp_path / "a.tif", picture())
    assert read_image(path, max_pixels=37 * 53).shape == (37, 53)
    with pytest.raises(ImageError, match="more than the limit of 1960"):
        read_image(path, max_pixels=37 * 53 - 1)


# channels and labels


def field(**stacks):
    refs = {name: tuple(ImageRef(str(path)) for path in paths) for name, paths in stacks.items()}
    return Field(FieldKey("P", "A01", 2, 1), refs, 1)


def test_a_stack_is_projected_to_its_maximum(tmp_path):
    planes = [picture(seed=s) for s in range(3)]
    paths = [write(tmp_path / f"{z}.tif", plane) for z, plane in enumerate(planes)]
    read = read_channel(field(DNA=paths), "DNA")
    np.testing.assert_array_equal(read, np.max(planes, axis=0))
    assert read.dtype == np.uint16 and read.flags.c_contiguous


def test_nan_in_one_plane_takes_the_other(tmp_path):
    a, b = np.array([[np.nan, 1], [5, np.nan]], np.float32), np.array([[2, 3], [4, np.nan]], np.float32)
    paths = [write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b)]
    read = read_channel(field(DNA=paths), "DNA")
    np.testing.assert_array_equal(read, [[2, 3], [5, np.nan]])
    assert read.dtype == np.float32


def test_a_field_without_the_channel_or_with_mixed_planes(tmp_path):
    paths = [write(tmp_path / "a.tif", picture()), write(tmp_path / "b.tif", picture(shape=(20, 20)))]
    with pytest.raises(ImageError, match=r"A01 site 2 time 1 has no image of channel GFP \(has DNA\)"):
        read_channel(field(DNA=paths), "GFP")
    with pytest.raises(ImageError, match=r"b\.tif is 20 x 20 but .*a\.tif of the same stack is 53 x 37"):
        read_channel(field(DNA=paths), "DNA")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.uint32, np.float32])
def test_labels_of_every_type(tmp_path, dtype):
    labels = np.array([[0, 1], [1, 0]]) if dtype is bool else np.array([[0, 200], [3, 0]])
    read = read_labels(write(tmp_path / "a.tif", labels.astype(dtype), photometric="minisblack"))
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, labels)


def test_more_labels_than_16_bits_hold(tmp_path):
    labels = np.arange(300 * 300, dtype=np.int32).reshape(300, 300)
    np.testing.assert_array_equal(read_labels(write(tmp_path / "a.tif", labels)), labels)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([[0, -1]], np.int32),
        np.array([[0, 2**31]], np.uint32),
        np.array([[0, 1.5]], np.float32),
        np.array([[0, np.nan]], np.float32),
        np.array([[0, np.inf]], np.float32),
    ],
)
def test_values_that_are_no_labels(tmp_path, labels):
    with pytest.raises(ImageError, match="labels are whole numbers"):
        read_labels(write(tmp_path / "a.tif", labels))


def test_coloured_labels_are_refused(tmp_path):
    image = np.stack([picture(np.uint8, seed=s) for s in range(3)], axis=-1)
    with pytest.raises(ImageError, match="labels are one grey value"):
        read_labels(write(tmp_path / "a.tif", image, photometric="rgb"))


# real images


@pytest.mark.realdata
def test_real_tiffs_are_read_as_tifffile_reads_them(data_folder):
    folders = ("bbbc013_plate", "bbbc039/images", "cell_painting_sites/cloome_site", "vendor_layouts")
    paths = [path for folder in folders for path in sorted((data_folder / folder).rglob("*"))]
    tiffs = [path for path in paths if path.suffix.lower() in (".tif", ".tiff")]
    assert len(tiffs) > 200
    for path in tiffs[::9]:
        np.testing.assert_array_equal(read_image(path), tifffile.imread(path))


@pytest.mark.realdata
def test_real_pngs_are_grey_or_colour_and_their_labels_match(data_folder):
    shapes = set()
    for path in sorted((data_folder / "dsb2018" / "images").glob("*.png"))[::20]:
        image = read_image(path)
        shapes.add(image.ndim)
        assert read_labels(Path(str(path).replace("images", "masks"))).shape == image.shape[:2]
    assert shapes == {2, 3}
