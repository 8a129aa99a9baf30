"""Settings of GenICam cameras by the names of the Standard Features Naming Convention (SFNC)."""

from __future__ import annotations

from typing import Any, Protocol

from edge_ad.camera.settings import CameraSettings, difference
from edge_ad.errors import DeviceFault


class Nodes(Protocol):
    """The features of a camera by name."""

    def get(self, node: str) -> Any:
        """Return the value of a feature, None where the camera has none."""

    def set(self, node: str, value: Any) -> bool:
        """Set a feature; False when the camera refuses or has none."""


# The older names stand after the present ones.
_NODES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("pixel_format", ("PixelFormat",)),
    ("width", ("Width",)),
    ("height", ("Height",)),
    ("auto_exposure", ("ExposureAuto",)),
    ("auto_white_balance", ("BalanceWhiteAuto",)),
    ("exposure_us", ("ExposureTime", "ExposureTimeAbs")),
    ("gain", ("Gain", "GainRaw")),
    ("rate", ("AcquisitionFrameRate", "AcquisitionFrameRateAbs")),
    ("focus", ("FocusPos",)),
)
_NO_NODE = ("white_balance_k", "auto_focus")


def set_up(nodes: Nodes, asked: CameraSettings | None, name: str) -> CameraSettings:
    """Set what was asked for and return what the camera is set to; DeviceFault where the two differ."""
    wanted = asked or CameraSettings()
    apply_nodes(nodes, wanted, name)
    found = read_nodes(nodes)
    if refused := difference(wanted, found):
        raise DeviceFault(f"camera {name!r} does not take its settings: {'; '.join(refused)}")
    return found


def apply_nodes(nodes: Nodes, asked: CameraSettings, name: str) -> None:
    """Set what was asked for; DeviceFault names a setting that the camera has not or refuses."""
    wanted = asked.asked()
    for key in _NO_NODE:
        if wanted.get(key):
            raise DeviceFault(f"camera {name!r} has no setting {key!r}: GenICam cameras take {', '.join(_known())}")
    if "gain" in wanted:
        nodes.set("GainAuto", "Off")
    if "rate" in wanted:
        nodes.set("AcquisitionFrameRateEnable", True)
    for key, names in _NODES:
        if key not in wanted:
            continue
        value = ("Continuous" if wanted[key] else "Off") if key.startswith("auto_") else wanted[key]
        done = any(nodes.set(node, value) for node in names)
        if not done and getattr(asked, key) is not None:
            raise DeviceFault(f"camera {name!r} does not take {key}={value}: see what its vendor's viewer allows")


def read_nodes(nodes: Nodes) -> CameraSettings:
    """Return what the camera is set to; what it does not have is None."""
    found: dict[str, Any] = {}
    for key, names in _NODES:
        value = next((value for node in names if (value := nodes.get(node)) is not None), None)
        if value is None:
            continue
        if key.startswith("auto_"):
            found[key] = str(value) != "Off"
        elif key == "pixel_format":
            found[key] = str(value)
        else:
            found[key] = int(value) if key in ("width", "height") else float(value)
    return CameraSettings(**found)


def _known() -> tuple[str, ...]:
    return tuple(key for key, _ in _NODES)
