"""Where a bundle that is made from another one goes."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from edge_ad.bundle.file import SUFFIX, Bundle
from edge_ad.errors import BadInput
from edge_ad.utils.files import require_writable


def child_path(parent: Bundle, out: Path | None, word: str, verb: str) -> Path:
    """Return the file to write, never the parent itself: ``out``, or a free ``<name>-<word>-<number>`` in a folder.

    The folder is ``out`` or that of the parent. BadInput, with the ``verb`` of the command, for a file that no command
    would find and for the parent.
    """
    if out is None or out.is_dir():
        folder = parent.path.parent if out is None else out
        names = (folder / f"{parent.name}-{word}-{number}{SUFFIX}" for number in count(1))
        result = next(path for path in names if not path.exists())
        require_writable(result)
        return result
    if out.suffix != SUFFIX:
        raise BadInput(f"{out} must end in {SUFFIX}, because that is how the other commands find a bundle; rename it")
    if out.exists() and out.samefile(parent.path):
        raise BadInput(f"{out} is the bundle to {verb}, and a parent is never overwritten; give another --out")
    require_writable(out)
    return out
