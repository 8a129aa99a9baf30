"""Checks of temperatures and of throttling."""

from __future__ import annotations

from edge_ad.doctor.finding import UNWELL, Finding
from edge_ad.doctor.machine import Machine
from edge_ad.engines.board import is_jetson

CLOSE_C = 5.0
_OVER_CURRENT = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "instantaneous over-current"}
_SLOWERS = ("cpufreq-", "devfreq-")
_NO_SENSOR = Finding("temperature", "warn", "no sensor answers", "look at /sys/class/thermal, or run: sudo tegrastats")


def temperatures(machine: Machine) -> Finding:
    """Tell the temperatures, and whether one is close to where the kernel acts on it.

    Within 5 degrees of the highest passive trip point, where clocks are slowed, is a warning, and so near to the critical
    one, where the machine is switched off, a fail. Lower passive points only raise an alert: an Orin has one at 70 C. A
    sensor that is switched off does not answer and is left out.
    """
    zones = sorted(_zones(machine), reverse=True)
    if not zones:
        return _NO_SENSOR if is_jetson(machine.root) else Finding("temperature", "ok", "no sensor here")
    for degrees, name, folder in zones:
        trips = _trip_points(machine, folder)
        off = min((point for kind, point in trips if kind == "critical"), default=float("inf"))
        slow = max((point for kind, point in trips if kind in ("passive", "hot")), default=float("inf"))
        if degrees >= off - CLOSE_C:
            return Finding(
                "temperature",
                "fail",
                f"{name} {degrees:.0f} C, and at {off:g} C the machine switches itself off",
                "let it cool down, then clear or add cooling, or choose a lower power mode",
                code=UNWELL,
            )
        if degrees >= slow - CLOSE_C:
            return Finding(
                "temperature",
                "warn",
                f"{name} {degrees:.0f} C, and from {slow:g} C on clocks are slowed",
                "clear or add cooling, or choose a lower power mode: a slowed board gives its verdicts late",
            )
    return Finding("temperature", "ok", ", ".join(f"{name} {degrees:.0f}" for degrees, name, _ in zones) + " C")


def throttling(machine: Machine) -> Finding:
    """Tell what slows the board now, and how often voltage or current did since it started."""
    counts: dict[str, int] = {}
    for name in _OVER_CURRENT:
        for path in machine.find(f"sys/class/hwmon/hwmon*/{name}_event_cnt"):
            counts[name] = counts.get(name, 0) + (machine.number(path) or 0)
    events = [f"{_OVER_CURRENT[name]} {count} times since the start" for name, count in counts.items() if count]
    slowed = [f"{name} is slowed now" for name in _slowed(machine)]
    if slowed or events:
        return Finding(
            "throttling",
            "warn",
            ", ".join([*slowed, *events]),
            "look at cooling, power supply and its cable, or choose a lower power mode",
        )
    if not counts and is_jetson(machine.root):
        return Finding("throttling", "warn", "no counters", "look for it in: sudo dmesg | grep -i throttl")
    return Finding("throttling", "ok", "none since the start" if counts else "no counters here")


def _zones(machine: Machine) -> list[tuple[float, str, str]]:
    """Return degrees Celsius, name and folder of every sensor that answers."""
    zones = []
    for folder in machine.find("sys/class/thermal/thermal_zone*"):
        value = machine.number(f"{folder}/temp")
        # A sensor without a reading may show 0 or a far negative value.
        if value is not None and 0 < value < 200_000:
            zones.append((value / 1000, machine.text(f"{folder}/type").removesuffix("-thermal"), folder))
    return zones


def _trip_points(machine: Machine, folder: str) -> list[tuple[str, float]]:
    points = []
    for path in machine.find(f"{folder}/trip_point_*_temp"):
        value = machine.number(path)
        if value is not None and value > 0:
            points.append((machine.text(path.removesuffix("_temp") + "_type"), value / 1000))
    return points


def _slowed(machine: Machine) -> list[str]:
    """Return the clocks that the kernel's thermal framework holds down now."""
    names = []
    for folder in machine.find("sys/class/thermal/cooling_device*"):
        name = machine.text(f"{folder}/type")
        if name.startswith(_SLOWERS) and (machine.number(f"{folder}/cur_state") or 0) > 0:
            names.append(name)
    return names
