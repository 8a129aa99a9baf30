"""The pages of the documentation: their commands, their links and their anchors."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATED = ("docs/experiments/", "CHANGELOG.md")  # they name the tools of their day
SHELL = {"", "sh", "bash"}
CUTS = {"|", ">", ">>", "2>", "&&", "||", "&", ";"}  # what follows is not the command's own
_FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})\s*([\w-]*)")


def pages() -> list[Path]:
    """Return every page that a reader may meet, without those of earlier runs."""
    results = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docker/*.md"), *ROOT.glob("tools/*.md")]
    return sorted(results)


def current_pages() -> list[Path]:
    """Return the pages whose commands are meant to work today."""
    return [page for page in pages() if not name_of(page).startswith(DATED)]


def name_of(page: Path) -> str:
    """Return the path of a page inside the repository."""
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block: where its first line stands, what it is written in, and its text without the indent."""

    line: int
    language: str
    text: str


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page in order."""
    opened: tuple[int, str, str, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _FENCE.match(line)
        if opened is None:
            if match is not None:
                opened, inside = (number + 1, match[1], match[2], match[3]), []
        elif match is not None and match[2][0] == opened[2][0] and line.strip() == match[2]:
            yield Block(opened[0], opened[3], "\n".join(inside))
            opened = None
        else:
            inside.append(line.removeprefix(opened[1]))


@dataclass(frozen=True)
class Command:
    """One command line of a page: its settings (``NAME=value`` before it), its words, and where it stands."""

    where: str
    settings: dict[str, str]
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of the shell blocks of a page, comments and what stands behind a pipe or redirection cut off."""
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language not in SHELL:
            continue
        pending, start = "", block.line
        for number, line in enumerate(block.text.splitlines(), block.line):
            start = start if pending else number
            pending += line.removesuffix("\\").removeprefix("$ ") if not pending else line.strip().removesuffix("\\")
            if line.endswith("\\"):
                continue
            command = _command(f"{name_of(page)}:{start}", pending)
            pending = ""
            if command is not None:
                yield command


def _command(where: str, text: str) -> Command | None:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return None  # an unlabelled block that is no shell
    cut = next((place for place, word in enumerate(words) if word in CUTS), len(words))
    words, settings = words[:cut], {}
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        name, value = words.pop(0).split("=", 1)
        settings[name] = value
    while words and words[0] in ("sudo", "exec", "time"):
        words.pop(0)
    if words and words[0].endswith("/edge-ad"):
        words[0] = "edge-ad"
    return Command(where, settings, tuple(words)) if words else None


def links(text: str) -> Iterator[str]:
    """Yield the targets of links and images outside of code."""
    prose = re.sub(r"^(\s*)(`{3,}).*?^\s*\2\s*$", "", text, flags=re.S | re.M)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    for match in re.finditer(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", prose):
        yield match[1]


def anchors(text: str) -> set[str]:
    """Return the anchors that the headings of a page get, by the rule of GitHub and of MkDocs where they agree."""
    result: set[str] = set()
    inside = False
    for line in text.splitlines():
        if _FENCE.match(line):
            inside = not inside
        match = None if inside else re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
        if match is not None:
            slug = slugify(match[1])
            count = 1
            unique = slug
            while unique in result:
                unique, count = f"{slug}-{count}", count + 1
            result.add(unique)
    return result


def slugify(heading: str) -> str:
    """Return the anchor of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", lambda match: match[1] or "", heading)
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
