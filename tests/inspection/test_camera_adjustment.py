"""Products that set the camera: what is judged was exposed as the product asks, whoever loses the camera when."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from edge_ad.camera.driver import Failure, Grab, RawFrame
from edge_ad.camera.frames import BadFrame, Frame, Source
from edge_ad.camera.live import Live, Patience
from edge_ad.camera.settings import CameraSettings
from edge_ad.config import Config, EngineTable, ProductTable, RunTable
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.inspection.camera_adjustment import CameraAdjuster, check_adjustments
from edge_ad.inspection.inspector import Inspector, RunOptions
from tests.fixtures.loopback import until
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.inspection.test_products import running

QUICK = Patience(open_s=2.0, first_s=2.0, read_s=1.0, stable_s=0.0, retry_first_s=0.01, retry_cap_s=0.02, lag_s=None)
OPENED = CameraSettings(exposure_us=5000.0, auto_exposure=False, gain=1.0)


class Sensor:
    """A camera whose images come three frames after they were exposed; the gain tells the exposure that an image has."""

    fps: float | None = 200.0

    def __init__(self, pace_s: float = 0.005) -> None:
        self.settings = OPENED
        self.asked: list[CameraSettings] = []
        self.lost = False
        self._pace_s = pace_s
        self._under_way = deque([self.settings] * 3)
        self._count = 0

    def adjust(self, asked: CameraSettings) -> None:
        if asked.exposure_us is not None and asked.exposure_us > 10_000:
            raise DeviceFault(f"the sensor does not take exposure_us={asked.exposure_us:g}")
        self.asked.append(asked)
        self.settings = dataclasses.replace(self.settings, **asked.to_json())

    def grab(self) -> Grab:
        time.sleep(self._pace_s)
        if self.lost:
            return Failure("the cable is out")
        self._under_way.append(self.settings)
        exposed = self._under_way.popleft()
        self._count += 1
        image = tiny_image(2000 + self._count).copy()
        image[0, 0] = int((exposed.exposure_us or 0.0) / 100.0)  # the mark of the exposure
        return RawFrame(image, time.monotonic(), time.time(), None, number=self._count)

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


def exposure_of(frame: Frame) -> float:
    return float(frame.image[0, 0, 0]) * 100.0


def frames_of(camera: Live, count: int) -> list[Frame | BadFrame]:
    results: list[Frame | BadFrame] = []
    while len(results) < count:
        read = camera.read(0.5)
        if isinstance(read, (Frame, BadFrame)):
            results.append(read)
    return results


def test_no_image_counts_before_one_shows_the_settings_also_after_a_loss() -> None:
    sensors: list[Sensor] = []

    def opened() -> Sensor:
        sensors.append(Sensor(pace_s=0.0))
        return sensors[-1]

    camera = Live(opened, "cam", QUICK)
    camera.open()
    assert {exposure_of(one) for one in frames_of(camera, 3) if isinstance(one, Frame)} == {5000.0}
    asked = camera.adjust(CameraSettings(exposure_us=9000.0))
    judged = [one for one in frames_of(camera, 20) if isinstance(one, Frame)]
    assert asked.done.is_set()
    assert {exposure_of(one) for one in judged} == {9000.0}
    assert camera.settings.exposure_us == 9000.0
    sensors[0].lost = True
    again: list[Frame | BadFrame] = []
    while len(again) < 20:
        again += [one for one in frames_of(camera, 1) if camera.restarts.reconnects]
    assert len(sensors) == 2
    assert {exposure_of(one) for one in again if isinstance(one, Frame)} == {9000.0}
    camera.close()


def test_what_a_camera_refuses_is_reported_and_no_image_counts() -> None:
    camera = Live(lambda: Sensor(pace_s=0.0), "cam", QUICK)
    camera.open()
    asked = camera.adjust(CameraSettings(exposure_us=20_000.0))
    frames = frames_of(camera, 12)[2:]
    assert asked.fault == "the sensor does not take exposure_us=20000"
    assert all(isinstance(one, BadFrame) and one.reason == f"settings: {asked.fault}" for one in frames)
    camera.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adjusted")
    for seed, name in enumerate(("cap-red", "cap-blue", "cap-green")):
        make_tiny_bundle(place / f"{name}.edgead", seed)
    return place


def settings(folder: Path, cameras: dict[str, dict[str, Any]], **run: Any) -> Config:
    products = {
        name: ProductTable(bundle=folder / f"{name}.edgead", code=code, camera=cameras.get(name, {}))  # type: ignore[arg-type]
        for code, name in enumerate(("cap-red", "cap-blue", "cap-green"), start=1)
    }
    engine = EngineTable(precision="fp32", backend="onnxruntime")
    return Config(run=RunTable(**{"max_age_ms": 60_000, "product": "cap-red", **run}), engine=engine, product=products)


def test_every_verdict_is_on_an_image_that_was_exposed_as_its_product_asks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = Sensor(pace_s=0.01)

    def opened(uri: str, *arguments: Any, **more: Any) -> Source:
        camera = Live(lambda: sensor, uri, QUICK)
        camera.open()
        return camera

    monkeypatch.setattr("edge_ad.inspection.inspector.open_source", opened)
    seen: list[tuple[str | None, float]] = []
    config = settings(folder, {"cap-red": {"exposure_us": 3000}, "cap-green": {"exposure_us": 20_000}})
    with running(folder, config, camera="0") as line:
        judge = line.inspector.loop._bring_out

        def watch(worker: Any, results: list[Any]) -> None:
            seen.extend((one.event.product, exposure_of(one.frame)) for one in results if one.event.verdict != "NONE")
            judge(worker, results)

        line.inspector.loop._bring_out = watch  # type: ignore[method-assign]
        for name in ("cap-blue", "cap-red", "cap-blue"):
            line.changeover.select(name, "the test")
            assert line.judged(name)
        assert not line.inspector.wiring.alarm_manager.lit, "to set a camera for another product is no fault"
        line.changeover.select("cap-green", "the test")  # takes no such exposure
        assert until(lambda: line.changeover.standing.state == "fault", 60)
        assert "does not take exposure_us=20000" in (line.changeover.standing.reason or "")
        line.changeover.select("cap-red", "the test")
        assert line.judged("cap-red")
    assert set(seen) == {("cap-red", 3000.0), ("cap-blue", 5000.0)}  # blue leaves it as it was


@pytest.mark.parametrize(
    ("camera", "change", "sentence"),
    [
        ("rtsp://camera/1", {}, "sets exposure_us, which camera rtsp://camera/1 does not take"),
        ("genicam://7", {"camera": {"white_balance_k": 5000}}, "sets auto_white_balance|sets white_balance_k"),
        ("0", {"match": "^A"}, "chosen by the id of a part that is in view already"),
        ("0", {"trigger": "camera"}, "gives no image before the next part"),
    ],
)
def test_what_cannot_be_set_while_a_line_runs_is_refused_at_the_start(
    folder: Path, camera: str, change: dict[str, Any], sentence: str
) -> None:
    config = settings(folder, {"cap-red": change.get("camera", {"exposure_us": 3000})}, trigger=change.get("trigger"))
    if "match" in change:
        red = config.product["cap-red"].model_copy(update={"match": change["match"]})
        config = config.model_copy(update={"product": {**config.product, "cap-red": red}})
    with pytest.raises(BadInput, match=sentence):
        check_adjustments(config, [camera])


def test_a_value_that_only_one_product_sets_must_be_known_for_the_others(folder: Path) -> None:
    camera = Live(lambda: Sensor(pace_s=0.0), "cam", QUICK)
    camera.open()
    with pytest.raises(BadInput, match="product cap-blue leaves focus as it is, another sets it, and the camera does not tell it"):
        CameraAdjuster(settings(folder, {"cap-red": {"focus": 12}}), [camera])
    camera.close()


def test_a_camera_that_cannot_be_set_is_refused_before_it_is_opened(folder: Path) -> None:
    config = settings(folder, {"cap-red": {"gain": 2.0}})
    with pytest.raises(BadInput, match="does not take while it gives images: cameras of Video4Linux"):
        Inspector(None, "synthetic://line?frames=3", RunOptions(config))
