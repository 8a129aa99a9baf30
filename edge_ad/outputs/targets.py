"""Targets of outputs: their canonical names, so that two runs do not drive one, and whether one answers."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import socket
from collections.abc import Sequence

from edge_ad.errors import BadInput
from edge_ad.outputs.channels import OutputAddress, address_name, check_port, parse_output, require_packages
from edge_ad.outputs.delivery import is_fast, make_output, scheme_of
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
from edge_ad.outputs.plc_map import WORDS, PlcRefused, make_plc
from edge_ad.outputs.signals import BITS, PART_ADDRESS, PART_COUNT, REGISTERS
from edge_ad.utils.locks import target_holder
from edge_ad.utils.supervision import SupervisedThread

BLOCK = 16  # addresses of a PLC that one lock stands for
LOOK_UP_S = 2.0
ADVICE = "end that run first, or try a bundle beside it with --no-outputs"


def targets_of(uris: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of a canonical name and the address for people, for everything that only one run may drive.

    Lines are counted one by one; of a PLC the unit and the addresses that are used. Webhooks and standard output bear
    several writers.
    """
    targets: dict[str, str] = {}
    for uri in uris:
        if is_fast(uri):
            address = parse_output(uri)
            targets.update(dict.fromkeys(_fast(address), address_name(address)))
        elif scheme_of(uri) in ("mqtt", "mqtts", "opcua", "file"):
            output = make_output(uri)
            name = f"file {os.path.realpath(uri.strip()[5:])}" if scheme_of(uri) == "file" else output.name
            targets[_short(name)] = output.name
    return list(targets.items())


def _fast(address: OutputAddress) -> list[str]:
    if address.kind == "gpio":
        return [_short(f"gpio {os.path.realpath(address.host)} {pin}") for pin in address.pins.values()]
    if address.kind == "jetson":
        return [f"gpio jetson {pin}" for pin in address.pins.values()]
    where = f"{address.kind} {_host(address.host)} {address.port}"
    if address.kind == "enip":
        return [_short(f"{where} {address.slot} {address.block.lower()}")]  # names of tags ignore the case
    if address.kind == "modbus-server":
        return [_short(where)] if address.port else []
    if address.kind == "s7":
        first, last = address.base // (2 * BLOCK), (address.base + 2 * WORDS - 1) // (2 * BLOCK)
        where = f"{where} {address.rack} {address.slot} {address.block}"
    else:
        first, last = address.base // BLOCK, (address.base + PART_ADDRESS + PART_COUNT - 1) // BLOCK
        where = f"{where} {address.unit}"
    return [_short(f"{where} {block}") for block in range(first, last + 1)]


def _host(host: str) -> str:
    """Return the first IP address of a host, so that two spellings are one; its name where it cannot be looked up."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    hosts: list[str] = []

    def look_up() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            hosts.extend(sorted({str(one[4][0]) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}))

    thread = SupervisedThread("look up", look_up, restart=False)
    thread.start()
    thread.join(LOOK_UP_S)
    addresses = sorted(hosts, key=lambda text: (":" in text, text))  # IPv4 first
    return addresses[0] if addresses else host.lower()


def _short(name: str) -> str:
    """Names of sockets are short."""
    return name if len(name.encode()) <= 80 else hashlib.sha256(name.encode()).hexdigest()


ANSWER_S = 2.0


def probe(address: OutputAddress, targets: Sequence[tuple[str, str]] = ()) -> str:
    """Return how the target stands, for people: reads what a PLC has of the map, or looks whether lines or a port are
    free.

    ``targets`` are the names of ``targets_of`` for this address.
    """
    if address.kind == "modbus":
        return _plc(address)
    if address.kind in ("s7", "enip"):
        return _block(address)
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


def _block(address: OutputAddress) -> str:
    """Return whether a PLC gives the block that is written."""
    try:
        require_packages([address])
    except BadInput as error:
        return f"needs {str(error).partition(' needs ')[2]}"
    plc = make_plc(address)
    try:
        plc.open()
        plc.read()
    except PlcRefused as error:
        return str(error).removeprefix("it ")
    except Exception as error:  # a library is foreign code
        return f"cannot be reached: {getattr(error, 'strerror', None) or error or type(error).__name__}"
    finally:
        with contextlib.suppress(Exception):
            plc.close()
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
