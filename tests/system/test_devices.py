"""Which devices a service may open on recorded boards and workstations: what CUDA, cameras and outputs need, and no dead name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_ad.system.devices import DeviceAccess, device_access, missing_devices, uses_argus
from edge_ad.system.service import make_unit
from tests.system.recorded import lay_out
from tests.system.test_unit import someone

ORIN_6, ORIN_7, CARD, PLAIN = "orin_nano_jetpack6", "orin_nano_jetpack7", "x86_nvidia", "x86_plain"
# Opened by cuInit and by a first kernel on an Orin, from traces that owners published.
PLUGGED_IN_LATER = {"video4linux", "media", "usb_device", "gpiochip", "ttyUSB", "ttyACM"}  # the same in every kernel
CUDA_ON_ORIN = (
    "/dev/nvmap",
    "/dev/nvgpu/igpu0/ctrl",
    "/dev/nvgpu/igpu0/power",
    "/dev/dri/renderD128",
    "/dev/host1x-fence",
)


def unit_of(name: str, folder: Path, files: dict[str, str | None] | None = None, cameras: tuple[str, ...] = ()) -> str:
    station = folder / "station"
    station.mkdir()
    machine = lay_out(name, folder / "root", files)
    return make_unit(station, station / "x.edgead", someone(), device_access(machine.root, cameras))


def opened(unit: str) -> list[str]:
    return re.findall(r"^DeviceAllow=(\S+) rw$", unit, re.MULTILINE)


def classes(root: Path) -> set[str]:
    return {words[1] for line in (root / "proc/devices").read_text().splitlines() if len(words := line.split()) == 2}


@pytest.mark.parametrize("board", [ORIN_6, ORIN_7])
def test_cuda_can_open_what_it_opens_on_an_orin(board: str, tmp_path: Path) -> None:
    unit = unit_of(board, tmp_path)
    assert "DevicePolicy=closed" in unit.splitlines()
    assert set(CUDA_ON_ORIN) <= set(opened(unit))
    assert "/dev/nvsciipc" in opened(unit)
    assert "/dev/v4l2-nvdec" in opened(unit)
    assert "/dev/mem" not in opened(unit)
    assert "/dev/i2c-1" not in opened(unit)


@pytest.mark.parametrize("machine", [ORIN_6, ORIN_7, CARD, PLAIN])
def test_every_class_is_one_that_the_kernel_has(machine: str, tmp_path: Path) -> None:
    """A class that /proc/devices does not name opens nothing, and systemd says so in its log only."""
    targets = opened(unit_of(machine, tmp_path))
    named = {target.removeprefix("char-") for target in targets if target.startswith("char-")}
    assert named - PLUGGED_IN_LATER <= classes(tmp_path / "root")
    assert named >= PLUGGED_IN_LATER
    paths = [target for target in targets if not target.startswith("char-")]
    assert all((tmp_path / "root" / path.lstrip("/")).exists() for path in paths)
    assert len(targets) == len(set(targets))


@pytest.mark.parametrize("machine", [ORIN_6, ORIN_7, CARD, PLAIN])
def test_cameras_gpio_and_serial_lines_are_opened_also_when_plugged_in_later(machine: str, tmp_path: Path) -> None:
    targets = opened(unit_of(machine, tmp_path))
    assert {f"char-{name}" for name in PLUGGED_IN_LATER} <= set(targets)
    assert ("/dev/ttyTHS1" in targets) == machine.startswith("orin")


def test_a_card_is_opened_by_the_classes_of_its_driver(tmp_path: Path) -> None:
    unit = unit_of(CARD, tmp_path)
    gpu = {"char-nvidia", "char-nvidiactl", "char-nvidia-uvm", "char-nvidia-modeset", "char-nvidia-caps"}
    assert gpu | {"/dev/dri/renderD128"} <= set(opened(unit))
    assert "nvidia-persistenced.service" in unit


def test_an_older_driver_of_a_card_is_opened_by_its_nodes(tmp_path: Path) -> None:
    """Before release 545 all nodes but uvm belonged to one class, nvidia-frontend."""
    devices = "Character devices:\n 81 video4linux\n195 nvidia-frontend\n510 nvidia-uvm\n\nBlock devices:\n  8 sd\n"
    assert {"/dev/nvidia0", "/dev/nvidiactl", "char-nvidia-uvm"} <= set(
        opened(unit_of(CARD, tmp_path, {"proc/devices": devices}))
    )


def test_no_gpu_is_opened_where_there_is_none_and_that_is_reported(tmp_path: Path) -> None:
    access = device_access(lay_out(PLAIN, tmp_path).root)
    assert not [one.target for one in access.allowed if "nv" in one.target or "dri" in one.target]
    assert "no NVIDIA driver" in access.notes[0]


@pytest.mark.parametrize("gone", [["dev/nvmap"], ["dev/nvgpu/igpu0/ctrl", "dev/nvhost-ctrl-gpu"]])
def test_where_the_nodes_of_a_jetson_cannot_be_seen_everything_stays_open_with_the_reason(
    gone: list[str], tmp_path: Path
) -> None:
    unit = unit_of(ORIN_6, tmp_path, dict.fromkeys(gone))
    assert "DevicePolicy=auto" in unit.splitlines()
    assert not opened(unit), "with a list systemd closes everything else, whatever the policy"
    assert "# the GPU's device nodes" in unit


def test_a_csi_camera_sees_the_socket_of_argus(tmp_path: Path) -> None:
    unit = unit_of(ORIN_6, tmp_path, cameras=("csi://0",)).splitlines()
    assert "PrivateTmp=no" in unit
    assert "PrivateTmp=yes" not in unit
    assert "RuntimeDirectory=%N" in unit, "/tmp is read-only then: temporary files go elsewhere"
    assert "Environment=TMPDIR=%t/%N" in unit
    assert {
        "After=network-online.target nvargus-daemon.service",
        "Wants=network-online.target nvargus-daemon.service",
    } <= set(unit)


def test_other_cameras_keep_a_private_tmp(tmp_path: Path) -> None:
    unit = unit_of(ORIN_6, tmp_path, cameras=("0", "rtsp://camera/1")).splitlines()
    assert "PrivateTmp=yes" in unit
    assert not [line for line in unit if "nvargus" in line]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("csi://1", True),
        ("CSI://0", True),
        ("gst:nvarguscamerasrc ! nvvidconv", True),
        ("0", False),
        ("csi.mp4", False),
    ],
)
def test_which_cameras_are_served_by_argus(uri: str, expected: bool) -> None:
    assert uses_argus(uri) is expected


def test_every_opened_device_has_its_reason(tmp_path: Path) -> None:
    access = device_access(lay_out(ORIN_6, tmp_path).root)
    assert all(one.reason for one in access.allowed)
    reasons = {one.target: one.reason for one in access.allowed}
    assert "CUDA" in reasons["/dev/nvmap"]
    assert "GPIO" in reasons["char-gpiochip"]


def test_a_unit_made_before_the_board_changed_lacks_devices(tmp_path: Path) -> None:
    machine = lay_out(ORIN_6, tmp_path / "root")
    station = tmp_path / "station"
    station.mkdir()
    unit = make_unit(station, station / "x.edgead", someone(), device_access(machine.root))
    assert missing_devices(unit, machine.root) == []
    (machine.root / "dev/nvhost-new").touch()
    assert missing_devices(unit, machine.root) == ["/dev/nvhost-new"]
    former = re.sub(r"^DeviceAllow=/.*\n", "", unit, flags=re.MULTILINE)
    assert "/dev/nvmap" in missing_devices(former, machine.root)
    open_unit = make_unit(station, station / "x.edgead", someone(), DeviceAccess("auto", (), ()))
    assert missing_devices(open_unit, machine.root) == []
