"""Stations without a line: what an agent asks of a run, done by a few lines that keep which bundle is in force."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_ad.bundle import open_bundle
from edge_ad.camera.frames import Frame
from edge_ad.config import Config, EngineTable
from edge_ad.errors import BadInput, EdgeAdError, GateRefused
from edge_ad.events import Event
from edge_ad.fleet import trial_process
from edge_ad.fleet.agent import AgentOptions, FleetAgent, InForce
from edge_ad.fleet.desired_state import (
    Desired,
    Release,
    Reported,
    read_desired,
    read_release,
    sign_desired,
    sign_release,
)
from edge_ad.fleet.rollout import publish
from edge_ad.fleet.signing import SigningKey, parse_trusted
from edge_ad.fleet.store_access import open_store
from edge_ad.fleet.trial import LiveParts, Trial
from edge_ad.inspection.judge import InspectionResult
from edge_ad.store.actions import Action
from tests.fixtures.loopback import until
from tests.fixtures.tiny_bundle import tiny_image

SETTINGS = Config(engine=EngineTable(precision="fp32", backend="onnxruntime"))


class PlainStation:
    """Keeps the path of the bundle in force and the audit trail; ``refuses``: why it will not switch."""

    def __init__(self, bundle: Path) -> None:
        self.parts = LiveParts()
        self.bundles = [bundle]
        self.log: list[Action] = []
        self.refuses: Exception | None = None
        self.sha256 = open_bundle(bundle).sha256
        self.hashes = [self.sha256]

    def in_force(self, product: str) -> InForce:
        if product:
            raise BadInput(f"the release is for product {product!r}, and this station has none by name: publish it with --product")
        return InForce(
            bundle=self.bundles[-1], sha256=self.hashes[-1], settings=SETTINGS, backend="onnxruntime", precision="fp32"
        )

    def hashes_needed(self) -> set[str]:
        return set(self.hashes[-2:])

    def replace(self, product: str, bundle: Path, sha256: str, *, by: str, reason: str) -> float:
        if self.refuses is not None:
            raise self.refuses
        self.bundles.append(bundle)
        self.hashes.append(sha256)
        return 0.01

    def roll_back(self, product: str, *, by: str, reason: str) -> float:
        self.bundles.pop()
        self.hashes.pop()
        return 0.01

    def keep(self, action: Action) -> None:
        self.log.append(action)

    def kinds(self) -> list[str]:
        return [action.kind for action in self.log]


class LocalTrial(Trial):
    """What a trial does, without the process: the same engines, proof and verdicts, seconds sooner."""

    def __init__(self, bundle: Path, settings: Config, *, backend: str, precision: str, images: Path | None, log: Path) -> None:
        settings_json = settings.model_dump(mode="json", exclude_unset=True)
        known = None if images is None else str(images)
        self._asked = {
            "bundle": str(bundle), "settings": settings_json, "backend": backend, "precision": precision, "images": known
        }

    def prove(self, check: Callable[[], None], progress: Callable[[str], None]) -> None:
        try:
            self._product = trial_process.prove(self._asked, progress)
        except EdgeAdError as error:
            raise GateRefused(str(error)) from error

    def judge(self, camera: str, frame: Frame, check: Callable[[], None]) -> tuple[tuple[str, ...], float]:
        return tuple(trial_process.judge(self._product, frame.image, frame.part, camera)), 0.0

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass


class Bench:
    """An engineer with a key and a folder of bundles, and one agent whose desired states are handed to it."""

    def __init__(self, folder: Path, key: SigningKey, champion: Path, **options: Any) -> None:
        self.folder, self.key = folder, key
        self.trusted = parse_trusted([str(key.public)])
        self.station = PlainStation(champion)
        self.options = AgentOptions(
            station="station-1",
            group="line-a",
            trusted=self.trusted,
            folder=options.pop("state", folder / "station-1"),
            store=options.pop("store", None) or open_store(str(folder / "bundles")),
            retry_s=(0.05, 0.1),
            start_trial=options.pop("start_trial", LocalTrial),
            **options,
        )
        (folder / "bundles").mkdir(exist_ok=True)
        self.agent = FleetAgent(self.options, self.station)
        self.agent.start(None)

    def restart(self) -> None:
        """End the agent, as a run that ends does, and start another over what it kept."""
        self.agent.close()
        self.agent = FleetAgent(self.options, self.station)
        self.agent.start(None)

    def publish(self, bundle: Path, **more: Any) -> Release:
        return publish(bundle, open_store(str(self.folder / "bundles")), self.key, **more)

    def signed(self, release: Release, **more: Any) -> Release:
        """Return a release with other fields, signed."""
        return read_release(sign_release(replace(release, **more), self.key), self.trusted)

    def release(self, number: int) -> Release:
        return self.release_in(self.folder / "bundles", number)

    def release_in(self, folder: Path, number: int) -> Release:
        text = open_store(str(folder)).read(f"releases/{number:06d}.json")
        assert text is not None
        return read_release(text, self.trusted)

    def desire(self, release: Release, sequence: int, **more: Any) -> Desired:
        values: dict[str, Any] = {"group": "line-a", "action": "install", "by": "anna", "time": time.time(), **more}
        return read_desired(sign_desired(Desired(sequence=sequence, release=release, **values), self.key), self.trusted)

    def ask(self, desired: Desired) -> None:
        self.agent.hear(desired.text.encode())

    @property
    def reported(self) -> Reported:
        return self.agent._reported

    def ends(self, phase: str, seconds: float = 60.0) -> bool:
        """Wait until the agent has reported a phase."""
        return until(lambda: self.reported.phase == phase, seconds)


class LiveLine:
    """Shows parts with the verdict that ``verdict`` gives, over and over, in a thread."""

    def __init__(self, parts: LiveParts, verdict: Callable[[int], str] = lambda number: "OK") -> None:
        self._parts, self._verdict = parts, verdict
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._closed.wait(0.005):
            frame = Frame(tiny_image(2000 + number % 20), number, time.monotonic(), time.time(), "cam", str(number))
            event = Event("cam", number, str(number), time.time(), self._verdict(number), None, {}, None, None)  # type: ignore[arg-type]
            self._parts.on_results([InspectionResult(event, frame)], None)  # type: ignore[arg-type]
            number += 1
