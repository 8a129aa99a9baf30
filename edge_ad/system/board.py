"""Checks of the board and of its JetPack."""

from __future__ import annotations

import os
import platform

from edge_ad.system.findings import Finding
from edge_ad.system.machine import MOUNTS, UPGRADE, Machine, hides_the_device_tree, in_container, jetpack
from edge_ad.utils import board as this

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
