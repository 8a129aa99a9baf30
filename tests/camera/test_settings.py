"""Camera settings: parsed, stored, compared, applied to a capture and read back."""

from __future__ import annotations

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.camera.device import apply, read_back
from edge_ad.camera.genicam import apply_nodes, read_nodes
from edge_ad.camera.gstreamer import csi_pipeline, csi_settings
from edge_ad.camera.settings import CameraSettings, difference, parse_settings
from edge_ad.errors import BadInput, DeviceFault

numbers = st.floats(0, 1e6, allow_nan=False)
switches = st.booleans()
some = st.builds(
    CameraSettings,
    *(st.none() | kind for kind in (numbers, switches, numbers, numbers, switches, numbers, switches, numbers)),
    st.none() | st.sampled_from(["MJPG", "Mono8", "BayerRG8"]),
    st.none() | st.integers(1, 10_000),
    st.none() | st.integers(1, 10_000),
)


@given(some)
def test_settings_survive_json_and_equal_themselves(settings: CameraSettings) -> None:
    again = CameraSettings.from_json(settings.to_json())
    assert again == settings
    assert difference(settings, again) == []


@pytest.mark.parametrize(
    ("stored", "result", "messages"),
    [
        ({"exposure_us": 8000.0}, {"exposure_us": 4000.0}, ["exposure_us is 4000 instead of 8000"]),
        ({"exposure_us": 8000.0}, {"exposure_us": 8100.0}, []),  # 1.25 %
        ({"exposure_us": 8000.0}, {"exposure_us": 8200.0}, ["exposure_us is 8200 instead of 8000"]),  # 2.5 %
        ({"rate": 30.0}, {"rate": 29.0}, []),  # 3.3 %
        ({"rate": 30.0}, {"rate": 25.0}, ["rate is 25 instead of 30"]),
        ({"gain": 0.0}, {"gain": 0.0}, []),
        ({"gain": 0.0}, {"gain": 1.0}, ["gain is 1 instead of 0"]),
        ({"gain": 2.0}, {}, []),  # the camera does not tell
        ({}, {"gain": 2.0}, []),
        ({"width": 1280}, {"width": 1281}, ["width is 1281 instead of 1280"]),
        ({"pixel_format": "Mono8"}, {"pixel_format": "Mono12"}, ["pixel_format is Mono12 instead of Mono8"]),
        ({"auto_exposure": False}, {"auto_exposure": True}, ["auto_exposure is on instead of off"]),
        ({"auto_exposure": True, "exposure_us": 8e3}, {"auto_exposure": True, "exposure_us": 1e3}, []),
        (
            {"auto_exposure": False, "exposure_us": 8e3},
            {"auto_exposure": True, "exposure_us": 1e3},
            ["exposure_us is 1000 instead of 8000", "auto_exposure is on instead of off"],
        ),
    ],
)
def test_differences(stored: dict[str, object], result: dict[str, object], messages: list[str]) -> None:
    assert difference(CameraSettings.from_json(stored), CameraSettings.from_json(result)) == messages


def test_a_query_becomes_settings() -> None:
    query = "exposure_us=8000&gain=2.5&auto_white_balance=off&rate=30&pixel_format=MJPG&width=1280&height=720"
    assert parse_settings(query, "0") == CameraSettings(
        exposure_us=8000.0, gain=2.5, auto_white_balance=False, rate=30.0, pixel_format="MJPG", width=1280, height=720
    )


@pytest.mark.parametrize(
    "query", ["exposure=8000", "gain=loud", "width=0", "width=12.5", "auto_focus=maybe", "rate=-1", "gain=", "rate=nan"]
)
def test_wrong_settings_are_named(query: str) -> None:
    with pytest.raises(BadInput, match=query.partition("=")[0]):
        parse_settings(query, "/dev/video0")


@pytest.mark.parametrize("value", [None, 3, [], {"gain": "2"}, {"iso": 100}])
def test_damaged_json_is_bad_input(value: object) -> None:
    with pytest.raises(BadInput):
        CameraSettings.from_json(value)


class Capture:
    """The properties of a capture as Video4Linux keeps them; no device is needed to check order and units."""

    def __init__(self, **values: float) -> None:
        self.values = {getattr(cv2, f"CAP_PROP_{name}"): value for name, value in values.items()}
        self.order: list[int] = []

    def set(self, code: int, value: float) -> bool:
        self.values[code] = value
        self.order.append(code)
        return True

    def get(self, code: int) -> float:
        return self.values.get(code, -1.0)


def test_video4linux_units_and_order() -> None:
    capture = Capture(FPS=15.0)
    asked = CameraSettings(exposure_us=8000.0, rate=30.0, pixel_format="MJPG", width=1280, height=720, focus=0.0)
    apply(capture, asked)
    assert capture.values[cv2.CAP_PROP_EXPOSURE] == 80.0  # units of 100 microseconds
    assert capture.values[cv2.CAP_PROP_AUTO_EXPOSURE] == 1.0  # manual, because an exposure was given
    assert capture.values[cv2.CAP_PROP_AUTOFOCUS] == 0.0
    assert capture.order[0] == cv2.CAP_PROP_FOURCC
    assert capture.order.index(cv2.CAP_PROP_AUTO_EXPOSURE) < capture.order.index(cv2.CAP_PROP_EXPOSURE)
    result = read_back(capture)
    assert difference(asked, result) == []
    assert (result.exposure_us, result.pixel_format, result.auto_exposure) == (8000.0, "MJPG", False)
    assert result.gain is None


def test_nothing_asked_changes_nothing() -> None:
    capture = Capture(FPS=15.0, AUTO_EXPOSURE=3.0, FRAME_WIDTH=640.0)
    apply(capture, CameraSettings())
    assert capture.order == []
    assert read_back(capture) == CameraSettings(auto_exposure=True, rate=15.0, width=640)


class Nodes:
    """Features of a GenICam camera with the older name of the exposure."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {
            "ExposureTimeAbs": 1.0,
            "ExposureAuto": "Continuous",
            "Gain": 0.0,
            "Width": 640,
        }
        self.values |= {"PixelFormat": "Mono8", "GainAuto": "Continuous"}

    def get(self, node: str) -> object:
        return self.values.get(node)

    def set(self, node: str, value: object) -> bool:
        if node not in self.values:
            return False
        self.values[node] = value
        return True


def test_genicam_features() -> None:
    nodes = Nodes()
    apply_nodes(nodes, CameraSettings(exposure_us=5000.0, gain=3.0, pixel_format="Mono12"), "cam")
    result = read_nodes(nodes)
    assert result == CameraSettings(exposure_us=5000.0, auto_exposure=False, gain=3.0, pixel_format="Mono12", width=640)
    assert nodes.values["GainAuto"] == "Off"
    for wrong in (CameraSettings(height=480), CameraSettings(white_balance_k=5000.0)):
        with pytest.raises(DeviceFault):
            apply_nodes(Nodes(), wrong, "cam")


def test_csi_pipeline_holds_fixed_values_as_ranges() -> None:
    settings = csi_settings(CameraSettings(exposure_us=8000.0, gain=2.0, width=1280, height=720), "csi://1")
    pipeline = csi_pipeline("1", settings)
    assert pipeline.startswith('nvarguscamerasrc sensor-id=1 exposuretimerange="8000000 8000000" gainrange="2 2" ! ')
    assert "width=1280,height=720,framerate=30/1,format=NV12" in pipeline
    with pytest.raises(BadInput, match="focus"):
        csi_settings(CameraSettings(focus=1.0), "csi://1")
