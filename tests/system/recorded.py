"""Lays a recorded board out as a file tree and gives the machine that the doctor examines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_ad.system.machine import Machine, Package

BOARDS = Path(__file__).parents[1] / "fixtures" / "boards"
GONE = Package(None, "ModuleNotFoundError: No module named 'it'")


def lay_out(name: str, root: Path, files: Mapping[str, str | None] | None = None, **facts: Any) -> Machine:
    """Write the tree of a board under ``root`` with other ``files`` (None leaves one out) and other facts."""
    record = json.loads((BOARDS / f"{name}.json").read_text(encoding="utf-8"))
    for path, content in {**record["files"], **(files or {})}.items():
        if content is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content.encode())
    for path, target in record["links"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    packages = {key: Package(**value) for key, value in record["packages"].items()}
    machine = Machine(root, tuple(record["python"]), packages, record["free_disk"], record["clock"])
    packages.update(facts.pop("packages", {}))
    return replace(machine, **facts)


def workstation(root: Path, files: Mapping[str, str] | None = None, **facts: Any) -> Machine:
    """Return a healthy machine without an NVIDIA GPU; ``packages`` are added to its own."""
    healthy = {
        "proc/meminfo": "MemTotal:       16000000 kB\nMemAvailable:   12000000 kB\n",
        "dev/video0": "",
        "sys/class/video4linux/video0/name": "UVC Camera",
    }
    for path, content in {**healthy, **(files or {})}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    packages = {"onnxruntime": Package("1.23.2"), "cv2": Package("4.11.0", facts={"gstreamer": False})}
    packages.update(facts.pop("packages", {}))
    return replace(Machine(root, (3, 11), packages, 1 << 36, True), **facts)
