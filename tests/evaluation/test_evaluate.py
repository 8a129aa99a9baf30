"""A real bundle against real folders: the JSON object, the report page, and the command line."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from edge_ad.cli.app import main
from edge_ad.errors import BadInput
from edge_ad.evaluation.evaluate import evaluate
from edge_ad.scoring import BRANCHES
from tests.data.folders import save
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

SIZE = (72, 96)
ENGINE = ["--backend", "onnxruntime", "--precision", "fp32"]


def _category(
    root: Path, kinds: tuple[str, ...] = ("logical_anomalies", "structural_anomalies"), masks: bool = True
) -> Path:
    for index in range(4):
        save(root / "test" / "good" / f"{index:03}.png", tiny_image(index, size=SIZE))
        save(root / "train" / "good" / f"{index:03}.png", tiny_image(50 + index, size=SIZE))
    for number, kind in enumerate(kinds):
        for index in range(3):
            image = tiny_image(100 * (number + 1) + index, blob=True, size=SIZE)
            save(root / "test" / kind / f"{index:03}.png", image)
            if masks:
                mask = (image.min(axis=2) > 200).astype(np.uint8) * 255
                save(root / "ground_truth" / kind / f"{index:03}" / "000.png", mask)
    return root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "caps.edgead")


def test_the_object_of_a_full_set(bundle: Path, tmp_path: Path) -> None:
    result = evaluate(bundle, _category(tmp_path / "caps"), "onnxruntime", "fp32")
    assert (result["backend"], result["precision"]) == ("onnxruntime", "fp32")
    # A bright disc on dark ground: the maps of the tiny bundle find every one.
    assert result["image_auroc"] == {"logical": 1.0, "structural": 1.0, "mean": 1.0}
    assert set(result["auroc_without_composition"]) == {"logical", "structural", "mean"}
    assert list(result["au_spro"]) == ["0.01", "0.05", "0.1", "0.3", "1.0"]
    assert result["au_spro"]["0.05"]["mean"] > 0.7
    assert list(result["branches"]) == list(BRANCHES[:5])
    assert result["branches"]["local"] == {"logical": 1.0, "structural": 1.0}
    assert isinstance(result["threshold"], float)
    assert result["false_reject"] == {"count": 0, "warn_count": 0, "of": 4}
    assert list(result["without"]) == list(BRANCHES[:5])
    assert result["without"]["local"]["mean"] == 1.0
    assert result["recall_at_1_percent"] == {"logical": 1.0, "structural": 1.0, "mean": 1.0}
    assert result["logic_map"]["logical"] > 0
    assert all(values["of"] == 4 for values in result["drift"].values())
    assert list(next(iter(result["drift"].values()))["z"]) == list(BRANCHES[:5])
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_dropped_branch_is_measured_all_the_same(tmp_path: Path) -> None:
    path = make_tiny_bundle(tmp_path / "caps.edgead", weight=(0.0, 0.0, 0.5, 0.5, 0.0))
    result = evaluate(path, _category(tmp_path / "caps"), "onnxruntime", "fp32")
    assert result["weights"]["structure"] == 0
    assert result["branches"]["structure"]["logical"] == 1.0
    assert result["subsets"]["structure+logic"]["logical"] is not None


@pytest.mark.parametrize("kinds", [(), ("structural_anomalies",), ("broken", "dirt")])
def test_kinds_that_are_not_there_are_null(bundle: Path, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    result = evaluate(
        bundle, _category(tmp_path / "caps", kinds, masks=False), "onnxruntime", "fp32", report_dir=tmp_path / "report"
    )
    assert result["image_auroc"]["logical"] is None
    assert result["image_auroc"]["mean"] is None
    assert result["image_auroc"]["structural"] == (1.0 if kinds else None)
    assert result["au_spro"]["0.05"] == {"logical": None, "structural": None, "mean": None}
    assert (tmp_path / "report" / "report.html").is_file()


def test_a_flat_folder_of_goods(bundle: Path, tmp_path: Path) -> None:
    result = evaluate(bundle, _category(tmp_path / "caps") / "test" / "good", "onnxruntime", "fp32")
    assert result["images"] == {"good": 4, "logical": 0, "structural": 0}
    assert result["image_auroc"] == {"logical": None, "structural": None, "mean": None}


def test_anomalies_without_goods(bundle: Path, tmp_path: Path) -> None:
    root = _category(tmp_path / "caps")
    for path in (root / "test" / "good").iterdir():
        path.unlink()
    result = evaluate(bundle, root, "onnxruntime", "fp32", report_dir=tmp_path / "report")
    assert result["image_auroc"] == {"logical": None, "structural": None, "mean": None}
    assert result["false_reject"]["of"] == 0
    assert result["drift"] is None


def test_an_unreadable_test_image_is_named(bundle: Path, tmp_path: Path) -> None:
    root = _category(tmp_path / "caps")
    path = root / "test" / "good" / "002.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match=r"good/002\.png cannot be read: it is truncated"):
        evaluate(bundle, root, "onnxruntime", "fp32")


class _Page(HTMLParser):
    """Collects what a page refers to, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_page_with_all_pictures_and_escaped_names(bundle: Path, tmp_path: Path) -> None:
    root = _category(tmp_path / "<b>caps & lids")
    evil = root / "test" / "good" / "<script>alert(1)<'\">.png"
    save(evil, tiny_image(7, blob=True, size=SIZE))  # a good that is a false alarm, so it is shown
    evaluate(bundle, root, "onnxruntime", "fp32", report_dir=tmp_path / "report")
    html = (tmp_path / "report" / "report.html").read_text()
    page = _Page()
    page.feed(html)
    assert "script" not in page.tags
    assert "<b>caps & lids" in page.text
    assert "good/<script>alert(1)<'\">.png: NG" in page.text
    assert len(page.sources) > 10
    assert all(re.match(r"data:image/(png|jpeg);base64,", source) for source in page.sources)
    assert "1 of 5 NG" in page.text
    for title in (
        "Image AUROC",
        "AU-sPRO",
        "Branches",
        "Worst misses",
        "Worst false alarms",
        "Found anomalies",
        "Drift",
        "without local",
        "recall at 1 % false rejects",
        "mass of the logic map",
    ):
        assert title in page.text


def test_the_command_prints_a_table_and_writes_json(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _category(tmp_path / "caps")
    code = main(["evaluate", str(bundle), str(root), *ENGINE, "--json", str(tmp_path / "out.json")])
    assert code == 0
    printed = capsys.readouterr().out
    assert re.search(r"all branches +1\.000 +1\.000 +1\.000", printed)
    assert "normal images: 0 of 4 NG" in printed
    assert re.search(r"test/good +4  test: normal images", printed)
    assert re.search(r"train/good +4  left out", printed) is None  # training images are no part of this
    assert json.loads((tmp_path / "out.json").read_text())["image_auroc"]["mean"] == 1.0


@pytest.mark.parametrize(
    ("left", "sentence"),
    [("good", r"no AUROC, because the set has no anomalies: put them into test/<name of the defect>"),
     ("broken", r"no AUROC, because the set has no normal images: put them into test/good")],
)
def test_an_empty_table_gives_the_reason(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], left: str, sentence: str
) -> None:
    for index in range(4):
        save(tmp_path / "caps" / "test" / left / f"{index:03}.png", tiny_image(index, size=SIZE))
    assert main(["evaluate", str(bundle), str(tmp_path / "caps"), *ENGINE]) == 0
    assert sentence in capsys.readouterr().out


def test_the_bundle_and_the_data_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _category(tmp_path / "caps")
    make_tiny_bundle(tmp_path / "runs" / "1" / "caps.edgead")
    (tmp_path / "edge-ad.toml").write_text('[data]\npath = "caps"\n')
    for arguments in ([], ["caps"], ["runs/1/caps.edgead"]):
        assert main(["evaluate", *arguments, *ENGINE, "--json", "out.json"]) == 0
        assert json.loads(Path("out.json").read_text())["images"]["good"] == 4


def test_every_category_with_its_own_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _category(tmp_path / "data" / "caps")
    _category(tmp_path / "data" / "lids", ("structural_anomalies",))
    for run, name in (("1", "caps"), ("2", "lids"), ("3", "other")):
        make_tiny_bundle(tmp_path / "runs" / run / f"{name}.edgead")
    arguments = ["--json", str(tmp_path / "out.json"), "--report", str(tmp_path / "report")]
    code = main(["evaluate", str(tmp_path / "runs"), str(tmp_path / "data"), *ENGINE, *arguments])
    assert code == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert list(result["categories"]) == ["caps", "lids"]
    assert result["mean"]["image_auroc"] == {"logical": None, "structural": 1.0, "mean": None}
    assert result["mean"]["false_reject"]["of"] == 8
    assert re.search(r"mean +- +1\.000", capsys.readouterr().out)
    assert (tmp_path / "report" / "lids" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a", "b", "c"], "takes a bundle and a test set, but 3 paths"),
        ([], "there is no test set"),
        (["runs", "data"], r"data holds no categories"),
        (["runs", "root"], r"runs has no bundle caps\.edgead \(it has lids\)"),
        (["runs/lids.edgead", "gone"], "gone does not exist"),
        (["gone.edgead", "data"], r"gone\.edgead"),
        (["runs/lids.edgead", "nomask"], r"no mask under"),
    ],
)
def test_bad_input_ends_in_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_bundle(tmp_path / "runs" / "lids.edgead")
    (tmp_path / "data").mkdir()
    _category(tmp_path / "root" / "caps", ())
    _category(tmp_path / "nomask", masks=False)
    (tmp_path / "nomask" / "ground_truth").mkdir()
    assert main(["evaluate", *arguments, *ENGINE]) == 2
    printed = capsys.readouterr().err
    assert re.search(sentence, printed)
    assert "Traceback" not in printed
    assert printed.count("\n") == 1


def test_figures_that_cannot_be_written_are_reported_before_the_evaluation(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _category(tmp_path / "caps")
    for option in (["--json", "/proc/out.json"], ["--report", "/proc/report"]):
        assert main(["evaluate", str(bundle), str(root), *ENGINE, *option]) == 2
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        assert "cannot write /proc/" in stderr
