"""What the doctor tells of two recorded Jetsons, of a workstation, and of everything that can be wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_ad.system.examine import CHECKS, cuda, examine
from edge_ad.system.machine import Finding, Package, exit_code, lines, to_json, verdict
from tests.system.recorded import GONE, lay_out, workstation

NANO, THOR = "orin_nano_jetpack6", "thor_jetpack7"
RELEASE = "etc/nv_tegra_release"
ZONE = "sys/class/thermal/thermal_zone8"


def release(major: int, revision: str) -> str:
    return f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64\n"


def test_an_orin_nano_with_jetpack_6(tmp_path: Path) -> None:
    result = {finding.name: finding for finding in examine(lay_out(NANO, tmp_path))}
    assert {name: finding.status for name, finding in result.items() if finding.status != "ok"} == {
        "power mode": "warn",
        "clocks": "warn",
        "throttling": "warn",
    }
    assert result["board"].found == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super (Orin)"
    assert result["jetpack"].found == "JetPack 6.2.1 (L4T 36.4.7)"
    assert result["python"].found == "3.10"
    assert result["cuda"].found == "12.6.11"
    assert result["tensorrt"].found == "10.3.0"
    assert result["pycuda"].found == "2026.1 on Orin, SM 8.7"
    assert result["opencv"].found == "4.8.0 with GStreamer"
    assert result["cameras"].found == "/dev/v4l/by-id/usb-046d_HD_Pro_Webcam_C920_00000000-video-index0"
    assert result["power mode"].found == "15W (0); the board offers MAXN_SUPER (2)"
    assert result["power mode"].advice.startswith("sudo nvpmodel -m 2 ")
    assert result["clocks"].found == "GPU 306 to 612 MHz, now 306"
    assert result["temperature"].found == "tj 55, gpu 53, cpu 53, soc2 51 C"
    assert result["throttling"].found == (
        "average over-current 15 times since the start, instantaneous over-current 37 times since the start"
    )
    assert result["memory"].found == "5.3 of 7.4 GiB free"
    assert result["disk"].found == "58.0 GiB free in this folder"
    assert result["clock"].found == "synchronised by systemd-timesyncd"
    assert exit_code(list(result.values())) == 0


def test_a_thor_with_jetpack_7(tmp_path: Path) -> None:
    findings = examine(lay_out(THOR, tmp_path))
    result = {finding.name: finding.found for finding in findings}
    assert [finding.name for finding in findings if finding.status != "ok"] == ["cameras"]
    assert result["board"] == "NVIDIA Jetson AGX Thor Developer Kit (Thor)"
    assert result["jetpack"] == "JetPack 7.0 (L4T 38.2.0)"
    assert result["tensorrt"] == "10.13.3.9"
    assert result["pycuda"] == "2026.1 on NVIDIA Thor, SM 11.0"
    assert result["power mode"] == "MAXN (0)"
    assert result["clocks"] == "GPU held at 1575 MHz"
    assert result["temperature"] == "tj 55, soc012 55, soc345 54, cpu 54 C"
    assert verdict(findings) == "ready: 15 ok, 1 to look at, 0 failed"


def test_cuda_without_its_toolkit_is_enough_once_pycuda_is_compiled(tmp_path: Path) -> None:
    machine = lay_out(NANO, tmp_path, {"usr/local/cuda/version.json": None})
    assert cuda(machine) == Finding("cuda", "ok", "no toolkit in /usr/local/cuda, but pycuda is compiled already")


def test_a_workstation_without_a_gpu_is_ready(tmp_path: Path) -> None:
    findings = examine(workstation(tmp_path))
    assert {finding.status for finding in findings} == {"ok"}
    assert verdict(findings) == "ready: 16 ok, 0 to look at, 0 failed"


# board, the check, its status, a part of what is found, a part of the advice; then what differs from the healthy board.
CASES: list[tuple[str, str, str, str, str, dict[str, Any]]] = [
    (NANO, "board", "fail", "(Xavier)", "use an Orin or a Thor", {"proc/device-tree/compatible": "nvidia,tegra194\0"}),
    (
        NANO,
        "jetpack",
        "fail",
        "JetPack 6.0 (L4T 36.3.0) with TensorRT 8.6",
        "JetPack 6.1",
        {RELEASE: release(36, "3.0")},
    ),
    (NANO, "jetpack", "fail", "JetPack 5 (L4T 35.4.1)", "upgrade to JetPack 6.1", {RELEASE: release(35, "4.1")}),
    (NANO, "jetpack", "fail", "unknown: # R32", "upgrade to JetPack 6.1", {RELEASE: release(32, "7.1")}),
    (NANO, "jetpack", "warn", "is not there", "in a container", {RELEASE: None}),
    (NANO, "jetpack", "warn", "L4T 40.1.0, newer", "build-engine proves", {RELEASE: release(40, "1.0")}),
    (NANO, "python", "fail", "made for Python 3.10", "python3.10 -m venv --system-site-packages", {"python": (3, 11)}),
    (THOR, "python", "fail", "made for Python 3.12", "python3.12 -m venv", {"python": (3, 10)}),
    ("pc", "python", "fail", "3.10 to 3.13", "install one of", {"python": (3, 9)}),
    (
        NANO,
        "cuda",
        "fail",
        "no toolkit",
        "nvidia-jetpack",
        {"usr/local/cuda/version.json": None, "packages": {"pycuda": GONE}},
    ),
    (
        NANO,
        "cuda",
        "fail",
        "no toolkit",
        "nvidia-jetpack",
        {"usr/local/cuda/version.json": "[]", "packages": {"pycuda": GONE}},
    ),
    (
        NANO,
        "cuda",
        "warn",
        "13.0.0, but",
        "alternatives",
        {"usr/local/cuda/version.json": '{"cuda":{"version":"13.0.0"}}'},
    ),
    ("pc", "cuda", "warn", "no toolkit", "CUDA toolkit", {"proc/driver/nvidia/version": "NVRM"}),
    (NANO, "tensorrt", "fail", "does not see it", "--system-site-packages", {"packages": {"tensorrt": GONE}}),
    (
        NANO,
        "tensorrt",
        "fail",
        "its import fails: ImportError: libnvinfer.so.10",
        "--reinstall",
        {"packages": {"tensorrt": Package(None, "ImportError: libnvinfer.so.10")}},
    ),
    (
        "orin_nano_jetpack7",
        "tensorrt",
        "fail",
        "its import fails: ImportError: libnvdla_compiler.so: cannot open",
        "docker/jetpack72.Dockerfile",
        {
            "run/.containerenv": "",
            "packages": {"tensorrt": Package(None, "ImportError: libnvdla_compiler.so: cannot open shared object file")},
            "var/lib/dpkg/status": None,
        },
    ),
    (
        "orin_nano_jetpack7",
        "tensorrt",
        "warn",
        "this image has 10.13.3, the board 10.16 (JetPack 7.2)",
        "docker/README.md",
        {"run/.containerenv": "", "packages": {"tensorrt": Package("10.13.3")}, "var/lib/dpkg/status": None},
    ),
    (
        NANO,
        "tensorrt",
        "fail",
        "not installed",
        "nvidia-jetpack",
        {"packages": {"tensorrt": GONE}, "var/lib/dpkg/status": None},
    ),
    (
        NANO,
        "tensorrt",
        "fail",
        "8.6.2.3 is too old",
        "JetPack 6.1",
        {
            "packages": {"tensorrt": GONE},
            "var/lib/dpkg/status": "Package: libnvinfer8\nStatus: install ok installed\nVersion: 8.6.2.3-1+cuda12.2\n",
        },
    ),
    (NANO, "tensorrt", "fail", "8.6.2 is too old", "JetPack 6.1", {"packages": {"tensorrt": Package("8.6.2")}}),
    (
        NANO,
        "tensorrt",
        "fail",
        "11.4.0.106, but JetPack installed 10.3.0.30",
        "pip uninstall tensorrt",
        {"packages": {"tensorrt": Package("11.4.0.106")}},
    ),
    (
        "pc",
        "tensorrt",
        "warn",
        "not installed",
        "edge-ad[gpu]",
        {"proc/driver/nvidia/version": "NVRM", "packages": {"tensorrt": GONE}},
    ),
    (NANO, "pycuda", "fail", "not installed", "edge-ad[jetson]", {"packages": {"pycuda": GONE}}),
    (
        NANO,
        "pycuda",
        "fail",
        "finds no device: cuInit failed",
        "groups video",
        {"packages": {"pycuda": Package("2026.1", facts={"error": "cuInit failed"})}},
    ),
    (
        "pc",
        "pycuda",
        "warn",
        "not installed",
        "edge-ad[gpu]",
        {"proc/driver/nvidia/version": "NVRM", "packages": {"pycuda": GONE}},
    ),
    (NANO, "onnxruntime", "warn", "not installed", "pip install onnxruntime", {"packages": {"onnxruntime": GONE}}),
    ("pc", "onnxruntime", "fail", "not installed", "edge-ad[cpu]", {"packages": {"onnxruntime": GONE}}),
    (NANO, "opencv", "fail", "not installed", "python3-opencv", {"packages": {"cv2": GONE}}),
    ("pc", "opencv", "fail", "not installed", "edge-ad[cpu]", {"packages": {"cv2": GONE}}),
    (
        NANO,
        "opencv",
        "warn",
        "5.0.0 without GStreamer",
        "JetPack's OpenCV",
        {"packages": {"cv2": Package("5.0.0", facts={"gstreamer": False})}},
    ),
    (THOR, "cameras", "warn", "none at this machine", "plug one in", {}),
    (NANO, "power mode", "warn", "unknown", "nvpmodel -q", {"etc/nvpmodel.conf": None}),
    (NANO, "power mode", "warn", "unknown", "nvpmodel -q", {"var/lib/nvpmodel/status": "pmode:0009\n"}),
    (NANO, "power mode", "warn", "25W (1)", "nvpmodel -m 2", {"var/lib/nvpmodel/status": None}),
    (NANO, "clocks", "warn", "no clock", "jetson_clocks", {"sys/class/devfreq/17000000.gpu/max_freq": None}),
    (NANO, "temperature", "warn", "tj 96 C, and from 99 C on", "cooling", {f"{ZONE}/temp": "96000"}),
    (NANO, "temperature", "fail", "tj 100 C, and at 104.5 C", "cool down", {f"{ZONE}/temp": "100000"}),
    (
        NANO,
        "throttling",
        "warn",
        "cpufreq-cpu0 is slowed now",
        "power supply",
        {"sys/class/thermal/cooling_device0/cur_state": "3"},
    ),
    (
        THOR,
        "throttling",
        "warn",
        "no counters",
        "dmesg",
        {f"sys/class/hwmon/hwmon5/oc{n}_event_cnt": None for n in (1, 2, 3)},
    ),
    (
        NANO,
        "memory",
        "warn",
        "0.8 of 7.4 GiB",
        "desktop",
        {"proc/meminfo": "MemTotal: 7802880 kB\nMemAvailable: 800000 kB\n"},
    ),
    (
        NANO,
        "memory",
        "fail",
        "0.1 of 7.4 GiB",
        "desktop",
        {"proc/meminfo": "MemTotal: 7802880 kB\nMemAvailable: 100000 kB\n"},
    ),
    (NANO, "memory", "warn", "unknown", "free -h", {"proc/meminfo": None}),
    (NANO, "disk", "warn", "2.0 GiB free", "remove old", {"free_disk": 2 << 30}),
    (NANO, "disk", "fail", "0.2 GiB free", "remove old", {"free_disk": 1 << 28}),
    (NANO, "clock", "warn", "though systemd-timesyncd runs", "timedatectl", {"clock": False}),
    (NANO, "clock", "warn", "not synchronised", "chrony", {"clock": None, "run/systemd/timesync/synchronized": None}),
]


@pytest.mark.parametrize(("board", "name", "status", "result", "advice", "change"), CASES)
def test_what_is_wrong_is_reported_with_what_to_do(
    board: str, name: str, status: str, result: str, advice: str, change: dict[str, Any], tmp_path: Path
) -> None:
    facts = {key: value for key, value in change.items() if "/" not in key}
    files = {key: value for key, value in change.items() if "/" in key}
    machine = workstation(tmp_path, files, **facts) if board == "pc" else lay_out(board, tmp_path, files, **facts)
    finding = {finding.name: finding for finding in examine(machine)}[name]
    assert finding.status == status, finding
    assert result in finding.found
    assert advice in finding.advice


def test_every_check_has_a_case_in_which_it_advises(tmp_path: Path) -> None:
    names = {finding.name for finding in examine(workstation(tmp_path))}
    assert len(names) == len(CHECKS)
    assert names == {case[1] for case in CASES}


def test_an_advice_goes_with_what_is_not_ok() -> None:
    with pytest.raises(ValueError, match="an advice goes with"):
        Finding("disk", "warn", "little")
    with pytest.raises(ValueError, match="an advice goes with"):
        Finding("disk", "ok", "much", "buy more")


@pytest.mark.parametrize(
    ("codes", "expected"), [([], 0), ([2], 2), ([3], 3), ([3, 2], 2)], ids=["none", "missing", "unwell", "both"]
)
def test_missing_things_come_before_an_unwell_device(codes: list[int], expected: int) -> None:
    findings = [Finding("a", "ok", "fine"), Finding("b", "warn", "so", "do")]
    findings += [Finding(f"c{code}", "fail", "bad", "do", code=code) for code in codes]
    assert exit_code(findings) == expected
    assert to_json(findings)["exit_code"] == expected
    assert to_json(findings)["ready"] == (expected == 0)


def test_lines_stand_under_each_other() -> None:
    message = lines([Finding("a", "ok", "fine"), Finding("long name", "fail", "bad", "mend it")])
    assert message == [
        "ok    a          fine",
        "fail  long name  bad",
        "                 -> mend it",
        "not ready: 1 ok, 0 to look at, 1 failed",
    ]


NO_TREE = {"proc/device-tree/model": None, "proc/device-tree/compatible": None, "run/.containerenv": ""}
MOUNTED = {
    "run/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "run/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
}
CHIP = {"sys/devices/soc0/family": "Tegra\n", "sys/devices/soc0/soc_id": "35\n"}


@pytest.mark.parametrize(
    ("files", "status", "result"),
    [
        ({}, "warn", "a Jetson, seen from a container that hides its device tree"),
        (CHIP, "warn", "a Jetson (Orin), seen from a container that hides its device tree"),
        (MOUNTED, "ok", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super (Orin), in a container"),
        (
            {**CHIP, "sys/devices/soc0/machine": "NVIDIA Jetson Orin NX\n"},
            "ok",
            "NVIDIA Jetson Orin NX (Orin), in a container",
        ),
    ],
    ids=["masked", "chip alone", "mounted", "named by the kernel"],
)
@pytest.mark.parametrize("message", [True, False], ids=["with nv_tegra_release", "without it"])
def test_a_container_on_a_jetson_is_no_other_machine(
    message: bool, files: dict[str, str | None], status: str, result: str, tmp_path: Path
) -> None:
    """Docker masks /sys/firmware, and with it /proc/device-tree."""
    release_file: dict[str, str | None] = {} if message else {RELEASE: None}
    machine = lay_out(NANO, tmp_path, {**NO_TREE, **release_file, **files})
    findings = {finding.name: finding for finding in examine(machine)}
    assert findings["board"].status == status
    assert findings["board"].found == result
    assert "not a Jetson" not in " ".join(finding.found for finding in findings.values())
    if status == "warn":
        assert "-v /sys/firmware/devicetree/base:/run/device-tree:ro" in findings["board"].advice
    if not message:
        assert "-v /etc/nv_tegra_release" in findings["jetpack"].advice


def test_a_container_without_any_node_of_a_jetson_states_that_it_cannot_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    board = examine(workstation(tmp_path, {"run/.containerenv": ""}))[0]
    assert board.status == "warn"
    assert "--runtime nvidia" in board.advice
