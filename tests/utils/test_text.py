"""Text from outside: whatever comes in, the result can be stored, fits on a line and is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.utils.text import MAX_PART_ID, part_id, storable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("größe 良品", "größe 良品"),
        ("teil_\udce4.png", "teil_\\xe4.png"),
        ("half \ud83d", "half \\ud83d"),
        ("a\nb\x1b[31m\x00", "a\\x0ab\\x1b[31m\\x00"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("", ""),
    ],
)
def test_what_cannot_be_stored_is_escaped(text: str, expected: str) -> None:
    assert storable(text) == expected


def test_what_is_too_long_ends_in_an_ellipsis() -> None:
    assert storable("x" * 11, 10) == "x" * 9 + "…"
    assert len(storable("\udce4" * 100, 50)) == 50


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"A-17\n", "A-17"),
        (b"B\xfc2", "B\\xfc2"),
        (b"B\xe42", "B\\xe42"),  # another part than the one before
        (b"\x02A-17\x03", "A-17"),
        (b"\xef\xbb\xbfA-17", "A-17"),
        ("B\udcfc2", "B\\xfc2"),
        (b"\xff" * 1000, "\\xff" * 16),
        (b"", ""),
    ],
)
def test_ids_of_parts(sent: str | bytes, expected: str) -> None:
    assert part_id(sent) == expected


@given(st.one_of(st.binary(max_size=300), st.text(st.characters(codec=None), max_size=300)))
def test_every_id_can_be_stored(sent: str | bytes) -> None:
    result = part_id(sent)
    assert len(result) <= MAX_PART_ID
    assert result.encode().decode() == result
    assert storable(result) == result
