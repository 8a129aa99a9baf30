"""Whether an output works, since when and how often it did not: rules, the names of outputs, the table of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_ad.cli.app import main
from edge_ad.config import Config, RunTable
from edge_ad.inspection.inspector import RunOptions, inspect
from edge_ad.outputs.channels import address_names, parse_output
from edge_ad.outputs.delivery import ChannelState
from edge_ad.outputs.guard import Guard
from edge_ad.outputs.guard_state import GuardState
from edge_ad.outputs.targets import targets_of
from edge_ad.utils.locks import Targets
from edge_ad.web.status import output_rows, without_folders
from tests.fixtures.loopback import free_port, until
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.inspection.line import ENGINE
from tests.outputs.peers import WrittenPlc


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ([], (False, None, 0, None)),
        ([None], (True, None, 0, 1.0)),
        ([None, None], (True, None, 0, 1.0)),
        (["away"], (False, "away", 1, 1.0)),
        (["away", "refuses"], (False, "refuses", 1, 1.0)),  # another reason, the same outage
        (["away", None], (True, None, 1, 2.0)),
        ([None, "away", None, "away"], (False, "away", 2, 4.0)),
    ],
)
def test_a_state_counts_outages_and_keeps_when_the_present_one_began(
    faults: list[str | None], expected: tuple[bool, str | None, int, float | None]
) -> None:
    state = ChannelState("x")
    for second, fault in enumerate(faults, 1):
        state = state.after(fault, float(second))
    assert (state.up, state.fault, state.faults, state.since) == expected


def test_outputs_that_share_a_plc_or_a_chip_have_names_of_their_own() -> None:
    uris = [
        "modbus://plc?base=0",
        "modbus://plc?unit=2&base=100",
        "modbus://other",
        "gpio:///dev/gpiochip0?pass=1",
        "gpio:///dev/gpiochip0?pass=2",
    ]
    assert address_names([parse_output(uri) for uri in uris]) == [
        "modbus://plc:502?unit=1&base=0",
        "modbus://plc:502?unit=2&base=100",
        "modbus://other:502",
        "gpio:///dev/gpiochip0?pass=1",
        "gpio:///dev/gpiochip0?pass=2",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("FileNotFoundError: [Errno 2] No such file: '/my home/x y/a.crt'", "FileNotFoundError: [Errno 2] No such file: '…/a.crt'"),
        ("cannot open /etc/edge-ad/ca.crt now", "cannot open …/ca.crt now"),
        ("https://mes.example/a/b answers 503", "https://mes.example/a/b answers 503"),
        ("gpio:///dev/gpiochip0 fails", "gpio:///dev/gpiochip0 fails"),
    ],
)  # fmt: skip
def test_folders_of_this_machine_are_left_out(text: str, shown: str) -> None:
    assert without_folders(text) == shown


def test_what_pages_get_has_unique_names_and_no_secrets_and_is_bounded() -> None:
    message = output_rows(
        [
            ChannelState("file:/srv/a/events.jsonl"),
            ChannelState("file:/srv/b/events.jsonl"),
            ChannelState("foreign://me:s3cret@host", fault=f"https://me:s3cret@host/{'x' * 9000}", faults=3, since=7.0),
        ]
    )
    assert [output["name"] for output in message] == [
        "file:…/events.jsonl (1)",
        "file:…/events.jsonl (2)",
        "foreign://***@host",
    ]
    assert "s3cret" not in str(message)
    assert len(message[2]["fault"]) == 500
    assert (message[2]["up"], message[2]["faults"], message[2]["since"]) == (False, 3, 7.0)


def test_a_channel_that_breaks_in_every_cycle_is_reported_once_and_when_it_works_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The guard's server broke at every refresh, 20 times a second, and each was a line on the terminal."""
    messages: list[dict[str, Any]] = []
    address = parse_output("modbus-server://127.0.0.1:0")
    guard = Guard(GuardState(1.0, 1), [address], messages.append, call_later=lambda seconds, act: None)
    real = guard._channels[0].show
    monkeypatch.setattr("edge_ad.outputs.signals.SETTLE_S", 0.0)

    def broken(lines: object) -> None:
        raise RuntimeError("no lines")

    monkeypatch.setattr(guard._channels[0], "show", broken)
    for _ in range(5):
        guard._each(lambda channel: channel.show(GuardState(1.0, 1).signals(0.0)))
    monkeypatch.setattr(guard._channels[0], "show", real)
    for _ in range(3):
        guard._each(lambda channel: channel.show(GuardState(1.0, 1).signals(0.0)))
    assert [record["fault"] for record in messages] == ["RuntimeError: no lines", None]


@pytest.mark.usefixtures("stderr_log")
def test_the_table_of_a_run_counts_the_faults_of_outputs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = ""

    def wait(event: object) -> None:
        def heard() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "output fault: modbus://" in said and "output mqtt://" in said

        assert until(heard)

    plc = WrittenPlc()
    refusing, away = f"modbus://127.0.0.1:{plc.port}", f"mqtt://127.0.0.1:{free_port()}/line"
    run = RunTable(alarm=[f"{refusing}?base=40001", away, f"file:{tmp_path / 'o.jsonl'}"], store=tmp_path / "s")
    options = RunOptions(Config(run=run, engine=ENGINE), on_event=wait)
    summary = inspect(make_tiny_bundle(tmp_path / "tiny.edgead"), "synthetic://line?frames=3", options)
    plc.close()
    rows = [row for row in summary.table().splitlines() if row.startswith("output ")]
    assert len(rows) == 2
    assert rows[0].startswith(f"output {refusing}: 1 fault, does not work at the end: it refuses to take coils 40001")
    assert rows[1].startswith(f"output {away}: 1 fault, does not work at the end: ConnectionRefusedError")
    assert summary.outputs[2].up


@pytest.mark.parametrize("scheme", ["opcua", "modbus-server"])
def test_the_list_states_whether_the_port_of_a_server_can_be_had(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os
    import socket

    monkeypatch.chdir(tmp_path)
    port = free_port()
    uri = f"{scheme}://127.0.0.1:{port}"

    def listed() -> str:
        assert main(["outputs", "list", "--alarm", uri]) == 0
        return next(row for row in capsys.readouterr().out.splitlines() if row.startswith(uri))

    assert "the port is free" in listed()
    with socket.create_server(("127.0.0.1", port)):
        assert "cannot be had: Address already in use" in listed()
    targets = Targets()
    targets.lock(targets_of([uri]), "")
    assert f"served by process {os.getpid()} on " in listed()
    targets.close()
    assert until(lambda: "the port is free" in listed())


@pytest.mark.parametrize(
    ("text", "arguments", "code", "sentence"),
    [
        ('alarm = "opcua://127.0.0.1:4850"', [], 0, "no output of a PLC or GPIO is set: nothing shows a reject"),
        ("", [], 0, "no output of a PLC or GPIO is set"),
        ("", ["--alarm", "opcua://127.0.0.1:4850"], 2, "no reject can be shown there: name outputs of a PLC or GPIO"),
        ("", ["--alarm", "file:o.jsonl"], 2, "only tells events"),
    ],
)
def test_a_reject_that_nothing_shows_is_reported(
    text: str,
    arguments: list[str],
    code: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edge-ad.toml").write_text(f"[run]\n{text}\n")
    assert main(["outputs", "reject", *arguments]) == code
    assert sentence in capsys.readouterr().err
