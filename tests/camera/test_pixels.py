"""Raw sensor values to RGB, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.camera.driver import FORMATS, conversion, to_image

# Which colour each of the first 2 x 2 pixels has, by the name of the format.
MOSAICS = {"BayerRG": "RGGB", "BayerGR": "GRBG", "BayerGB": "GBRG", "BayerBG": "BGGR"}


@pytest.mark.parametrize(("bits", "value", "grey"), [(8, 200, 200), (10, 800, 200), (12, 3203, 200), (16, 51200, 200)])
def test_mono_is_divided_to_eight_bits(bits: int, value: int, grey: int) -> None:
    raw = np.full(12, value, np.uint8 if bits == 8 else np.uint16)
    picture = to_image(raw, 4, 3, f"Mono{bits}")
    assert picture.shape == (3, 4, 3)
    assert picture.dtype == np.uint8
    assert (picture == grey).all()
    if bits > 8:  # the same as bytes, the lower first
        np.testing.assert_array_equal(to_image(raw.view(np.uint8), 4, 3, f"Mono{bits}"), picture)


@pytest.mark.parametrize(
    ("pixel_format", "octets"),
    [("Mono12p", [0xBC, 0x3A, 0x12]), ("Mono12Packed", [0xAB, 0x3C, 0x12])],
)
def test_packed_values(pixel_format: str, octets: list[int]) -> None:
    """0xABC and 0x123 in three bytes; 0xABC / 16 = 0xAB, 0x123 / 16 = 0x12."""
    picture = to_image(np.array(octets * 2, np.uint8), 2, 2, pixel_format)
    assert picture[:, :, 0].tolist() == [[0xAB, 0x12]] * 2


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize(("pattern", "colours"), MOSAICS.items())
@pytest.mark.parametrize("colour", "RGB")
def test_a_mosaic_of_one_colour(pattern: str, colours: str, colour: str, bits: int) -> None:
    tile = np.array([240 if each == colour else 0 for each in colours]).reshape(2, 2) << (bits - 8)
    raw = np.tile(tile, (8, 8)).astype(np.uint8 if bits == 8 else np.uint16)
    picture = to_image(raw, 16, 16, f"{pattern}{bits}")[4:-4, 4:-4].reshape(-1, 3).mean(axis=0)
    assert int(np.argmax(picture)) == "RGB".index(colour)
    assert picture["RGB".index(colour)] == pytest.approx(240, abs=2)
    assert sum(picture) == pytest.approx(240, abs=4)


def test_colour_order() -> None:
    raw = np.tile(np.array([1, 2, 3], np.uint8), 4)
    assert to_image(raw, 2, 2, "RGB8")[0, 0].tolist() == [1, 2, 3]
    assert to_image(raw, 2, 2, "BGR8")[0, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_every_format_states_its_conversion(pixel_format: str) -> None:
    assert conversion(pixel_format).startswith(f"{pixel_format}: ")
    assert to_image(np.zeros(64 * 3 * 2, np.uint8), 8, 8, pixel_format).shape == (8, 8, 3)


@pytest.mark.parametrize("pixel_format", ["YUV422_8", "Mono", "BayerRG9", "BayerXX8", ""])
def test_unknown_formats_are_refused(pixel_format: str) -> None:
    with pytest.raises(ValueError, match="not known"):
        to_image(np.zeros(64, np.uint8), 8, 8, pixel_format)


def test_too_few_values_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        to_image(np.zeros(63, np.uint8), 8, 8, "Mono8")
