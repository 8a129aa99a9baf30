"""Links of the documentation lead somewhere, and every page can be reached."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.documents import ROOT, anchors, blocks, links, name_of, pages, slugify


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_and_anchors_exist(page: Path) -> None:
    for link in links(page.read_text(encoding="utf-8")):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: there is no such heading"


def test_a_page_of_the_site_links_only_to_pages_of_the_site() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        for link in links(page.read_text(encoding="utf-8")):
            if "://" not in link and not link.startswith("#"):
                target = (page.parent / link.partition("#")[0]).resolve()
                assert target.is_relative_to(ROOT / "docs"), f"{name_of(page)}: {link}"


def test_every_page_stands_in_the_navigation_or_in_the_index_of_the_notebook() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    notebook = ROOT / "docs" / "experiments"
    index = set(links((notebook / "index.md").read_text(encoding="utf-8")))
    for page in (ROOT / "docs").rglob("*.md"):
        if page.parent != notebook:
            assert page.relative_to(ROOT / "docs").as_posix() in navigation, name_of(page)
        elif page.name != "index.md":
            assert page.name in index, name_of(page)
    assert "experiments/index.md" in links((ROOT / "docs" / "results.md").read_text(encoding="utf-8"))


def test_the_architecture_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    there = [
        path for path in (ROOT / "edge_ad").iterdir() if not path.name.startswith("_") and path.suffix in ("", ".py")
    ]
    missing = [path.name for path in there if f"`edge_ad/{path.name}`" not in text]
    assert not missing


def test_every_file_that_the_pages_name_exists() -> None:
    missing = {}
    for page in sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "docs").glob("howto/*.md")) + [ROOT / "CONTRIBUTING.md"]:
        named = re.findall(r"`((?:edge_ad|calibration|tests|tools)/[\w/]+\.\w+)`", page.read_text(encoding="utf-8"))
        if gone := [name for name in named if not (ROOT / name).exists()]:
            missing[page.name] = gone
    assert not missing


def package(path: str) -> str:
    """Return the package of a file as the architecture has it."""
    return path.split("/")[0] if path.startswith("calibration/") else "/".join(path.split("/")[:2])


@pytest.mark.parametrize("walk", ["A frame", "A release", "A folder", "A bundle", "A mark", "An event"])
def test_a_walk_through_the_files_crosses_between_two_packages_at_most_once_in_each_direction(walk: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {walk}.*?(?=^##)", text, re.M | re.S)
    assert section is not None
    steps = re.findall(r"^\d\. .*?(?=^\d\. |^$)", section[0], re.M | re.S)
    packages = [package(path) for step in steps for path in re.findall(r"`((?:edge_ad|calibration)/[\w/]+\.py)`", step)]
    crossings = [pair for pair in itertools.pairwise(packages) if pair[0] != pair[1]]
    assert len(crossings) >= 2
    assert len(crossings) == len(set(crossings)), crossings


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("edge-ad train [DATA]", "edge-ad-train-data"),
        ("`hold_ms`, and why", "hold_ms-and-why"),
        ("Watchdog and service", "watchdog-and-service"),
    ],
)
def test_anchors_follow_the_rule(heading: str, anchor: str) -> None:
    assert slugify(heading) == anchor


def test_blocks_keep_their_language_and_lose_their_indent() -> None:
    result = list(blocks("1. one\n\n    ```sh\n    edge-ad info\n    ```\n\n```\nplain\n```\n"))
    assert [(block.line, block.language, block.text) for block in result] == [
        (4, "sh", "edge-ad info"),
        (8, "", "plain"),
    ]
