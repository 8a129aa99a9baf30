"""The manifest of a bundle: who made it, what it is for, and the hash of every other member."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from edge_ad import __version__
from edge_ad.bundle.contents import GRAPHS, BundleContents, check_graph_names, check_identity
from edge_ad.errors import BadInput
from edge_ad.files import sha256_bytes
from edge_ad.scoring import BRANCHES

SCHEMA = 1
MANIFEST = "manifest.json"
PARTS = ("masks.npy", "statistics.npz", "raw_scores.npz", "golden.npz", "report.json")
OPTIONAL_PARTS = ("ranges.json", "plan.json", "proof.npz")  # of calibration: all or none

_FORMAT = "edge-ad bundle"
_NEEDED = (
    *("name", "created", "edge_ad", "preset", "settings", "image_size"),
    *("parent", "thresholds", "branches", "members"),
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def graph_member(name: str) -> str:
    """The path inside the bundle of the graph called ``name``."""
    return f"graphs/{name}.onnx"


def make_manifest(contents: BundleContents, members: Mapping[str, bytes], created: datetime) -> dict[str, Any]:
    """Return the manifest for ``contents`` whose other ``members`` have these bytes."""
    return {
        "format": _FORMAT,
        "schema": SCHEMA,
        "name": contents.name,
        "created": created.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "edge_ad": __version__,
        "preset": contents.preset,
        "settings": contents.settings,
        "image_size": list(contents.image_size),
        "parent": contents.parent,
        "thresholds": contents.thresholds.to_json(),
        "branches": list(BRANCHES),
        "members": {name: {"sha256": sha256_bytes(data), "bytes": len(data)} for name, data in members.items()},
    }


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
    check_identity(manifest["name"], manifest["preset"], manifest["image_size"], manifest["parent"], where)
    for name, kind, word in (("created", str, "text"), ("edge_ad", str, "text"), ("settings", dict, "a JSON object")):
        if not isinstance(manifest[name], kind):
            raise BadInput(f"{where}: {name!r} must be {word}, but is {manifest[name]!r:.80}")
    if manifest["branches"] != list(BRANCHES):
        raise BadInput(
            f"{where}: 'branches' must be {', '.join(BRANCHES)} in this order, but is {manifest['branches']!r:.80}"
        )
    _check_members(manifest["members"], where)


def _check_schema(schema: object, where: str) -> None:
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise BadInput(f"{where}: 'schema' must be a whole number, but is {schema!r:.80}")
    if schema > SCHEMA:
        raise BadInput(
            f"{where} has schema {schema}, but this edge-ad {__version__} reads schema {SCHEMA}: upgrade edge-ad"
        )
    if schema < SCHEMA:
        raise BadInput(
            f"{where} has schema {schema}, but this edge-ad {__version__} reads schema {SCHEMA}: train the bundle again"
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
    unknown = sorted(set(members) - {*PARTS, *OPTIONAL_PARTS} - set(graphs))
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
