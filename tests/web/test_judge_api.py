"""`POST /api/judge`: the examples of its page, the same verdict as a run gives, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import HTTPException

from edge_ad.bundle import open_bundle
from edge_ad.deployment.rethreshold import rethreshold
from edge_ad.events import Event
from edge_ad.inspection.inspector import RunOptions, inspect
from edge_ad.web.access import MAX_UPLOAD
from edge_ad.web.dashboard_state import DashboardState
from edge_ad.web.judging import MAX_CREDIT_S, SHARE, Budget, JudgeService, images_of_form
from tests.camera.pictures import write_image
from tests.docs.documents import ROOT, blocks
from tests.fixtures.loopback import free_port
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.inspection.line import settings_of
from tests.web.running import Line, until

EXAMPLES = {
    block.language: block.text for block in blocks((ROOT / "docs/howto/judge-image.md").read_text()) if "judge" in block.text
}
FORM = "multipart/form-data; boundary=xyz"
OTHER_FIELD = b'--xyz\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n--xyz--\r\n'


HOW: dict[str, Any] = {
    "backend": "onnxruntime", "precision": "fp32", "roi": None, "tiles": None, "tile_goods": None, "many": False,
    "unlocated": "NONE", "thresholds": {"warn": 2.0, "ng": 3.0}, "locked": None,
}  # fmt: skip


def ask(line: Line, body: bytes, kind: str = "image/png") -> Any:
    """Ask until the budget allows it."""
    results: list[Any] = []

    def answered() -> bool:
        results[:] = [line.ask("/api/judge", body, headers={"Content-Type": kind})]
        return bool(results[0].status != 429)

    until(answered)
    return results[0]


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """A normal part, one with a defect, and what the page names."""
    paths = {name: tmp_path / f"{name}.png" for name in ("good", "bad", "part")}
    for name, path in paths.items():
        write_image(path, tiny_image(8100, blob=name == "bad"))
    return paths


def test_an_image_gets_the_event_that_a_run_gives(open_line: Line, images: dict[str, Path]) -> None:
    for name in ("good", "bad"):
        expected: list[Event] = []
        inspect(open_line.bundle, str(images[name]), RunOptions(settings_of(), on_event=expected.append))
        answer = ask(open_line, images[name].read_bytes())
        assert answer.status == 200, answer.body
        event = answer.json()
        assert event["score"] == pytest.approx(expected[0].score, rel=1e-4)
        assert event["verdict"] == {"good": "OK", "bad": "NG"}[name] == expected[0].verdict
        assert event["camera"] == "api"
    before = open_line.ask("/api/events?camera=api").json()
    assert before["events"] == []  # nothing is recorded


def test_the_examples_of_the_page_work(open_line: Line, images: dict[str, Path]) -> None:
    curl = next(text for text in EXAMPLES["sh"].splitlines() if text.startswith("curl"))
    code = EXAMPLES["python"]
    for words in (["bash", "-c", f"{curl} --fail-with-body -sS"], [sys.executable, "-c", code]):
        words[-1] = words[-1].replace("127.0.0.1:8080", f"127.0.0.1:{open_line.port}")
        done = allowed(words, images["part"].parent)
        assert done.returncode == 0, done.stderr
        verdict = json.loads(done.stdout)["verdict"] if words[0] == "bash" else done.stdout.split()[0]
        assert verdict == "OK"


@pytest.mark.slow
def test_the_csharp_example_of_the_page_works(open_line: Line, images: dict[str, Path]) -> None:
    if shutil.which("mcs") is None or shutil.which("mono") is None:
        pytest.skip("mcs and mono are not installed: apt-get install mono-mcs mono-runtime")
    folder = images["part"].parent
    (folder / "Judge.cs").write_text(EXAMPLES["csharp"].replace("127.0.0.1:8080", f"127.0.0.1:{open_line.port}"))
    done = subprocess.run(["mcs", "Judge.cs"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    done = allowed(["mono", "Judge.exe"], folder)
    assert json.loads(done.stdout)["verdict"] == "OK", done.stderr


NODE_RED = "node-red@4.0.9"
NODE_RED_FOLDER = Path.home() / ".cache" / "edge-ad-tests" / NODE_RED


def node_red() -> Path:
    """Return the program of Node-RED, fetched from npm once; skips the test where it cannot be had."""
    program = NODE_RED_FOLDER / "node_modules" / ".bin" / "node-red"
    if not program.exists():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed: apt-get install npm")
        NODE_RED_FOLDER.mkdir(parents=True, exist_ok=True)
        words = ["npm", "install", "--no-audit", "--no-fund", "--omit=optional", NODE_RED]
        try:
            done = subprocess.run(words, cwd=NODE_RED_FOLDER, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm does not fetch {NODE_RED} within 5 minutes")
        if done.returncode or not program.exists():
            pytest.skip(f"npm does not fetch {NODE_RED}: {done.stderr.strip()[-200:]}")
    return program


@pytest.mark.slow
def test_the_flow_of_the_page_runs_in_node_red(open_line: Line, images: dict[str, Path]) -> None:
    program, folder = node_red(), images["part"].parent
    flow = EXAMPLES["json"].replace("127.0.0.1:8080", f"127.0.0.1:{open_line.port}")
    for name in ("part.png", "event.json"):
        flow = flow.replace(f'"{name}"', json.dumps(str(folder / name)))
    (folder / "flow.json").write_text(flow)
    settings = "module.exports = {uiHost: '127.0.0.1', flowFile: 'flow.json', telemetry: {enabled: false}};"
    (folder / "settings.js").write_text(settings)
    words = [str(program), "-u", str(folder), "-s", str(folder / "settings.js"), "-p", str(free_port())]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert until(lambda: (folder / "event.json").exists() and (folder / "event.json").read_text().strip())
        finally:
            process.kill()
    event = json.loads((folder / "event.json").read_text())
    assert event.get("verdict") == "OK" or "ask again" in event.get("error", "")


def allowed(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command until the budget allows what it asks."""
    results: list[subprocess.CompletedProcess[str]] = []

    def answered() -> bool:
        results[:] = [subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)]
        # The event itself bears digits of hashes and scores: 429 among them is no refusal.
        return "429" not in results[0].stderr and "ask again in" not in results[0].stdout

    until(answered)
    return results[0]


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"no image", "image/png", 422, "this is no image"),
        (b"", "image/png", 422, "this is no image"),
        (b"{}", "application/json", 422, "send the image as the field `image`"),
        (OTHER_FIELD, FORM, 422, "the field `image`"),
        (b"x" * (MAX_UPLOAD + 1), "image/png", 413, "at most 20480 KiB"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(
    body: bytes, kind: str, status: int, message: str, open_line: Line
) -> None:
    answer = ask(open_line, body, kind)
    assert (answer.status, message in answer.json()["error"]) == (status, True), answer.body
    assert b"/tmp" not in answer.body


def test_it_needs_the_header_and_a_token_like_all_that_changes_something(guarded_line: Line) -> None:
    headers = {"Content-Type": "image/png"}
    assert guarded_line.ask("/api/judge", b"x", headers=headers, token=None).status == 401
    assert guarded_line.ask("/api/judge", b"x", headers=headers, token="read-token-of-the-tests").status == 403
    assert guarded_line.ask("/api/judge", method="POST", headers={"Content-Length": "0"}).status == 403


def service(bundle: Path, members: dict[str, str], roi: str | None = None) -> JudgeService:
    return service_of({"": {**HOW, "path": str(bundle), "members": members, "roi": roi}})


def service_of(judge: dict[str, Any], state: dict[str, Any] | None = None) -> JudgeService:
    dashboard = SimpleNamespace(hello={"judge": judge}, state=state, attached=True)
    return JudgeService(cast(DashboardState, dashboard))


@pytest.fixture
def products(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Two products, the second of which calls everything NG, and one at fault."""
    made: dict[str, dict[str, Any]] = {"gone": {"locked": "there is no file"}}
    for seed, name in enumerate(("red", "blue")):
        path = make_tiny_bundle(tmp_path / f"{name}.edgead", seed)
        low = {"warn": -1e6, "ng": -1e6} if name == "blue" else {"warn": 1e6, "ng": 1e6}
        made[name] = {**HOW, "path": str(path), "members": open_bundle(path).scoring_members, "thresholds": low}
    return made


def test_the_product_in_force_judges_and_another_one_by_its_name(products: dict[str, Any], images: dict[str, Path]) -> None:
    state = {"products": {"state": "active", "product": "red"}, "thresholds": {"warn": 1e6, "ng": 1e6}}
    judging, data = service_of(products, state), {"image": images["good"].read_bytes()}
    for asked, name, verdict in ((None, "red", "OK"), ("blue", "blue", "NG"), ("red", "red", "OK")):
        event = judging.event(data, judging.choose(asked))
        assert (event.product, event.verdict) == (name, verdict)
        assert event.bundle == open_bundle(products[name]["path"]).sha256
    opened = judging.open("red")
    assert judging.open("red") is opened, "engines and view are made once"


def test_products_that_share_a_bundle_judge_their_own_regions(tmp_path: Path, images: dict[str, Path]) -> None:
    path = make_tiny_bundle(tmp_path / "a.edgead", 0)
    how = {**HOW, "path": str(path), "members": open_bundle(path).scoring_members}
    judging, data = service_of({"whole": how, "right": {**how, "roi": "24,0,40,64"}}), {"image": images["good"].read_bytes()}
    whole, right = judging.event(data, "whole").score, judging.event(data, "right").score
    assert right == service_of({"right": {**how, "roi": "24,0,40,64"}}).event(data, "right").score != whole


@pytest.mark.parametrize(
    ("asked", "state", "status", "message"),
    [
        ("green", "active", 404, "there is no product 'green'; there are gone, red, blue"),
        ("gone", "active", 409, "single images are not judged here: there is no file"),
        (None, "changing", 409, "no product is in force: name one by ?product=NAME, of gone, red, blue"),
    ],
)
def test_a_product_that_cannot_judge_is_refused(
    asked: str | None, state: str, status: int, message: str, products: dict[str, Any]
) -> None:
    standing = {"products": {"state": state, "product": "red"}, "thresholds": {"warn": 1.0, "ng": 2.0}}
    with pytest.raises(HTTPException) as caught:
        service_of(products, standing).choose(asked)
    assert (caught.value.status_code, caught.value.detail) == (status, message)


def test_a_station_without_products_takes_no_name(tmp_path: Path) -> None:
    path = make_tiny_bundle(tmp_path / "a.edgead", 0)
    judging = service(path, open_bundle(path).scoring_members)
    assert judging.choose(None) == ""
    with pytest.raises(HTTPException, match="there is no product 'red'; there are none here"):
        judging.choose("red")


def test_a_run_on_tensorrt_is_judged_for_by_the_graphs_of_the_bundle(tmp_path: Path, images: dict[str, Path]) -> None:
    path = make_tiny_bundle(tmp_path / "a.edgead", 0)
    how = {**HOW, "path": str(path), "members": open_bundle(path).scoring_members}
    expected = service_of({"": how}).event({"image": images["good"].read_bytes()})
    answer = service_of({"": {**how, "backend": "tensorrt", "precision": "int8"}}).event({"image": images["good"].read_bytes()})
    assert answer.score == expected.score


def test_tiles_are_judged_by_the_statistics_that_the_run_has_measured(tmp_path: Path) -> None:
    path = make_tiny_bundle(tmp_path / "a.edgead", 0)
    for number in range(12):
        write_image(tmp_path / f"goods{number}.png", tiny_image(number, size=(128, 128)))
    goods = tmp_path / "goods"
    goods.mkdir()
    for image in sorted(tmp_path.glob("goods*.png")):
        image.rename(goods / image.name)
    expected: list[Event] = []
    settings = settings_of(tiles="2x2", tile_goods=goods)
    inspect(path, str(goods / "goods3.png"), RunOptions(settings, on_event=expected.append))
    stored = [one.stat().st_mtime_ns for one in tmp_path.glob("a.edgead.tiles/*.json")]
    how = {**HOW, "path": str(path), "members": open_bundle(path).scoring_members, "tiles": "2x2", "tile_goods": str(goods)}
    event = service_of({"": how}).event({"image": (goods / "goods3.png").read_bytes()})
    assert event.score == pytest.approx(expected[0].score, rel=1e-4)
    assert [one.stat().st_mtime_ns for one in tmp_path.glob("a.edgead.tiles/*.json")] == stored


def test_a_bundle_that_took_another_s_place_under_its_name_is_opened_anew(tmp_path: Path, images: dict[str, Path]) -> None:
    path, data = make_tiny_bundle(tmp_path / "a.edgead", 0), {"image": images["good"].read_bytes()}
    how = {**HOW, "path": str(path), "members": open_bundle(path).scoring_members}
    judging = service_of({"": how})
    before = judging.event(data)
    make_tiny_bundle(path, 1)
    how["members"] = open_bundle(path).scoring_members
    assert judging.event(data).bundle == open_bundle(path).sha256 != before.bundle


def test_a_bundle_that_was_replaced_since_the_run_began_is_not_taken_for_its_own(tmp_path: Path) -> None:
    path = make_tiny_bundle(tmp_path / "a.edgead", 0)
    of_the_run = open_bundle(path).scoring_members
    child = rethreshold(path, 2.0, 3.0)
    assert service(child, of_the_run).open().judged[""].bundle.thresholds.ng == 3.0  # as the line reads them again
    make_tiny_bundle(path, 1)
    with pytest.raises(HTTPException, match="a.edgead was replaced since the run began: start the run again"):
        service(path, of_the_run).open()


def test_an_image_that_the_region_reaches_beyond_is_none_as_on_the_line(tmp_path: Path, images: dict[str, Path]) -> None:
    path = make_tiny_bundle(tmp_path / "a.edgead", 0)
    event = service(path, open_bundle(path).scoring_members, "500,500,64,64").event({"image": images["good"].read_bytes()})
    assert event.verdict == "NONE"
    assert (event.reason or "").startswith("roi: the region 500,500,64,64 reaches beyond the image")


def form(**images: bytes) -> bytes:
    """Return a form with the boundary ``xyz``."""
    head = b'--xyz\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
    return b"".join(head % name.encode() + data + b"\r\n" for name, data in images.items()) + b"--xyz--\r\n"


@pytest.mark.parametrize(("limit", "verdict", "decides"), [(1e6, "OK", None), (-1e6, "NG", "side")])
def test_images_of_all_views_get_the_event_of_the_part(
    tmp_path: Path, images: dict[str, Path], limit: float, verdict: str, decides: str | None
) -> None:
    alone: dict[str, Any] = {}
    views: dict[str, Any] = {}
    data = {"top": images["good"].read_bytes(), "side": images["bad"].read_bytes()}
    for seed, view in enumerate(data):
        path = make_tiny_bundle(tmp_path / f"{view}.edgead", seed)
        high = 1e6 if view == "top" else limit
        how = {**HOW, "path": str(path), "members": open_bundle(path).scoring_members, "thresholds": {"warn": high, "ng": high}}
        alone[view], views[view] = service_of({"": how}).event({"image": data[view]}), how
    judging = service_of({"": {"views": views, "fused": None, "locked": None}})
    event = judging.event(images_of_form(FORM, form(**data, other=b"x"), judging.fields("")))
    assert event.verdict == verdict
    assert [(one["view"], one["score"], one["bundle"]) for one in event.views or ()] == [
        (view, one.score, one.bundle) for view, one in alone.items()
    ]
    assert decides is None or (event.reason or "").endswith(f"(view {decides})")
    with pytest.raises(HTTPException, match=r"\(top, side\): side is missing"):
        images_of_form(FORM, form(top=data["top"]), judging.fields(""))
    with pytest.raises(HTTPException, match="top is missing"):
        images_of_form("image/png", data["top"], judging.fields(""))
    with pytest.raises(HTTPException, match="draw the zones of each"):
        judging.judged_by()


def test_a_form_of_a_million_parts_is_refused() -> None:
    body = b"--a" * 1_000_000 + b'\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--a--'
    with pytest.raises(HTTPException, match="at most 20 parts"):
        images_of_form("multipart/form-data; boundary=a", body, ["image"])


def test_the_budget_lets_one_through_at_a_time_and_a_share_of_the_time() -> None:
    now = [0.0]
    budget = Budget(lambda: now[0])
    assert budget.enter() is None
    assert budget.enter() == 1.0  # one is under way
    budget.leave(MAX_CREDIT_S + 1.0)
    assert budget.enter() == pytest.approx(1.0 / SHARE)
    now[0] += 1.0 / SHARE - 0.01
    assert budget.enter() is not None
    now[0] += 0.02
    assert budget.enter() is None
    budget.leave(0.0)
    now[0] += 1e6
    for _ in range(2):  # no more than the credit is kept
        assert budget.enter() is None
        budget.leave(MAX_CREDIT_S / 2)
    assert budget.enter() is not None
