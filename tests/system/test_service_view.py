"""The service as the doctor sees it: its unit against the devices, and the trials under the unit's properties."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edge_ad.system.devices import device_access
from edge_ad.system.machine import Machine, Package
from edge_ad.system.service import UNIT, make_unit, service_view, transient
from tests.system.recorded import lay_out
from tests.system.test_unit import someone

ORIN = "orin_nano_jetpack6"


def with_unit(folder: Path, board: str = ORIN, systemd: bool = True, change: tuple[str, str] = ("", "")) -> Machine:
    """Lay a board out with the unit that was made for it; ``change`` replaces a pattern in it."""
    machine = lay_out(board, folder / "root")
    unit = make_unit(folder, folder / "x.edgead", someone(), device_access(machine.root, ["csi://0"]))
    if change[0]:
        unit = re.sub(change[0], change[1], unit, flags=re.MULTILINE)
    (machine.root / UNIT).parent.mkdir(parents=True)
    (machine.root / UNIT).write_text(unit)
    if systemd:
        (machine.root / "run/systemd/system").mkdir(parents=True)
    return machine


def stub(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put a systemd-run first on the path that writes its words down, one a line, and then runs ``script``."""
    path = folder / "bin" / "systemd-run"
    path.parent.mkdir()
    path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >>{folder}/words\n{script}\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return folder / "words"


RUN_IT = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
GOOD = """printf '{"ok": true, "found": "fine", "code": 0, "facts": {}}\\n'"""
BAD = """printf '{"ok": false, "found": "the GPU does not start: no device", "code": 3, "facts": {}}\\n'"""


def test_without_a_service_there_is_nothing_to_see(tmp_path: Path) -> None:
    (one,) = service_view(lay_out(ORIN, tmp_path))
    assert one.finding.status == "ok"
    assert one.finding.found.startswith("no service is installed")


def test_a_unit_that_does_not_open_the_gpu_is_a_warning_with_the_way_out(tmp_path: Path) -> None:
    machine = with_unit(tmp_path, change=(r"^DeviceAllow=/dev/nv(map|gpu).*\n", ""))
    (one,) = service_view(machine, user_id=0)
    assert one.finding.status == "warn"
    assert "does not open /dev/nvmap, /dev/nvgpu/igpu0/as" in one.finding.found
    assert one.finding.advice.startswith("sudo edge-ad service install")


@pytest.mark.parametrize(
    ("systemd", "user", "why"), [(False, 0, "systemd does not run here"), (True, 1000, "only root may (sudo ")]
)
def test_where_it_cannot_be_tried_the_reason_is_reported(
    systemd: bool, user: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path, monkeypatch, "exit 1")
    (one,) = service_view(with_unit(tmp_path, systemd=systemd), user_id=user)
    assert one.finding.status == "ok"
    assert f"not tried from inside: {why}" in one.finding.found


def test_trials_are_made_under_the_properties_of_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = stub(tmp_path, monkeypatch, GOOD)
    (one,) = service_view(with_unit(tmp_path), user_id=0)
    assert one.finding.status == "ok"
    assert one.finding.found == (
        "tried under its unit: opencv tried, gpu memory, graph on onnxruntime, graph on tensorrt"
    )
    given = words.read_text().splitlines()
    for wanted in (
        "DevicePolicy=closed",
        "DeviceAllow=/dev/nvmap rw",
        "PrivateTmp=no",
        f"User={someone()}",
        "LimitNOFILE=65536",
        "RuntimeDirectory=edge-ad-doctor",
        "Environment=TMPDIR=/run/edge-ad-doctor",
        f"WorkingDirectory={tmp_path}",
        "NoNewPrivileges=yes",
    ):
        assert wanted in given
    assert not [word for word in given if word.startswith(("Type=", "Exec", "Restart", "Watchdog", "NotifyAccess"))]
    assert not [word for word in given if "%" in word]


def test_what_fails_as_the_service_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path, monkeypatch, f'case "$*" in *" gpu") {BAD} ;; *) {GOOD} ;; esac')
    (one,) = service_view(with_unit(tmp_path), user_id=0)
    assert one.finding.status == "fail"
    assert one.finding.code == 3
    assert one.finding.found == "under its unit, gpu memory: the GPU does not start: no device"


def test_a_real_trial_answers_through_systemd_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path, monkeypatch, RUN_IT)
    machine = with_unit(tmp_path, board="x86_plain")
    machine = replace(machine, packages={"onnxruntime": Package("1.23.2")})
    (one,) = service_view(machine, user_id=0)
    assert one.finding.found == "tried under its unit: opencv tried, graph on onnxruntime"


def test_the_properties_are_those_of_the_service_section_alone() -> None:
    unit = "[Unit]\nAfter=x\n[Service]\n# why\nType=notify\nExecStart=/x run %N\nUser=a\nEnvironment=A=b=c\n[Install]\nWantedBy=y\n"
    command = transient(unit, "edge-ad")
    assert command[0] == "systemd-run"
    assert command[-1] == "--"
    properties = [word for word in command if "=" in word and not word.startswith("RuntimeMaxSec")]
    assert properties == ["User=a", "Environment=A=b=c"]
