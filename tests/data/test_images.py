"""Reading and resizing: every depth and channel count comes out as RGB bytes, every broken file as one sentence."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.data import images
from edge_ad.data.images import (
    HeaderError,
    check_image,
    inspect,
    list_images,
    read_image,
    read_mask,
    read_thumbnail,
    resize,
    significant_bits,
)
from edge_ad.errors import BadInput
from tests.data.folders import picture, save

COLOUR = (10, 120, 250)  # red, green, blue


def _plain(channels: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return np.full((6, 8, len(channels)), channels, dtype)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        pytest.param(_plain(COLOUR[::-1]), COLOUR, id="colour"),
        pytest.param(np.full((6, 8), 77, np.uint8), (77, 77, 77), id="grey"),
        pytest.param(_plain((*COLOUR[::-1], 128)), COLOUR, id="alpha"),
        pytest.param(np.full((6, 8), 77 * 256 + 9, np.uint16), (77, 77, 77), id="16-bit grey"),
        pytest.param(_plain((250 * 256, 120 * 256, 10 * 256), np.uint16), COLOUR, id="16-bit colour"),
        pytest.param(_plain((250 * 256, 120 * 256, 10 * 256, 0), np.uint16), COLOUR, id="16-bit alpha"),
    ],
)
def test_png_of_every_depth_reads_as_rgb_bytes(tmp_path: Path, stored: np.ndarray, expected: tuple[int, ...]) -> None:
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), stored)
    image = read_image(path)
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert (image == expected).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_sizes_are_width_and_height_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", picture(0, (30, 50)))
    assert check_image(path) == (50, 30)
    assert read_image(path).shape == (30, 50, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = save(tmp_path / f"cut{suffix}", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for read in (check_image, read_image):
        with pytest.raises(BadInput, match=r"cut\.\w+ cannot be read: it is"):
            read(path)


def test_a_jpeg_whose_second_half_is_zeros_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "zeros.jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(BadInput, match=r"zeros\.jpg cannot be read: it is truncated"):
        check_image(path)


def test_a_png_with_a_flipped_byte_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "flipped.png", picture(0))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"flipped\.png cannot be read: its IDAT chunk is corrupt"):
        check_image(path)


def test_a_jpeg_with_bytes_after_its_end_is_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "trailer.jpg", picture(0))
    path.write_bytes(path.read_bytes() + b"camera trailer")
    assert read_image(path).shape == (40, 60, 3)


def test_a_picture_taken_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    path = save(tmp_path / "phone.jpg", picture(0, (40, 60)))
    # EXIF, big endian, one entry: tag 0x0112 (orientation), type 3 (short), count 1, value 6 (turn by 90 degrees).
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\x00\x00" + b"MM\x00*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert read_image(path).shape == (60, 40, 3)


@pytest.mark.parametrize("content", [b"not an image", b"\x00" * 100, b"BM", b"GIF89a" + bytes(50)])
def test_other_content_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.png"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"other\.png cannot be read"):
        read_image(path)


def test_a_size_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"bomb\.png is 60000 x 60000 pixels; 1 to 200,000,000 pixels are allowed"):
        read_image(path)


def test_a_file_larger_than_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", picture(0))
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(BadInput, match="larger than 1 GiB"):
        read_image(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.png cannot be read: No such file"):
        read_image(tmp_path / "gone.png")


def test_list_images_is_sorted_and_leaves_out_what_is_no_image(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt", "c.tiff"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.tiff"]


def test_list_images_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot list .*gone: No such file"):
        list_images(tmp_path / "gone")


def test_masks_keep_their_values(tmp_path: Path) -> None:
    mask = np.array([[0, 255], [254, 0]], np.uint8)
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    assert read_mask(tmp_path / "m.png").tolist() == mask.tolist()
    cv2.imwrite(str(tmp_path / "colour.png"), np.repeat(mask[..., None], 3, axis=2))
    assert read_mask(tmp_path / "colour.png").tolist() == mask.tolist()


def test_shrinking_averages_areas() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = 100
    image[2:, 2:, 0] = [[0, 40], [80, 120]]
    small = resize(image, (2, 2))
    assert small[0, 0].tolist() == [100, 100, 100]
    assert small[1, 1].tolist() == [60, 0, 0]  # the mean of 0, 40, 80, 120


def test_growing_is_linear_and_keeps_the_range() -> None:
    image = np.array([[[0] * 3, [200] * 3]], np.uint8)
    # Pixel centres of the wide image lie at 0, 0.25, 0.75 and 1 between the two centres of the small one.
    assert resize(image, (1, 4))[0, :, 0].tolist() == [0, 50, 150, 200]


def test_shrinking_one_axis_while_the_other_grows_still_averages() -> None:
    image = np.zeros((8, 2, 3), np.uint8)
    image[::2] = 200  # stripes, which alias to 0 or 200 without averaging
    assert (resize(image, (2, 4)) == 100).all()


def test_the_same_size_changes_nothing() -> None:
    image = picture(3)
    assert (resize(image, (40, 60)) == image).all()


@pytest.mark.parametrize(("shape", "size"), [((1, 1, 3), (3, 2)), ((1, 1), (2, 3)), ((1, 4, 3), (3, 1)), ((5, 1), (1, 2))])
def test_a_single_pixel_grows(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    assert (resize(np.full(shape, 77, np.uint8), size) == np.full((*size, *shape[2:]), 77)).all()


@settings(deadline=None)
@given(st.tuples(*[st.integers(1, 40)] * 4), st.integers(0, 255))
def test_any_resize_has_its_size_and_keeps_a_plain_colour(sizes: tuple[int, int, int, int], value: int) -> None:
    image = np.full((sizes[0], sizes[1], 3), value, np.uint8)
    result = resize(image, (sizes[2], sizes[3]))
    assert result.shape == (sizes[2], sizes[3], 3)
    assert (result == value).all()


@settings(deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"BM", b"RIFF\x00\x00\x00\x00WEBP"]),
)
def test_any_bytes_are_reported_or_sized_never_a_crash(data: bytes, start: bytes) -> None:
    with contextlib.suppress(HeaderError):
        size = inspect(start + data)
        assert size is None or all(isinstance(side, int) for side in size)


def test_thumbnails_are_grey_and_alike_for_both_ways_of_decoding(tmp_path: Path) -> None:
    image = picture(1, (512, 512))
    large, small = save(tmp_path / "large.jpg", image), save(tmp_path / "small.jpg", resize(image, (128, 128)))
    first, second = (read_thumbnail(path, 32).astype(int) for path in (large, small))
    assert first.shape == (32, 32)
    assert np.abs(first - second).max() <= 6


def _damages(data: bytes) -> dict[str, bytes]:
    third = len(data) // 3
    noise = np.random.default_rng(0).integers(0, 256, third, dtype=np.uint8).tobytes()
    return {
        "a hole of zeros": data[:third] + bytes(third) + data[2 * third :],
        "a hole of noise": data[:third] + noise + data[2 * third :],
        "a third cut out": data[:third] + data[2 * third :],
    }


@pytest.mark.parametrize("damage", ["a hole of zeros", "a hole of noise", "a third cut out"])
def test_a_jpeg_damaged_in_the_middle_is_refused_by_every_reader(tmp_path: Path, damage: str) -> None:
    path = save(tmp_path / "hole.jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(_damages(path.read_bytes())[damage])
    for read in (check_image, read_image, lambda file: read_thumbnail(file, 8)):
        with pytest.raises(BadInput, match=r"hole\.jpg cannot be read: its JPEG data are damaged"):
            read(path)


@pytest.mark.parametrize("flags", [[cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4], []])
def test_whole_jpegs_of_every_coding_are_read(tmp_path: Path, flags: list[int]) -> None:
    for image in (picture(0), picture(0)[:, :, 0]):
        assert cv2.imwrite(str(tmp_path / "whole.jpg"), image, flags)
        assert read_image(tmp_path / "whole.jpg").shape == (40, 60, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_turned_image(tmp_path: Path, orientation: int) -> None:
    exif = b"II*\x00" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, orientation, 0) + bytes(4)
    jpeg = save(tmp_path / "phone.jpg", picture(0))
    data, segment = jpeg.read_bytes(), b"Exif\x00\x00" + exif
    jpeg.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    png = save(tmp_path / "phone.png", picture(0))
    data, checksum = png.read_bytes(), struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    png.write_bytes(data[:33] + struct.pack(">I", len(exif)) + b"eXIf" + exif + checksum + data[33:])
    for path in (jpeg, png):
        assert check_image(path) == read_image(path).shape[1::-1]
        assert check_image(path) == ((40, 60) if orientation >= 5 else (60, 40))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_opencv_turns_a_jpeg(tmp_path: Path, orientation: int) -> None:
    exif = b"II*\x00" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, orientation, 0) + bytes(4)
    data, segment = save(tmp_path / "phone.jpg", picture(0)).read_bytes(), b"Exif\x00\x00" + exif
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    encoded = np.frombuffer(data, np.uint8)
    stored = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    np.testing.assert_array_equal(images.turn(stored, orientation), cv2.imdecode(encoded, cv2.IMREAD_COLOR))


@pytest.mark.parametrize(("orientation", "shape"), [(1, (40, 60)), (6, (60, 40))])
def test_a_png_is_turned_where_opencv_does_not_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(images, "OPENCV", (4, 5))
    monkeypatch.setattr(images, "png_orientation", lambda data: orientation)
    path = save(tmp_path / "phone.png", picture(0))
    assert read_image(path).shape[:2] == shape
    assert read_mask(path).shape == (40, 60)


def test_floating_point_values_are_reported_as_such(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "float.tif"), picture(0).astype(np.float32))
    with pytest.raises(BadInput, match=r"float\.tif cannot be read: it holds float32 values, and 8 or 16 bits are needed"):
        read_image(tmp_path / "float.tif")


@pytest.mark.parametrize("start", [b"II+\x00", b"MM\x00+"])
def test_a_bigtiff_is_reported_as_such(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "big.tif").write_bytes(start + bytes(40))
    with pytest.raises(BadInput, match=r"big\.tif cannot be read: it is a BigTIFF"):
        read_image(tmp_path / "big.tif")


@pytest.mark.parametrize("name", ["a.ppm", "a.pgm", "a.jfif", "a.JFIF"])
def test_images_of_less_usual_suffixes_are_listed_and_read(tmp_path: Path, name: str) -> None:
    suffix = ".jpg" if name.lower().endswith("jfif") else Path(name).suffix
    image = picture(0)[:, :, 0] if suffix == ".pgm" else picture(0)
    save(tmp_path / f"made{suffix}", image).rename(tmp_path / name)
    assert [path.name for path in list_images(tmp_path)] == [name]
    assert read_image(tmp_path / name).shape == (40, 60, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
@pytest.mark.parametrize(("bits", "greatest"), [(10, 1023), (12, 4095), (12, 1024), (14, 4096), (16, 16384)])
def test_values_of_fewer_bits_in_16_bit_files_are_found_over_the_set_and_scaled(
    tmp_path: Path, suffix: str, bits: int, greatest: int
) -> None:
    paths = []
    for index, peak in enumerate((greatest // 9, greatest, greatest // 5)):  # one dark image alone would tell fewer bits
        values = np.linspace(0, peak, 48).reshape(6, 8).astype(np.uint16)
        paths.append(tmp_path / f"{index}{suffix}")
        assert cv2.imwrite(str(paths[-1]), values)
    assert significant_bits(paths) == bits
    assert read_image(paths[1], bits).max() == greatest >> (bits - 8)
    assert read_thumbnail(paths[1], 4, bits).max() > 4 * read_thumbnail(paths[1], 4).max() or bits > 12


def test_files_of_8_bits_and_what_cannot_be_read_tell_nothing_about_depth(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\x00")
    paths = [save(tmp_path / f"a{suffix}", picture(0)) for suffix in (".png", ".jpg", ".tif", ".bmp")]
    assert significant_bits([*paths, broken]) == 16
    assert (read_image(paths[0], 12) == read_image(paths[0])).all()


def test_values_beyond_the_bits_of_the_training_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((6, 8), 5000, np.uint16))
    with pytest.raises(BadInput, match=r"a\.png holds values up to 5000 where 12 bits allow 4095"):
        read_image(tmp_path / "a.png", 12)


DECODE = """
import resource, sys
from pathlib import Path
import cv2
from edge_ad.data.images import read_image
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 40_000_000, used + 40_000_000))
try:
    read_image(Path(sys.argv[1]))
except BaseException as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.ppm"])
def test_an_image_for_which_there_is_no_memory_is_not_reported_as_damaged(tmp_path: Path, name: str) -> None:
    """OpenCV returns nothing for both, so a training would leave out whole images and a run ask for other files."""
    plain = np.tile(np.arange(6000, dtype=np.uint8)[:, None], (4000, 1, 3))
    assert cv2.imwrite(str(tmp_path / name), plain)  # 72 MB of pixels
    done = subprocess.run([sys.executable, "-c", DECODE, str(tmp_path / name)], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("MemoryError", 0), done.stderr


@pytest.mark.parametrize(
    "data",
    [
        b"P6\n# a comment\n100000 # another\n100000\n255\n",
        b"P5 100000 100000 255 ",
        b"II*\x00" + struct.pack("<IHHHIIHHII", 8, 2, 0x100, 4, 1, 100_000, 0x101, 4, 1, 100_000),
        b"MM\x00*" + struct.pack(">IHHHIIHHII", 8, 2, 0x100, 4, 1, 100_000, 0x101, 4, 1, 100_000),
    ],
    ids=["ppm", "pgm", "little-endian tiff", "big-endian tiff"],
)
def test_a_size_bomb_of_a_format_that_reports_its_size_late_is_refused_too(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(data + bytes(100))
    with pytest.raises(BadInput, match="is 100000 x 100000 pixels; 1 to 200,000,000 pixels are allowed"):
        check_image(tmp_path / "a.tif")
