"""A station that runs: the agent beside real cameras, engines and record, and what a page and Prometheus see of it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.cli.app import main
from edge_ad.config import Config, EngineTable, FleetTable, RunTable
from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.fleet.station import RunAgent, agent_options
from edge_ad.inspection.inspector import Inspector, RunOptions
from edge_ad.store.actions import ActionLog, actions_path
from tests.fixtures.loopback import until
from tests.fixtures.tiny_bundle import make_tiny_bundle

CAMERA = "synthetic://line?frames=100000&seed=1&fps=50&size=64&anomalies=0"


def station_settings(folder: Path, key: str, **fleet: Any) -> Config:
    """Return a station whose broker and store are one folder."""
    values = {"bundles": str(folder / "share"), "group": "line-a", "station": "a", "trusted_keys": [key], "share": 0.5, **fleet}
    return Config(
        run=RunTable(store=folder / "line.sqlite", max_age_ms=60_000, warn_above=1e6, ng_above=1e6),
        engine=EngineTable(precision="fp32", backend="onnxruntime"),
        fleet=FleetTable(**values),
    )


@contextlib.contextmanager
def running(folder: Path, settings: Config) -> Iterator[tuple[Inspector, list[Event]]]:
    events: list[Event] = []
    inspector = Inspector(folder / "old.edgead", CAMERA, RunOptions(settings, on_event=events.append, agent=RunAgent))
    thread = threading.Thread(target=inspector.run)
    thread.start()
    try:
        assert until(lambda: events and (folder / "share/line-a/reported/a.json").exists())
        yield inspector, events
    finally:
        inspector.loop.stop()
        thread.join(60)
        inspector.close()


def public_key(capsys: pytest.CaptureFixture[str]) -> str:
    """Make a key by the command and return its public half as the command prints it."""
    assert main(["fleet", "key", "--key", "anna.key"]) == 0
    return str(json.loads(capsys.readouterr().out.partition("trusted_keys = ")[2])[0])


@pytest.mark.slow
def test_a_run_is_brought_a_release_by_the_commands_and_comes_up_with_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "share").mkdir()
    for seed, name in enumerate(("old", "new")):
        make_tiny_bundle(tmp_path / f"{name}.edgead", seed)
    hashes = [open_bundle(tmp_path / f"{name}.edgead").sha256 for name in ("old", "new")]
    settings = station_settings(tmp_path, public_key(capsys))
    words = ["--bundles", "share", "--group", "line-a", "--key", "anna.key"]
    with running(tmp_path, settings) as (inspector, events):
        assert main(["fleet", "publish", "new.edgead", *words]) == 0
        assert "release 1 (tiny" in capsys.readouterr().out
        assert main(["fleet", "rollout", *words, "--watch", "1s", "--min-parts", "3", "--wait", "3m", "--by", "anna"]) == 0
        assert "rollout is through" in capsys.readouterr().out
        assert until(lambda: events[-1].bundle == hashes[1])
        assert inspector.agent is not None
        state = inspector.agent.state()
        assert (state["phase"], state["active"][""]["number"]) == ("active", 1)
        assert state["shadow"]["parts"] >= 3
        assert main(["fleet", "status", *words, "--json", "-"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["stations"][0]["releases"] == {"": 1}
    judged = [one.bundle for one in events if one.verdict != "NONE"]
    assert judged == sorted(judged, key=hashes.index)  # first by the old bundle alone, then by the new one alone
    assert set(judged) == set(hashes)
    kinds = [action.kind for action in ActionLog(actions_path(tmp_path / "line.sqlite")).actions()]
    kinds = [kind for kind in kinds if kind.startswith(("fleet", "replace"))]
    assert kinds == ["fleet-accepted", "fleet-watched", "replace", "fleet-active", "fleet-accepted", "fleet-active"]
    with running(tmp_path, settings) as (_, events):
        assert events[0].bundle == hashes[1]
        assert main(["fleet", "rollback", *words, "--wait", "1m", "--by", "anna"]) == 0
        assert until(lambda: events[-1].bundle == hashes[0])


@pytest.mark.parametrize(
    ("fleet", "run", "words"),
    [
        ({"trusted_keys": ["anna"]}, {}, "is no public key"),
        ({"station": "a/b"}, {}, "station of [fleet] is 'a/b'"),
        ({"group": "#"}, {}, "group of [fleet] is '#'"),
        ({"bundles": "ftp://host"}, {}, "there is no store ftp://"),
        ({"broker": "mqtt://"}, {}, "is no broker"),
        ({}, {"store": None}, "[fleet] needs a record"),
    ],
)
def test_settings_that_cannot_be_used_end_the_start(
    fleet: dict[str, Any], run: dict[str, Any], words: str, tmp_path: Path
) -> None:
    make_tiny_bundle(tmp_path / "old.edgead")
    settings = station_settings(tmp_path, "anna:" + "A" * 43 + "=", **fleet)
    settings = settings.model_copy(update={"run": settings.run.model_copy(update=run)})
    with pytest.raises(BadInput) as caught:
        Inspector(tmp_path / "old.edgead", CAMERA, RunOptions(settings, agent=RunAgent))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["upload"], "unknown action 'upload'"),
        (["publish"], "publish needs a file"),
        (["status", "3"], "status takes no '3'"),
        (["rollout", "zero"], "'zero' is no number of a release"),
        (["rollout", "--watch", "30"], "--watch is '30'"),
        (["rollout", "--watch", "99d"], "at most 30 days"),
        (["rollout"], "cannot read the key"),
        (["publish", "old.edgead"], "no store of bundles is named"),
        (["status"], "no broker is named (--broker), and no run keeps"),
        (["status", "--broker", "nowhere"], "the folder nowhere is not there"),
        (["status", "--broker", "mqtt://127.0.0.1:1"], "cannot be reached"),
        (["install", "releases/000001.json"], "no run keeps the store"),
    ],
)
def test_a_command_that_cannot_be_done_is_a_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fleet", *words]) in (2, 3)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_metrics_show_the_state_of_the_fleet() -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    from edge_ad.fleet.desired_state import Phase, Reported, Shadow
    from edge_ad.web import metrics

    state = Reported(station="a", group="line-a", phase="watching", sequence=4, shadow=Shadow(parts=9, changes=2))
    record = {**json.loads(state.to_text()), "channel_fault": "", "active": {"": {"number": 3}}}
    registry = CollectorRegistry()
    registry.register(type("Fleet", (), {"collect": lambda self: metrics._fleet(record), "describe": lambda self: []})())
    text = generate_latest(registry).decode()
    assert 'edge_ad_fleet_phase{phase="watching"} 1.0' in text
    assert 'edge_ad_fleet_release{product=""} 3.0' in text
    assert "edge_ad_fleet_changed_verdicts 2.0" in text
    assert set(metrics.FLEET_PHASES) == set(Phase.__args__)  # type: ignore[attr-defined]


def test_a_station_with_several_views_follows_no_fleet(tmp_path: Path) -> None:
    settings = station_settings(tmp_path, "anna:" + "A" * 43 + "=")
    viewed = settings.model_copy(update={"part": settings.part.model_copy(update={"views": ["top", "side"]})})
    with pytest.raises(BadInput, match="this station judges several views"):
        agent_options(viewed)
