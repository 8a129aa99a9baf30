"""Output URIs."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.outputs.channels import OutputAddress, parse_output


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("modbus://10.0.0.5", OutputAddress("modbus", "10.0.0.5")),
        ("modbus://plc:1502?unit=3&base=100", OutputAddress("modbus", "plc", 1502, 3, 100)),
        ("modbus-server://0.0.0.0:5020", OutputAddress("modbus-server", "0.0.0.0", 5020)),
        ("modbus-server://[::1]:0", OutputAddress("modbus-server", "::1", 0)),
        ("gpio:///dev/gpiochip0?pass=17", OutputAddress("gpio", "/dev/gpiochip0", pins={"pass": 17})),
        ("gpio://gpiochip1?pass=1&alarm=2", OutputAddress("gpio", "/dev/gpiochip1", pins={"pass": 1, "alarm": 2})),
    ],
)
def test_addresses(uri: str, address: OutputAddress) -> None:
    assert parse_output(uri) == address


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "plc",
        "mqtt://x",
        "modbus://",
        "modbus://h:99999",
        "modbus://h?unit=300",
        "modbus://h?unit=-1",
        "modbus://h?speed=1",
        "modbus://h/path",
        "modbus-server://h?unit=1",
        "gpio:///dev/gpiochip0",
        "gpio:///dev/gpiochip0?pass=1&alarm=1",
        "gpio:///dev/gpiochip0?pass=1&lamp=2",
        "modbus://h?unit",
    ],
)
def test_refused(uri: str) -> None:
    with pytest.raises(BadInput, match="--alarm"):
        parse_output(uri)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_bad_input(text: str) -> None:
    for prefix in ("", "modbus://", "gpio://", "modbus://h?"):
        with contextlib.suppress(BadInput):
            assert parse_output(prefix + text).kind in ("modbus", "modbus-server", "gpio")
