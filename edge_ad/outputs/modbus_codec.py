"""Modbus TCP on the wire: requests and answers as bytes (Modbus Application Protocol V1.1b3, Messaging on TCP V1.0b).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER = 7
MAX_LENGTH = 260
READ_COILS, READ_DISCRETE, READ_HOLDING, READ_INPUT = 1, 2, 3, 4
WRITE_COIL, WRITE_REGISTER, WRITE_COILS, WRITE_REGISTERS = 5, 6, 15, 16
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
EXCEPTIONS = {
    1: "no such function",
    2: "no such address",
    3: "a value out of range",
    4: "a fault of the device",
    6: "the device is busy",
    10: "no path through the gateway",
    11: "no such unit behind the gateway",
}


class ModbusError(Exception):
    """A request that is answered with an exception; ``code`` as the standard has it."""

    def __init__(self, code: int, refused: str = "") -> None:
        meaning = f"Modbus exception {code}" + (f", {EXCEPTIONS[code]}" if code in EXCEPTIONS else "")
        super().__init__(f"{refused} ({meaning})" if refused else meaning)
        self.code = code


@dataclass(frozen=True)
class Read:
    """A request to read ``count`` bits or registers from ``address`` on."""

    function: int
    address: int
    count: int


@dataclass(frozen=True)
class Write:
    """A request to write ``values`` (bits as 0 and 1) from ``address`` on."""

    function: int
    address: int
    values: tuple[int, ...]


def frame(transaction: int, unit: int, pdu: bytes) -> bytes:
    """Return a whole Modbus TCP frame."""
    return struct.pack(">HHHB", transaction & 0xFFFF, 0, len(pdu) + 1, unit & 0xFF) + pdu


def split_header(header: bytes) -> tuple[int, int, int]:
    """Return transaction, unit and the length of the PDU that follows; ValueError for what is no Modbus TCP header."""
    transaction, protocol, length, unit = struct.unpack(">HHHB", header)
    if protocol != 0 or not 2 <= length <= MAX_LENGTH - 6:
        raise ValueError("not a Modbus TCP frame")
    return transaction, unit, length - 1


def parse_request(pdu: bytes) -> Read | Write:
    """Return what a PDU asks for; ModbusError for an unknown function or values out of range."""
    function = pdu[0]
    if function not in (1, 2, 3, 4, 5, 6, 15, 16):
        raise ModbusError(ILLEGAL_FUNCTION)
    if len(pdu) < 5:
        raise ModbusError(ILLEGAL_VALUE)
    address, number = struct.unpack(">HH", pdu[1:5])
    if function in (READ_COILS, READ_DISCRETE, READ_HOLDING, READ_INPUT):
        if len(pdu) != 5 or not 1 <= number <= (2000 if function <= READ_DISCRETE else 125):
            raise ModbusError(ILLEGAL_VALUE)
        return Read(function, address, number)
    if function in (WRITE_COIL, WRITE_REGISTER):
        return _single(function, address, number, len(pdu))
    return _multiple(function, address, number, pdu[5:])


def _single(function: int, address: int, number: int, length: int) -> Write:
    if length != 5 or (function == WRITE_COIL and number not in (0, 0xFF00)):
        raise ModbusError(ILLEGAL_VALUE)
    return Write(function, address, (int(number == 0xFF00),) if function == WRITE_COIL else (number,))


def _multiple(function: int, address: int, number: int, rest: bytes) -> Write:
    size = (number + 7) // 8 if function == WRITE_COILS else 2 * number
    maximum = 1968 if function == WRITE_COILS else 123
    if not 1 <= number <= maximum or len(rest) != 1 + size or rest[0] != size:
        raise ModbusError(ILLEGAL_VALUE)
    data = rest[1:]
    if function == WRITE_COILS:
        return Write(function, address, unpack_bits(data, number))
    return Write(function, address, struct.unpack(f">{number}H", data))


def read_answer(request: Read, values: tuple[int, ...]) -> bytes:
    """Return the PDU that answers a read."""
    data = pack_bits(values) if request.function <= READ_DISCRETE else struct.pack(f">{len(values)}H", *values)
    return bytes((request.function, len(data))) + data


def write_answer(request: Write) -> bytes:
    """Return the PDU that answers a write."""
    if request.function == WRITE_COIL:
        number = 0xFF00 if request.values[0] else 0
    else:
        number = request.values[0] if request.function == WRITE_REGISTER else len(request.values)
    return struct.pack(">BHH", request.function, request.address, number)


def error_answer(function: int, code: int) -> bytes:
    """Return the PDU of an exception."""
    return bytes((function | 0x80, code))


def write_bits_request(address: int, bits: tuple[bool, ...]) -> bytes:
    """Return the PDU that writes several coils."""
    data = pack_bits(bits)
    return struct.pack(">BHHB", WRITE_COILS, address, len(bits), len(data)) + data


def write_registers_request(address: int, values: tuple[int, ...]) -> bytes:
    """Return the PDU that writes several registers."""
    return struct.pack(f">BHHB{len(values)}H", WRITE_REGISTERS, address, len(values), 2 * len(values), *values)


def read_request(function: int, address: int, count: int) -> bytes:
    """Return the PDU of a read."""
    return struct.pack(">BHH", function, address, count)


def read_values(function: int, count: int, pdu: bytes) -> tuple[int, ...]:
    """Return the values in the answer to a read; ModbusError for an exception, ValueError for anything else."""
    if len(pdu) == 2 and pdu[0] == function | 0x80:
        raise ModbusError(pdu[1])
    size = (count + 7) // 8 if function <= READ_DISCRETE else 2 * count
    if len(pdu) != 2 + size or pdu[0] != function or pdu[1] != size:
        raise ValueError("the answer does not fit the request")
    return unpack_bits(pdu[2:], count) if function <= READ_DISCRETE else struct.unpack(f">{count}H", pdu[2:])


def pack_bits(bits: tuple[int, ...] | tuple[bool, ...]) -> bytes:
    """Return bits as bytes, the first bit lowest."""
    data = bytearray((len(bits) + 7) // 8)
    for index, bit in enumerate(bits):
        data[index // 8] |= bool(bit) << index % 8
    return bytes(data)


def unpack_bits(data: bytes, count: int) -> tuple[int, ...]:
    """Return the first ``count`` bits of bytes."""
    return tuple(data[index // 8] >> index % 8 & 1 for index in range(count))
