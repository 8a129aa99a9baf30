"""No user name and no password in anything that can be read: names, reprs, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from edge_ad.camera.rtsp import RtspDriver
from edge_ad.camera.sources import open_source
from edge_ad.camera.uri import parse_uri
from edge_ad.cli.app import main
from edge_ad.errors import EdgeAdError
from edge_ad.utils.text import HIDDEN

# Marked, so that a secret that comes through cannot be mistaken for a word of ours.
# No text of a command line or a file of settings can hold a NUL.
secrets = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).map(
    lambda text: f"Zq{text}qZ"
)
SCHEMES = ("rtsp", "rtsps", "http", "ftp", "genicam", "aravis", "csi", "synthetic", "v4l2")


def message_of(action: object) -> str:
    """What a caller of ``action`` could print: its result's repr and str, or the error with all that caused it."""
    assert callable(action)
    try:
        result = action()
    except EdgeAdError as error:
        words: str = ""
        cause: BaseException | None = error
        while cause is not None:
            words, cause = f"{words} {cause!r} {cause}", cause.__cause__ or cause.__context__
        return words
    return f"{result!r} {result} {getattr(result, 'name', '')}"


@given(secrets, secrets, st.sampled_from(SCHEMES))
@example("Zqa/bqZ", "Zq@/@ #?qZ", "rtsp")
def test_parsing_never_reports_credentials(user: str, password: str, scheme: str) -> None:
    uri = f"{scheme}://{user}:{password}@127.0.0.1:1/stream"
    words = message_of(lambda: parse_uri(uri))
    assert "Zq" not in words.replace(HIDDEN, "")
    assert "qZ" not in words


@given(secrets, secrets)
def test_a_pipeline_never_reports_credentials(user: str, password: str) -> None:
    assume('"' not in user + password)
    pipeline = f'gst:rtspsrc location=rtsp://host/1 user-id="{user}" user-pw="{password}" ! decodebin'
    address = parse_uri(pipeline)
    assert "Zq" not in f"{address!r} {address.name} {address.target}"


@pytest.mark.parametrize(
    "uri",
    [
        "rtsp://{0}:{1}@127.0.0.1:1/stream",  # refused
        "rtsp://{0}:{1}@127.0.0.1:99999/stream",  # no port
        "rtsp://{0}:{1}@no-such-host.invalid/stream",
        "rtsp://{0}:{1}@[::1]:1/stream",
        "http://{0}:{1}@host/",
        "missing/rtsp://{0}:{1}@host",
        "gst:souphttpsrc location=http://{0}:{1}@127.0.0.1:1/ ! decodebin",
        "gst:no_such_element user-id={0} user-pw={1}",
    ],
)
def test_errors_of_opening_never_tell_credentials(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    words = message_of(lambda: open_source(uri.format("Zqusr", "Zqpwd")))
    output = capfd.readouterr()
    assert "Zq" not in words + output.out + output.err
    assert words


def test_the_command_line_never_reports_credentials(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "goods")
    assert main(["capture", "--camera", "rtsp://Zqusr:Zqpwd@127.0.0.1:1/x?password=Zqx", "--out", out]) == 3
    output = capfd.readouterr()
    assert "rtsp://***@127.0.0.1:1/x" in output.err
    assert "Zq" not in output.out + output.err


def test_a_handle_with_credentials_has_no_telling_repr() -> None:
    assert "Zq" not in message_of(lambda: RtspDriver("rtsp://Zqa:Zqb@127.0.0.1:1/x", "rtsp://***@127.0.0.1:1/x"))
