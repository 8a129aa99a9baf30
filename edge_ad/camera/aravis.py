"""GigE Vision and USB3 Vision cameras through Aravis, which needs no vendor file."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np

from edge_ad.camera.driver import Failure, Grab, RawFrame, to_image
from edge_ad.camera.genicam import set_up
from edge_ad.camera.settings import CameraSettings
from edge_ad.errors import BadInput, DeviceFault, require

BUFFERS = 4
WAIT_US = 1_000_000
_INSTALL = "apt-get install gir1.2-aravis-0.8 python3-gi, in a virtual environment with system site packages"
_FLOATS = ("ExposureTime", "ExposureTimeAbs", "Gain", "AcquisitionFrameRate", "AcquisitionFrameRateAbs")


class AravisDriver:
    """An open camera by its Aravis id (as ``arv-tool-0.8`` lists it), the first one for an empty id.

    ``Fake_1`` is the pretend camera of Aravis. BadInput when Aravis is missing, DeviceFault when the camera is.
    """

    def __init__(self, device: str, name: str, asked: CameraSettings | None = None) -> None:
        self._arv = _load(name)
        self._name = name
        if device.startswith("Fake_"):
            self._arv.enable_interface("Fake")
        self._camera = self._open(device)
        self.adjust(asked or CameraSettings())
        self.fps = self.settings.rate
        self._format = str(self._camera.get_pixel_format_as_string())
        self._stream = self._start()

    def grab(self) -> Grab:
        """Return the next image; None while a triggered camera waits."""
        buffer = self._stream.timeout_pop_buffer(WAIT_US)
        now, wall = time.monotonic(), time.time()
        if buffer is None:
            return None if self._present() else Failure(f"{self._name} does not answer")
        try:
            if buffer.get_status() != self._arv.BufferStatus.SUCCESS:
                return RawFrame(None, now, wall, None, f"the buffer is {buffer.get_status().value_nick}")
            raw = np.frombuffer(buffer.get_data(), np.uint8)
            stamp, number = float(buffer.get_timestamp()) / 1e9, int(buffer.get_frame_id())
            size = int(buffer.get_image_width()), int(buffer.get_image_height())
            try:
                return RawFrame(to_image(raw, *size, self._format), now, wall, stamp or None, number=number)
            except ValueError as error:
                return RawFrame(None, now, wall, None, str(error))
        finally:
            self._stream.push_buffer(buffer)

    def adjust(self, asked: CameraSettings) -> None:
        """Set what is asked for and read ``settings`` back; DeviceFault names what the camera does not take."""
        self.settings = set_up(_Nodes(self._camera.get_device()), asked, self._name)

    def abort(self) -> None:
        """Nothing: waiting for a buffer has a limit of its own."""

    def close(self) -> None:
        """Stop the acquisition and let the camera go."""
        with contextlib.suppress(Exception):  # the camera may be gone already, and then there is nothing to stop
            self._camera.stop_acquisition()
        self._stream = self._camera = None

    def _open(self, device: str) -> Any:
        try:
            camera = self._arv.Camera.new(device or None)
        except Exception as error:
            raise DeviceFault(f"camera {self._name!r} cannot be opened: {_error_text(error)}; check the cable") from error
        if camera is None:
            raise DeviceFault(f"camera {self._name!r} is not there: Aravis sees no such camera; check the cable")
        return camera

    def _start(self) -> Any:
        try:
            stream = self._camera.create_stream(None, None)
            payload = self._camera.get_payload()
            for _ in range(BUFFERS):
                stream.push_buffer(self._arv.Buffer.new_allocate(payload))
            self._camera.start_acquisition()
        except Exception as error:
            raise DeviceFault(f"camera {self._name!r} does not start: {_error_text(error)}") from error
        return stream

    def _present(self) -> bool:
        try:
            self._camera.get_device_id()
        except Exception:
            return False
        return True


class _Nodes:
    """The device of an Aravis camera behind the few words that apply_nodes and read_nodes use."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def get(self, node: str) -> Any:
        read = {"PixelFormat": "get_string_feature_value"}.get(node)
        if node.endswith("Auto"):
            read = "get_string_feature_value"
        elif read is None:
            read = "get_float_feature_value" if node in _FLOATS else "get_integer_feature_value"
        try:
            return getattr(self._device, read)(node) if self._device.is_feature_available(node) else None
        except Exception:
            return None

    def set(self, node: str, value: Any) -> bool:
        try:
            if not self._device.is_feature_available(node):
                return False
            if isinstance(value, bool):
                self._device.set_boolean_feature_value(node, value)
            elif isinstance(value, str):
                self._device.set_string_feature_value(node, value)
            elif node in _FLOATS:
                self._device.set_float_feature_value(node, float(value))
            else:
                self._device.set_integer_feature_value(node, int(value))
        except Exception:
            return False
        return True


def _load(name: str) -> Any:
    gi = require("gi", extra="aravis", needed_by=f"camera {name!r}")
    try:
        gi.require_version("Aravis", "0.8")
        from gi.repository import Aravis
    except (ImportError, ValueError) as error:
        raise BadInput(f"camera {name!r} needs Aravis 0.8 ({error}): {_INSTALL}") from error
    return Aravis


def _error_text(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", error)).split())[:200]
