"""GigE Vision and USB3 Vision cameras through harvesters and the producer file (.cti) of a vendor.

Settings of GenICam cameras by the names of the Standard Features Naming Convention (SFNC).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge_ad.camera.driver import Failure, Grab, RawFrame, to_image
from edge_ad.camera.settings import NO_NODE, CameraSettings, difference
from edge_ad.errors import BadInput, DeviceFault, require


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


def set_up(nodes: Nodes, asked: CameraSettings | None, name: str) -> CameraSettings:
    """Set what was asked for and return what the camera is set to; DeviceFault where the two differ."""
    wanted = asked or CameraSettings()
    apply_nodes(nodes, wanted, name)
    result = read_nodes(nodes)
    if refused := difference(wanted, result):
        raise DeviceFault(f"camera {name!r} does not take its settings: {'; '.join(refused)}")
    return result


def apply_nodes(nodes: Nodes, asked: CameraSettings, name: str) -> None:
    """Set what was asked for; DeviceFault names a setting that the camera has not or refuses."""
    wanted = asked.asked()
    for key in NO_NODE:
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
    results: dict[str, Any] = {}
    for key, names in _NODES:
        value = next((value for node in names if (value := nodes.get(node)) is not None), None)
        if value is None:
            continue
        if key.startswith("auto_"):
            results[key] = str(value) != "Off"
        elif key == "pixel_format":
            results[key] = str(value)
        else:
            results[key] = int(value) if key in ("width", "height") else float(value)
    return CameraSettings(**results)


def _known() -> tuple[str, ...]:
    return tuple(key for key, _ in _NODES)


FETCH_S = 1.0
_PATH = "GENICAM_GENTL64_PATH"


class HarvesterDriver:
    """An open GenICam camera, the first one or that of a serial number.

    The producer is ``cti``, or every ``*.cti`` in the folders of GENICAM_GENTL64_PATH. BadInput when the package or a
    producer is missing, DeviceFault when the camera is.
    """

    def __init__(self, serial: str, name: str, asked: CameraSettings | None = None, cti: str | None = None) -> None:
        core = require("harvesters.core", extra="genicam", needed_by=f"camera {name!r}")
        self._name = name
        self._harvester = core.Harvester()
        try:
            for producer in _producers(cti, name):
                self._harvester.add_file(str(producer))
            self._harvester.update()
            self._acquirer = self._create(serial)
            self.adjust(asked or CameraSettings())
            self.fps = self.settings.rate
            self._acquirer.start()
        except BaseException:
            self._harvester.reset()
            raise

    def grab(self) -> Grab:
        """Return the next image; None while a triggered camera waits."""
        timeout = type(self)._timeout_error()
        try:
            with self._acquirer.fetch(timeout=FETCH_S) as buffer:
                now, wall = time.monotonic(), time.time()
                component = buffer.payload.components[0]
                stamp = float(buffer.timestamp_ns) / 1e9
                number = _frame_number(buffer)
                try:
                    image = to_image(
                        np.asarray(component.data), int(component.width), int(component.height), component.data_format
                    )
                except ValueError as error:
                    return RawFrame(None, now, wall, stamp, str(error))
                return RawFrame(image, now, wall, stamp, number=number)
        except timeout:
            return None
        except Exception as error:
            return Failure(f"{self._name}: {type(error).__name__} in the GenTL producer")

    def adjust(self, asked: CameraSettings) -> None:
        """Set what is asked for and read ``settings`` back; DeviceFault names what the camera does not take."""
        self.settings = set_up(_Nodes(self._acquirer.remote_device.node_map), asked, self._name)

    def abort(self) -> None:
        """Nothing: a fetch has a limit of its own."""

    def close(self) -> None:
        """Stop the camera and release the producer."""
        try:
            self._acquirer.stop()
            self._acquirer.destroy()
        finally:
            self._harvester.reset()

    def _create(self, serial: str) -> Any:
        results = [info.serial_number for info in self._harvester.device_info_list]
        if not results or (serial and serial not in results):
            listed = ", ".join(results) or "none"
            raise DeviceFault(f"camera {self._name!r} is not there: the GenTL producer sees {listed}; check the cable")
        return self._harvester.create({"serial_number": serial} if serial else 0)

    @staticmethod
    def _timeout_error() -> type[Exception]:
        gentl = require("genicam.gentl", extra="genicam", needed_by="a GenICam camera")
        error: type[Exception] = gentl.TimeoutException
        return error


class _Nodes:
    """A node map of genicam behind the few words that apply_nodes and read_nodes use."""

    def __init__(self, node_map: Any) -> None:
        self._map = node_map

    def get(self, node: str) -> Any:
        try:
            return getattr(self._map, node).value
        except Exception:
            return None

    def set(self, node: str, value: Any) -> bool:
        try:
            getattr(self._map, node).value = value
        except Exception:
            return False
        return True


def _frame_number(buffer: Any) -> int | None:
    """Return the camera's count of frames; a producer need not offer it."""
    try:
        return int(buffer.module.frame_id)
    except Exception:
        return None


def _producers(cti: str | None, name: str) -> list[Path]:
    if cti is not None:
        if not Path(cti).is_file():
            raise BadInput(f"camera {name!r}: there is no GenTL producer {cti}; install the vendor's and name its .cti")
        return [Path(cti)]
    folders = [Path(folder) for folder in os.environ.get(_PATH, "").split(os.pathsep) if folder]
    results = sorted(file for folder in folders for file in folder.glob("*.cti"))
    if not results:
        raise BadInput(
            f"camera {name!r} needs a GenTL producer: install the vendor's (it sets {_PATH}), or write "
            "genicam://SERIAL?cti=/path/to/producer.cti"
        )
    return results
