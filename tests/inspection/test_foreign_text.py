"""Names and ids that are no UTF-8: every part gets its verdict, and the record holds them all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_ad.cli.app import main
from edge_ad.store.reader import EventFilter, Reader
from tests.camera.pictures import write_image
from tests.fixtures.loopback import until
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

ROOT = Path(__file__).parents[2]
ENGINE = ["--backend", "onnxruntime", "--precision", "fp32"]


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_tiny_bundle(tmp_path / "t.edgead")
    return tmp_path


def parts_in(path: Path) -> list[str | None]:
    reader = Reader(path)
    found = [event.part for event in reader.every(EventFilter(), 100)]
    reader.close()
    return sorted(found, key=str)


@pytest.mark.parametrize("folder", [b"p", b"p_\xfc"])
def test_pictures_whose_names_are_no_utf8_are_judged_and_stored(station: Path, folder: bytes) -> None:
    for number in range(5):
        (station / "made").mkdir(exist_ok=True)
        write_image(station / "made" / f"teil_{number}.png", tiny_image(9000 + number))
    pictures = (station / "made").rename(station / os.fsdecode(folder))
    os.rename(pictures / "teil_4.png", os.path.join(os.fsencode(pictures), b"teil_\xe4.png"))
    (pictures / "teil_5.png").write_bytes(b"no picture")
    run = ["run", "t.edgead", "--camera", str(pictures), "--store", "s.sqlite", "--alarm", "file:o.jsonl"]
    assert main([*run, *ENGINE, "--save", "saved"]) == 0
    expected = ["teil_0.png", "teil_1.png", "teil_2.png", "teil_3.png", "teil_5.png", "teil_\\xe4.png"]
    assert parts_in(station / "s.sqlite") == expected
    delivered = [json.loads(line)["part"] for line in (station / "o.jsonl").read_text("utf-8").splitlines()]
    assert sorted(delivered) == expected
    assert len(list((station / "saved").glob("*.jpg"))) == 6
    assert main(["events", "--store", "s.sqlite"]) == 0


@pytest.mark.any_version
@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict", "utf-8"])
def test_a_byte_on_standard_input_that_is_no_utf8_is_part_of_an_id(station: Path, encoding: str) -> None:
    command = [sys.executable, "-m", "edge_ad", "run", "t.edgead", "--camera", "synthetic://line?frames=500&fps=20"]
    command += ["--realtime", "--trigger", "software", "--events", "e.jsonl", *ENGINE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    )
    assert process.stdin is not None
    assert process.stderr is not None

    def judged() -> list[str]:
        path = station / "e.jsonl"
        return [json.loads(line)["part"] for line in path.read_text().splitlines()] if path.exists() else []

    def call(part: bytes) -> None:
        process.stdin.write(part + b"\n")
        process.stdin.flush()

    try:
        # What is called before the first frame is gone, so the first part is called until it is there.
        assert until(lambda: judged() or call(b"A1") or time.sleep(0.2), 90)
        for sent, expected in ((b"B\xfc2", "B\\xfc2"), (b"C3", "C3")):
            call(sent)
            assert until(lambda part=expected: part in judged(), 90), judged()
        process.stdin.close()
        line = next(line for line in process.stderr if b"trigger" in line)  # the end of the ids is told
        assert b"no more parts are called for" in line
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_datagram_that_is_no_utf8_is_part_of_an_id(tmp_path: Path) -> None:
    from edge_ad.inspection.part_tracking import Calls
    from edge_ad.inspection.triggers import TriggerAddress, open_trigger

    calls = Calls()
    queue = calls.subscribe()
    trigger = open_trigger(TriggerAddress("software", str(tmp_path / "trigger")), calls)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for sent in (b"B\xfc2", b"B\xe42", b"\xff" * 3000, b"C3"):
            sender.sendto(sent, str(tmp_path / "trigger"))
    assert until(lambda: len(queue) == 4)
    assert trigger is not None
    trigger.close()
    assert [call.part for call in queue] == ["B\\xfc2", "B\\xe42", "\\xff" * 16, "C3"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--camera", os.fsdecode(b"clip_\xe4.mkv")], "rename it"),
        (["--camera", "synthetic://line?frames=2", "--save", os.fsdecode(b"saved_\xe4")], "name another folder"),
    ],
)
def test_a_path_that_opencv_would_crash_on_is_refused(station: Path, arguments: list[str], told: str) -> None:
    (station / os.fsdecode(b"clip_\xe4.mkv")).write_bytes(b"no video")
    command = [sys.executable, "-m", "edge_ad", "run", "t.edgead", *ENGINE, *arguments]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2, done
    assert told in done.stderr.decode()
