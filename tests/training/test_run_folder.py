"""The folder of a training: fingerprints, checkpoints whole or refused, and which unfinished run is taken up."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edge_ad.errors import BadInput
from edge_ad.training.run_folder import RunFolder, choose_folder, fingerprint, to_cpu


def test_a_fingerprint_knows_values_not_order() -> None:
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_the_same_training_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.begin("mine") is False
    assert folder.begin("mine") is True
    with pytest.raises(BadInput, match="unfinished training with other data or settings.*--out.*delete"):
        folder.begin("other")
    folder.finish()
    assert not folder.state.exists()
    assert folder.begin("other") is False


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin("mark")
    state = {"module": {"w": torch.tensor([1.5, float("inf")])}, "trace": {"steps": 3, "pairs": [(1, 0.5)]}, "no": None}
    assert folder.load("stage") is None
    folder.save("stage", state)
    result = folder.load("stage")
    assert result is not None
    assert torch.equal(result.pop("module")["w"], state.pop("module")["w"])
    assert result == state
    assert [path.name for path in folder.state.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "code"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    folder = RunFolder(tmp_path)
    folder.begin("mark")
    folder.save("stage", {"w": torch.zeros(1000)})
    target = folder.state / "stage.pt"
    if damage == "code":
        torch.save({"w": os.system}, target)
    else:
        target.write_bytes({"cut": target.read_bytes()[:500], "empty": b"", "text": b"no checkpoint"}[damage])
    with pytest.raises(BadInput, match=r"stage.pt cannot be read .*: delete it"):
        folder.load("stage")


def test_checkpoints_without_a_fingerprint_are_not_taken_over(tmp_path: Path) -> None:
    """A kill while a finished training cleans up may leave checkpoints of other settings behind."""
    folder = RunFolder(tmp_path)
    folder.begin("old")
    folder.save("lavit-finished", {"w": torch.zeros(1)})
    (folder.state / "fingerprint.json").unlink()
    assert folder.begin("new") is False
    assert folder.load("lavit-finished") is None


def test_the_log_grows_by_lines(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (10, 20):
        folder.log({"stage": "lavit", "step": step})
    entries = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [(entry["stage"], entry["step"]) for entry in entries] == [("lavit", 10), ("lavit", 20)]
    assert all(entry["time"] > 1e9 for entry in entries)


def test_which_folder(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert choose_folder(tmp_path / "mine", "mark", runs) == RunFolder(tmp_path / "mine")
    first = choose_folder(None, "mark", runs)
    assert first.path.parent == runs
    first.begin("mark")
    assert choose_folder(None, "mark", runs) == first
    other = choose_folder(None, "another mark", runs)
    other.begin("another mark")
    assert other.path != first.path
    assert choose_folder(None, "mark", runs) == first
    first.finish()
    assert choose_folder(None, "mark", runs) != first


def test_the_newest_unfinished_run_with_the_mark_is_taken(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "a", "c")):
        RunFolder(tmp_path / name).begin("mark" if name != "c" else "other")
        os.utime(tmp_path / name, (1000 + number, 1000 + number))
    assert choose_folder(None, "mark", tmp_path).path.name == "a"


def test_states_are_copied() -> None:
    weight = torch.ones(2)
    copy = to_cpu({"w": weight})
    weight += 1
    assert copy["w"].tolist() == [1.0, 1.0]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        RunFolder(tmp_path / "file" / "run").begin("mark")


HOLD = """
import sys, time
from pathlib import Path
from edge_ad.training.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_training_in_a_folder_is_refused_and_names_the_first(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match=rf"is in use by process {first.pid} on .*: wait for it, end it, or choose"):
            RunFolder(tmp_path / "run").locked().__enter__()
    finally:
        first.kill()
        first.wait()
    with RunFolder(tmp_path / "run").locked():  # nothing that a killed training leaves behind keeps the next one out
        pass


def test_a_folder_is_free_again_after_a_training_that_failed(tmp_path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), RunFolder(tmp_path).locked():
        raise ZeroDivisionError
    with RunFolder(tmp_path).locked(), pytest.raises(BadInput, match="is in use by process"):
        RunFolder(tmp_path).locked().__enter__()
