"""Modbus frames: against bytes from the standard, and what must hold for all of them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.outputs.modbus_codec import (
    ModbusError,
    Read,
    Write,
    error_answer,
    frame,
    pack_bits,
    parse_request,
    read_answer,
    read_request,
    read_values,
    split_header,
    unpack_bits,
    write_answer,
    write_bits_request,
    write_registers_request,
)


@pytest.mark.parametrize(  # the examples of the Modbus Application Protocol Specification V1.1b3, chapter 6
    ("request_hex", "request_", "values", "answer_hex"),
    [
        ("0100130013", Read(1, 0x13, 19), unpack_bits(bytes.fromhex("cd6b05"), 19), "0103cd6b05"),
        ("0200c40016", Read(2, 0xC4, 22), unpack_bits(bytes.fromhex("acdb35"), 22), "0203acdb35"),
        ("03006b0003", Read(3, 0x6B, 3), (0x022B, 0, 0x64), "0306022b00000064"),
        ("0400080001", Read(4, 8, 1), (0x0A,), "0402000a"),
        ("0500acff00", Write(5, 0xAC, (1,)), None, "0500acff00"),
        ("0600010003", Write(6, 1, (3,)), None, "0600010003"),
        ("0f0013000a02cd01", Write(15, 0x13, (1, 0, 1, 1, 0, 0, 1, 1, 1, 0)), None, "0f0013000a"),
        ("1000010002 04000a0102", Write(16, 1, (10, 0x102)), None, "1000010002"),
    ],
)
def test_the_examples_of_the_standard(
    request_hex: str, request_: Read | Write, values: tuple[int, ...] | None, answer_hex: str
) -> None:
    result = parse_request(bytes.fromhex(request_hex))
    assert result == request_
    answer = read_answer(result, values or ()) if isinstance(result, Read) else write_answer(result)
    assert answer == bytes.fromhex(answer_hex)


@pytest.mark.parametrize(
    ("pdu", "code"),
    [
        ("07", 1),
        ("2b0e0100", 1),
        ("03", 3),
        ("0300000000", 3),
        ("030000007e", 3),
        ("01000007d1", 3),
        ("0500001234", 3),
        ("0f0000000a01cd", 3),
        ("100000000103000a", 3),
        ("10000000000", 3),
    ],
)
def test_wrong_requests_get_their_exception(pdu: str, code: int) -> None:
    with pytest.raises(ModbusError) as caught:
        parse_request(bytes.fromhex(pdu if len(pdu) % 2 == 0 else pdu[:-1]))
    assert caught.value.code == code
    assert error_answer(3, code) == bytes((0x83, code))


@given(st.lists(st.booleans(), min_size=1, max_size=100), st.integers(0, 60_000))
def test_bits_survive_the_way(bits: list[bool], address: int) -> None:
    assert unpack_bits(pack_bits(tuple(bits)), len(bits)) == tuple(bits)
    assert parse_request(write_bits_request(address, tuple(bits))) == Write(15, address, tuple(map(int, bits)))
    request = Read(1, address, len(bits))
    assert parse_request(read_request(1, address, len(bits))) == request
    assert read_values(1, len(bits), read_answer(request, tuple(map(int, bits)))) == tuple(bits)


@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=120), st.integers(0, 60_000))
def test_registers_survive_the_way(values: list[int], address: int) -> None:
    assert parse_request(write_registers_request(address, tuple(values))) == Write(16, address, tuple(values))
    assert read_values(3, len(values), read_answer(Read(3, address, len(values)), tuple(values))) == tuple(values)


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_are_a_request_or_an_exception(pdu: bytes) -> None:
    with contextlib.suppress(ModbusError):
        assert isinstance(parse_request(pdu), Read | Write)


def test_frames() -> None:
    whole = frame(0x1501, 0xFF, bytes.fromhex("0300040001"))
    assert whole == bytes.fromhex("150100000006ff0300040001")
    assert split_header(whole[:7]) == (0x1501, 0xFF, 5)
    for header in ("150100010006ff", "150100000001ff", "1501000000ffff"):
        with pytest.raises(ValueError, match="Modbus"):
            split_header(bytes.fromhex(header))


@pytest.mark.parametrize("pdu", ["0302", "030400010002", "0402000a", "03"])
def test_answers_that_do_not_fit_are_refused(pdu: str) -> None:
    with pytest.raises(ValueError, match="fit"):
        read_values(3, 1, bytes.fromhex(pdu))
    with pytest.raises(ModbusError):
        read_values(3, 1, bytes.fromhex("8302"))
