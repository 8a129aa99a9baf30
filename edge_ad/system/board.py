"""Checks of the board: its JetPack, power mode, clocks, temperatures and throttling."""

from __future__ import annotations

import os
import platform
import re

from edge_ad.system.machine import (
    MOUNTS,
    UNWELL,
    UPGRADE,
    Finding,
    Machine,
    hides_the_device_tree,
    in_container,
    jetpack,
)
from edge_ad.utils import board as this
from edge_ad.utils.board import is_jetson

_CHIPS = {"tegra264": "Thor", "tegra234": "Orin", "tegra194": "Xavier", "tegra186": "TX2", "tegra210": "Nano or TX1"}
_ENOUGH = ("tegra264", "tegra234")
_SOC_IDS = {38: "tegra264", 35: "tegra234", 25: "tegra194", 24: "tegra186", 33: "tegra210"}


def has_gpu(machine: Machine) -> bool:
    """Whether there is an NVIDIA GPU with its driver: a Jetson's own, or a card."""
    return this.is_jetson(machine.root) or machine.exists("proc/driver/nvidia/version")


def board(machine: Machine) -> Finding:
    """Tell which board this is; boards before Orin end with JetPack 5 and fail."""
    if not this.is_jetson(machine.root):
        if platform.machine() == "aarch64" and hides_the_device_tree(machine):
            return Finding(
                "board",
                "warn",
                "unknown: this is a container that hides the device tree and has no nodes of a Jetson",
                f"on a Jetson start it with --runtime nvidia {MOUNTS}, or with docker/inspector.yaml",
            )
        gpu = "an NVIDIA GPU" if has_gpu(machine) else "no NVIDIA GPU"
        return Finding("board", "ok", f"{platform.machine()} with {_cores()} cores and {gpu}; not a Jetson")
    model = this.board(machine.root)
    chip = _chip(machine)
    if not model and hides_the_device_tree(machine):
        return Finding(
            "board",
            "warn",
            f"a Jetson{f' ({_CHIPS[chip]})' if chip else ''}, seen from a container that hides its device tree",
            f"to know its model, start the container with {MOUNTS}, or with docker/inspector.yaml",
        )
    model = model or "a Jetson without a model name"
    if chip is not None and chip not in _ENOUGH:
        return Finding(
            "board",
            "fail",
            f"{model} ({_CHIPS[chip]})",
            "use an Orin or a Thor: the last JetPack for this chip has TensorRT 8, and 10.3 is needed",
        )
    where = ", in a container" if in_container(machine) else ""
    return Finding("board", "ok", f"{model}{f' ({_CHIPS[chip]})' if chip else ''}{where}")


def _chip(machine: Machine) -> str | None:
    """Return the name of the chip, from the device tree or from what the kernel says of it."""
    compatible = machine.text("proc/device-tree/compatible") or machine.text("run/device-tree/compatible")
    named = next((name for name in _CHIPS if name in compatible), None)
    return named or _SOC_IDS.get(machine.number("sys/devices/soc0/soc_id") or 0)


def release(machine: Machine) -> Finding:
    """Tell JetPack and L4T; one that is too old fails, one newer than the table is a warning."""
    if not this.is_jetson(machine.root):
        return Finding("jetpack", "ok", "none, and none needed: not a Jetson")
    text = machine.text("etc/nv_tegra_release").partition("\n")[0]
    if not text:
        return Finding(
            "jetpack",
            "warn",
            "unknown: /etc/nv_tegra_release is not there",
            f"in a container give it that of the board: docker run {MOUNTS}",
        )
    result = jetpack(machine)
    if result is None:
        return Finding("jetpack", "fail", f"unknown: {text}", UPGRADE)
    message = f"JetPack {result.name} (L4T {result.l4t})"
    if not result.supported:
        return Finding("jetpack", "fail", f"{message} with TensorRT {result.tensorrt[0]}.{result.tensorrt[1]}", UPGRADE)
    if not result.known:
        return Finding(
            "jetpack",
            "warn",
            f"L4T {result.l4t}, newer than this version of edge-ad knows",
            "go on: build-engine proves its engines on this board; an update of edge-ad may know it",
        )
    return Finding("jetpack", "ok", message)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


_MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", re.MULTILINE)
_DEFAULT = re.compile(r"^<\s*PM_CONFIG\s+DEFAULT=(\d+)", re.MULTILINE)
_STATUS = re.compile(r"pmode:(\d+)")
# The GPU's clock domain: Orin (two names over the releases), Thor.
_GPU_CLOCKS = ("sys/class/devfreq/17000000.gpu", "sys/class/devfreq/17000000.ga10b", "sys/class/devfreq/gpu-gpc-0")


def power_mode(machine: Machine) -> Finding:
    """Tell the power mode that nvpmodel keeps, and the fastest that the board offers.

    The number of a mode says nothing of its speed: on an Orin Nano Super 2 is the fastest and 3 the slowest.
    """
    if not is_jetson(machine.root):
        return Finding("power mode", "ok", "none: not a Jetson")
    table = machine.text("etc/nvpmodel.conf")
    modes = {int(number): name for number, name in _MODE.findall(table)}
    selected = _STATUS.search(machine.text("var/lib/nvpmodel/status")) or _DEFAULT.search(table)
    current = int(selected[1]) if selected else None
    if current not in modes:
        return Finding("power mode", "warn", "unknown: nvpmodel has kept none", "ask it: sudo nvpmodel -q")
    best = max(modes, key=lambda number: _speed(modes[number]))
    if _speed(modes[current]) < _speed(modes[best]):
        return Finding(
            "power mode",
            "warn",
            f"{modes[current]} ({current}); the board offers {modes[best]} ({best})",
            f"sudo nvpmodel -m {best} for the least time a part, if power supply and cooling allow; "
            "then build the engines again",
        )
    return Finding("power mode", "ok", f"{modes[current]} ({current})")


def clocks(machine: Machine) -> Finding:
    """Tell the GPU's clock range; unless it is held at its top, the first frames after a pause come late."""
    if not is_jetson(machine.root):
        return Finding("clocks", "ok", "left alone: not a Jetson")
    for folder in _GPU_CLOCKS:
        low, high, now = (machine.number(f"{folder}/{name}_freq") for name in ("min", "max", "cur"))
        if low is None or high is None:
            continue
        message = f"GPU {low / 1e6:.0f} to {high / 1e6:.0f} MHz" + (f", now {now / 1e6:.0f}" if now else "")
        if low < high:
            return Finding(
                "clocks", "warn", message, "sudo jetson_clocks, for even times; the set-up makes a service of it"
            )
        return Finding("clocks", "ok", f"GPU held at {high / 1e6:.0f} MHz")
    return Finding("clocks", "warn", "the GPU shows no clock", "show it with: sudo jetson_clocks --show")


def _speed(name: str) -> float:
    """Order modes by name: MAXN_SUPER, MAXN, then watts."""
    if "MAXN" in name:
        return 2e6 if "SUPER" in name else 1e6
    watts = re.search(r"(\d+)W", name)
    return float(watts[1]) if watts else 0.0


CLOSE_C = 5.0
_OVER_CURRENT = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "instantaneous over-current"}
_SLOWERS = ("cpufreq-", "devfreq-")
_NO_SENSOR = Finding("temperature", "warn", "no sensor answers", "look at /sys/class/thermal, or run: sudo tegrastats")


def temperatures(machine: Machine) -> Finding:
    """Tell the temperatures, and whether one is close to where the kernel acts on it.

    Within 5 degrees of the highest passive trip point, where clocks are slowed, is a warning, and so near to the
    critical one, where the machine is switched off, a fail. Lower passive points only raise an alert: an Orin has one
    at 70 C. A sensor that is switched off does not answer and is left out.
    """
    zones = sorted(_zones(machine), reverse=True)
    if not zones:
        return _NO_SENSOR if is_jetson(machine.root) else Finding("temperature", "ok", "no sensor here")
    for degrees, name, folder in zones:
        trips = _trip_points(machine, folder)
        off = min((point for kind, point in trips if kind == "critical"), default=float("inf"))
        expensive = max((point for kind, point in trips if kind in ("passive", "hot")), default=float("inf"))
        if degrees >= off - CLOSE_C:
            return Finding(
                "temperature",
                "fail",
                f"{name} {degrees:.0f} C, and at {off:g} C the machine switches itself off",
                "let it cool down, then clear or add cooling, or choose a lower power mode",
                code=UNWELL,
            )
        if degrees >= expensive - CLOSE_C:
            return Finding(
                "temperature",
                "warn",
                f"{name} {degrees:.0f} C, and from {expensive:g} C on clocks are slowed",
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
