"""What a Video4Linux camera delivers: images, and the bytes of MJPEG ones, whole or damaged."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_ad.camera.opencv import decode_frame

NOISE = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
JPEG = np.frombuffer(cv2.imencode(".jpg", NOISE)[1].tobytes(), np.uint8)


@pytest.mark.parametrize("shape", [(1, -1), (-1, 1)])
@pytest.mark.parametrize("padding", [0, 100])
def test_the_bytes_of_a_whole_jpeg_are_decoded(shape: tuple[int, int], padding: int) -> None:
    """A driver's buffer may be longer than the image in it."""
    data = np.concatenate([JPEG, np.zeros(padding, np.uint8)]).reshape(shape)
    image, corrupt = decode_frame(data)
    assert corrupt is None
    assert image is not None
    assert (image == cv2.imdecode(JPEG, cv2.IMREAD_COLOR)[:, :, ::-1]).all()


@pytest.mark.parametrize("place", [0.5, 0.9])
def test_a_damaged_jpeg_is_reported_and_gives_no_picture(place: float) -> None:
    data = JPEG.copy()
    data[int(place * len(data)) : int(place * len(data)) + 400] = 0
    image, corrupt = decode_frame(data[None])
    assert image is None
    assert "damaged" in (corrupt or "")


def test_a_jpeg_that_breaks_off_is_reported() -> None:
    image, corrupt = decode_frame(JPEG[None, : len(JPEG) // 2])
    assert (image, corrupt) == (None, "it is truncated")


@pytest.mark.parametrize("frame", [None, np.zeros((0, 0), np.uint8)])
def test_nothing_is_no_picture_without_a_reason(frame: np.ndarray | None) -> None:
    assert decode_frame(frame) == (None, None)


@pytest.mark.parametrize("frame", [NOISE, NOISE[:, :, 0], NOISE[:, :, :1]])
def test_decoded_pictures_pass_as_rgb(frame: np.ndarray) -> None:
    image, corrupt = decode_frame(frame)
    assert corrupt is None
    assert image is not None
    assert image.shape == (64, 48, 3)
    assert (image[:, :, 0] == (frame[:, :, 2] if frame.shape[-1:] == (3,) and frame.ndim == 3 else frame.reshape(64, 48))).all()
