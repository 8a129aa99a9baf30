"""Engines beside a bundle, ``<bundle>.engines/<backend>-<precision>/``, and the signature that says what they are.

They are derived on the device that runs them and never travel: a signature that does not fit means build them again.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ad.bundle import Bundle
from edge_ad.engines.protocol import Backend
from edge_ad.errors import BadInput
from edge_ad.files import atomic_write, sha256_bytes

SCHEMA = 1
_SIGNATURE = "signature.json"
_CURRENT = "current.json"
_REBUILD = "rebuild with `edge-ad build-engine --{precision}`"


@dataclass(frozen=True)
class Current:
    """The last engine that ``build-engine`` finished for a bundle."""

    backend: str
    precision: str


def engines_folder(bundle_path: Path) -> Path:
    """Return ``<bundle>.engines``."""
    return bundle_path.with_name(f"{bundle_path.name}.engines")


def engine_folder(bundle_path: Path, backend: str, precision: str) -> Path:
    """Return the folder of the engines of one backend and precision."""
    return engines_folder(bundle_path) / f"{backend}-{precision}"


def machine() -> dict[str, str]:
    """Return what identifies this machine for an engine: system, architecture and processor."""
    return {"system": platform.system(), "architecture": platform.machine(), "processor": _processor()}


def store(
    bundle: Bundle, backend: Backend, precision: str, graphs: Mapping[str, bytes], kept_fp32: Sequence[str] = ()
) -> Path:
    """Write ``graphs`` and their signature as one folder, swapped in whole, and return that folder."""
    folder = engine_folder(bundle.path, backend.name, precision)
    signature = _fingerprint(bundle, backend, precision) | {
        "kept_fp32": list(kept_fp32),
        "graphs": {
            name: {"source": bundle.graph_sha256(name), "file": f"{name}.onnx", "sha256": sha256_bytes(data)}
            for name, data in graphs.items()
        },
    }
    members = {f"{name}.onnx": data for name, data in graphs.items()}
    members[_SIGNATURE] = (json.dumps(signature, indent=1) + "\n").encode()
    _swap_in(folder, members)
    return folder


def make_current(bundle: Bundle, backend: str, precision: str) -> Path:
    """Write ``current.json`` atomically: from now on this engine is used unless another one is asked for."""
    signature = _read_json(engine_folder(bundle.path, backend, precision) / _SIGNATURE, precision)
    files = {entry["file"]: entry["sha256"] for entry in signature["graphs"].values()}
    current = {"schema": SCHEMA, "backend": backend, "precision": precision, "bundle": bundle.sha256, "files": files}
    path = engines_folder(bundle.path) / _CURRENT
    atomic_write(path, json.dumps(current, indent=1) + "\n")
    return path


def current(bundle: Bundle) -> Current | None:
    """Return the engine that ``current.json`` names, None without one; BadInput if it belongs to another bundle."""
    path = engines_folder(bundle.path) / _CURRENT
    if not path.exists():
        return None
    value = _read_json(path, "fp16")
    backend, precision = value.get("backend"), value.get("precision")
    if value.get("schema") != SCHEMA or not isinstance(backend, str) or not isinstance(precision, str):
        raise BadInput(f"{path} was not written by this version of build-engine; {_REBUILD.format(precision='fp16')}")
    if value.get("bundle") != bundle.sha256:
        raise BadInput(f"{path} belongs to another bundle than {bundle.path}; {_REBUILD.format(precision=precision)}")
    return Current(backend, precision)


def load(bundle: Bundle, backend: Backend, precision: str, names: Sequence[str]) -> dict[str, bytes]:
    """Return the built graphs ``names``; every mismatch of signature or hash raises BadInput that says to rebuild.

    onnxruntime in fp32 runs the graphs of the bundle itself, so it needs no build and gives an empty mapping.
    """
    if backend.name == "onnxruntime" and precision == "fp32":
        return {}
    folder = engine_folder(bundle.path, backend.name, precision)
    rebuild = _REBUILD.format(precision=precision)
    if not (folder / _SIGNATURE).is_file():
        raise BadInput(
            f"{bundle.path} has no {precision} engine for {backend.name}: run `edge-ad build-engine --{precision}`"
        )
    signature = _read_json(folder / _SIGNATURE, precision)
    for key, wanted in _fingerprint(bundle, backend, precision).items():
        if signature.get(key) != wanted:
            found = signature.get(key)
            raise BadInput(f"the engine {folder} was made for {key} {found!r}, but here it is {wanted!r}; {rebuild}")
    return {name: _load_one(bundle, folder, signature, name, rebuild) for name in names}


def _load_one(bundle: Bundle, folder: Path, signature: Mapping[str, Any], name: str, rebuild: str) -> bytes:
    entries = signature.get("graphs")
    entry = entries.get(name) if isinstance(entries, dict) else None
    if not isinstance(entry, dict) or entry.get("source") != bundle.graph_sha256(name):
        raise BadInput(f"the engine {folder} was not made from the graph {name!r} of {bundle.path}; {rebuild}")
    path = folder / f"{name}.onnx"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read the engine {path}: {error.strerror or error}; {rebuild}") from error
    if sha256_bytes(data) != entry.get("sha256"):
        raise BadInput(f"the engine {path} is not the file that build-engine wrote; {rebuild}")
    return data


def _fingerprint(bundle: Bundle, backend: Backend, precision: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "backend": backend.name,
        "backend_version": backend.version,
        "precision": precision,
        "bundle": bundle.sha256,
        "machine": machine(),
    }


def _swap_in(folder: Path, members: Mapping[str, bytes]) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise BadInput(f"cannot write {folder}: {error.strerror or error}; choose a writable place") from error
    try:
        for name, data in members.items():
            atomic_write(staging / "new" / name, data)
        if folder.exists():
            os.rename(folder, staging / "old")
        os.rename(staging / "new", folder)
    except OSError as error:
        raise BadInput(f"cannot write {folder}: {error.strerror or error}; free some space") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _read_json(path: Path, precision: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read ({error}); {_REBUILD.format(precision=precision)}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} is not a JSON object; {_REBUILD.format(precision=precision)}")
    return value


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(("model name", "hardware"))]
    return names[0] if names else platform.processor()
