"""What a training tells while it runs, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from edge_ad.utils.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_tells_stage_step_note_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_ad.utils.progress.time.monotonic", lambda: 130.0)
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        progress = Progress(stream=stream)
        progress.step("lavit", 40, 100, began=100.0, first=20, note="loss 1.5")  # 30 s for 20 steps, 60 are left: 90 s
        progress.step("lavit", 100, 100, began=100.0, first=20)
    assert terminal.getvalue() == (
        "\r\033[Klavit: 40 of 100, loss 1.5, 1:30 left\r\033[Klavit: 100 of 100, took 0:30\n"
    )
    assert pipe.getvalue() == "lavit: 40 of 100, loss 1.5, 1:30 left\nlavit: 100 of 100, took 0:30\n"


def test_progress_elsewhere_speaks_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 200))
    monkeypatch.setattr("edge_ad.utils.progress.time.monotonic", lambda: float(next(clock)))
    pipe = io.StringIO()
    for done in range(1, 31):
        Progress(shown=False, stream=pipe).step("s", done, 100, began=100.0)
    assert pipe.getvalue() == ""
    progress = Progress(stream=pipe)
    for done in range(1, 31):
        progress.step("s", done, 100, began=100.0)
    assert len(pipe.getvalue().splitlines()) == 3
