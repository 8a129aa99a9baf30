"""Whether the target of an output answers, or its port can be had, asked without changing anything."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from edge_ad.outputs.channels import OutputAddress, check_port
from edge_ad.outputs.modbus_codec import (
    HEADER,
    READ_COILS,
    READ_HOLDING,
    ModbusError,
    frame,
    read_request,
    read_values,
    split_header,
)
from edge_ad.outputs.signals import BITS, REGISTERS
from edge_ad.utils.locks import target_holder

ANSWER_S = 2.0


def probe(address: OutputAddress, targets: Sequence[tuple[str, str]] = ()) -> str:
    """Return how the target stands, for people: reads a PLC's coils and registers, or looks whether lines or a port are
    free.

    ``targets`` are the names of ``targets_of`` for this address.
    """
    if address.kind == "modbus":
        return _plc(address)
    if address.kind == "gpio":
        return _lines(address)
    if address.kind == "modbus-server":
        return probe_port(address.host, address.port, targets)
    return "at once, not kept"


def probe_port(host: str, port: int, targets: Sequence[tuple[str, str]]) -> str:
    """Return whether a server could listen on the port: a run holds it, it is free, or why it cannot be had."""
    holder = target_holder(targets)
    if holder is not None:
        return f"served by {holder}"
    try:
        check_port(host, port)
    except (OSError, UnicodeError) as error:
        return f"cannot be had: {getattr(error, 'strerror', None) or error}"
    return "the port is free"


def _plc(address: OutputAddress) -> str:
    try:
        with socket.create_connection((address.host, address.port), ANSWER_S) as plc:
            plc.settimeout(ANSWER_S)
            for number, (function, count) in enumerate(((READ_COILS, len(BITS)), (READ_HOLDING, REGISTERS))):
                plc.sendall(frame(number, address.unit, read_request(function, address.base, count)))
                _, _, length = split_header(_exactly(plc, HEADER))
                try:
                    read_values(function, count, _exactly(plc, length))
                except ModbusError as error:
                    what = "coils" if function == READ_COILS else "registers"
                    return f"refuses {what} {address.base} to {address.base + count - 1}: {error}"
    except (OSError, ValueError) as error:
        return f"cannot be reached: {getattr(error, 'strerror', None) or error}"
    return "answers"


def _exactly(plc: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = plc.recv(count - len(data))
        if not more:
            raise ConnectionError("it hung up")
        data += more
    return data


def _lines(address: OutputAddress) -> str:
    try:
        import gpiod
    except ImportError:
        return "needs the package gpiod: pip install 'edge-ad[line]'"
    try:
        with contextlib.closing(gpiod.Chip(address.host)) as chip:
            taken = {
                f"{name} ({pin}): {info.consumer or 'the kernel'}"
                for name, pin in address.pins.items()
                if (info := chip.get_line_info(pin)).used
            }
    except (OSError, ValueError) as error:
        return f"cannot be had: {getattr(error, 'strerror', None) or error}"
    return f"in use: {', '.join(sorted(taken))}" if taken else "free"
