"""Read the JSON-lines manifests that cloud inspection services and their labelling jobs write: one image a line.

A line has ``source-ref``, ``anomaly-label`` with ``anomaly-label-metadata``, and in segmentation sets ``anomaly-mask-ref``
with the colours of its mask. References are paths beside the manifest or ``s3://bucket/key``; the latter are read from
``key`` beside the manifest, where a copy of the bucket puts them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edge_ad.errors import BadInput
from edge_ad.utils.files import read_regular

SUFFIXES = (".manifest", ".jsonl", ".ndjson")
SOURCE, LABEL, MASK = "source-ref", "anomaly-label", "anomaly-mask-ref"
NORMAL, ANOMALY = "normal", "anomaly"  # class names

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ManifestImage:
    """One image of a manifest: ``mask`` of an anomaly is None without one, and ``background`` (red, green, blue) is the
    mask's colour where there is no defect, None where the manifest does not say it.
    """

    path: Path
    is_normal: bool
    mask: Path | None = None
    background: Colour | None = None


def is_manifest(path: Path) -> bool:
    """Whether ``path`` is a file that is named as a manifest."""
    return path.suffix.casefold() in SUFFIXES and path.is_file()


def read_manifest(path: Path) -> tuple[ManifestImage, ...]:
    """Return the images of a manifest in its order, each once.

    BadInput, naming the line, for what is no JSON object, a label that is neither 0 nor 1 or contradicts its class name or
    another line, and a file that does not exist or was not downloaded.
    """
    try:
        text = read_regular(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the manifest {path}: {error}; it must be a file of JSON lines in UTF-8") from error
    images: dict[Path, ManifestImage] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        image = _image(_parsed(line, f"{path}, line {number}"), path.absolute().parent, f"{path}, line {number}")
        first = images.setdefault(image.path, image)
        if first.is_normal != image.is_normal:
            raise BadInput(f"{path}, line {number} gives {image.path} another label than a line before; leave one of them out")
    if not images:
        raise BadInput(f"the manifest {path} has no lines; give one with an image a line")
    return tuple(images.values())


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not valid JSON ({error}); a manifest has one JSON object a line") from error
    if not isinstance(value, dict):
        raise BadInput(f"{where} must be a JSON object, but is a {type(value).__name__}")
    return value


def _image(entry: Mapping[str, Any], root: Path, where: str) -> ManifestImage:
    path = _local(entry.get(SOURCE), SOURCE, root, where)
    if _is_normal(entry, where):
        return ManifestImage(path, True)
    if entry.get(MASK) is None:
        return ManifestImage(path, False)
    return ManifestImage(path, False, _local(entry[MASK], MASK, root, where), _background(entry, where))


def _is_normal(entry: Mapping[str, Any], where: str) -> bool:
    """Return the label: services decide by the class name and give it any number, so both must agree."""
    label, described = entry.get(LABEL), entry.get(f"{LABEL}-metadata", {})
    name = described.get("class-name") if isinstance(described, dict) else None
    if isinstance(name, str):
        is_normal = name.casefold() == NORMAL
        if label in (0, 1) and is_normal != (label == 0):
            raise BadInput(f"{where} has the {LABEL!r} {label} (0 is normal) and the class name {name!r:.80}; correct one of them")
        return is_normal
    if isinstance(label, bool) or label not in (0, 1):
        problem = "has none" if LABEL not in entry else f"has {label!r:.80}"
        raise BadInput(
            f"{where} needs {LABEL!r}, 0 for normal or 1, but {problem}; a labelling job may have called it otherwise: rename it"
        )
    return bool(label == 0)


def _local(reference: object, key: str, root: Path, where: str) -> Path:
    """Return the file that a reference means; BadInput where it is not here."""
    if not isinstance(reference, str) or not reference or "\0" in reference:
        raise BadInput(f"{where} needs {key!r}, the path of a file, but has {reference!r:.80}")
    bucket = re.fullmatch(r"s3://([^/]+)/(.+)", reference)
    if bucket is None:
        if "://" in reference:
            raise BadInput(f"{where}: {key!r} is {reference!r:.200}, and paths beside the manifest or s3:// are allowed")
        path = root / reference
        if not path.is_file():
            raise BadInput(f"{where}: there is no file {path}; copy it there, or take the line out")
        return path
    place = PurePosixPath(bucket[2])
    if ".." in place.parts or place.is_absolute():
        raise BadInput(f"{where}: {key!r} is {reference!r:.200}, which leads out of the manifest's folder; correct it")
    if not (root / place).is_file():
        folder = "" if str(place.parent) == "." else f"/{place.parent}"
        copy = f"aws s3 cp --recursive s3://{bucket[1]}{folder} {root}{folder}"
        raise BadInput(f"{where}: {reference[:200]!r} is not here: download its folder first, `{copy}`")
    return root / place


def _background(entry: Mapping[str, Any], where: str) -> Colour | None:
    described = entry.get(f"{MASK}-metadata")
    colours = described.get("internal-color-map") if isinstance(described, dict) else None
    classes = [one for one in colours.values() if isinstance(one, dict)] if isinstance(colours, dict) else []
    backgrounds = [
        one["hex-color"] for one in classes if str(one.get("class-name")).casefold() == "background" and "hex-color" in one
    ]
    if not backgrounds:
        return None
    text = backgrounds[0]
    if not isinstance(text, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise BadInput(f"{where}: the colour of the background must be like '#ffffff', but is {text!r:.80}")
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
