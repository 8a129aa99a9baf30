"""Settings of a run from the file and from flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.cli.app import main
from edge_ad.config import Config, RunTable, parse_config, with_flags
from edge_ad.errors import BadInput
from edge_ad.inspection.alarm import raise_counts
from edge_ad.inspection.settings import check_settings, is_queued, presence_of, set_by_hand, store_of, trial
from edge_ad.inspection.view import Grid, Roi, View, view_of
from edge_ad.scoring import Thresholds
from tests.fixtures.loopback import until
from tests.outputs.peers import WrittenPlc


def test_everything_from_the_file() -> None:
    config = parse_config(
        '[run]\npresence = "settled"\npart_frames = 2\npart_candidates = 5\nroi = "1,2,30,40"\ntiles = "2x3"\n'
        'alarm = "modbus://plc"\nhold_ms = 200\nmax_age_ms = 300\n'
        '[alarm]\nraise_parts = "2/5"\nclear_after = 4\nclear_below = 1.5\nmin_on_s = 3\nlatch = true\nwarn_rejects = true\n'
    )
    check_settings(config)
    run, rule = config.run, config.alarm
    assert (presence_of(run), run.part_frames, run.part_candidates) == ("settled", 2, 5)
    assert (view_of(run), run.max_age_ms) == (View(Roi(1, 2, 30, 40), Grid(2, 3)), 300.0)
    assert (raise_counts(rule), rule.clear_after, rule.clear_below) == ((2, 5), 4, 1.5)
    assert (rule.min_on_s, rule.latch, rule.warn_rejects) == (3.0, True, True)
    assert (run.alarm, run.hold_ms) == (["modbus://plc"], 200.0)


@pytest.mark.parametrize(
    ("run", "store"),
    [
        (RunTable(), None),
        (RunTable(alarm=["modbus://plc"]), Path("runs/line.sqlite")),
        (RunTable(web="127.0.0.1:0"), Path("runs/line.sqlite")),
        (RunTable(alarm=["modbus://plc"], store=Path("a.sqlite")), Path("a.sqlite")),
    ],
)
def test_outputs_and_the_dashboard_need_a_record(run: RunTable, store: Path | None) -> None:
    assert store_of(run) == store


def test_flags_win_and_are_checked() -> None:
    config = Config(run=RunTable(hold_ms=200.0))
    run = with_flags(config, {"run": {"hold_ms": 300.0, "presence": None, "alarm": ["modbus://plc"]}}).run
    assert (run.hold_ms, run.presence, run.alarm) == (300.0, "none", ["modbus://plc"])
    with pytest.raises(BadInput, match="--hold-ms is 1"):
        with_flags(Config(), {"run": {"hold_ms": 1.0}})


@pytest.mark.parametrize(
    "text",
    [
        '[alarm]\nraise_parts = "0/3"\n', '[alarm]\nraise_parts = "often"\n', "[alarm]\nclear_after = 0\n",
        '[run]\npresence = "maybe"\n', "[run]\nhold_ms = 1\n", "[run]\npart_frames = 0\n",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_config(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[alarm]\nraise_parts = "3/2"\n', "write N/M with 1 <= N <= M"),
        ('[run]\npresence = "trigger"\n', "presence = trigger needs --trigger"),
        ('[run]\npresence = "settled"\ntrigger = "software"\n', "--trigger software and presence = settled exclude"),
        ('[run]\npresence = "learned"\n', "presence = learned needs --empty"),
        ("[run]\npart_frames = 4\npart_candidates = 3\n", "part_frames is 4 and part_candidates 3"),
        ("[run]\ncascade = 0.1\nstreams = 2\n", "--cascade and --streams exclude"),
        ('[run]\nroi = "1,2"\n', "roi is '1,2'"),
        ('[run]\ntiles = "9x9"\n', "tiles is '9x9'"),
        ('[camera]\nliveness = ["wink"]\n', "liveness is 'wink'"),
    ],
)
def test_what_contradicts_is_refused_when_a_run_begins(text: str, words: str) -> None:
    settings = parse_config(text)  # other commands go on with such a file
    with pytest.raises(BadInput, match=words):
        check_settings(settings)


@pytest.mark.parametrize(
    ("trigger", "presence", "queued"), [(None, "none", False), ("software", "trigger", False), ("camera", "none", True)]
)
def test_a_trigger_decides_what_is_a_part(trigger: str | None, presence: str, queued: bool) -> None:
    run = RunTable(trigger=trigger)
    assert (presence_of(run), is_queued(run)) == (presence, queued)


def test_a_trial_takes_what_writes_or_drives_from_flags_alone() -> None:
    file = '[run]\ncamera = "0"\nalarm = "modbus://plc"\nrequire_alarms = true\nstore = "a"\nweb = "127.0.0.1:0"\nsave = "b"\n'
    flags = {"events": Path("-"), "store": None, "alarm": None}
    run = trial(with_flags(parse_config(file), {"run": flags}), flags).run
    assert (run.camera, run.alarm, run.require_alarms, run.store, run.web, run.save) == (["0"], [], False, None, None, None)
    assert run.events == Path("-")
    with pytest.raises(BadInput, match="--no-outputs and --alarm exclude each other"):
        trial(parse_config(file), {"alarm": ["modbus://plc"]})


@pytest.mark.parametrize(
    ("warn", "ng", "expected"), [(None, None, (1.0, 2.0)), (1.5, None, (1.5, 2.0)), (0.1, 0.2, (0.1, 0.2))]
)
def test_thresholds_set_by_hand(warn: float | None, ng: float | None, expected: tuple[float, float]) -> None:
    result = set_by_hand(RunTable(warn_above=warn, ng_above=ng), Thresholds(1.0, 2.0, 100, 5, 1, operating_point="cost:5"))
    assert result.operating_point == "cost:5"  # what a later recalibration goes back to
    assert (result.warn, result.ng) == expected
    assert result.goods == (100 if warn is None and ng is None else 0)
    with pytest.raises(BadInput, match="WARN must not"):
        set_by_hand(RunTable(warn_above=3.0), Thresholds(1.0, 2.0))


def test_outputs_reject_without_an_inspector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plc = WrittenPlc()
    (tmp_path / "edge-ad.toml").write_text(f'[run]\nalarm = "modbus://127.0.0.1:{plc.port}"\n')
    plc.set_coil(0, True)
    assert main(["outputs", "reject"]) == 0
    assert until(lambda: plc.bits()[:2] == [False, True])
    plc.close()
    assert main(["outputs", "list"]) == 0
    assert f"modbus://127.0.0.1:{plc.port}" in capsys.readouterr().out
    assert main(["outputs", "explode"]) == 2
    assert main(["outputs", "reject", "--alarm", "amqp://x"]) == 2
