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
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.system.devices import device_access
from edge_ad.system.service import describe, install, make_unit, status, uninstall, verify
from tests.system.recorded import lay_out


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
        "LimitNOFILE=65536",
        f"Environment=GST_REGISTRY={tmp_path}/.cache/gstreamer-1.0/registry.bin",
        f"Environment=CUDA_CACHE_PATH={tmp_path}/.cache/cuda",
    ):
        assert line in unit.splitlines()
    assert re.search(r"^ExecStart=/\S+ .*run \S+/x\.edgead$", unit, re.MULTILINE)
    assert re.search(r"^ExecStopPost=/\S+ .*outputs reject$", unit, re.MULTILINE)


# Of the keys that systemd has learned since version 230, those that the unit uses and the version that brought them.
NEWER_KEYS = {
    "OOMPolicy": 243,
    "ProtectClock": 245,
    "ProtectHostname": 242,
    "ProtectKernelLogs": 244,
    "ProtectProc": 247,
    "RestrictSUIDSGID": 242,
}
OLD_KEYS = """
After AmbientCapabilities CapabilityBoundingSet Description DeviceAllow DevicePolicy Environment ExecReload
ExecStart ExecStopPost KillMode LimitCORE LimitNOFILE LockPersonality NoNewPrivileges NotifyAccess PrivateTmp
ProtectControlGroups ProtectHome ProtectKernelModules ProtectKernelTunables ProtectSystem ReadWritePaths RemoveIPC
Restart RestrictAddressFamilies RestrictNamespaces RestrictRealtime RestartSec RuntimeDirectory RuntimeDirectoryMode
StartLimitIntervalSec SupplementaryGroups SystemCallArchitectures SystemCallErrorNumber SystemCallFilter
TimeoutStartSec TimeoutStopSec Type UMask User WantedBy Wants WatchdogSec WorkingDirectory
"""
needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here (apt-get install systemd)"
)
MACHINES = ["orin_nano_jetpack6", "orin_nano_jetpack7", "x86_nvidia", "x86_plain"]


@pytest.mark.parametrize("camera", ["0", "csi://0"])
@pytest.mark.parametrize("machine", MACHINES)
def test_the_unit_has_keys_of_systemd_249_alone(machine: str, camera: str, tmp_path: Path) -> None:
    access = device_access(lay_out(machine, tmp_path / "root").root, [camera])
    keys = set(re.findall(r"^(\w+)=", make_unit(tmp_path, tmp_path / "x.edgead", someone(), access), re.MULTILINE))
    assert keys - set(OLD_KEYS.split()) - NEWER_KEYS.keys() == set()
    assert max(NEWER_KEYS.values()) <= 249


def exposure(unit: str, path: Path) -> float:
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    level = re.search(r"exposure level for \S+: (\d+\.\d)", done.stdout)
    assert level, done.stdout + done.stderr
    return float(level[1])


@needs_analyze
@pytest.mark.parametrize(
    ("machine", "camera", "most"),
    [*((name, "0", 2.3) for name in MACHINES), ("orin_nano_jetpack6", "csi://0", 2.5), ("x86_plain", "csi://0", 2.5)],
)
def test_systemd_accepts_the_unit_and_calls_it_secure(machine: str, camera: str, most: float, tmp_path: Path) -> None:
    unit = make_unit(
        tmp_path,
        tmp_path / "x.edgead",
        someone(),
        device_access(lay_out(machine, tmp_path / "root").root, [camera]),
    )
    path = tmp_path / "edge-ad-test.service"
    path.write_text(unit)
    assert verify(path) == ""
    path.write_text(unit.replace("WatchdogSec=10", "WatchdogSec=often"))
    assert "often" in verify(path)
    assert exposure(unit, path) <= most


@needs_analyze
def test_a_unit_that_systemd_refuses_leaves_the_working_one(unit: str, tmp_path: Path) -> None:
    root = tmp_path / "units"
    install(unit, "edge-ad-test", root)
    with pytest.raises(DeviceFault, match=r"often.*stays as it was"):
        install(unit.replace("WatchdogSec=10", "WatchdogSec=often"), "edge-ad-test", root)
    assert (root / "edge-ad-test.service").read_text() == unit
    with pytest.raises(DeviceFault, match="often"):
        install(unit.replace("WatchdogSec=10", "WatchdogSec=often"), "edge-ad-new", root)
    assert [path.name for path in root.iterdir()] == ["edge-ad-test.service"]


def test_install_reports_how_a_replaced_unit_comes_into_force(unit: str, tmp_path: Path) -> None:
    install(unit, "edge-ad-test", tmp_path)
    assert "systemctl restart edge-ad-test" in install(unit, "edge-ad-test", tmp_path)


def test_install_reports_what_is_opened_and_why(tmp_path: Path) -> None:
    message = describe(device_access(lay_out("orin_nano_jetpack6", tmp_path).root, ["csi://0"]))
    text = "\n".join(message)
    assert "opens /dev/nvmap: GPU memory of the Jetson (CUDA)" in message
    for words in ("char-gpiochip", "char-usb_device", "/dev/ttyTHS1", "char-video4linux", "/tmp/argus_socket"):
        assert words in text
    assert len(message) < 30, "one line a reason, not one a device"


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
    assert "opens " in capsys.readouterr().out
    (tmp_path / "edge-ad.toml").write_text('[run]\ncamera = "csi://0"\n')
    assert main(["service", "print", *arguments]) == 0
    assert "PrivateTmp=no" in capsys.readouterr().out.splitlines()
    assert main(["service", "explode"]) == 2
    if os.getuid() == 0:
        assert getpass.getuser() == "root"
        assert main(["service", "print", *arguments[:4]]) == 2  # the folder belongs to root
