"""One holder at a time, named to the second; nothing stale after a kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_ad.errors import BadInput
from edge_ad.outputs.targets import targets_of
from edge_ad.utils.locks import Targets, lock_file

HOLDER = """
import sys, time
from pathlib import Path
from edge_ad.utils.locks import Targets, lock_file
targets = Targets()
targets.lock([(sys.argv[2], "the PLC")], "end it")
release = lock_file(Path(sys.argv[1]), "the store", "end it")
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_learns_who_holds_it_and_gets_it_when_that_one_is_killed(tmp_path: Path) -> None:
    path, name = tmp_path / "line.sqlite.lock", f"test {os.getpid()}"
    root = str(Path(__file__).parents[2])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    message = f"in use by process {holder.pid} on {socket.gethostname()} in {tmp_path}: end it"
    tries: list[Callable[[], object]] = [
        lambda: lock_file(path, "the store", "end it"),
        lambda: Targets().lock([(name, "the PLC")], "end it"),
    ]
    for attempt in tries:
        with pytest.raises(BadInput) as refused:
            attempt()
        assert message in str(refused.value)
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    release = lock_file(path, "the store", "end it")
    release()
    targets = Targets()
    targets.lock([(name, "the PLC")], "end it")
    targets.close()


def test_what_was_let_go_can_be_held_again(tmp_path: Path) -> None:
    for _ in range(2):
        release = lock_file(tmp_path / "lock", "it", "wait")
        with pytest.raises(BadInput, match="it is in use"):
            lock_file(tmp_path / "lock", "it", "wait")
        release()
        targets = Targets()
        targets.lock([(f"again {os.getpid()}", "it")], "wait")
        targets.close()


def test_a_lock_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="the store cannot be locked.*name a place"):
        lock_file(tmp_path / "file" / "lock", "the store", "wait")


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("modbus://127.0.0.1", "modbus://localhost:502?unit=1&base=0", True),
        ("modbus://127.0.0.1?base=0", "modbus://127.0.0.1?base=8", True),
        ("modbus://127.0.0.1?base=0", "modbus://127.0.0.1?base=48", False),
        ("modbus://127.0.0.1?unit=1", "modbus://127.0.0.1?unit=2", False),
        ("modbus://127.0.0.1:502", "modbus://127.0.0.1:503", False),
        ("modbus-server://127.0.0.1:5020", "modbus-server://127.0.0.1:5020", True),
        ("modbus-server://127.0.0.1:0", "modbus-server://127.0.0.1:0", False),
        ("s7://127.0.0.1/DB10", "s7://localhost:102/db10?rack=0&slot=1", True),
        ("s7://127.0.0.1/DB10?base=0", "s7://127.0.0.1/DB10?base=94", True),
        ("s7://127.0.0.1/DB10?base=0", "s7://127.0.0.1/DB10?base=96", False),
        ("s7://127.0.0.1/DB10", "s7://127.0.0.1/DB11", False),
        ("s7://127.0.0.1/DB10", "s7://127.0.0.1/DB10?slot=2", False),
        ("enip://127.0.0.1/EdgeAD", "enip://localhost:44818/edgead?slot=0", True),
        ("enip://127.0.0.1/EdgeAD", "enip://127.0.0.1/EdgeAD2", False),
        ("enip://127.0.0.1/EdgeAD", "enip://127.0.0.1/EdgeAD?slot=1", False),
        ("gpio:///dev/gpiochip0?pass=17", "gpio://gpiochip0?pass=3&fault=17", True),
        ("gpio:///dev/gpiochip0?pass=17", "gpio:///dev/gpiochip0?pass=18", False),
        ("gpio://jetson?pass=29", "gpio://jetson?pass=31&alarm=29", True),
        ("file:a/../out.jsonl", "file:out.jsonl", True),
        ("http://127.0.0.1/mes", "http://127.0.0.1/mes", False),
        ("stdout:", "stdout:", False),
    ],
)
def test_two_addresses_of_one_target(one: str, other: str, shared: bool) -> None:
    names = [{name for name, _ in targets_of([uri])} for uri in (one, other)]
    assert bool(names[0] & names[1]) == shared
