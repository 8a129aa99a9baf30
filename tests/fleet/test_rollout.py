"""Rollouts over a real broker, and over a shared folder: canaries first, the second of two refused, who was away follows."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad.errors import BadInput, DeviceFault, GateRefused
from edge_ad.fleet import state_channel
from edge_ad.fleet.agent import AgentOptions, FleetAgent
from edge_ad.fleet.desired_state import Desired, Release, read_desired, sign_desired
from edge_ad.fleet.rollout import Fleet, Plan, last_number, publish, read_numbered, status_record
from edge_ad.fleet.signing import SigningKey, make_key, parse_trusted
from edge_ad.fleet.state_channel import GroupChannel, open_group, open_station
from edge_ad.fleet.store_access import open_store
from tests.fixtures.loopback import until
from tests.fixtures.mosquitto import Mosquitto, mosquitto_missing
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.fleet.stations import LocalTrial, PlainStation

pytestmark = pytest.mark.any_version

GROUP = "line-a"


class Plant:
    """A channel, a store, a key and stations by name, whose agents can be started and ended."""

    def __init__(self, folder: Path, where: str) -> None:
        self.folder, self.where = folder, where
        self.key = make_key(folder / "anna.key")
        self.trusted = parse_trusted([str(self.key.public)])
        (folder / "bundles").mkdir()
        self.store = open_store(str(folder / "bundles"))
        self.champion = make_tiny_bundle(folder / "old.edgead", 0)
        self.stations: dict[str, PlainStation] = {}
        self.agents: dict[str, FleetAgent] = {}

    def start(self, *names: str) -> None:
        for name in names:
            station = self.stations.setdefault(name, PlainStation(self.champion))
            options = AgentOptions(
                station=name,
                group=GROUP,
                trusted=self.trusted,
                folder=self.folder / name,
                store=self.store,
                retry_s=(0.05, 0.1),
                start_trial=LocalTrial,
            )
            agent = self.agents[name] = FleetAgent(options, station)
            agent.start(lambda heard, on_fault, name=name: open_station(self.where, GROUP, name, heard=heard, on_fault=on_fault))
        with self.channel() as channel:
            assert until(lambda: all(name in channel.read().stations for name in names))
            assert until(lambda: all(channel.read().stations[name].online is not False for name in names))

    def end(self, *names: str) -> None:
        for name in names:
            self.agents.pop(name).close()

    def channel(self) -> contextlib.AbstractContextManager[GroupChannel]:
        def sequence_of(text: str) -> int:
            try:
                return read_desired(text, self.trusted).sequence
            except BadInput:
                return 0

        return open_group(self.where, GROUP, sequence_of)

    def publish(self, seed: int) -> Release:
        path = make_tiny_bundle(self.folder / f"{seed}.edgead", seed)
        return read_numbered(self.store, publish(path, self.store, self.key).number, self.trusted)

    def roll_out(self, release: Release, key: SigningKey | None = None, **more: Any) -> list[str]:
        with self.channel() as channel:
            return Fleet(channel, key or self.key, self.trusted).roll_out(release, self.plan(**more))

    def roll_back(self, **more: Any) -> list[str]:
        with self.channel() as channel:
            return Fleet(channel, self.key, self.trusted).roll_back(self.plan(**more))

    def plan(self, **more: Any) -> Plan:
        return Plan(**{"group": GROUP, "by": "anna", "wait_s": 30.0, **more})

    def in_force(self) -> dict[str, str]:
        return {name: station.hashes[-1] for name, station in self.stations.items()}


@pytest.fixture(
    params=["folder", pytest.param("mqtt", marks=pytest.mark.skipif(mosquitto_missing() is not None, reason="no mosquitto"))]
)
def plant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plant]:
    broker = Mosquitto(tmp_path / "broker") if request.param == "mqtt" else None
    (tmp_path / "states").mkdir()
    made = Plant(tmp_path, f"mqtt://{broker.address}/plant" if broker else str(tmp_path / "states"))
    yield made
    made.end(*made.agents)
    if broker is not None:
        broker.stop()


def test_a_release_goes_by_way_of_a_canary_to_all_and_back(plant: Plant) -> None:
    plant.start("a", "b", "c")
    release = plant.publish(1)
    lines: list[str] = []
    with plant.channel() as channel:
        assert Fleet(channel, plant.key, plant.trusted, lines.append).roll_out(release, plant.plan()) == []
        result = status_record(channel.read(), plant.trusted)
    assert set(plant.in_force().values()) == {release.sha256}
    assert lines[0] == f"sequence 1: install {release.title} on a"
    assert f"sequence 2: install {release.title} on all of line-a" in lines
    assert lines.index("a: active") < lines.index(f"sequence 2: install {release.title} on all of line-a")
    assert [row["releases"] for row in result["stations"]] == [{"": 1}] * 3
    assert result["desired"]["key"] == "anna"
    assert plant.roll_back() == []
    assert len(set(plant.in_force().values()) - {release.sha256}) == 1


def test_a_canary_that_refuses_keeps_the_release_from_all_others(plant: Plant) -> None:
    plant.start("a", "b")
    plant.stations["a"].refuses = DeviceFault("this engine is wrong")
    with pytest.raises(GateRefused, match="a: this engine is wrong.*no other station was asked"):
        plant.roll_out(plant.publish(1))
    assert len(plant.stations["b"].hashes) == 1


def test_a_station_that_was_away_follows_when_it_is_back(plant: Plant) -> None:
    plant.start("a", "b")
    plant.end("b")
    release = plant.publish(1)
    if plant.where.startswith("mqtt"):
        assert plant.roll_out(release, stations=("a", "b")) == ["b"]
    else:  # a folder cannot tell who is there
        with pytest.raises(DeviceFault, match=r"not through after 0 s: .*b \(pending\)"):
            plant.roll_out(release, stations=("a", "b"), wait_s=0.0)
    assert until(lambda: plant.stations["a"].hashes[-1] == release.sha256)
    plant.start("b")
    assert until(lambda: plant.stations["b"].hashes[-1] == release.sha256)


def test_a_second_rollout_is_refused_while_the_first_is_under_way_unless_it_takes_its_place(plant: Plant) -> None:
    plant.start("a")
    first, second = plant.publish(1), plant.publish(2)
    with pytest.raises(DeviceFault, match=r"a \(\w+\); the same command later goes on from here"):
        plant.roll_out(first, min_parts=5, wait_s=0.0)  # no part will come
    assert until(lambda: plant.agents["a"].state()["phase"] == "watching")
    with pytest.raises(BadInput, match=r"two rollouts at once: sequence 1 \(release 1 .*, by anna\) is under way on a"):
        plant.roll_out(second, by="ben")
    plant.roll_out(second, by="ben", supersede=True)
    assert plant.in_force() == {"a": second.sha256}


def test_of_two_rollouts_at_one_moment_the_second_is_refused_by_its_sequence(plant: Plant) -> None:
    plant.start("a", "b")
    first, second = plant.publish(1), plant.publish(2)
    outcome: dict[str, Any] = {}
    ready = threading.Barrier(2)

    def roll(by: str, release: Release) -> None:
        with plant.channel() as channel:
            ready.wait()
            try:
                outcome[by] = Fleet(channel, plant.key, plant.trusted).roll_out(release, plant.plan(by=by, canary=0))
            except BadInput as error:
                outcome[by] = str(error)

    threads = [threading.Thread(target=roll, args=args) for args in (("anna", first), ("ben", second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lost = [by for by, result in outcome.items() if isinstance(result, str)]
    if not lost:  # one was through before the other had looked: nothing was at once
        return
    assert len(lost) == 1
    # Refused where it began, or overtaken by the next sequence of the other.
    assert re.search("two rollouts at once|has asked for sequence 2 meanwhile", outcome[lost[0]])
    winner = second if lost == ["anna"] else first
    assert set(plant.in_force().values()) == {winner.sha256}


def test_a_rollout_that_was_left_goes_on_where_it_stands(plant: Plant) -> None:
    plant.start("a", "b")
    release = plant.publish(1)
    with pytest.raises(DeviceFault):
        plant.roll_out(release, wait_s=0.0)  # whoever started it leaves
    assert until(lambda: plant.stations["a"].hashes[-1] == release.sha256)
    assert len(plant.stations["b"].hashes) == 1
    plant.roll_out(release)
    assert plant.in_force()["b"] == release.sha256


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(BadInput) as caught:
        action()
    return str(caught.value)


def test_what_cannot_be_rolled_out_is_reported_in_a_sentence(plant: Plant, tmp_path: Path) -> None:
    assert "there is no release in" in refused(lambda: read_numbered(plant.store, None, plant.trusted))
    release = plant.publish(1)
    assert "there is no release 7" in refused(lambda: read_numbered(plant.store, 7, plant.trusted))
    assert "unknown key" in refused(lambda: read_numbered(plant.store, 1, {}))
    assert "no station of group line-a is there" in refused(lambda: plant.roll_out(release))
    assert "there is nothing to roll back" in refused(plant.roll_back)
    assert "anna.key" in refused(lambda: publish(plant.folder / "anna.key", plant.store, plant.key))
    stranger = make_key(tmp_path / "ben.key")
    plant.start("a")
    message = ""
    try:
        plant.roll_out(release, key=stranger)
    except GateRefused as error:
        message = str(error)
    assert "a: the desired state is signed by the unknown key" in message
    assert len(plant.stations["a"].hashes) == 1


def test_numbers_of_releases_have_no_gaps(plant: Plant) -> None:
    assert last_number(plant.store) == 0
    for number in range(1, 6):
        assert publish(plant.champion, plant.store, plant.key).number == number
        assert last_number(plant.store) == number


@pytest.mark.skipif(mosquitto_missing() is not None, reason="no mosquitto")
def test_a_broker_that_is_away_is_reported_and_comes_back(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    plant = Plant(tmp_path, f"mqtt://{broker.address}/plant")
    plant.start("a")
    broker.kill()
    agent = plant.agents["a"]
    assert until(lambda: "the connection was lost" in agent.state()["channel_fault"])
    assert plant.stations["a"].kinds() == ["fleet-away"]
    assert "the bundle in force goes on" in plant.stations["a"].log[0].reason
    with pytest.raises(DeviceFault, match="cannot be reached"), plant.channel():
        pass
    broker.start()
    assert until(lambda: agent.state()["channel_fault"] == "")
    release = plant.publish(1)
    plant.roll_out(release)
    plant.end("a")
    broker.stop()


@pytest.mark.skipif(mosquitto_missing() is not None, reason="no mosquitto")
def test_reports_that_the_broker_dropped_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Mosquitto(tmp_path / "broker")
    plant = Plant(tmp_path, f"mqtt://{broker.address}/plant")
    plant.start("a")
    monkeypatch.setattr(state_channel, "REFRESH_S", 0.2)
    with plant.channel() as channel:
        assert until(lambda: "a" in channel.read().stations)
        channel._state.stations.clear()  # type: ignore[attr-defined]  # as if they had never come
        assert until(lambda: "a" in channel.read().stations)
    plant.end("a")
    broker.stop()


@pytest.mark.skipif(mosquitto_missing() is not None, reason="no mosquitto")
def test_whoever_comes_second_at_a_broker_lets_the_first_stand(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    plant = Plant(tmp_path, f"mqtt://{broker.address}/plant")
    release = plant.publish(1)
    common = {"group": GROUP, "sequence": 3, "action": "install", "release": release, "time": 0.0}
    texts = [sign_desired(Desired(**common, by=by), plant.key) for by in ("anna", "ben")]  # type: ignore[arg-type]
    with plant.channel() as first, plant.channel() as second:
        assert first.publish(texts[0], 3) == texts[0]
        second._order.clear()  # type: ignore[attr-defined]  # as if it had looked before
        second._client.publish("plant/line-a/desired", texts[1], qos=1, retain=True)  # type: ignore[attr-defined]
        assert until(lambda: second.read().desired == texts[1] or first.read().desired == texts[0])
        with plant.channel() as third:
            assert until(lambda: third.read().desired == texts[0])
    broker.stop()
