"""S7 and EtherNet/IP outputs through the guard and its writing process, against PLCs over real sockets."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad.outputs.channels import parse_output
from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.plc_map import REQUEST_WORD, make_plc
from edge_ad.outputs.signals import PART_ADDRESS, VERDICT_CODES, registers_text, text_registers
from tests.fixtures.loopback import free_port, until
from tests.outputs.answerer import VERDICTS, verdict_of
from tests.outputs.logix import DINT, LogixPlc
from tests.outputs.peers import ReadingPlc
from tests.outputs.plcs import KINDS, BlockPlc, S7Plc, call, passed, plc_of, ready, rejects, uri_of
from tests.outputs.test_guard import HOLD_MS, SLACK_S, feeding
from tests.outputs.test_guard_faults import linked, verdict

pytest.importorskip("snap7")
pytest.importorskip("pylogix")
ROOT = Path(__file__).parents[2]
both = pytest.mark.parametrize("kind", KINDS)


@contextlib.contextmanager
def answering(kind: str, plc: BlockPlc, hold_ms: float = 60_000.0) -> Iterator[subprocess.Popen[str]]:
    """Run the stand-in of a triggered line; gone afterwards."""
    words = [sys.executable, "-m", "tests.outputs.answerer", str(hold_ms), kind, uri_of(kind, plc.port)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert ready(plc)
            yield process
        finally:
            process.kill()


def child_of(pid: int) -> int:
    """Return the only process that another one has started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def fault_of(link: GuardClient) -> str:
    return link.states()[0].fault or ""


@both
def test_a_plc_sees_every_verdict_in_order_with_the_id_of_its_part(kind: str) -> None:
    parts = [str(number) for number in range(25)]
    with plc_of(kind) as plc, answering(kind, plc):
        seen = [call(plc, part) for part in parts]
    assert seen == [(verdict_of(part), verdict_of(part) == "OK") for part in parts]
    assert {verdict for verdict, _ in seen} == set(VERDICTS)


@both
def test_the_block_has_the_words_of_the_modbus_map(kind: str) -> None:
    with plc_of(kind) as plc, linked(uri_of(kind, plc.port)) as (link, _):
        link.lamp(True, True, 40_000)
        link.send(verdict(True, "tray 12"))
        assert until(lambda: passed(plc))
        words = plc.words()
    assert words[0] & 0b0111_1111 == 0b0110_1101  # pass, valid, ready, alarm, waiting
    assert words[1:4] == (VERDICT_CODES["OK"], 1, 40_000)
    assert words[4:8] == (0, 0, 0, 0)
    assert registers_text(words[8:24]) == "tray 12"
    assert words[24:] == (0,) * 24  # of the PLC


def test_bytes_and_bits_of_the_data_block_are_as_documented() -> None:
    """DB10.DBX1.0 is `pass`, DBW2 the verdict, DBB16 the first letter of the id, and nothing beside the block changes."""
    plc = S7Plc(size=200)
    with linked(f"s7://127.0.0.1:{plc.port}/db10?base=100") as (link, _):
        link.send(verdict(True, "A7"))
        assert until(lambda: plc.words()[50] & 1)
        data = b"".join(word.to_bytes(2, "big") for word in plc.words())
    plc.close()
    assert data[:100] == bytes(100)
    assert data[101] & 0b0000_1101 == 0b0000_1101
    assert data[102:104] == b"\x00\x01"
    assert data[116:118] == b"A7"
    assert data[148:] == bytes(52)


@both
def test_a_plc_that_has_a_verdict_is_reported_while_a_challenge_is_open(kind: str) -> None:
    with plc_of(kind) as plc, linked(uri_of(kind, plc.port)) as (link, message):
        link.challenge(True, False)
        link.send(verdict(False, "7"))
        assert until(lambda: registers_text(plc.words()[8:24]) == "7")
        assert until(lambda: [record for record in message if record["kind"] == "taken"])


@both
@pytest.mark.parametrize("how", ["STOP", "KILL", "hang"])
def test_a_plc_gets_a_reject_however_the_inspector_stops(kind: str, how: str) -> None:
    with plc_of(kind) as plc, feeding(uri_of(kind, plc.port)) as feeder:
        assert until(lambda: passed(plc))
        feeder.stop(how)
        assert until(lambda: not passed(plc), HOLD_MS / 1000 + SLACK_S)
        assert until(lambda: rejects(plc))
        if how == "STOP":
            feeder.process.send_signal(signal.SIGCONT)
            assert until(lambda: passed(plc))


@both
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_guard_that_dies_or_hangs_leaves_no_pass_in_the_plc(kind: str, number: signal.Signals) -> None:
    """Though the inspector tells nobody anything new, and the hold is a minute: its writer rejects by itself."""
    with plc_of(kind) as plc, linked(uri_of(kind, plc.port)) as (link, _):
        link.send(verdict(True))
        assert until(lambda: passed(plc))
        os.kill(link.pid, number)
        assert until(lambda: not passed(plc))
        link.send(verdict(True, "2"))
        assert until(lambda: link.restarts == 1)
        assert until(lambda: link.send(verdict(True, "2")) or passed(plc))


@both
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_writer_that_dies_or_hangs_is_reported_and_replaced(kind: str, number: signal.Signals) -> None:
    with plc_of(kind) as plc, linked(uri_of(kind, plc.port)) as (link, message):
        link.send(verdict(True))
        assert until(lambda: passed(plc))
        os.kill(child_of(link.pid), number)
        link.send(verdict(False, "2"))
        assert until(lambda: registers_text(plc.words()[8:24]) == "2")
        assert not passed(plc)
        assert until(lambda: link.states()[0].up)
    assert any("is started again" in str(record.get("fault")) for record in message)
    assert link.restarts == 0


@both
def test_a_closed_link_rejects_at_once(kind: str) -> None:
    with plc_of(kind) as plc:
        with linked(uri_of(kind, plc.port)) as (link, _):
            link.send(verdict(True))
            assert until(lambda: passed(plc))
        assert until(lambda: rejects(plc), SLACK_S)


@both
def test_a_plc_that_comes_later_goes_away_and_comes_back_is_written_to_again(kind: str) -> None:
    port = free_port()
    with linked(uri_of(kind, port)) as (link, message):
        assert until(lambda: "it cannot be reached" in fault_of(link))
        for part in ("1", "2"):
            with plc_of(kind, port) as plc:
                assert until(lambda plc=plc, part=part: link.send(verdict(True, part)) or passed(plc))
                assert registers_text(plc.words()[8:24]) == part
                assert until(lambda: link.states()[0].up)
            assert until(lambda: fault_of(link))
    assert link.restarts == 0
    assert len([record for record in message if record.get("fault")]) <= 6  # each sort once


@both
def test_a_plc_that_answers_nothing_is_reported(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, linked(uri_of(kind, silent.getsockname()[1])) as (link, _):
        assert until(lambda: "it cannot be reached" in fault_of(link))


def test_plcs_that_answer_nothing_hold_up_no_other_output() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        outputs = ["modbus-server://127.0.0.1:0", *(uri_of(kind, port) for kind in KINDS)]
        link = GuardClient(outputs, 60_000.0, 1, lambda record: None)
        plc = ReadingPlc(next(iter(link.ports.values())))
        for good in (True, False) * 5:
            link.send(verdict(good))
            assert until(lambda good=good: plc.passed() == good, SLACK_S)
            time.sleep(0.2)
        plc.close()
        link.close()
    assert link.restarts == 0


@pytest.mark.parametrize("fault", ["silent", "torn"])
def test_a_logix_plc_that_breaks_amid_an_answer_is_reported_and_written_to_again(fault: str) -> None:
    """The library reads for ever from a connection that was cut amid an answer: its process is replaced."""
    with plc_of("enip") as plc, linked(uri_of("enip", plc.port)) as (link, _):
        assert isinstance(plc, LogixPlc)
        link.send(verdict(True))
        assert until(lambda: passed(plc))
        plc.fault = fault
        assert until(lambda: fault_of(link))
        plc.fault = ""
        assert until(lambda: link.send(verdict(True, "2")) or link.states()[0].up)
        assert until(lambda: registers_text(plc.words()[8:24]) == "2")
    assert link.restarts == 0


S7 = {"absent": {"number": 11}, "short": {"size": 94}}
LOGIX: dict[str, dict[str, Any]] = {"absent": {"tags": {"Other": 48}}, "short": {"tags": {"EdgeAD": 40}}, "dint": {"kind": DINT}}


@pytest.mark.parametrize(
    ("kind", "what", "words"),
    [
        ("s7", "absent", "it refuses to read bytes 0 to 95 of DB10"),
        ("s7", "short", "it refuses to read bytes 0 to 95 of DB10"),
        ("enip", "absent", "it refuses to read EdgeAD[0] to [47] (Path destination unknown): make it a tag INT[48]"),
        ("enip", "short", "it refuses to read EdgeAD[0] to [47] (CIP status 0xFF: another type or length)"),
        ("enip", "dint", "EdgeAD is of another type: make it a tag INT[48]"),
        ("enip", "denied", "it refuses to write EdgeAD[0] to [23] (Privilege violation)"),
    ],
)
def test_a_block_that_is_refused_is_reported_in_a_sentence_until_the_plc_has_it(kind: str, what: str, words: str) -> None:
    port = free_port()
    plc: Any = S7Plc(port, **S7[what]) if kind == "s7" else LogixPlc(port, **LOGIX.get(what, {}))
    plc.fault = what
    with linked(uri_of(kind, port)) as (link, _):
        assert until(lambda: words in fault_of(link)), fault_of(link)
        assert not link.states()[0].proven
        plc.close()
        with plc_of(kind, port) as good:
            assert until(lambda: link.send(verdict(True)) or passed(good), 30)
            assert until(lambda: link.states()[0].up)


@both
def test_a_plc_that_stays_away_costs_no_sockets(kind: str) -> None:
    client = make_plc(parse_output(uri_of(kind, free_port())))
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with pytest.raises(Exception, match="refused"):
                client.open()
            client.close()
        assert len(os.listdir("/proc/self/fd")) < before + 10  # what threads of other tests open and close is less
    finally:
        gc.enable()


@both
def test_a_block_that_somebody_else_writes_is_reported(kind: str) -> None:
    with plc_of(kind) as plc, linked(uri_of(kind, plc.port)) as (link, _):
        link.send(verdict(False))
        assert until(lambda: link.states()[0].proven)

        def shows_the_fault() -> bool:
            plc.put(0, (0b101,))
            return "it shows another pass" in fault_of(link)

        assert until(shows_the_fault)
        assert until(lambda: not passed(plc))


@both
def test_calls_and_acknowledges_reach_the_inspector_once_an_edge(kind: str) -> None:
    with plc_of(kind) as plc:
        plc.put(REQUEST_WORD, (0b11,))  # older than the connection
        with linked(uri_of(kind, plc.port), calls=True, trigger=kind) as (link, message):
            link.lamp(True, True, 0x30009)
            assert until(lambda: plc.words()[3] == 9)
            plc.put(REQUEST_WORD, (0,))
            time.sleep(0.5)
            plc.put(PART_ADDRESS, text_registers("tray 12", 16))
            plc.put(REQUEST_WORD, (0b10,))
            assert until(lambda: any(record["kind"] == "trigger" for record in message))
            plc.put(REQUEST_WORD, (0b11,))
            assert until(lambda: any(record["kind"] == "acknowledge" for record in message))
    results = [(r["kind"], r.get("part"), r.get("number")) for r in message if r["kind"] in ("trigger", "acknowledge")]
    assert results == [("trigger", "tray 12", None), ("acknowledge", None, 0x30009)]


@both
def test_a_plc_pauses_and_resumes_by_bits_of_its_own(kind: str) -> None:
    with plc_of(kind) as plc, linked(uri_of(kind, plc.port)) as (link, message):
        assert until(lambda: plc.words()[0] != 0)
        for bits in (0b0100, 0, 0b1000):
            plc.put(REQUEST_WORD, (bits,))
            time.sleep(0.3)
        assert until(lambda: [record["order"] for record in message if record["kind"] == "order"] == ["pause", "resume"])
        link.pause(True)
        assert until(lambda: plc.words()[4] & 1)
        assert plc.words()[0] & 0b1101 == 0  # neither pass, result valid nor ready


@both
def test_another_id_is_another_call_though_the_bit_was_not_seen_to_fall(kind: str) -> None:
    with plc_of(kind) as plc, linked(uri_of(kind, plc.port), calls=True, trigger=kind) as (link, message):
        assert until(lambda: link.states()[0].proven)

        def parts() -> list[str]:
            return [record["part"] for record in message if record["kind"] == "trigger"]

        for number in (7, 8, 9):
            plc.put(REQUEST_WORD, (0b10, *text_registers(str(number), 16)))
            assert until(lambda number=number: parts() == [str(part) for part in range(7, number + 1)])
        time.sleep(0.3)
        assert parts() == ["7", "8", "9"]


@both
def test_a_call_takes_back_what_stands_and_a_late_verdict_is_not_shown(kind: str) -> None:
    with plc_of(kind) as plc, linked(uri_of(kind, plc.port), calls=True, trigger=kind) as (link, message):
        assert until(lambda: link.states()[0].proven)

        def calls() -> list[float]:
            return [record["at"] for record in message if record["kind"] == "trigger"]

        plc.put(REQUEST_WORD, (0b10,))
        assert until(calls)
        link.send(verdict(True, "1", calls()[0]))
        assert until(lambda: passed(plc))
        plc.put(REQUEST_WORD, (0,))
        time.sleep(0.5)
        plc.put(REQUEST_WORD, (0b10, *text_registers("2", 16)))  # heard though the bit be not seen to fall
        assert until(lambda: len(calls()) == 2)
        assert until(lambda: not passed(plc))
        link.send(verdict(True, "1", calls()[0]))  # on the part before
        time.sleep(0.3)
        assert not passed(plc)
        link.send(verdict(True, "2", calls()[1]))
        assert until(lambda: passed(plc))


def test_the_guard_loads_no_library_of_a_plc() -> None:
    code = (
        "import sys, edge_ad.outputs.guard, edge_ad.outputs.plc_channel;"
        "print([name for name in ('snap7', 'pylogix', 'numpy', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
