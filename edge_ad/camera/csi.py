"""The CSI cameras of a Jetson: Argus through GStreamer."""

from __future__ import annotations

from edge_ad.camera.settings import CameraSettings
from edge_ad.errors import BadInput

SOURCE = "nvarguscamerasrc"
OPEN_S = 20.0
"""The first picture of a sensor may take so long: Argus starts it, and the first GStreamer on a board scans all plugins."""
_DEFAULTS = CameraSettings(rate=30.0, width=1920, height=1080)
_TAKEN = ("exposure_us", "auto_exposure", "gain", "rate", "width", "height", "auto_white_balance")


def csi_settings(asked: CameraSettings, name: str) -> CameraSettings:
    """Return what was asked for, completed by 1920 x 1080 at 30 a second; BadInput for what Argus cannot set."""
    wrong = next((key for key in asked.to_json() if key not in _TAKEN), None)
    if wrong is not None:
        raise BadInput(f"camera {name!r} has no setting {wrong!r}: a CSI camera takes {', '.join(_TAKEN)}")
    return CameraSettings(**{**_DEFAULTS.to_json(), **asked.to_json()})


def csi_pipeline(sensor: str, settings: CameraSettings) -> str:
    """Return the pipeline of one sensor: NV12 in the camera's memory, converted to BGRx.

    Argus takes ranges: a fixed exposure (nanoseconds) or gain is a range of one value. It has no way to read them back.
    """
    options = [f"sensor-id={sensor}"]
    if settings.exposure_us is not None:
        nanoseconds = round(settings.exposure_us * 1000)
        options.append(f'exposuretimerange="{nanoseconds} {nanoseconds}"')
    if settings.gain is not None:
        options.append(f'gainrange="{settings.gain:g} {settings.gain:g}"')
    if settings.auto_exposure is False:
        options.append("aelock=true")
    if settings.auto_white_balance is False:
        options.append("wbmode=0")
    rate = round(settings.rate or 30)
    size = f"width={settings.width},height={settings.height},framerate={rate}/1"
    caps = f"video/x-raw(memory:NVMM),{size},format=NV12"
    return f"{SOURCE} {' '.join(options)} ! {caps} ! nvvidconv ! video/x-raw,format=BGRx"
