"""The systemd unit: its text, and what systemd itself says of it."""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_ad.cli.app import main
from edge_ad.errors import BadInput
from edge_ad.service import install, make_unit, status, uninstall, verify


def someone() -> str:
    """A user that is neither root nor one that systemd warns about."""
    return next(one.pw_name for one in pwd.getpwall() if one.pw_uid not in (0, 65534))


@pytest.fixture
def unit(tmp_path: Path) -> str:
    return make_unit(tmp_path, tmp_path / "runs" / "x.edgead", someone())


def test_what_must_stand_in_the_unit(unit: str, tmp_path: Path) -> None:
    for line in (
        "Type=notify",
        "TimeoutStartSec=infinity",
        "WatchdogSec=10",
        "Restart=always",
        "StartLimitIntervalSec=0",
        f"WorkingDirectory={tmp_path}",
        f"User={someone()}",
        "NoNewPrivileges=yes",
    ):
        assert line in unit.splitlines()
    assert re.search(r"^ExecStart=/\S+ .*run \S+/x\.edgead$", unit, re.MULTILINE)
    assert re.search(r"^ExecStopPost=/\S+ .*outputs reject$", unit, re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_accepts_the_unit_and_calls_it_secure(unit: str, tmp_path: Path) -> None:
    path = tmp_path / "edge-ad-test.service"
    path.write_text(unit)
    assert verify(path) == ""
    path.write_text(unit.replace("WatchdogSec=10", "WatchdogSec=often"))
    assert "often" in verify(path)
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    level = re.search(r"exposure level for \S+: (\d+\.\d)", done.stdout)
    assert level, done.stdout + done.stderr
    assert float(level[1]) <= 3.0


def test_install_status_uninstall(unit: str, tmp_path: Path) -> None:
    root = tmp_path / "units"
    assert "not installed" in status("edge-ad-test", root)
    assert "systemctl enable --now edge-ad-test" in install(unit, "edge-ad-test", root)
    assert (root / "edge-ad-test.service").read_text() == unit
    assert "not installed" not in status("edge-ad-test", root)
    assert "removed" in uninstall("edge-ad-test", root)
    with pytest.raises(BadInput, match="nothing to remove"):
        uninstall("edge-ad-test", root)


def test_what_is_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "x.edgead"
    with pytest.raises(BadInput, match="root"):
        make_unit(tmp_path, bundle, "root")
    with pytest.raises(BadInput, match="no user"):
        make_unit(tmp_path, bundle, "nobody-of-that-name")
    with pytest.raises(BadInput, match="no folder"):
        make_unit(tmp_path / "no", bundle, someone())
    (tmp_path / "a b").mkdir()
    with pytest.raises(BadInput, match="rename"):
        make_unit(tmp_path / "a b", bundle, someone())
    with pytest.raises(BadInput, match="name for a unit"):
        uninstall("../x", tmp_path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--folder", str(tmp_path), "--bundle", str(tmp_path / "x.edgead"), "--user", someone()]
    assert main(["service", "print", *arguments]) == 0
    assert "ExecStopPost" in capsys.readouterr().out
    assert main(["service", "install", *arguments, "--root", str(tmp_path / "units"), "--name", "t"]) == 0
    assert main(["service", "explode"]) == 2
    if os.getuid() == 0:
        assert getpass.getuser() == "root"
        assert main(["service", "print", *arguments[:4]]) == 2  # the folder belongs to root
