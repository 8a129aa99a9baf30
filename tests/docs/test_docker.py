"""The files of docker/ agree with each other and with the product."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edge_ad.system.machine import MOUNTS
from tests.docs.documents import ROOT
from tests.tools.loading import load_tool

DOCKER = ROOT / "docker"
RULES = DOCKER / "prometheus" / "alerts.yml"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "edge-ad.json"
IMAGES = sorted(DOCKER.glob("*.Dockerfile"))


def documented_metrics() -> set[str]:
    text = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
    return set(re.findall(r"\bedge_ad_\w+", text.partition("### Metrics")[2]))


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_metrics_in_use_exist(path: Path) -> None:
    used = {name.removesuffix("_bucket") for name in re.findall(r"\bedge_ad_\w+", path.read_text(encoding="utf-8"))}
    assert used
    assert used <= documented_metrics()


def test_every_rule_states_what_to_do() -> None:
    text = RULES.read_text(encoding="utf-8")
    assert text.count("- alert:") == text.count("action:") == text.count("summary:") == text.count("severity:")


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + across, place["y"] + down) for across in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)
def test_images_run_without_root(image: Path) -> None:
    text = image.read_text(encoding="utf-8")
    assert text.startswith("# syntax=")
    finals = re.split(r"^FROM ", text, flags=re.M)[1:]
    runnable = [stage for stage in finals if "ENTRYPOINT" in stage]
    assert runnable
    for stage in runnable:
        assert "USER 10001:10001" in stage
        assert 'VOLUME ["/station"]' in stage
        assert "HEALTHCHECK" in stage


@pytest.mark.parametrize("path", [*(f"docker/jetpack{number}.Dockerfile" for number in (6, 7, 72)), "tools/jetson_setup.sh"])
def test_jetsons_get_the_numpy_that_their_opencv_was_built_against(path: str) -> None:
    pinned = load_tool("check_aarch64").REPLACED
    text = (ROOT / path).read_text(encoding="utf-8")
    assert f"{pinned['numpy']}'" in text.replace('"', "'")
    assert "'^(numpy|ml_dtypes)=='" in text


def test_what_the_build_needs_is_in_its_context() -> None:
    context = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in context if line.startswith("!")}
    assert {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "edge_ad", "calibration"} <= let_in
    assert all((ROOT / name).exists() for name in let_in)


def test_services_have_no_more_rights_than_they_need() -> None:
    for name in ("compose.yaml", "inspector.yaml"):
        text = (DOCKER / name).read_text(encoding="utf-8")
        for words in ("read_only: true", "cap_drop: [ALL]", "no-new-privileges:true", "user:"):
            assert words in text, f"{name}: {words}"
        assert "privileged: true" not in text
        for source in re.findall(r"- \./((?!secrets|station)[\w./-]+):", text):
            assert (DOCKER / source).exists(), source


@pytest.mark.parametrize("image", ["jetpack6.Dockerfile", "jetpack7.Dockerfile", "jetpack72.Dockerfile"])
def test_an_image_for_a_jetson_is_not_made_without_bindings_of_tensorrt(image: str) -> None:
    last = (DOCKER / image).read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    assert "find_spec('tensorrt')" in last
    assert "python3-libnvinfer" in last
    assert "exit 1" in last


def test_the_image_for_jetpack_6_is_one_that_brings_the_bindings() -> None:
    text = (DOCKER / "jetpack6.Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG RUNTIME=\S+-devel$", text, re.MULTILINE)


def test_compilers_and_the_repository_stay_out_of_the_image_for_jetpack_72() -> None:
    last = (DOCKER / "jetpack72.Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    assert "cuda-toolkit" not in last
    assert "build-essential" not in last
    assert "/etc/apt/sources.list.d/nvidia-jetson.list" in last.partition("rm -rf")[2]


def test_a_station_in_a_container_knows_its_board() -> None:
    """What the doctor and the engines' signature read, and what its advice names by hand, is mounted."""
    text = (DOCKER / "inspector.yaml").read_text(encoding="utf-8")
    mounted = dict(
        re.findall(r"source: (\S+), target: (\S+), read_only: true, bind: \{create_host_path: false\}", text)
    )
    assert mounted["/etc/nv_tegra_release"] == "/etc/nv_tegra_release"
    assert mounted["/sys/firmware/devicetree/base"] == "/run/device-tree"
    assert mounted["/etc/nvpmodel.conf"] == "/etc/nvpmodel.conf"
    assert mounted["/var/lib/nvpmodel"] == "/var/lib/nvpmodel"
    for source, target in re.findall(r"-v (\S+?):(\S+?):ro", MOUNTS):
        assert mounted[source] == target
    assert "nofile: 65536" in text
