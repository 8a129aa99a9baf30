"""What a training tells while it runs, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from edge_ad.utils.progress import Progress, count_on_terminal


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


def test_a_count_on_a_terminal_tells_the_time_left_from_its_first_step_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes before the first image, such as opening engines, does not make the rest look long."""
    now = [0.0]
    monkeypatch.setattr("edge_ad.utils.progress.time.monotonic", lambda: now[0])
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    show = count_on_terminal("images")
    assert show is not None
    for now[0], done in ((100.0, 1), (110.0, 11), (119.0, 20)):
        show(done, 20)
    lines = ["images: 1 of 20, 0:00 left", "images: 11 of 20, 0:09 left", "images: 20 of 20, took 0:19"]
    assert terminal.getvalue() == "".join(f"\r\033[K{line}" for line in lines) + "\n"
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert count_on_terminal("images") is None


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
