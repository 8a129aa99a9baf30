"""JSON lines on standard output and in a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_ad.outputs.jsonlines import JsonLines
from tests.outputs.events import frames, lines


def test_lines_are_appended_and_a_torn_one_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.jsonl"
    output = JsonLines(f"file:{path}")
    for line in lines(2):
        output.open()
        output.deliver(line)
        output.close()
    with path.open("a") as stream:
        stream.write('{"torn')
    output.open()
    output.deliver_all(lines(3))
    output.close()
    output.close()
    result = path.read_text().split("\n")
    assert result[2] == '{"torn'
    assert frames([*result[:2], *result[3:6]]) == [0, 1, 0, 1, 2]
    assert result[6:] == [""]


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    output = JsonLines("stdout:")
    output.open()
    output.deliver_all(lines(2))
    output.close()
    output.open()
    output.deliver(lines(1)[0])
    assert frames(capfd.readouterr().out.splitlines()) == [0, 1, 0]


def test_a_full_disk_is_an_error_to_try_again() -> None:
    output = JsonLines("file:/dev/full")
    output.open()
    with pytest.raises(OSError, match="No space left"):
        output.deliver(lines(1)[0])
    output.close()


def test_a_pipe_takes_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    output = JsonLines(f"file:{path}")
    output.open()
    output.deliver(lines(1)[0])
    assert frames([os.read(reader, 65536)]) == [0]
    output.close()
    os.close(reader)


def test_a_folder_that_cannot_be_made_is_an_error_to_try_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        JsonLines(f"file:{tmp_path}/file/events.jsonl").open()


@pytest.mark.parametrize("rename", [False, True])
def test_a_file_that_is_taken_away_is_made_again(tmp_path: Path, rename: bool) -> None:
    path = tmp_path / "events.jsonl"
    output = JsonLines(f"file:{path}")
    output.open()
    output.deliver_all(lines(2))
    if rename:
        path.rename(tmp_path / "events.jsonl.1")
    else:
        path.unlink()
    output.deliver_all(lines(3))
    output.deliver_all(lines(1))
    output.close()
    assert frames(path.read_text().splitlines()) == [0, 1, 2, 0]
