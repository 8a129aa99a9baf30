"""What two runs must not drive at once: canonical names of the targets of outputs."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import socket
from collections.abc import Sequence

from edge_ad.outputs.channels import OutputAddress, address_name, parse_output
from edge_ad.outputs.delivery import is_fast, make_output, scheme_of
from edge_ad.outputs.signals import PART_ADDRESS, PART_COUNT
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
    if address.kind == "modbus-server":
        return [_short(where)] if address.port else []
    first, last = address.base // BLOCK, (address.base + PART_ADDRESS + PART_COUNT - 1) // BLOCK
    return [_short(f"{where} {address.unit} {block}") for block in range(first, last + 1)]


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
