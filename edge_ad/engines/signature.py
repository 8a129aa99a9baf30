"""The signature beside an engine: what it was made from and for, checked field by field before anything is loaded.

TensorRT fails, or crashes, on an engine of another version or device. So the engine is not touched unless every field
agrees with this device, and its bytes with the hash that was written with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_ad.bundle import Bundle
from edge_ad.engines.protocol import Backend
from edge_ad.errors import BadInput
from edge_ad.files import read_regular, sha256_bytes

SCHEMA = 2
FILE = "signature.json"
_SEAL = "seal"
_RECIPE = ("ranges.json", "plan.json")  # the members of a bundle that decide how its graphs are derived


def wanted(bundle: Bundle, backend: Backend, precision: str) -> dict[str, Any]:
    """Return the fields that must agree: schema, backend, its version, precision, profile, recipe, and the device's."""
    members = bundle.manifest["members"]
    recipe = {name: members[name]["sha256"] for name in _RECIPE if name in members}
    return {
        "schema": SCHEMA,
        "backend": backend.name,
        "backend_version": backend.version,
        "precision": precision,
        "profile": {"image": [1, *bundle.image_size, 3]},
        "recipe": recipe if precision != "fp32" else {},
        **backend.identity(),
    }


def make(
    bundle: Bundle, backend: Backend, precision: str, engines: Mapping[str, bytes], kept_fp32: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the signature of ``engines`` by graph name."""
    graphs = {
        name: {"source": bundle.graph_sha256(name), "sha256": sha256_bytes(data), "bytes": len(data)}
        for name, data in engines.items()
    }
    return wanted(bundle, backend, precision) | {"kept_fp32": list(kept_fp32), "graphs": graphs}


def to_text(signature: Mapping[str, Any]) -> str:
    """Return the one text of a signature, with a hash of itself in it."""
    plain = {key: value for key, value in signature.items() if key != _SEAL}
    sealed = plain | {_SEAL: sha256_bytes(json.dumps(plain).encode())}
    return json.dumps(sealed, indent=1) + "\n"


def read(path: Path, rebuild: str) -> dict[str, Any]:
    """Return the signature in a file; BadInput for one that is not, to the letter, what ``to_text`` wrote."""
    try:
        text = read_regular(path).decode("utf-8")
        value = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read ({error}); {rebuild}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} is not a JSON object; {rebuild}")
    if text != to_text(value):
        raise BadInput(f"{path} is not the file that build-engine wrote; {rebuild}")
    return value


def check(signature: Mapping[str, Any], bundle: Bundle, backend: Backend, precision: str, told: str) -> None:
    """Raise BadInput for the first field that does not agree; ``told`` is what the sentence says after it."""
    for key, here in wanted(bundle, backend, precision).items():
        if key not in signature or signature[key] != here:
            found = signature.get(key)
            raise BadInput(f"the engine was made for {key} {found!r}, but here it is {here!r}; {told}")


def check_engine(signature: Mapping[str, Any], bundle: Bundle, name: str, path: Path, rebuild: str) -> bytes:
    """Return the bytes of one engine; BadInput if it is of another graph, or not the file that was written."""
    entry = signature["graphs"].get(name) if isinstance(signature.get("graphs"), dict) else None
    if not isinstance(entry, dict) or entry.get("source") != bundle.graph_sha256(name):
        raise BadInput(f"the engine {path.parent} was not made from the graph {name!r} of {bundle.path}; {rebuild}")
    try:
        data = read_regular(path)
    except OSError as error:
        raise BadInput(f"cannot read the engine {path}: {error.strerror or error}; {rebuild}") from error
    if len(data) != entry.get("bytes") or sha256_bytes(data) != entry.get("sha256"):
        raise BadInput(f"the engine {path} is not the file that build-engine wrote; {rebuild}")
    return data
