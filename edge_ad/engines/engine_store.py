"""Engines beside a bundle, ``<bundle>.engines/<backend>-<precision>/``, whole or absent.

They are derived on the device that runs them and never travel: a signature that does not fit means build them again.

The signature beside an engine: what it was made from and for, checked field by field before anything is loaded.

TensorRT fails, or crashes, on an engine of another version or device. So the engine is not touched unless every field
agrees with this device, and its bytes with the hash that was written with it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ad.bundle import Bundle
from edge_ad.engines.protocol import Backend
from edge_ad.errors import BadInput
from edge_ad.utils.files import atomic_write, read_regular, sha256_bytes, sync_folder

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
    bundle: Bundle, backend: Backend, precision: str, engines: Mapping[str, bytes], *, kept_fp32: Sequence[str] = ()
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


def check(signature: Mapping[str, Any], bundle: Bundle, backend: Backend, precision: str, *, message: str) -> None:
    """Raise BadInput for the first field that does not agree; ``message`` is what the sentence says after it."""
    for key, here in wanted(bundle, backend, precision).items():
        if key not in signature or signature[key] != here:
            actual = signature.get(key)
            raise BadInput(f"the engine was made for {key} {actual!r}, but here it is {here!r}; {message}")


def check_engine(signature: Mapping[str, Any], bundle: Bundle, name: str, path: Path, *, rebuild: str) -> bytes:
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


_SCHEMA = 1
_CURRENT = "current.json"
_STAGING = ".building."


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


def store(
    bundle: Bundle, backend: Backend, precision: str, engines: Mapping[str, bytes], *, kept_fp32: Sequence[str] = ()
) -> Path:
    """Write ``engines`` and their signature as one folder, swapped in whole, and return that folder."""
    folder = engine_folder(bundle.path, backend.name, precision)
    members = {f"{name}{backend.suffix}": data for name, data in engines.items()}
    made = make(bundle, backend, precision, engines, kept_fp32=kept_fp32)
    members[FILE] = to_text(made).encode()
    _swap_in(folder, members)
    return folder


def make_current(bundle: Bundle, backend: str, precision: str) -> Path:
    """Write ``current.json`` atomically: from now on this engine is used unless another one is asked for."""
    folder = engine_folder(bundle.path, backend, precision)
    made = read(folder / FILE, _rebuild(precision))
    files = {
        path.name: made["graphs"][path.stem]["sha256"]
        for path in sorted(folder.iterdir())
        if path.stem in made["graphs"]
    }
    current = {"schema": _SCHEMA, "backend": backend, "precision": precision, "bundle": bundle.sha256, "files": files}
    path = engines_folder(bundle.path) / _CURRENT
    with _staging(path) as staging:
        atomic_write(staging / _CURRENT, json.dumps(current, indent=1) + "\n")
        os.replace(staging / _CURRENT, path)
    return path


def copy(parent: Bundle, child: Bundle, value: Current) -> Path:
    """Copy the files of a parent's engine to the place of the child's; whether they fit is seen when they are loaded.
    """
    source = engine_folder(parent.path, value.backend, value.precision)
    target = engine_folder(child.path, value.backend, value.precision)
    try:
        members = {path.name: path.read_bytes() for path in source.iterdir()}
    except OSError as error:
        raise BadInput(
            f"cannot read the engine {source}: {error.strerror or error}; {_rebuild(value.precision)}"
        ) from error
    _swap_in(target, members)
    return target


def remove(bundle: Bundle, value: Current) -> None:
    """Remove an engine that was not accepted, and the folder of engines if nothing else is in it."""
    shutil.rmtree(engine_folder(bundle.path, value.backend, value.precision), ignore_errors=True)
    with suppress(OSError):
        engines_folder(bundle.path).rmdir()


def current(bundle: Bundle) -> Current | None:
    """Return the engine that ``current.json`` names, None without one; BadInput if it belongs to another bundle."""
    path = engines_folder(bundle.path) / _CURRENT
    if not path.exists():
        return None
    value = _read_json(path)
    backend, precision = value.get("backend"), value.get("precision")
    if value.get("schema") != _SCHEMA or not isinstance(backend, str) or not isinstance(precision, str):
        raise BadInput(f"{path} was not written by this version of build-engine; {_rebuild('fp16')}")
    if value.get("bundle") != bundle.sha256:
        raise BadInput(f"{path} belongs to another bundle than {bundle.path}; {_rebuild(precision)}")
    return Current(backend, precision)


def load(bundle: Bundle, backend: Backend, precision: str, names: Sequence[str]) -> dict[str, bytes]:
    """Return the built engines ``names``; every mismatch of signature or hash raises BadInput that says to rebuild.

    onnxruntime in fp32 runs the graphs of the bundle itself, so it needs no build and gives an empty mapping.
    """
    if backend.name == "onnxruntime" and precision == "fp32":
        return {}
    folder = engine_folder(bundle.path, backend.name, precision)
    if not (folder / FILE).is_file():
        raise BadInput(
            f"{bundle.path} has no {precision} engine for {backend.name}: run `edge-ad build-engine --{precision}`"
        )
    rebuild = _rebuild(precision)
    made = read(folder / FILE, rebuild)
    check(made, bundle, backend, precision, message=f"{rebuild} ({folder})")
    return {
        name: check_engine(made, bundle, name, folder / f"{name}{backend.suffix}", rebuild=rebuild) for name in names
    }


def _rebuild(precision: str) -> str:
    return f"rebuild with `edge-ad build-engine --{precision}`"


def _swap_in(folder: Path, members: Mapping[str, bytes]) -> None:
    """Put a folder with these files in the place of ``folder``; killed at any time, a folder there is whole."""
    with _staging(folder) as staging:
        for name, data in members.items():
            atomic_write(staging / "new" / name, data)
        sync_folder(staging / "new")
        if folder.exists():
            os.rename(folder, staging / "old")
        os.rename(staging / "new", folder)


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` to write in; what builds that were killed left there goes first."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        staging = Path(tempfile.mkdtemp(prefix=f"{_STAGING}{os.getpid()}.", dir=target.parent))
    except OSError as error:
        raise BadInput(f"cannot write {target}: {error.strerror or error}; choose a writable place") from error
    try:
        yield staging
        sync_folder(target.parent)
    except OSError as error:
        raise BadInput(f"cannot write {target}: {error.strerror or error}; free some space") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _sweep(parent: Path) -> None:
    for path in parent.glob(f"{_STAGING}*"):
        owner = path.name.removeprefix(_STAGING).split(".")[0]
        if not owner.isdigit() or not _alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read ({error}); {_rebuild('fp16')}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} is not a JSON object; {_rebuild('fp16')}")
    return value
