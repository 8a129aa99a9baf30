"""What a folder of images stands for, by its name and its neighbours, and a table of what was read as what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ad.data.images import SUFFIXES
from edge_ad.errors import BadInput

NORMAL_NAMES = ("good", "ok", "normal", "pass")
"""Folder names, in any case, whose images are normal."""

ANOMALY_NAMES = ("anomalies", "anomaly", "ground_truth", "defects", "defect", "bad", "ng", "ko", "nok", "fail", "reject")
"""Folder names, in any case, that no training may take for normal images."""

MAX_FOLDERS = 2000
"""A tree of more folders than this is not searched for images that were left out: it is no data set."""

UNLABELLED = "left out: no sub-folder says whether they are good"
LEFT_OUT = "left out"


@dataclass(frozen=True)
class FolderUse:
    """How many images of one folder were read, and as what; ``folder`` is relative to the root of the set."""

    folder: str
    count: int
    use: str


def is_normal_name(name: str) -> bool:
    """Whether a folder of this name holds normal images."""
    return name.casefold() in NORMAL_NAMES


def is_anomaly_name(name: str) -> bool:
    """Whether a folder of this name holds anomalies, or masks of them."""
    folded = name.casefold()
    return folded in ANOMALY_NAMES or folded.endswith(("_anomalies", "_anomaly"))


def named_as_anomalies(folder: Path) -> bool:
    """Whether name and neighbours of a folder say that it holds anomalies.

    ``<set>/test/<defect>`` does; ``~/test/station1`` does not, because nothing beside it looks like a data set.
    """
    if is_anomaly_name(folder.name):
        return True
    parent = folder.parent
    if parent.name.casefold() == "ground_truth":
        return True
    if parent.name.casefold() != "test" or is_normal_name(folder.name):
        return False
    return any((parent.parent / part).is_dir() for part in ("train", "ground_truth")) or bool(normal_folders(parent))


def normal_folders(parent: Path) -> list[Path]:
    """Return the sub-folders of ``parent`` that are named as normal images, sorted; none where it does not exist."""
    return [folder for folder in sub_folders(parent) if is_normal_name(folder.name)]


def sub_folders(parent: Path) -> list[Path]:
    """Return the folders directly in ``parent`` that are not hidden, sorted by name; none where it does not exist.

    Raises BadInput when it cannot be read.
    """
    if not parent.is_dir():
        return []
    try:
        return sorted(entry for entry in parent.iterdir() if entry.name[0] != "." and entry.is_dir())
    except OSError as error:
        raise BadInput(f"cannot list {parent}: {error.strerror}; name a folder that you may read") from error


def list_nested(folder: Path) -> list[Path]:
    """Return the image files in ``folder`` and in every folder below it, sorted; hidden ones are left out.

    Links to folders are not followed below ``folder``, so that a circle of links ends. Raises BadInput when a folder
    cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise BadInput(f"cannot list {error.filename}: {error.strerror}; name a folder that you may read") from error

    results: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        results += [Path(parent, name) for name in files if name[0] != "." and Path(name).suffix.lower() in SUFFIXES]
    return sorted(path for path in results if path.is_file())


def list_named(parent: Path, folder: Path) -> list[Path]:
    """Return ``list_nested`` of ``folder``, a sub-folder of ``parent`` whose name says what its images are.

    Raises BadInput for an image in a folder below whose name contradicts it.
    """
    normal, images = is_normal_name(folder.name), list_nested(folder)
    contradicts = is_anomaly_name if normal else is_normal_name
    for path in images:
        inner = next((one for one in path.relative_to(folder).parts[:-1] if contradicts(one)), None)
        if inner is not None:
            raise BadInput(
                f"{path.parent} is named as {'anomalies' if normal else 'normal images'}, but {folder} stands for "
                f"{'normal images' if normal else 'anomalies'}: move {inner} into {parent}, or name {folder} by itself"
            )
    return images


def unread_folders(root: Path, read: Sequence[Path]) -> list[FolderUse]:
    """Return the folders under ``root`` that hold images none of which is in ``read``; masks do not count.

    At most MAX_FOLDERS folders are looked at.
    """
    taken = {path.parent for path in read}
    results: list[FolderUse] = []
    for number, (parent, folders, files) in enumerate(os.walk(root)):
        if number >= MAX_FOLDERS:
            break
        folders[:] = sorted(name for name in folders if name[0] != "." and name.casefold() != "ground_truth")
        count = sum(name[0] != "." and Path(name).suffix.lower() in SUFFIXES for name in files)
        if count and Path(parent) not in taken:
            results.append(FolderUse(relative(Path(parent), root), count, LEFT_OUT))
    return results


def relative(folder: Path, root: Path) -> str:
    """Return ``folder`` as a path below ``root``, "." for the root itself."""
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder)


def folders_table(uses: Sequence[FolderUse]) -> str:
    """Return one line for each folder: name, number of images, what they were read as."""
    width = max((len(use.folder) for use in uses), default=0)
    digits = max((len(str(use.count)) for use in uses), default=0)
    return "\n".join(f"  {use.folder:<{width}}  {use.count:>{digits}}  {use.use}" for use in uses)
