"""Which outputs there are: a URI in, a channel out.

What the addresses of all outputs share.
"""

from __future__ import annotations

import importlib.util
import re
import socket
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from edge_ad.errors import BadInput
from edge_ad.outputs.signals import ChannelHealth, OnRequest, OutputSignals
from edge_ad.utils.text import redact_uri


def settings_of(query: str) -> dict[str, str]:
    """Return the settings NAME=VALUE after the question mark of an address; ValueError for anything else there."""
    return dict(urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))


def first_missing(files: Iterable[str]) -> str | None:
    """Return the first name that is no file, None when all are."""
    return next((name for name in files if not Path(name).is_file()), None)


def check_port(host: str, port: int) -> None:
    """Listen on an address for an instant; OSError when that cannot be."""
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
        pass


def bracketed(host: str) -> str:
    """Return a host as an address writes it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


FAST = ("modbus", "modbus-server", "gpio", "s7", "enip")
ALLOWED = (
    "modbus://HOST:502?unit=1&base=0 (writes into a PLC), modbus-server://ADDRESS:502 (a PLC reads here), "
    "s7://HOST:102/DB10?rack=0&slot=1&base=0, enip://HOST:44818/TAG?slot=0, "
    "gpio:///dev/gpiochip0?pass=17&alarm=27, gpio://jetson?pass=29 (the header of a Jetson), mqtt://HOST/PREFIX, "
    "mqtts://HOST/PREFIX, http(s)://HOST/PATH (a webhook), opcua://ADDRESS:4840, file:PATH or stdout:"
)
PACKAGES = {"s7": "snap7", "enip": "pylogix"}  # all of the extra plc
PINS = ("pass", "fault", "alarm", "ready", "result_valid", "busy", "heartbeat", "strobe", "acknowledge", "trigger")


class Channel(Protocol):
    """A set of wires that the guard drives; all methods run in its event loop and none may block it."""

    @property
    def name(self) -> str:
        """The address for people."""

    async def open(self) -> None:
        """Make ready; OSError or DeviceFault when that cannot be."""

    def look(self) -> None:
        """Take in requests that wait, before a pass is shown."""

    def show(self, signals: OutputSignals) -> None:
        """Bring the lines out; called again and again with the same ones, and never raises for a wire that fails."""

    async def close(self) -> None:
        """Let go; the caller has shown a reject before."""


@runtime_checkable
class Listening(Channel, Protocol):
    """A channel whose PLC comes and reads: it must have time to see the last lines."""

    @property
    def port(self) -> int:
        """The TCP port."""


@runtime_checkable
class Confirming(Channel, Protocol):
    """A channel whose PLC confirms what is shown."""

    async def confirmed(self, seconds: float) -> bool:
        """Wait until the PLC has what was shown last; False after ``seconds``."""


@dataclass(frozen=True)
class OutputAddress:
    """A checked output URI. ``block``: the data block of an S7, the tag of a Logix PLC."""

    kind: Literal["modbus", "modbus-server", "gpio", "jetson", "s7", "enip"]
    host: str
    port: int = 502
    unit: int = 1
    base: int = 0
    pins: Mapping[str, int] = field(default_factory=dict)
    block: str = ""
    rack: int = 0
    slot: int = 0

    @property
    def trigger(self) -> str:
        """What `--trigger` calls parts that come through this output."""
        return {"modbus-server": "modbus", "jetson": "gpio"}.get(self.kind, self.kind)


def parse_output(uri: str) -> OutputAddress:
    """Check an output URI; anything else than ALLOWED raises BadInput, which repeats no user, password or unknown
    value.
    """
    prefix = f"--alarm {redact_uri(uri, ('unit', 'base', *PINS))!r}"
    if "@" in uri:
        raise BadInput(f"{prefix} has an @: PLCs and pins have no users and passwords; allowed are {ALLOWED}")
    try:
        parts = urllib.parse.urlsplit(uri.strip())
        port = parts.port
        settings = settings_of(parts.query)
    except ValueError as error:  # whose words repeat parts of the address
        raise BadInput(
            f"{prefix}: a port is a number from 0 to 65535, a setting NAME=VALUE; allowed are {ALLOWED}"
        ) from error
    if parts.scheme in ("modbus", "modbus-server"):
        known = {"unit", "base"} if parts.scheme == "modbus" else set()
        if parts.path.strip("/") or not parts.hostname or set(settings) - known:
            raise BadInput(f"{prefix} is no Modbus address; allowed are {ALLOWED}")
        numbers = _numbers(prefix, settings)
        if numbers.get("unit", 1) > 255:
            raise BadInput(f"{prefix}: unit is {numbers['unit']}, allowed are 0 to 255")
        kind: Literal["modbus", "modbus-server"] = "modbus" if parts.scheme == "modbus" else "modbus-server"
        unit, base = numbers.get("unit", 1), numbers.get("base", 0)
        return OutputAddress(kind, parts.hostname, 502 if port is None else port, unit, base)
    if parts.scheme in ("s7", "enip"):
        if not parts.hostname or ":" in parts.hostname:
            raise BadInput(f"{prefix} needs the name or IPv4 address of a PLC; allowed are {ALLOWED}")
        known = {"s7": {"rack", "slot", "base"}, "enip": {"slot"}}[parts.scheme]
        if set(settings) - known:
            raise BadInput(f"{prefix}: allowed settings are {', '.join(sorted(known))}")
        block, numbers = parts.path.strip("/"), _numbers(prefix, settings)
        if parts.scheme == "s7":
            return replace(_data_block(prefix, block, numbers), host=parts.hostname, port=port or 102)
        return replace(_tag(prefix, block, numbers), host=parts.hostname, port=port or 44818)
    if parts.scheme == "gpio":
        pins = {} if set(settings) - set(PINS) else _numbers(prefix, settings)
        if "pass" not in pins or len(set(pins.values())) < len(pins):
            raise BadInput(f"{prefix} needs pass=LINE and may have one line each for {', '.join(PINS[1:])}")
        if "strobe" in pins and "trigger" not in pins:
            raise BadInput(f"{prefix}: strobe answers a trigger: name its line too, trigger=LINE")
        if parts.netloc == "jetson" and not parts.path.strip("/"):
            return OutputAddress("jetson", "", pins=pins)
        chip = parts.path if not parts.netloc else f"/dev/{parts.netloc}"
        return OutputAddress("gpio", chip, pins=pins)
    raise BadInput(f"{prefix} is no output; allowed are {ALLOWED}")


def _data_block(prefix: str, path: str, numbers: Mapping[str, int]) -> OutputAddress:
    block = path.upper()
    if not re.fullmatch(r"DB[1-9][0-9]{0,4}", block) or int(block[2:]) > 65_535:
        raise BadInput(f"{prefix} names no data block: write s7://HOST/DB10, from DB1 to DB65535")
    rack, slot, base = numbers.get("rack", 0), numbers.get("slot", 1), numbers.get("base", 0)
    if rack > 7 or slot > 31 or base % 2:
        raise BadInput(f"{prefix}: allowed are rack 0 to 7, slot 0 to 31 and an even base (it counts bytes)")
    return OutputAddress("s7", "", base=base, block=block, rack=rack, slot=slot)


_NAME = "[A-Za-z_][A-Za-z0-9_]{0,39}"


def _tag(prefix: str, path: str, numbers: Mapping[str, int]) -> OutputAddress:
    if not re.fullmatch(rf"(Program:)?{_NAME}(\.{_NAME}){{0,4}}", path):
        raise BadInput(
            f"{prefix} names no tag: write enip://HOST/EdgeAD, or enip://HOST/Program:MainProgram.EdgeAD, letters, digits "
            "and _ only"
        )
    slot = numbers.get("slot", 0)
    if slot > 255:
        raise BadInput(f"{prefix}: slot is {slot}, allowed are 0 to 255")
    return OutputAddress("enip", "", block=path, slot=slot)


def require_packages(addresses: Iterable[OutputAddress]) -> None:
    """Raise BadInput for an output whose package is not installed, without loading it."""
    for address in addresses:
        package = PACKAGES.get(address.kind)
        if package is not None and importlib.util.find_spec(package) is None:
            raise BadInput(
                f"--alarm {address_name(address)} needs the package {package!r}: pip install 'edge-ad[plc]'"
            )


def address_name(address: OutputAddress) -> str:
    """Return the address for people, as channels name themselves."""
    if address.kind == "jetson":
        return "gpio://jetson"
    if address.kind == "gpio":
        return f"gpio://{address.host}"
    return f"{address.kind}://{address.host}:{address.port}" + (f"/{address.block}" if address.block else "")


def address_names(addresses: Sequence[OutputAddress]) -> list[str]:
    """Return the addresses for people, told apart where two outputs share a PLC or a chip."""
    names = [address_name(address) for address in addresses]
    return [
        name if names.count(name) == 1 else f"{name}?{_distinct(address)}"
        for name, address in zip(names, addresses, strict=True)
    ]


def make_channel(
    address: OutputAddress, on_request: OnRequest, stats: ChannelHealth, look: Callable[[], None] = lambda: None
) -> Channel:
    """Return the channel of an address, not opened yet; call it inside the event loop.

    ``look`` is what a server calls before it answers.
    """
    if address.kind == "modbus":
        from edge_ad.outputs.modbus_client import ModbusClient

        return ModbusClient(address.host, address.port, address.unit, address.base, on_request=on_request, stats=stats)
    if address.kind == "modbus-server":
        from edge_ad.outputs.modbus_server import ModbusServer

        return ModbusServer(address.host, address.port, on_request, look)
    if address.block:
        from edge_ad.outputs.plc_channel import PlcChannel

        return PlcChannel(address, on_request, stats)
    if address.kind == "jetson":
        from edge_ad.outputs.jetson_gpio import JetsonGpio

        return JetsonGpio(address.pins, on_request, stats)
    from edge_ad.outputs.gpio import Gpio

    return Gpio(address.host, address.pins, on_request, stats)


def _distinct(address: OutputAddress) -> str:
    if address.kind in ("s7", "enip"):
        return f"rack={address.rack}&slot={address.slot}&base={address.base}"
    return f"pass={address.pins['pass']}" if address.pins else f"unit={address.unit}&base={address.base}"


def _numbers(prefix: str, settings: Mapping[str, str]) -> dict[str, int]:
    for key, text in settings.items():
        if not (text.isascii() and text.isdigit() and int(text) <= 65_000):
            raise BadInput(f"{prefix}: {key} must be a whole number from 0 to 65000")
    return {key: int(text) for key, text in settings.items()}
