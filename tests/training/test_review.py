"""`edge-ad train --review`: what it lists, what it writes, and what it never does."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edge_ad.cli.app import main
from edge_ad.data.datasets import load_dataset
from edge_ad.scoring.contamination import Contamination
from edge_ad.training.images import read_all
from edge_ad.training.review import Reviewed, look, page, reason_of
from edge_ad.training.teacher import load_teacher
from tests.fixtures.tiny_presets import TINY, known
from tests.fixtures.trained import CORRUPT, write_goods

ODD = "<b>odd & end.png"


@pytest.fixture
def goods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty trays, one of which has a bright stripe and a name that HTML would take for markup."""
    monkeypatch.chdir(tmp_path)
    folder = write_goods(tmp_path / "trays", 20)
    (folder / CORRUPT).unlink()
    image = cv2.imread(str(folder / "tray_007.png"))
    assert image is not None
    image[20:100, 60:75] = (255, 0, 255)
    assert cv2.imwrite(str(folder / ODD), image)
    (folder / "tray_007.png").unlink()
    return folder


def _review(*arguments: str) -> int:
    with known(TINY):
        return main(["train", "trays", "--review", "--preset", "tiny", *arguments])


def test_the_review_lists_what_is_unlike_and_trains_nothing(goods: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _review("--out", "look", "--json", "look.json") == 0
    message = capsys.readouterr()
    assert message.out.split() == ["look/review.html", "look/exclude.txt"]
    assert "nothing was left out" in message.err
    assert "edge-ad train trays --exclude look/exclude.txt" in message.err
    assert sorted(path.name for path in Path("look").iterdir()) == ["exclude.txt", "review.html"]
    lines = Path("look/exclude.txt").read_text().splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    assert listed[0] == ODD
    html = Path("look/review.html").read_text()
    assert "&lt;b&gt;odd &amp; end.png" in html
    assert "<b>" not in html
    assert "http" not in html.replace("data:image", "")
    report = json.loads(Path("look.json").read_text())
    assert (report["of"], report["images"][0][0], report["count"]) == (20, ODD, len(listed))
    excluded = load_dataset(goods, exclude=Path("look/exclude.txt")).excluded
    assert goods / ODD in excluded

    # A list that a person may have corrected is never written over; what it names is kept in the next one.
    assert _review("--out", "look", "--exclude", "look/exclude.txt") == 2
    assert "may hold your corrections" in capsys.readouterr().err
    Path("look/exclude.txt").write_text(f"{ODD}\n")
    assert _review("--out", "again", "--exclude", "look/exclude.txt") == 0
    assert ODD in Path("again/exclude.txt").read_text().splitlines()
    assert "of 19 normal images" in capsys.readouterr().err


def test_a_list_for_many_categories_is_refused(goods: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "trays", "--each", "--exclude", "exclude.txt"]) == 2
    assert "--exclude names images of one data folder" in capsys.readouterr().err


def _reviewed(deviations: list[list[float]], place: tuple[int, int] = (0, 0)) -> Reviewed:
    count = len(deviations)
    result = Contamination(np.array(deviations), np.array([place] * count), (9, 9))
    paths = tuple(Path(f"/d/{number}.png") for number in range(count))
    return Reviewed(np.zeros((count, 32, 32, 3), np.uint8), paths, result, Path("/d"))


@pytest.mark.parametrize(("most", "grid"), [(20 * 256, (16, 16)), (20 * 256 - 1, (8, 8))])
def test_many_images_are_compared_on_a_coarser_grid(
    most: int, grid: tuple[int, int], goods: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.training.review.MAX_CELLS", most)
    device, paths = torch.device("cpu"), sorted(goods.iterdir())
    reviewed = look(load_teacher(TINY, None, device), read_all(paths, 128), paths, goods, device=device, seed=0)
    assert reviewed.contamination.grid == grid
    assert reviewed.paths[reviewed.contamination.order[0]].name == ODD


def test_the_warning_names_how_many_and_the_command() -> None:
    reviewed = _reviewed([[3.9, 0, 0], [4.1, 0, 0], [0, 5.0, 0]])
    assert reviewed.warning(Path("data/good")) == (
        "warning: 2 of 3 normal images look plainly unlike the others, 2.png the most; "
        "`edge-ad train data/good --review` shows them"
    )
    assert reviewed.report()["count"] == 3
    assert _reviewed([[3.9, 0, 0]] * 3).warning(Path("data/good")) is None
    assert "`edge-ad train 'lot 7/good' --exclude 'my list.txt' --review`" in str(
        reviewed.warning(Path("lot 7/good"), Path("my list.txt"))
    )


@pytest.mark.parametrize(
    ("deviations", "place", "reason"),
    [
        ([4.0, 1, 1], (0, 8), "a place differs from the same place of the others (upper right)"),
        ([1.0, 4, 1], (4, 4), "a place that hardly varies differs (centre)"),
        ([1.0, 1, 4], (8, 0), "the image as a whole is unlike the others"),
    ],
)
def test_the_reason_names_what_and_where(deviations: list[float], place: tuple[int, int], reason: str) -> None:
    assert reason_of(_reviewed([deviations], place).contamination, 0) == reason


def test_the_page_names_parts_that_were_not_located() -> None:
    html = page(_reviewed([[4.0, 0, 0]]), "a<b", listed=[0], after=[], unlocated=((Path("x&y.png"), "no <part>"),))
    assert "x&amp;y.png: no &lt;part&gt;" in html
    assert "a&lt;b: 1 of 1" in html
