"""Settings of a run from the file and from flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.cli.app import main
from edge_ad.config import RunTable, parse_config, with_flags
from edge_ad.errors import BadInput
from edge_ad.inspection.assembly import LineSettings, with_trigger
from edge_ad.inspection.from_config import alarm_rule, hand_set, line_settings, loop_settings
from edge_ad.inspection.settings import LoopSettings, PartSettings
from edge_ad.inspection.view import Grid, Roi
from edge_ad.scoring import Thresholds
from tests.fixtures.loopback import until
from tests.outputs.peers import WrittenPlc


def test_everything_from_the_file() -> None:
    config = parse_config(
        '[run]\npresence = "settled"\npart_frames = 2\npart_candidates = 5\nroi = "1,2,30,40"\ntiles = "2x3"\n'
        'alarm = "modbus://plc"\nhold_ms = 200\nmax_age_ms = 300\n'
        '[alarm]\nraise_parts = "2/5"\nclear_after = 4\nclear_below = 1.5\nmin_on_s = 3\nlatch = true\nwarn_rejects = true\n'
    )
    loop = loop_settings(config.run, config.alarm)
    assert (loop.part.presence, loop.part.rule.frames, loop.part.rule.candidates) == ("settled", 2, 5)
    assert (loop.view.roi, loop.view.grid, loop.max_age_ms) == (Roi(1, 2, 30, 40), Grid(2, 3), 300.0)
    rule = alarm_rule(config.alarm)
    assert (rule.raise_n, rule.raise_m, rule.clear_after, rule.clear_below) == (2, 5, 4, 1.5)
    assert (rule.min_on_s, rule.latch, rule.warn_rejects) == (3.0, True, True)
    line = line_settings(config.run)
    assert (line.alarm, line.hold_ms, line.store) == (("modbus://plc",), 200.0, Path("runs/line.sqlite"))
    assert line_settings(RunTable()).store is None


def test_flags_win_and_are_checked() -> None:
    run = with_flags(RunTable(hold_ms=200.0), {"hold_ms": 300.0, "presence": None, "alarm": ["modbus://plc"]})
    assert (run.hold_ms, run.presence, run.alarm) == (300.0, "none", ["modbus://plc"])
    with pytest.raises(BadInput, match="--hold-ms is 1"):
        with_flags(RunTable(), {"hold_ms": 1.0})


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


def test_what_contradicts_is_refused() -> None:
    with pytest.raises(BadInput, match="N/M"):
        alarm_rule(parse_config('[alarm]\nraise_parts = "3/2"\n').alarm)
    with pytest.raises(BadInput, match="needs --trigger"):
        with_trigger(LoopSettings(part=PartSettings("trigger")), LineSettings())
    with pytest.raises(BadInput, match="exclude"):
        with_trigger(LoopSettings(part=PartSettings("settled")), LineSettings(trigger="software"))
    with pytest.raises(BadInput, match="--empty"):
        PartSettings("learned")
    assert with_trigger(LoopSettings(), LineSettings(trigger="software")).part.presence == "trigger"
    assert with_trigger(LoopSettings(), LineSettings(trigger="camera")).part.queued


@pytest.mark.parametrize(
    ("warn", "ng", "expected"), [(None, None, (1.0, 2.0)), (1.5, None, (1.5, 2.0)), (0.1, 0.2, (0.1, 0.2))]
)
def test_thresholds_set_by_hand(warn: float | None, ng: float | None, expected: tuple[float, float]) -> None:
    found = hand_set(lambda: RunTable(warn_above=warn, ng_above=ng))(Thresholds(1.0, 2.0, 100, 5, 1))
    assert (found.warn, found.ng) == expected
    assert found.goods == (100 if warn is None and ng is None else 0)
    with pytest.raises(BadInput, match="WARN must not"):
        hand_set(lambda: RunTable(warn_above=3.0))(Thresholds(1.0, 2.0))


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
