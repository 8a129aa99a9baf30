"""Which devices a station's service may open, and why: found out on the machine that it is installed on.

systemd takes a device as a path or as a class (``char-NAME``) of /proc/devices. A path holds whatever numbers the node
has when the service starts, and suits what is there from boot on. A class also covers what is plugged in later. Much of
a Jetson's GPU has no class of a fixed name: /dev/nvmap is a misc device, and nvgpu registers as ``17000000.gpu``.
"""

from __future__ import annotations

import grp
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ad.utils.board import is_jetson


@dataclass(frozen=True)
class Access:
    """One line ``DeviceAllow``: a device path or ``char-CLASS``, and why it is opened."""

    target: str
    reason: str


@dataclass(frozen=True)
class DeviceAccess:
    """What a service may open.

    ``policy`` is systemd's ``DevicePolicy``: ``closed`` with ``allowed``, or ``auto`` (everything) where the nodes
    cannot be known. ``groups`` own these nodes. ``argus``: a CSI camera is used, whose daemon listens in /tmp.
    ``notes`` are what the owner should know.
    """

    policy: str
    allowed: tuple[Access, ...]
    groups: tuple[str, ...]
    argus: bool = False
    nvidia_card: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Rule:
    """Nodes under /dev, the class that covers them where /proc/devices has it (None: by path), and why.

    ``later``: the class has one name in every kernel and its module may come with the first device that is plugged in,
    so it is opened before it is there.
    """

    pattern: str
    device_class: str | None
    reason: str
    later: bool = False


_CAMERAS_AND_LINES = (
    _Rule("video[0-9]*", "video4linux", "cameras (USB, CSI): /dev/video*, also those plugged in later", later=True),
    _Rule("media[0-9]*", "media", "media controllers of cameras: /dev/media*", later=True),
    _Rule("bus/usb/*/*", "usb_device", "USB3 Vision cameras (genicam://, aravis://): /dev/bus/usb", later=True),
    _Rule("gpiochip[0-9]*", "gpiochip", "GPIO outputs and triggers: /dev/gpiochip*", later=True),
    _Rule("ttyUSB[0-9]*", "ttyUSB", "serial lines on USB: /dev/ttyUSB*", later=True),
    _Rule("ttyACM[0-9]*", "ttyACM", "serial lines on USB: /dev/ttyACM*", later=True),
    _Rule("ttyTHS[0-9]*", None, "serial line of the Jetson's header"),
)
_TEGRA = (
    _Rule("nvmap", None, "GPU memory of the Jetson (CUDA)"),
    _Rule("nvgpu/*/*", None, "GPU of the Jetson (CUDA)"),
    _Rule("nvhost-*", None, "GPU, image and video engines of the Jetson"),
    _Rule("host1x-fence", None, "synchronisation of the Jetson's engines (CUDA, cameras)"),
    _Rule("nvsciipc", None, "buffers shared between the Jetson's engines (CUDA)"),
    _Rule("dri/renderD*", None, "GPU of the Jetson (CUDA opens it on JetPack 6 and 7)"),
    _Rule("dri/card*", None, "display engine of the Jetson (buffers of nvvidconv)"),
    _Rule("v4l2-*", None, "hardware decoders and encoders (rtsp://, gst:)"),
    _Rule("nvidia[0-9]*", None, "GPU (NVIDIA driver)"),
    _Rule("nvidiactl", None, "GPU (NVIDIA driver)"),
    _Rule("nvidia-uvm*", None, "GPU memory (NVIDIA driver)"),
    _Rule("nvidia-modeset", None, "GPU (NVIDIA driver)"),
    _Rule("nvidia-caps*/*", None, "GPU (NVIDIA driver)"),
    _Rule("capture-*", None, "capture channels of CSI cameras"),
)
_NVIDIA_CARD = (
    _Rule("nvidia[0-9]*", "nvidia", "GPU (NVIDIA driver)"),
    _Rule("nvidiactl", "nvidiactl", "GPU (NVIDIA driver)"),
    _Rule("nvidia-uvm*", "nvidia-uvm", "GPU memory (NVIDIA driver)"),
    _Rule("nvidia-modeset", "nvidia-modeset", "GPU (NVIDIA driver)"),
    _Rule("nvidia-caps*/*", "nvidia-caps", "GPU (NVIDIA driver)"),
    _Rule("dri/renderD*", None, "GPU (video decoding)"),
)
# Without these a Jetson's GPU cannot be opened at all, so their absence means that this view of /dev is not the board's.
_TEGRA_NEEDED = ("nvmap", "nvgpu/*/ctrl|nvhost-ctrl-gpu")
# Other nodes of nvgpu (power, nvsched) belong to root alone on JetPack 6, and CUDA does without them.
_WITHOUT_THEM_NO_CUDA = ("nvmap", "ctrl", "nvidia0", "nvidiactl")
_GROUPS = ("video", "render", "gpio", "dialout", "plugdev")


def device_access(root: Path = Path("/"), cameras: Iterable[str] = ()) -> DeviceAccess:
    """Return what a service on the machine under ``root`` may open, for these camera URIs."""
    jetson, card = is_jetson(root), (root / "proc/driver/nvidia/version").exists()
    csi = any(uses_argus(uri) for uri in cameras)
    if jetson and not all(_any_node(root, patterns) for patterns in _TEGRA_NEEDED):
        reason = (
            "the GPU's device nodes (/dev/nvmap, /dev/nvgpu or /dev/nvhost-ctrl-gpu) are not visible here, so every device "
            "stays open to the service; install it again on the board itself, once the GPU works"
        )
        return DeviceAccess("auto", (), _groups(()), csi, notes=(reason,))
    gpu = _TEGRA if jetson else _NVIDIA_CARD if card else ()
    classes = _classes(root)
    allowed, nodes = _allowed(root, (*gpu, *_CAMERAS_AND_LINES), classes)
    return DeviceAccess("closed", allowed, _groups(nodes), csi, card and not jetson, _notes(jetson, card, nodes))


def uses_argus(uri: str) -> bool:
    """Whether a camera URI means a CSI camera of a Jetson."""
    return uri.lower().startswith("csi:") or "nvarguscamerasrc" in uri


def missing_devices(unit: str, root: Path = Path("/")) -> list[str]:
    """Return the targets that ``device_access`` would open now and an installed unit does not."""
    policy = re.findall(r"^DevicePolicy=(\S+)", unit, re.MULTILINE)
    if not policy or policy[-1] == "auto":
        return []
    has = set(re.findall(r"^DeviceAllow=(\S+)", unit, re.MULTILINE))
    return [access.target for access in device_access(root).allowed if access.target not in has]


def _allowed(root: Path, rules: Sequence[_Rule], classes: set[str]) -> tuple[tuple[Access, ...], list[Path]]:
    results: dict[str, Access] = {}
    nodes: list[Path] = []
    for rule in rules:
        here = _nodes(root, rule.pattern)
        nodes += here
        if rule.device_class in classes or rule.later:
            target = f"char-{rule.device_class}"
            results.setdefault(target, Access(target, rule.reason))
            continue
        for node in here:
            target = f"/{node.relative_to(root)}"
            results.setdefault(target, Access(target, rule.reason))
    return tuple(results.values()), nodes


def _nodes(root: Path, pattern: str) -> list[Path]:
    # A name with a blank or a quote would be another word to systemd; no driver gives one.
    return sorted(
        path
        for path in (root / "dev").glob(pattern)
        if not path.is_dir() and re.fullmatch(r"[\w./@:-]+", str(path.relative_to(root)))
    )


def _any_node(root: Path, patterns: str) -> bool:
    return any(_nodes(root, pattern) for pattern in patterns.split("|"))


def _classes(root: Path) -> set[str]:
    """Return the names of the character devices in /proc/devices."""
    try:
        text = (root / "proc/devices").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return set(re.findall(r"^ *\d+ (\S+)$", text.partition("Block devices:")[0], re.MULTILINE))


def _groups(nodes: Iterable[Path]) -> tuple[str, ...]:
    """Return the groups that own these nodes and the usual ones, as far as they exist; never that of root."""
    names = {name for name in _GROUPS if _group_id(name) is not None}
    for node in nodes:
        try:
            status = os.stat(node)
            if status.st_gid and status.st_mode & 0o060 and not status.st_mode & 0o006:
                names.add(grp.getgrgid(status.st_gid).gr_name)
        except (OSError, KeyError):
            continue
    return tuple(sorted(names))


def _group_id(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _notes(jetson: bool, card: bool, nodes: Sequence[Path]) -> tuple[str, ...]:
    if not (jetson or card):
        return ("there is no NVIDIA driver here, so no GPU is opened; install the service again after you add one",)
    closed = [f"/dev/{path.name}" for path in nodes if path.name in _WITHOUT_THEM_NO_CUDA and _root_only(path)]
    return (f"only root may open {', '.join(closed)}: look at the udev rules of this board",) if closed else ()


def _root_only(node: Path) -> bool:
    try:
        status = os.stat(node)
    except OSError:
        return False
    return not status.st_mode & 0o066 or (not status.st_gid and not status.st_mode & 0o006)
