"""Positional arguments that more than one command takes."""

from __future__ import annotations

from pathlib import Path


def bundle_and_folder(paths: list[Path], command: str) -> tuple[Path, Path]:
    """Return the bundle and the folder of ``[BUNDLE] FOLDER``; a bundle that is not named is the newest one under runs/.

    Raises BadInput for more than two paths, and when the two are the wrong way round.
    """
    from edge_ad.errors import BadInput
    from edge_ad.utils.files import newest_bundle

    if len(paths) > 2:
        raise BadInput(f"edge-ad {command} takes a bundle and a folder of good images, but {len(paths)} paths were given")
    if len(paths) == 1 and paths[0].suffix == ".edgead":
        raise BadInput(f"{paths[0]} is a bundle: add the folder of good images, `edge-ad {command} {paths[0]} FOLDER`")
    if len(paths) == 2 and paths[0].is_dir() and paths[1].is_file():
        raise BadInput(f"{paths[0]} is a folder: the bundle comes first, `edge-ad {command} {paths[1]} {paths[0]}`")
    return (newest_bundle(), paths[0]) if len(paths) == 1 else (paths[0], paths[1])
