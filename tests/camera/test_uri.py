"""What a camera URI may be, and the sentence for what it may not."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.camera.uri import ALLOWED, Address, parse_number, parse_query, parse_ranges, parse_uri
from edge_ad.errors import BadInput


@pytest.mark.parametrize(
    ("uri", "kind", "target"),
    [
        ("0", "device", "/dev/video0"),
        (" 12 ", "device", "/dev/video12"),
        ("/dev/video3", "device", "/dev/video3"),
        ("/dev/v4l/by-id/usb-cam", "device", "/dev/v4l/by-id/usb-cam"),
        ("file:///dev/video1", "device", "/dev/video1"),
        ("clip.mp4", "path", "clip.mp4"),
        ("a:b.mp4", "path", "a:b.mp4"),
        ("./0", "path", "./0"),
        ("file:///data/my%20clip.mp4", "path", "/data/my clip.mp4"),
        ("file://localhost/data/x", "path", "/data/x"),
        ("file://folder/x.mp4", "path", "folder/x.mp4"),
        ("synthetic://line", "synthetic", ""),
        ("SYNTHETIC://line/?seed=4", "synthetic", "seed=4"),
        ("synthetic://faults?rate=0.1", "faults", "rate=0.1"),
        ("csi://1", "csi", "1"),
        ("genicam://", "genicam", ""),
        ("aravis://Fake_1", "aravis", "Fake_1"),
    ],
)
def test_addresses(uri: str, kind: str, target: str) -> None:
    address = parse_uri(uri)
    assert (address.kind, address.target) == (kind, target)
    assert address == Address(address.kind, target, uri.strip())


@pytest.mark.parametrize(
    ("uri", "kind", "target", "query"),
    [
        ("0?exposure_us=8000&gain=2", "device", "/dev/video0", "exposure_us=8000&gain=2"),
        ("/dev/video1?rate=30", "device", "/dev/video1", "rate=30"),
        ("file:///dev/video1?rate=30", "device", "/dev/video1", "rate=30"),
        ("csi://0?width=1280", "csi", "0", "width=1280"),
        ("genicam://4021?cti=/opt/a.cti&gain=2", "genicam", "4021", "cti=/opt/a.cti&gain=2"),
    ],
)
def test_settings_of_a_camera_stand_in_its_query(uri: str, kind: str, target: str, query: str) -> None:
    address = parse_uri(uri)
    assert (address.kind, address.target, address.query, address.name) == (kind, target, query, uri)


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "",
            "  ",
            "a\0b",
            "http://",
            "http://host:x/",
            "watch:",
            "file://",
            "synthetic://moon",
            "ftp://x",
            "csi://",
            "csi://front",
            "csi://-1",
        ),
        *("rtsp://[::1:554/x", "rtsp://host:port/x", "rtsp://host:99999/x", "rtsp://host:0/x"),
        *("rtsp://", "rtsp:///path", "rtsp://user:word@", "rtsp://:554/", "gst:", "gst: ", "gst://"),
    ],
)
def test_refusals(uri: str) -> None:
    with pytest.raises(BadInput):
        parse_uri(uri)


def test_unknown_scheme_lists_what_is_allowed_and_hides_the_password() -> None:
    with pytest.raises(BadInput) as caught:
        parse_uri("ftp://user:secret@host/1")
    assert ALLOWED in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "user" not in str(caught.value)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 1000)), min_size=1, max_size=6))
def test_ranges_come_back_as_written(pairs: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in pairs)
    assert parse_ranges("drop", text) == tuple(range(first, first + more + 1) for first, more in pairs)


@pytest.mark.parametrize("text", ["", "5-", "-5", "9-3", "a", "1,,2", "1-2-3", "1.5", "\u0663"])
def test_ranges_refused(text: str) -> None:
    with pytest.raises(BadInput, match="black="):
        parse_ranges("black", text)


@pytest.mark.any_version
@given(st.text(max_size=30))
def test_any_text_parses_or_is_refused_in_words(text: str) -> None:
    for action in (lambda: parse_uri(text), lambda: parse_query(text, ("a",)), lambda: parse_ranges("a", text)):
        with contextlib.suppress(BadInput):
            action()


def test_query() -> None:
    assert parse_query("a=1&b=2%2C3", ("a", "b")) == {"a": "1", "b": "2,3"}
    assert parse_query("", ("a",)) == {}


@pytest.mark.parametrize(("query", "told"), [("c=1", "'c'"), ("a", "'a'"), ("a=", "'a'"), ("a=1&a=2", "'a'")])
def test_query_refused(query: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        parse_query(query, ("a", "b"))


@pytest.mark.parametrize(("text", "whole"), [("0", True), ("101", True), ("x", True), ("2.5", True), ("nan", False)])
def test_number_refused(text: str, whole: bool) -> None:
    with pytest.raises(BadInput, match="from 1 to 100"):
        parse_number("frames", text, 1, 100, whole=whole)
