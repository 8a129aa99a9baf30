"""What hides credentials: in texts, in single addresses, in values, and back again for the player."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_ad.utils.text import join_credentials, redact, redact_uri, redact_values, split_credentials


@given(st.text(alphabet=string.ascii_letters + ":@/%", max_size=20))
def test_redaction_hides_all_before_the_host(secret: str) -> None:
    assert redact(f"rtsp://{secret}@host/path") == "rtsp://***@host/path"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://host:554/1", "rtsp://host:554/1"),
        ("rtsp://host/user=admin&password=x1&channel=1", "rtsp://host/user=***&password=***&channel=1"),
        ("rtspsrc user-id=bob user-pw='a b' latency=50", "rtspsrc user-id=*** user-pw=*** latency=50"),
        ("x264enc key-int-max=10", "x264enc key-int-max=10"),
    ],
)
def test_named_secrets(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("modbus://me:pw@plc:502?unit=1", "modbus://***@plc:502?unit=1"),
        ("modbus:/me:pw@plc", "modbus:/***@plc"),
        ("modbus:me:pw@plc", "***@plc"),  # what stands before the colon may be the user
        ("me:pw@plc", "***@plc"),
        ("mqtt://me:p/w?x@y#z@broker/t", "mqtt://***@broker/t"),
        ("gpio:///dev/gpiochip0?pass=17&alarm=4", "gpio:///dev/gpiochip0?pass=***&alarm=***"),
        ("modbus://plc?unit=1&apikey=pw&pw", "modbus://plc?unit=1&apikey=***&***"),
        ("https://host/user=me&password=pw&a", "https://host/user=***&password=***&a"),
        ("stdout:", "stdout:"),
        ("", ""),
    ],
)
def test_a_single_address(uri: str, shown: str) -> None:
    assert redact_uri(uri, ("unit",)) == shown


@given(st.sampled_from(["", "modbus:", "modbus://", "x"]), st.text(alphabet=string.printable, max_size=20))
def test_nothing_before_the_last_at_survives(scheme: str, secret: str) -> None:
    assert redact_uri(f"{scheme}Zq{secret}qZ@host").endswith("***@host")
    assert "qZ" not in redact_uri(f"{scheme}Zq{secret}qZ@host")


def test_values_are_hidden_wherever_they_stand() -> None:
    assert redact_values("cannot log in as bob with bobby", ("bob", "bobby", "")) == "cannot log in as *** with ***"


@given(st.text(max_size=12), st.text(max_size=12))
def test_credentials_survive_the_way_to_the_player(user: str, password: str) -> None:
    assume(user or password)
    url = join_credentials(user, password, "rtsp://host:554/a@b?c=1")
    assert split_credentials(url) == (user, password, "rtsp://host:554/a@b?c=1")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("rtsp://host/stream@1", ("", "", "rtsp://host/stream@1")),
        ("rtsp://host:554/stream@1", ("", "", "rtsp://host:554/stream@1")),
        ("rtsp://[fe80::1]:554/x@1", ("", "", "rtsp://[fe80::1]:554/x@1")),
        ("rtsp://u:p@host/x", ("u", "p", "rtsp://host/x")),
        ("rtsp://u:p@ss@host/x", ("u", "p@ss", "rtsp://host/x")),
        ("rtsp://u:pa/ss@host/x", ("u", "pa/ss", "rtsp://host/x")),
        ("rtsp://u@host", ("u", "", "rtsp://host")),
    ],
)
def test_where_credentials_end(url: str, parts: tuple[str, str, str]) -> None:
    assert split_credentials(url) == parts
