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
        ("s7://10.0.0.5/DB10", OutputAddress("s7", "10.0.0.5", 102, block="DB10", slot=1)),
        ("s7://plc:1102/db7?rack=1&slot=3&base=20", OutputAddress("s7", "plc", 1102, base=20, block="DB7", rack=1, slot=3)),
        ("enip://10.0.0.5/EdgeAD", OutputAddress("enip", "10.0.0.5", 44818, block="EdgeAD")),
        ("enip://plc:1818/Program:Main.AD?slot=2", OutputAddress("enip", "plc", 1818, block="Program:Main.AD", slot=2)),
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
        "s7://h",
        "s7:///DB1",
        "s7://h/DB0",
        "s7://h/DB70000",
        "s7://h/M10",
        "s7://h/DB1/DB2",
        "s7://h/DB1?base=1",
        "s7://h/DB1?rack=8",
        "s7://h/DB1?slot=32",
        "s7://h/DB1?unit=1",
        "s7://[::1]/DB1",
        "enip://h",
        "enip://h/1tag",
        "enip://h/tag[0]",
        "enip://h/a.b.c.d.e.f",
        f"enip://h/{'a' * 41}",
        "enip://h/tag?slot=256",
        "enip://h/tag?base=0",
        "gpio:///dev/gpiochip0",
        "gpio:///dev/gpiochip0?pass=1&alarm=1",
        "gpio:///dev/gpiochip0?pass=1&lamp=2",
        "modbus://h?unit",
    ],
)
def test_refused(uri: str) -> None:
    with pytest.raises(BadInput, match="--alarm"):
        parse_output(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "modbus://Zqme:Zqpw@plc",
        "modbus://Zqme@plc",
        "modbus:Zqme:Zqpw@plc",
        "modbus://Zqme:Zq/pw@plc",  # the port would be Zq
        "modbus://Zqme:Zq?pw@plc",
        "modbus://Zqme:12?Zq=Zq@plc",
        "modbus-server://Zqme:Zqpw@0.0.0.0",
        "s7://Zqme:Zqpw@plc/DB1",
        "s7://plc/DB1?password=Zqpw",
        "enip://Zqme:Zqpw@plc/EdgeAD",
        "enip://plc/EdgeAD?token=Zqpw",
        "modbus://plc?token=Zqpw",
        "modbus://plc?unit=1&Zqpw",
        "gpio://Zqme:Zqpw@gpiochip0?pass=1",
        "gpio:///dev/gpiochip0?pass=1&password=Zqpw",
        "plc://Zqme:Zqpw@host",
        "Zqme:Zqpw@plc",
    ],
)
def test_no_refusal_reports_a_user_or_a_password(uri: str) -> None:
    with pytest.raises(BadInput, match="--alarm") as refused:
        parse_output(uri)
    assert "Zq" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("modbus://h?unit=300", r"--alarm 'modbus://h\?unit=300': unit is 300, allowed are 0 to 255"),
        ("modbus://h?base=x", r"--alarm 'modbus://h\?base=x': base must be a whole number from 0 to 65000"),
        ("modbus://h:99999", "a port is a number from 0 to 65535"),
        ("gpio:///dev/gpiochip0?pass=1&alarm=01", r"gpiochip0\?pass=1&alarm=01' needs pass=LINE"),
    ],
)
def test_what_is_wrong_is_reported(uri: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        parse_output(uri)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_bad_input(text: str) -> None:
    for prefix in ("", "modbus://", "gpio://", "modbus://h?"):
        with contextlib.suppress(BadInput):
            assert parse_output(prefix + text).kind in ("modbus", "modbus-server", "gpio")
