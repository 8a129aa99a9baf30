"""Text inside a JPEG file: there again, and the image is the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.store.schema import MAX_LENGTH, comment_of, with_comment

PICTURE = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
JPEG = cv2.imencode(".jpg", PICTURE)[1].tobytes()


@given(st.text(max_size=400))
def test_the_text_is_there_again_and_the_picture_unchanged(text: str) -> None:
    jpeg = with_comment(JPEG, text)
    assert comment_of(jpeg) == text
    plain, commented = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (JPEG, jpeg))
    np.testing.assert_array_equal(plain, commented)


def test_limits() -> None:
    assert comment_of(with_comment(JPEG, "x" * MAX_LENGTH)) == "x" * MAX_LENGTH
    with pytest.raises(BadInput, match="65534 bytes"):
        with_comment(JPEG, "x" * (MAX_LENGTH + 1))
    with pytest.raises(BadInput, match="JPEG"):
        with_comment(b"\x89PNG", "text")


def test_a_file_without_a_comment_has_none() -> None:
    assert comment_of(JPEG) is None


@given(st.integers(0, len(with_comment(JPEG, "text")) - 1))
def test_a_file_that_is_cut_off_gives_none_or_the_text(length: int) -> None:
    whole = 2 + 4 + len("text")  # start of image, head of the segment, text
    assert comment_of(with_comment(JPEG, "text")[:length]) == ("text" if length >= whole else None)


@given(st.integers(0, len(JPEG)), st.binary(max_size=20))
def test_damaged_bytes_raise_nothing(length: int, rest: bytes) -> None:
    for data in (rest, with_comment(JPEG, "text")[:length] + rest):
        result = comment_of(data)
        assert result is None or result.encode() in data
