"""The list of images that a training leaves out, as `edge-ad train --review` writes it and a person corrects it.

One path a line, relative to the data folder; a line that begins with # is a comment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edge_ad.errors import BadInput
from edge_ad.utils.files import read_regular

LIST_NAME = "exclude.txt"
MAX_QUOTED = 200  # characters of a line that a message repeats: another file than a list may be one line of megabytes


def read_exclusions(path: Path, root: Path, normal: Sequence[Path]) -> frozenset[Path]:
    """Return which of the ``normal`` images of the data folder ``root`` the list ``path`` names.

    BadInput for a list that cannot be read, and for a line that names none of them.
    """
    try:
        text = read_regular(path).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise BadInput(
            f"cannot read the list of excluded images {path}: {error.strerror or error}; `edge-ad train DATA --review` writes one"
        ) from error
    known = {os.path.normpath(image): image for image in normal}
    return frozenset(
        _named(line, f"{path}, line {number},", root, known)
        for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1)
        if line.strip() and not line.lstrip().startswith("#")
    )


def _named(line: str, where: str, root: Path, known: dict[str, Path]) -> Path:
    """Return the image that a line names; spaces around a name count only where a file has them."""
    for name in (line, line.strip()):
        image = known.get(os.path.normpath(os.path.join(root, name)))
        if image is not None:
            return image
    name = line.strip()
    place = Path(os.path.normpath(os.path.join(root, name)))
    if not place.is_relative_to(root):
        raise BadInput(f"{where} names {_start(name)}, which is outside the data folder {root}; delete the line")
    if not os.path.isfile(place):  # of a name that is too long too, where Path.is_file raises OSError
        raise BadInput(f"{where} names {_start(name)}, but {root} has no such file; correct or delete the line")
    raise BadInput(f"{where} names {_start(name)}, which is no normal image of {root} to train on; delete the line")


def entry_of(image: Path, root: Path) -> str:
    """Return the line that names an image; the path itself where it does not lie in ``root``, a comment where it cannot."""
    name = image.relative_to(root).as_posix() if image.is_relative_to(root) else str(image)
    if len(name.splitlines()) > 1 or "\n" in name:
        return f"# rename it first, its name has a line break: {shown(name)!r}"
    return f"./{name}" if name.lstrip().startswith("#") else name


def exclusions_text(
    listed: Sequence[str], next_ones: Sequence[str], before: Sequence[str] = (), *, of: int
) -> bytes:
    """Return the list as `--review` writes it: entries ``before``, ``listed`` ones and, behind #, the ``next_ones``."""
    lines = [
        "# Images that a training leaves out: edge-ad train DATA --exclude THIS_FILE",
        "# One path a line, relative to DATA. Lines that begin with # are comments.",
        "#",
    ]
    if before:
        lines += [f"# {len(before)} that were left out before:", *before, "#"]
    lines.append(f"# {len(listed)} of {of} normal images look unlike the others, the most unlike first.")
    if listed:
        lines += ["# Delete the lines of parts that are good: they are then trained on.", *listed]
    if next_ones:
        lines += ["#", "# The next ones are trained on; take the # away to leave one out as well."]
        lines += [f"# {one}" for one in next_ones]
    return "\n".join([*lines, ""]).encode("utf-8", "surrogateescape")


def shown(name: object) -> str:
    """Return a file name as text that any terminal and page can show."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _start(name: str) -> str:
    return shown(name if len(name) <= MAX_QUOTED else f"{name[:MAX_QUOTED]}...")
