"""Whether the doctor looks from inside a container, and what that hides of a Jetson."""

from __future__ import annotations

from edge_ad.doctor.machine import Machine

MOUNTS = "-v /etc/nv_tegra_release:/etc/nv_tegra_release:ro -v /sys/firmware/devicetree/base:/run/device-tree:ro"


def in_container(machine: Machine) -> bool:
    """Whether this is a container of Docker or Podman."""
    return machine.exists(".dockerenv") or machine.exists("run/.containerenv")


def hides_the_device_tree(machine: Machine) -> bool:
    """Whether the device tree is masked, as Docker does with /sys/firmware, and was not mounted elsewhere."""
    if not in_container(machine) or machine.text("run/device-tree/model"):
        return False
    return not machine.text("proc/device-tree/model")
