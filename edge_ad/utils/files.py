"""Files that are either whole or absent, and their fingerprints."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import IO

from edge_ad.errors import BadInput


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write ``data`` to a temporary name beside ``path``, fsync it and rename it into place."""
    payload = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}; choose a folder that can be written") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}; free some space or choose another folder") from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading; OSError as ``open``, BadInput for a pipe or a device, which might never answer."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(handle).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        os.close(handle)
        raise BadInput(f"{path} is no file but a pipe, a socket or a device; name a file")
    try:
        return os.fdopen(handle, "rb")
    except OSError:  # a folder
        os.close(handle)
        raise


def read_regular(path: Path) -> bytes:
    """Return the bytes of a file; errors as ``open_regular``."""
    with open_regular(path) as stream:
        return stream.read()


def require_writable(path: Path | None) -> None:
    """Raise BadInput when ``path`` could not be written: asked before the hours of work whose result goes there."""
    if path is None:
        return
    if path.is_dir():
        raise BadInput(f"cannot write {path}: it is a folder; name a file")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise BadInput(f"cannot write {path}: {folder} is no folder; choose another place")
    try:  # rights alone do not tell: a file system may be read-only, and root may do anything but write to /proc
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}; choose a folder that can be written") from error


def is_at(handle: int, path: Path) -> bool:
    """Whether ``path`` leads to the file that is open: a file that was removed or renamed takes what nobody will find.
    """
    try:
        there = os.stat(path)
    except OSError:
        return False
    opened = os.fstat(handle)
    return (opened.st_dev, opened.st_ino) == (there.st_dev, there.st_ino)


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that only its owner may read; FileExistsError where there is one, OSError, and no half file, where the
    disk refuses.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # half a key would stand in the way of a whole one
        raise


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_bytes(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def expanded(path: Path) -> Path:
    """Return ``path`` with the home folder for a tilde; BadInput where there is none."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise BadInput(f"{path}: no home folder is known for the tilde; write the whole path, or set HOME") from error


def cache_home() -> Path:
    """Return ``$XDG_CACHE_HOME``, by default ``~/.cache``, and below ``/tmp`` for a user without a home folder."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named) if named else Path.home() / ".cache"
    except RuntimeError:  # a container with a number for its user
        return Path(tempfile.gettempdir(), f"edge-ad-cache-{os.getuid()}")


ASIDE = (".improve", ".fleet")  # folders beside a store: what lies there may have been refused; line.bundles.json has those in use


def newest_bundle(runs: Path = Path("runs")) -> Path:
    """Return the newest ``*.edgead`` anywhere under ``runs``, but for those that nobody has put in use yet (``ASIDE``);
    BadInput when there is none.
    """
    files = (path for path in runs.rglob("*.edgead") if path.is_file())  # no link to nowhere, no folder of that name
    files = (path for path in files if not any(part.endswith(ASIDE) for part in path.relative_to(runs).parts[:-1]))
    bundles = sorted(files, key=lambda path: (path.stat().st_mtime_ns, str(path)))
    if not bundles:
        raise BadInput(f"no bundle (*.edgead) under {runs.resolve()}: run `edge-ad train DATA` first, or name a bundle")
    return bundles[-1]
