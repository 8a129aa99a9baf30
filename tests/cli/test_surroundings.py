"""Commands in odd surroundings: names that are no UTF-8, no home folder, no current folder, users without a name."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from edge_ad.cli.app import main
from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.store import Store
from edge_ad.store.reader import EventFilter, Reader
from edge_ad.utils import files
from edge_ad.utils.files import cache_home, newest_bundle
from tests.camera.pictures import write_image
from tests.fixtures.forked_cli import ForkedCli
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

pytestmark = pytest.mark.any_version

ROOT = Path(__file__).parents[2]
ODD = b"teil_\xe4"


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a record, and images and folders whose names are no UTF-8."""
    folder = tmp_path_factory.mktemp("station")
    make_tiny_bundle(folder / "t.edgead")
    os.link(folder / "t.edgead", os.path.join(os.fsencode(folder), ODD + b".edgead"))
    for kind, first in (("good", 0), ("bad", 100)):
        images = folder / "images" / kind  # OpenCV crashes on the other name
        images.mkdir(parents=True)
        for number in range(12):
            write_image(images / f"{number:03}.png", tiny_image(first + number))
        os.rename(images / "011.png", os.path.join(os.fsencode(images), ODD + b".png"))
    (folder / "images").rename(folder / os.fsdecode(ODD))
    store = Store(folder / "s.sqlite")
    store.record(Event("c", 1, "1", time.time(), "OK", 0.5, {}, 1.0, None), {})
    store.close()
    return folder


@pytest.fixture(scope="module")
def edge_ad(station: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], CompletedProcess[bytes]]]:
    """Runs a command in the station, in a process of its own; ODD in it stands for a name that is no UTF-8."""
    with contextlib.closing(ForkedCli(tmp_path_factory.mktemp("streams"))) as forked:
        yield lambda line: forked.run(
            station, [os.fsdecode(word.encode().replace(b"ODD", ODD)) for word in shlex.split(line)]
        )


ENGINE = "--backend onnxruntime --precision fp32"


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        ("info ODD.edgead", {0}),
        ("info nothing_ODD", {2}),
        ("info t.edgead --json ODD.json", {0, 2}),
        ("init --data ODD --yes --force", {2}),
        ("init --camera ODD --yes --force", {2}),
        ("events --store s.sqlite --camera ODD", {0, 2}),
        ("events --store s.sqlite --part ODD", {0, 2}),
        ("events --store s.sqlite --csv ODD.csv", {0, 2}),
        ("events --store s.sqlite --json ODD2.json", {0, 2}),
        ("events mark ODD good --store s.sqlite", {2}),
        ("events --store nothing_ODD", {2}),
        (f"run ODD.edgead --camera ODD/good {ENGINE} --events ODD.jsonl --store ODD.sqlite", {0, 2}),
        (f"run t.edgead --camera ODD/good {ENGINE} --alarm file:ODD.out --store a.sqlite", {0, 2}),
        (f"run t.edgead --camera ODD/good {ENGINE} --alarm mqtt://127.0.0.1:1/ODD --store b.sqlite", {0, 2}),
        (f"run t.edgead --camera ODD/good {ENGINE} --alarm http://127.0.0.1:1/ODD --store c.sqlite", {2}),
        (f"run t.edgead --camera ODD/good {ENGINE} --alarm modbus://ODD --store d.sqlite", {0, 2}),
        (f"run t.edgead --camera ODD/good {ENGINE} --alarm modbus-server://ODD:0", {2, 3}),
        (f"run t.edgead --camera ODD/good {ENGINE} --alarm s7://ODD/DB10 --store f.sqlite", {0, 2}),
        (f"run t.edgead --camera ODD/good {ENGINE} --alarm enip://127.0.0.1:1/ODD --store g.sqlite", {0, 2}),
        (f"run t.edgead --camera ODD/good {ENGINE} --alarm 'gpio://ODD?pass=1'", {2, 3}),
        (f"run t.edgead --camera ODD/good {ENGINE} --trigger software:ODD.sock --max-frames 1", {0, 2}),
        (f"run t.edgead --camera ODD/good {ENGINE} --web ODD:0", {2}),
        (f"run t.edgead --camera ODD/good {ENGINE} --evidence ODD.evidence --store e.sqlite", {0, 2}),
        (f"run t.edgead --camera rtsp://ODD/1 {ENGINE}", {2, 3}),
        (f"run t.edgead --camera http://ODD/1 {ENGINE}", {2, 3}),
        (f"run t.edgead --camera gst:ODD {ENGINE}", {2, 3}),
        (f"run t.edgead --camera watch:nothing_ODD {ENGINE}", {2}),
        ("outputs list --alarm modbus://ODD --store s.sqlite", {0, 2}),
        ("outputs list --alarm enip://ODD/EdgeAD --store s.sqlite", {0, 2}),
        ("outputs drop ODD --store s.sqlite", {2}),
        (f"evaluate t.edgead ODD {ENGINE} --json ODD3.json", {0, 2}),
        ("recalibrate t.edgead ODD/good --out ODD2.edgead", {0, 2}),
        ("train --data nothing_ODD", {2}),
        ("train --data ODD/good --setting ODD=1", {2}),
        ("capture --camera ODD/good --count 5 --out ODD.captured", {0, 2}),
        ("ODD", {2}),
        ("run --ODD", {2}),
    ],
)  # fmt: skip
def test_a_name_that_is_no_utf8_is_taken_or_told_in_a_sentence(
    line: str, codes: set[int], edge_ad: Callable[[str], CompletedProcess[bytes]]
) -> None:
    done = edge_ad(line)
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    assert done.returncode in codes, done.stderr
    assert (b"error: " in done.stderr) is (done.returncode != 0)


@pytest.mark.parametrize("answer", [b"\xe4\n", b"\xff\xfe\n"])
def test_an_answer_that_is_no_utf8_is_told(answer: bytes, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge_ad", "init", "--camera", "0", "--preset", "fast"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:strict"},
        input=answer, capture_output=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False), done.stderr
    assert b"is no UTF-8 text: rename it, or write another name" in done.stderr


@pytest.mark.parametrize("line", ["info", "events", "run", "doctor", "outputs list", "init --yes", "train", "web"])
def test_a_folder_that_was_removed_under_a_command_is_told(line: str, tmp_path: Path) -> None:
    shell = f'mkdir gone && cd gone && rmdir ../gone && exec "{sys.executable}" -m edge_ad {line}'
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=120
    )
    assert b"Traceback" not in done.stderr, done.stderr
    assert done.returncode == (0 if line in ("doctor", "outputs list") else 2), done.stderr


def test_a_tilde_without_a_home_folder_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "t.edgead")
    for camera in ("~nobody-of-this-name/images", "watch:~nobody-of-this-name/images"):
        assert main(["run", str(bundle), "--camera", camera]) == 2
        assert "no home folder is known for the tilde; write the whole path, or set HOME" in capsys.readouterr().err


def test_a_user_without_a_home_folder_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(files.Path, "home", raising(RuntimeError))
    assert cache_home().name == f"edge-ad-cache-{os.getuid()}"


def raising(error: type[Exception]) -> object:
    def function(*arguments: object) -> None:
        raise error("injected")

    return staticmethod(function)


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_marks_by_number(
    error: type[Exception], station: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise error("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    with Reader(station / "s.sqlite") as reader:
        (event,) = reader.every(EventFilter(), 10)
    assert main(["events", "mark", event.id[:8], "good", "--store", str(station / "s.sqlite")]) == 0
    with Reader(station / "s.sqlite") as reader:
        assert [event.mark for event in reader.every(EventFilter(), 10)] == ["good"]


@pytest.mark.parametrize("aside", ["line.improve/003", "line.fleet/bundles"])
def test_a_bundle_that_waits_to_be_put_in_use_is_not_the_newest(tmp_path: Path, aside: str) -> None:
    used, waiting = tmp_path / "part" / "a.edgead", tmp_path / aside / "b.edgead"
    for moment, path in enumerate((used, waiting)):
        path.parent.mkdir(parents=True)
        path.write_text(path.name)
        os.utime(path, (moment, moment))
    assert newest_bundle(tmp_path) == used


def test_a_link_to_nowhere_and_a_folder_are_no_newest_bundle(tmp_path: Path) -> None:
    (tmp_path / "gone.edgead").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.edgead").mkdir()
    with pytest.raises(BadInput, match="no bundle"):
        newest_bundle(tmp_path)
    (tmp_path / "folder.edgead" / "t.edgead").write_bytes(b"")
    assert newest_bundle(tmp_path).name == "t.edgead"
