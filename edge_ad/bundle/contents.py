"""What a bundle holds, in memory, and the rules for it.

The manifest of a bundle: who made it, what it is for, and the hash of every other member.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_ad import __version__
from edge_ad.bundle.graphs import GRAPHS, REQUIRED_GRAPHS
from edge_ad.bundle.references import References
from edge_ad.errors import BadInput
from edge_ad.scoring import BRANCHES, MIN_BRANCHES, Array, Statistics, Thresholds
from edge_ad.utils.files import sha256_bytes

if TYPE_CHECKING:
    from edge_ad.geometry.geometry import Geometry

SIDE_LIMIT = 4096  # pixels
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,100}")
_SPLIT = re.compile(r"[A-Za-z0-9_\-]{1,100}")


@dataclass(frozen=True, eq=False)
class Golden:
    """Proof data: ``images`` u8 [G, H, W, 3] RGB and the ``raw`` f32 [G, B] scores of B branches the FP32 graphs gave
    them.
    """

    images: NDArray[np.uint8]
    raw: Array


@dataclass(frozen=True, eq=False)
class Quantisation:
    """What INT8 needs: ``ranges`` by graph and the ``plan``, both JSON objects as `calibration` writes them, and
    ``proof``, normal images u8 [P, H, W, 3] RGB on which an engine is measured before it is accepted.
    """

    ranges: dict[str, Any]
    plan: dict[str, Any]
    proof: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class BundleContents:
    """Everything a bundle holds.

    ``image_size`` is (height, width) in pixels; ``parent`` the sha256 of the bundle this one was recalibrated from;
    ``graphs`` ONNX bytes by name (see `edge_ad.bundle.graphs`); ``masks`` f32 [R, h*w] of 0 and 1; ``raw_scores`` f32
    [N, B] by split of the normal images (normalise, threshold) or synthetic; ``settings`` and ``report`` are JSON
    objects; ``quantisation`` is None in a bundle that was never calibrated; ``geometry`` is None where whole images
    are squashed to ``image_size``; ``references`` are empty where graphs hold them as constants.
    """

    name: str
    preset: str
    settings: dict[str, Any]
    image_size: tuple[int, int]
    parent: str | None
    graphs: Mapping[str, bytes]
    masks: Array
    statistics: Statistics
    thresholds: Thresholds
    raw_scores: Mapping[str, Array]
    golden: Golden
    report: dict[str, Any]
    quantisation: Quantisation | None = None
    geometry: Geometry | None = None
    references: References = References()


def check_contents(contents: BundleContents, where: str) -> None:
    """Raise BadInput, naming ``where``, when names, shapes, dtypes or graphs break the rules of a bundle."""
    check_identity(contents.name, contents.preset, contents.image_size, contents.parent, where=where)
    check_graph_names(contents.graphs, where)
    masks, count = contents.masks, len(contents.statistics.branches)
    _check_array("masks.npy", masks, np.float32, (None, None), where=where)
    if not np.isin(masks, (0.0, 1.0)).all():
        raise BadInput(f"{where}: masks.npy must hold only 0 and 1; train the bundle again")
    if not contents.raw_scores:
        raise BadInput(
            f"{where}: raw_scores.npz is empty, but must hold the raw scores of the normal images; train the bundle again"
        )
    for split, raw in contents.raw_scores.items():
        if not _SPLIT.fullmatch(split):
            raise BadInput(
                f"{where}: raw_scores.npz has the split {split!r:.80}; a name has 1 to 100 letters, digits, '_' or '-'"
            )
        _check_array(f"raw_scores.npz: {split}", raw, np.float32, (None, count), where=where)
    golden = contents.golden
    _check_array("golden.npz: images", golden.images, np.uint8, (None, *contents.image_size, 3), where=where)
    _check_array("golden.npz: raw", golden.raw, np.float32, (len(golden.images), count), where=where)
    if not len(golden.images):
        raise BadInput(f"{where}: golden.npz holds no images, but at least 1 is needed to prove an engine")
    if contents.quantisation is not None:
        _check_quantisation(contents.quantisation, contents.graphs, contents.image_size, where)
    if contents.geometry is not None and contents.geometry.size != contents.image_size:
        raise BadInput(
            f"{where}: {GEOMETRY} makes inputs of {list(contents.geometry.size)}, but 'image_size' is "
            f"{list(contents.image_size)}; copy or train the bundle again"
        )


def check_identity(name: object, preset: object, image_size: object, parent: object, *, where: str) -> None:
    """Raise BadInput when a name, preset, image size or parent is not of its form."""
    for label, text in (("name", name), ("preset", preset)):
        if not isinstance(text, str) or not _NAME.fullmatch(text):
            raise BadInput(f"{where}: {label!r} must be 1 to 100 characters without slashes, but is {text!r:.80}")
    if not isinstance(image_size, list | tuple) or len(image_size) != 2 or not all(map(_is_side, image_size)):
        raise BadInput(
            f"{where}: 'image_size' must be [height, width] in 1 to {SIDE_LIMIT} pixels, but is {image_size!r:.80}"
        )
    if parent is not None and not (isinstance(parent, str) and _SHA256.fullmatch(parent)):
        raise BadInput(f"{where}: 'parent' must be null or a sha256, but is {parent!r:.80}")


def check_graph_names(names: Mapping[str, object] | tuple[str, ...], where: str) -> None:
    """Raise BadInput for an unknown graph or when a required one is missing."""
    unknown = sorted(set(names) - set(GRAPHS))
    missing = [name for name in REQUIRED_GRAPHS if name not in names]
    if unknown:
        raise BadInput(f"{where} has the unknown graph {unknown[0]!r}; allowed are {', '.join(GRAPHS)}")
    if missing:
        raise BadInput(f"{where} lacks the graph {missing[0]!r}; every bundle needs {' and '.join(REQUIRED_GRAPHS)}")


def _check_quantisation(
    quantisation: Quantisation, graphs: Mapping[str, object], image_size: tuple[int, int], where: str
) -> None:
    _check_array("proof.npz: images", quantisation.proof, np.uint8, (None, *image_size, 3), where=where)
    if not len(quantisation.proof):
        raise BadInput(f"{where}: proof.npz holds no images; run `edge-ad calibrate` again")
    for name, table in (("ranges.json", quantisation.ranges), ("plan.json", quantisation.plan.get("graphs"))):
        if not isinstance(table, dict) or not set(table) <= set(graphs):
            raise BadInput(
                f"{where}: {name} must hold one object for graphs of this bundle; run `edge-ad calibrate` again"
            )


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= SIDE_LIMIT


def _check_array(
    name: str, array: NDArray[Any], dtype: type[np.generic], shape: tuple[int | None, ...], *, where: str
) -> None:
    if array.dtype != dtype:
        raise BadInput(f"{where}: {name} is {array.dtype}, but must be {np.dtype(dtype)}")
    pairs = zip(array.shape, shape, strict=False)
    if array.ndim != len(shape) or any(want not in (None, have) for have, want in pairs):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise BadInput(f"{where}: {name} has shape {list(array.shape)}, but must have [{wanted}]")


# 2 has more branches than the first five, 3 may have references beside the graphs, 4 has a region, 5 gains of the channels; older
# bundles are read as ever.
SCHEMA, REGION_SCHEMA, PLAIN_SCHEMA, OLDEST_SCHEMA = 5, 4, 3, 1
MANIFEST = "manifest.json"
PARTS = ("masks.npy", "statistics.npz", "raw_scores.npz", "golden.npz", "report.json")
OPTIONAL_PARTS = ("ranges.json", "plan.json", "proof.npz")  # of calibration: all or none
GEOMETRY = "geometry.npz"  # how parts are located and cut out; where it is missing, whole images are squashed
REFERENCES = "references.npz"  # what graphs take as inputs; where it is missing, it is constants inside them

_FORMAT = "edge-ad bundle"
_NEEDED = (
    *("name", "created", "edge_ad", "preset", "settings", "image_size"),
    *("parent", "thresholds", "branches", "members"),
)


def graph_member(name: str) -> str:
    """The path inside the bundle of the graph called ``name``."""
    return f"graphs/{name}.onnx"


def make_manifest(contents: BundleContents, members: Mapping[str, bytes], created: datetime) -> dict[str, Any]:
    """Return the manifest for ``contents`` whose other ``members`` have these bytes."""
    return {
        "format": _FORMAT,
        "schema": _schema_of(contents.geometry),
        "name": contents.name,
        "created": created.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "edge_ad": __version__,
        "preset": contents.preset,
        "settings": contents.settings,
        "image_size": list(contents.image_size),
        "parent": contents.parent,
        "thresholds": contents.thresholds.to_json(),
        "branches": list(contents.statistics.branches),
        "members": {name: {"sha256": sha256_bytes(data), "bytes": len(data)} for name, data in members.items()},
    }


def _schema_of(geometry: Geometry | None) -> int:
    """Return the oldest schema that knows what a bundle holds: an older edge-ad refuses what it would leave out."""
    if geometry is None or (geometry.roi is None and geometry.gains is None):
        return PLAIN_SCHEMA
    return REGION_SCHEMA if geometry.gains is None else SCHEMA


def check_manifest(manifest: Mapping[str, Any], where: str) -> None:
    """Raise BadInput, naming ``where``, for another format or schema and for fields that are missing or wrong."""
    if manifest.get("format") != _FORMAT:
        raise BadInput(
            f"{where} does not say {_FORMAT!r}, so this is no bundle; give a file that `edge-ad train` wrote"
        )
    _check_schema(manifest.get("schema"), where)
    missing = [name for name in _NEEDED if name not in manifest]
    if missing:
        raise BadInput(f"{where} lacks {missing[0]!r}; copy or train the bundle again")
    check_identity(manifest["name"], manifest["preset"], manifest["image_size"], manifest["parent"], where=where)
    for name, kind, word in (("created", str, "text"), ("edge_ad", str, "text"), ("settings", dict, "a JSON object")):
        if not isinstance(manifest[name], kind):
            raise BadInput(f"{where}: {name!r} must be {word}, but is {manifest[name]!r:.80}")
    if manifest["branches"] not in [list(BRANCHES[:count]) for count in range(MIN_BRANCHES, len(BRANCHES) + 1)]:
        raise BadInput(
            f"{where}: 'branches' must be {', '.join(BRANCHES)} in this order, of which an older bundle has the first "
            f"{MIN_BRANCHES}, but is {manifest['branches']!r:.80}"
        )
    _check_members(manifest["members"], where)


def _check_schema(schema: object, where: str) -> None:
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise BadInput(f"{where}: 'schema' must be a whole number, but is {schema!r:.80}")
    if schema > SCHEMA:
        raise BadInput(
            f"{where} has schema {schema}, but this edge-ad {__version__} reads schemas up to {SCHEMA}: upgrade edge-ad"
        )
    if schema < OLDEST_SCHEMA:
        raise BadInput(
            f"{where} has schema {schema}, but this edge-ad {__version__} reads {OLDEST_SCHEMA} to {SCHEMA}: train the bundle again"
        )


def _check_members(members: object, where: str) -> None:
    if not isinstance(members, dict):
        raise BadInput(f"{where}: 'members' must be a JSON object, but is {members!r:.80}")
    for name, entry in members.items():
        if not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"} or not _is_entry(**entry):
            raise BadInput(
                f"{where}: member {name!r:.80} must have a sha256 and a number of bytes, but has {entry!r:.80}"
            )
    graphs = {graph_member(name): name for name in GRAPHS}
    unknown = sorted(set(members) - {*PARTS, *OPTIONAL_PARTS, GEOMETRY, REFERENCES} - set(graphs))
    wanted = PARTS + (OPTIONAL_PARTS if any(name in members for name in OPTIONAL_PARTS) else ())
    missing = [name for name in wanted if name not in members]
    if unknown:
        raise BadInput(f"{where} lists the unknown member {unknown[0]!r:.80}; this schema does not have it")
    if missing:
        raise BadInput(f"{where} does not list {missing[0]!r}, which this bundle needs; copy or train the bundle again")
    check_graph_names(tuple(graphs[name] for name in members if name in graphs), where)


def _is_entry(sha256: object, bytes: object) -> bool:
    size = isinstance(bytes, int) and not isinstance(bytes, bool) and bytes >= 0
    return size and isinstance(sha256, str) and _SHA256.fullmatch(sha256) is not None
