"""A plant of stations that are brought a bundle: do all end as promised, whatever happens to them on the way?

`python tools/soak/fleet.py [--stations 12] [--fps 2] [--agents 200] [--json FILE]`. Every station is an `edge-ad run` over a
synthetic camera; the broker is a real mosquitto, the store a real object store over S3 (rclone; a web server where that is not
here). The release goes out with one canary. On the way one station is killed while it downloads, and started again; the disk of
one is too small until somebody makes room; one is away and comes back when all is over; known images of one say that the release
is wrong. Ends with 1 where a station does not end as promised, a verdict is of a bundle that was not acknowledged, or the
verdicts around the switch are farther apart than two frame times beyond the one that always lies between them.

Then `--agents` agents without lines follow a rollout, for the messages alone: how long, how many, and what broker and agents
take for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from edge_ad.bundle import open_bundle
from edge_ad.errors import BadInput, EdgeAdError
from edge_ad.fleet.agent import AgentOptions, FleetAgent
from edge_ad.fleet.desired_state import Release, Reported, read_desired
from edge_ad.fleet.rollout import Fleet, Plan, publish, read_numbered
from edge_ad.fleet.signing import SigningKey, make_key, parse_trusted
from edge_ad.fleet.state_channel import GroupChannel, open_group, open_station
from edge_ad.fleet.store_access import open_store
from edge_ad.store.actions import ActionLog, actions_path
from tests.camera.pictures import write_image
from tests.fixtures.file_server import FileServer
from tests.fixtures.loopback import until
from tests.fixtures.mosquitto import Mosquitto
from tests.fixtures.s3_server import KEY, SECRET, S3Server, s3_missing
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.fleet.stations import PlainStation

GROUP = "line-a"
PATIENCE_S = 600.0
SLOW_S = 0.5  # between two pieces of 16 KiB, so that a download can be interrupted
ROLES = ("canary", "killed while it downloads", "known images say no", "disk too small", "away")
HELD_BACK = {"known images say no"}  # ends with the bundle that it had


class Plant:
    """Broker, store, key and bundles in a folder, and the stations by name; ``close`` ends all of it."""

    def __init__(self, folder: Path, stations: int, fps: float) -> None:
        self.folder, self.fps = folder, fps
        self.key = make_key(folder / "anna.key")
        self.trusted = parse_trusted([str(self.key.public)])
        self.bundles = [make_tiny_bundle(folder / f"{name}.edgead", seed) for seed, name in enumerate(("old", "new"))]
        self.hashes = [open_bundle(path).sha256 for path in self.bundles]
        self.broker = Mosquitto(folder / "broker")
        (folder / "store" / "bundles").mkdir(parents=True)
        self.slow = FileServer(folder / "store" / "bundles")
        self.slow.pause_s = SLOW_S
        self.s3 = S3Server(folder / "store") if s3_missing() is None else None
        os.environ.update(EDGE_AD_S3_KEY=KEY, EDGE_AD_S3_SECRET=SECRET)
        self.where = f"mqtt://{self.broker.address}/plant"
        roles = (*ROLES, *[""] * stations)[:stations]
        self.roles = {f"station-{number:02d}": role for number, role in enumerate(roles, start=1)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._disks: list[Path] = []

    @property
    def store_uri(self) -> str:
        """The address of the store for most stations."""
        return self.slow.uri if self.s3 is None else self.s3.uri()

    def named(self, role: str) -> str | None:
        """Return the station of a role, None where there are too few."""
        return next((name for name, one in self.roles.items() if one == role), None)

    def set_up(self, name: str) -> None:
        """Write the folder of a station."""
        folder, role = self.folder / name, self.roles[name]
        folder.mkdir()
        fleet = {"broker": self.where, "group": GROUP, "station": name, "trusted_keys": [str(self.key.public)], "share": 0.5}
        fleet["bundles"] = self.slow.uri if role == "killed while it downloads" else self.store_uri
        if role == "known images say no":
            (folder / "known" / "bad").mkdir(parents=True)
            write_image(folder / "known" / "bad" / "1.png", tiny_image(5000))  # a good one, which must be NG
            fleet["images"] = "known"
        if role == "disk too small":
            disk = folder / "disk"
            disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "edge-ad-soak", str(disk)], check=True)
            self._disks.append(disk)
            fleet["folder"] = "disk"
        number = int(name[-2:])
        camera = f"synthetic://line?frames=1000000&seed={number}&fps={self.fps:g}&size=64&anomalies=0"
        tables = {
            "run": {
                "camera": [camera],
                "store": "line.sqlite",
                "events": "events.jsonl",
                "max_age_ms": 60000,
                "warn_above": 1e6,
                "ng_above": 1e6,
            },
            "engine": {"precision": "fp32", "backend": "onnxruntime"},
            "fleet": fleet,
        }
        lines: list[str] = []
        for table, keys in tables.items():
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        (folder / "edge-ad.toml").write_text("\n".join(lines) + "\n")

    def start(self, name: str) -> None:
        """Start the run of a station."""
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        with (self.folder / name / "log").open("ab") as log:
            words = [sys.executable, "-m", "edge_ad", "run", str(self.bundles[0])]
            self.processes[name] = subprocess.Popen(words, cwd=self.folder / name, stderr=log, stdout=log, env=environment)

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End the run of a station."""
        process = self.processes.pop(name, None)
        if process is not None:
            process.send_signal(number)
            process.wait(60)

    def close(self) -> None:
        """End everything."""
        for name in list(self.processes):
            self.end(name)
        if self.s3 is not None:
            self.s3.stop()
        self.slow.stop()
        self.broker.stop()
        for name in ("EDGE_AD_S3_KEY", "EDGE_AD_S3_SECRET"):
            os.environ.pop(name, None)
        for disk in self._disks:
            subprocess.run(["umount", "-l", str(disk)], check=False)

    @contextlib.contextmanager
    def channel(self) -> Iterator[GroupChannel]:
        """Give an engineer's end of the broker."""
        with open_group(self.where, GROUP, lambda text: sequence_of(text, self.trusted)) as channel:
            yield channel

    def release(self) -> Release:
        """Publish the new bundle."""
        store = open_store(self.store_uri)
        return read_numbered(store, publish(self.bundles[1], store, self.key).number, self.trusted)


def sequence_of(text: str, trusted: Any) -> int:
    """Return the sequence of a desired state that is trusted, 0 for any other text."""
    try:
        return read_desired(text, trusted).sequence
    except BadInput:
        return 0


class Rollout(threading.Thread):
    """One rollout in a thread; ``outcome`` is what it says at its end."""

    def __init__(self, plant: Plant, release: Release, wait_s: float) -> None:
        super().__init__()
        self._plant, self._release = plant, release
        self._plan = Plan(group=GROUP, by="anna", canary=1, watch_s=2.0, min_parts=3, max_changes=1.0, wait_s=wait_s)
        self.outcome = ""

    def run(self) -> None:
        """Roll out and wait for all."""
        with self._plant.channel() as channel:
            try:
                away = Fleet(channel, self._plant.key, self._plant.trusted, print).roll_out(self._release, self._plan)
                self.outcome = f"through; away: {', '.join(away)}"
            except EdgeAdError as error:
                self.outcome = str(error)


def soak(folder: Path, stations: int, fps: float) -> dict[str, Any]:
    """Bring a release to the plant and return how each station ended."""
    plant = Plant(folder, stations, fps)
    try:
        for name in plant.roles:
            plant.set_up(name)
        away = plant.named("away")
        present = [name for name in plant.roles if name != away]
        for name in present:
            plant.start(name)
        with plant.channel() as channel:
            require(lambda: all(_online(channel, name) for name in present), "not all stations came up")
            require(lambda: all(_events(plant, name) for name in present), "not all stations judge")
            rollout = Rollout(plant, plant.release(), PATIENCE_S)
            rollout.start()
            _interfere(plant, channel)
            rollout.join()
            if away is not None:
                plant.start(away)
            follow = [name for name, role in plant.roles.items() if role not in HELD_BACK]
            require(lambda: all(_phase(channel, name) == "active" for name in follow), "not all stations followed")
            time.sleep(6.0 / fps)  # verdicts after the switch
            reported = {name: seen.reported for name, seen in channel.read().stations.items()}
        for name in list(plant.processes):
            plant.end(name)
        rows = {name: _check(plant, name, reported[name]) for name in plant.roles}
        return {"rollout": rollout.outcome, "store": "s3" if plant.s3 is not None else "http", "fps": fps, "stations": rows}
    finally:
        plant.close()


def _interfere(plant: Plant, channel: GroupChannel) -> None:
    """Do to the stations what their roles say, while the rollout goes on."""
    killed, small = plant.named("killed while it downloads"), plant.named("disk too small")
    if killed is not None:
        bundles = plant.folder / killed / "line.fleet" / "bundles"
        require(lambda: list(bundles.glob("*.part")), "nothing was downloaded that could be interrupted")
        plant.end(killed, signal.SIGKILL)
        assert list(bundles.glob("*.part"))
        require(lambda: channel.read().stations[killed].online is False, "the broker did not tell of the kill")
        plant.start(killed)
    if small is not None:
        require(lambda: _phase(channel, small) == "waiting", "the full disk was not told")
        assert "the disk is too small" in channel.read().stations[small].reported.reason
        subprocess.run(["mount", "-o", "remount,size=200m", str(plant.folder / small / "disk")], check=True)


def _check(plant: Plant, name: str, reported: Reported) -> dict[str, Any]:
    """Return how a station ended, what its verdicts say, and under ``faults`` what is not as promised."""
    folder, role = plant.folder / name, plant.roles[name]
    old, new = plant.hashes
    events = [one for one in _events(plant, name) if one["verdict"] != "NONE"]
    bundles = [one["bundle"] for one in events]
    actions = list(ActionLog(actions_path(folder / "line.sqlite")).actions())
    acknowledged = min((one.time for one in actions if one.kind == "replace"), default=float("inf"))
    faults = []
    if role in HELD_BACK:
        if reported.phase != "failed" or set(bundles) != {old}:
            faults.append(f"{reported.phase} with {len(set(bundles))} bundles, and should have kept the one it had")
    elif reported.phase != "active" or not bundles or bundles[-1] != new:
        faults.append(f"{reported.phase}: {reported.reason}")
    if set(bundles) - {old, new} or bundles != sorted(bundles, key=plant.hashes.index):
        faults.append("verdicts of another bundle, or of the old one after the new one")
    first = next((one for one in events if one["bundle"] == new), None)
    if first is not None and first["time"] + (first["latency_ms"] or 0.0) / 1000.0 < acknowledged:
        faults.append("a verdict of the new bundle before it was acknowledged")
    gap = _gap(events, new)
    if gap is not None and (gap * plant.fps - 1.0) > 2.0:
        faults.append(f"{gap:.2f} s between the verdicts around the switch")
    row = {"role": role, "phase": reported.phase, "reason": reported.reason, "verdicts": len(events), "switch_s": reported.switch_s}
    extra = None if gap is None else round(gap * plant.fps - 1.0, 2)
    return {**row, "gap_frames": extra, "largest_other_gap_frames": _other_gap(events, plant.fps), "faults": faults}


def _gap(events: list[dict[str, Any]], new: str) -> float | None:
    """Return the seconds from the last verdict of the old bundle to the first of the new one, by their captures; None without."""
    pairs = [(one, other) for one, other in pairwise(events) if one["bundle"] != new == other["bundle"]]
    return None if not pairs else float(pairs[0][1]["time"] - pairs[0][0]["time"])


def _other_gap(events: list[dict[str, Any]], fps: float) -> float | None:
    """Return the largest gap between other verdicts in frame times: what the machine's load does by itself."""
    gaps = [other["time"] - one["time"] for one, other in pairwise(events) if one["bundle"] == other["bundle"]]
    return None if not gaps else round(max(gaps) * fps - 1.0, 2)


def _events(plant: Plant, name: str) -> list[dict[str, Any]]:
    path = plant.folder / name / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [{**event, "time": datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()} for event in events]


def _online(channel: GroupChannel, name: str) -> bool:
    seen = channel.read().stations.get(name)
    return seen is not None and seen.online is True


def _phase(channel: GroupChannel, name: str) -> str:
    seen = channel.read().stations.get(name)
    return "" if seen is None else seen.reported.phase


def require(condition: Callable[[], Any], otherwise: str) -> None:
    """Wait until something holds; SystemExit where it does not."""
    if not until(condition, PATIENCE_S):
        raise SystemExit(otherwise)


class NoTrial:
    """Stands where a trial would: the messages alone are measured."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        pass

    def prove(self, check: Callable[[], None], progress: Callable[[str], None]) -> None:
        """Take any bundle."""

    def kill(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def measure_messages(folder: Path, count: int) -> dict[str, Any]:
    """Let so many agents follow a rollout and return how long it took, the messages, and what broker and agents took for it."""
    folder.mkdir()
    key: SigningKey = make_key(folder / "anna.key")
    trusted = parse_trusted([str(key.public)])
    champion, fresh = (make_tiny_bundle(folder / f"{name}.edgead", seed) for seed, name in enumerate(("old", "new")))
    broker, store = Mosquitto(folder / "broker"), open_store(str(folder))
    release = read_numbered(store, publish(fresh, store, key).number, trusted)
    where, agents = f"mqtt://{broker.address}/plant", []
    try:
        for number in range(count):
            name = f"station-{number:03d}"
            common = {"group": GROUP, "trusted": trusted, "store": store, "start_trial": NoTrial}
            options = AgentOptions(station=name, folder=folder / name, **common)  # type: ignore[arg-type]
            agent = FleetAgent(options, PlainStation(champion))
            agent.start(lambda heard, on_fault, name=name: open_station(where, GROUP, name, heard=heard, on_fault=on_fault))
            agents.append(agent)
        with open_group(where, GROUP, lambda text: sequence_of(text, trusted)) as channel:
            names = [f"station-{number:03d}" for number in range(count)]
            require(lambda: all(_online(channel, name) for name in names), "not all agents came up")
            began, used, before = time.monotonic(), time.process_time(), _broker_use(broker)
            Fleet(channel, key, trusted).roll_out(release, Plan(group=GROUP, by="anna", canary=1, wait_s=PATIENCE_S))
            seconds = time.monotonic() - began
            after = _broker_use(broker)
        return {
            "agents": count,
            "seconds": round(seconds, 2),
            "agents_cpu_s": round(time.process_time() - used, 2),
            "broker_cpu_s": round(after["cpu_s"] - before["cpu_s"], 2),
            "published_to_broker": after["published"] - before["published"],
            "broker_rss_mb": after["rss_mb"],
        }
    finally:
        for agent in agents:
            agent.close()
        broker.stop()


def _broker_use(broker: Mosquitto) -> dict[str, Any]:
    """Return the CPU time, memory and received messages of a broker so far, by /proc and its log."""
    assert broker._process is not None
    fields = Path(f"/proc/{broker._process.pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    rss_mb = round(int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
    return {"cpu_s": cpu_s, "rss_mb": rss_mb, "published": broker.log().count("Received PUBLISH from")}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stations", type=int, default=12)
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = soak(Path(name), options.stations, options.fps) if options.stations else {"stations": {}}
        if options.agents:
            result["messages"] = measure_messages(Path(name) / "messages", options.agents)
    print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(result) + "\n")
    raise SystemExit(int(any(row["faults"] for row in result["stations"].values())))


if __name__ == "__main__":
    main()
