"""Where bundles and releases are kept: a folder, any web server that takes files, or an object store that speaks S3.

All three are asked for the same: put a file, read a small object, and download a large one, from where it broke off.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import hmac
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Protocol

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.fleet.signing import MAX_TEXT
from edge_ad.utils.files import atomic_write, open_regular, sha256_file
from edge_ad.utils.text import redact, redact_uri

BLOCK = 1 << 18
TIMEOUT_S = 15.0
SPARE_BYTES = 64 * 2**20  # that a download leaves free beside the bundle and its engines
ENGINES_FACTOR = 2  # engines take about as much as the bundle, and twice that at most
USER, PASSWORD = "EDGE_AD_STORE_USER", "EDGE_AD_STORE_PASSWORD"
S3_KEY, S3_SECRET = ("EDGE_AD_S3_KEY", "AWS_ACCESS_KEY_ID"), ("EDGE_AD_S3_SECRET", "AWS_SECRET_ACCESS_KEY")
WRITTEN = "a folder, https://HOST/FOLDER, or s3://HOST[:PORT]/BUCKET[/FOLDER][?region=NAME&tls=no&ca=FILE]"


class Away(DeviceFault):
    """The store, or the broker, cannot be reached now: worth another try later."""


class ObjectStore(Protocol):
    """Objects by name, such as ``releases/000001.json``."""

    name: str
    clock_offset_s: float | None
    """How far the clock of this machine is ahead of the store's, in seconds; None where the store tells no time."""

    def put(self, name: str, data: bytes | Path) -> None:
        """Store an object, in place of one of that name."""

    def create(self, name: str, data: bytes) -> bool:
        """Store a small object unless there is one of that name; False where there is."""

    def read(self, name: str) -> bytes | None:
        """Return a small object, None where there is none."""

    def stream(self, name: str, start: int) -> contextlib.AbstractContextManager[tuple[int, Iterator[bytes]]]:
        """Give the byte at which an object begins to come, ``start`` or 0, and its blocks."""


def open_store(uri: str) -> ObjectStore:
    """Return the store at a URI; BadInput for one that is none. Nothing is asked of it yet."""
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme in ("", "file"):
        path = urllib.parse.unquote(uri.removeprefix("file://"))
        if not path:
            raise BadInput(f"--bundles is empty: write {WRITTEN}")
        return FolderStore(Path(path).expanduser())
    if scheme in ("http", "https"):
        return HttpStore(uri)
    if scheme == "s3":
        return S3Store(uri)
    raise BadInput(f"--bundles {redact_uri(uri)}: there is no store {scheme}://; write {WRITTEN}")


class FolderStore:
    """Objects as files of a folder: a disk, a share, or a stick."""

    clock_offset_s: float | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = str(folder)

    def put(self, name: str, data: bytes | Path) -> None:
        """Copy a file, or write bytes, whole or not at all."""
        path = self._path(name)
        if isinstance(data, bytes):
            atomic_write(path, data)
            return
        partial = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_regular(data) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target, BLOCK)
                target.flush()
                os.fsync(target.fileno())
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise BadInput(f"cannot write {path}: {error.strerror}; make room or name another folder") from error

    def create(self, name: str, data: bytes) -> bool:
        """Link a finished file to its name, which fails where there is one."""
        path = self._path(name)
        whole = path.with_name(f".{path.name}.{os.getpid()}")
        atomic_write(whole, data)
        try:
            os.link(whole, path)
        except FileExistsError:
            return False
        except OSError:  # a stick's file system knows no links
            if path.exists():
                return False
            whole.replace(path)
        finally:
            whole.unlink(missing_ok=True)
        return True

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file of at most 64 KiB."""
        try:
            with open_regular(self._path(name)) as stream:
                return stream.read(MAX_TEXT + 1)
        except FileNotFoundError:
            if not self._folder.is_dir():
                raise Away(f"the folder {self._folder} is not there: mount it, or name another by --bundles") from None
            return None
        except OSError as error:
            raise Away(f"cannot read {self._path(name)}: {error.strerror}") from error

    @contextlib.contextmanager
    def stream(self, name: str, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Read a file from ``start`` on."""
        path = self._path(name)

        def blocks(stream: IO[bytes]) -> Iterator[bytes]:
            with _reading(path):
                yield from iter(lambda: stream.read(BLOCK), b"")

        with contextlib.ExitStack() as stack:
            with _reading(path):  # not around what is done with the blocks: a full disk there is another fault
                stream = stack.enter_context(open_regular(path))
                stream.seek(start)
            yield start, blocks(stream)

    def _path(self, name: str) -> Path:
        return self._folder / name


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Away(f"cannot read {path}: {error.strerror}") from error


class HttpStore:
    """Objects below an address, by GET with ranges, and PUT; user and password come from the environment."""

    def __init__(self, uri: str) -> None:
        parts = urllib.parse.urlsplit(uri)
        if "@" in parts.netloc:
            raise BadInput(f"--bundles {redact_uri(uri)}: a password does not belong in an address; set {USER} and {PASSWORD}")
        if not parts.hostname or parts.query or parts.fragment:
            raise BadInput(f"--bundles {redact_uri(uri)} is no address of a folder: write {WRITTEN}")
        self._tls, self._context = parts.scheme == "https", ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname, parts.port
        self._base = parts.path.rstrip("/")
        self.name = f"{parts.scheme}://{parts.netloc}{self._base}"
        self.clock_offset_s: float | None = None

    def put(self, name: str, data: bytes | Path) -> None:
        """PUT an object."""
        with contextlib.ExitStack() as stack:
            body: bytes | IO[bytes] = data if isinstance(data, bytes) else stack.enter_context(open_regular(data))
            size = len(data) if isinstance(data, bytes) else data.stat().st_size
            digest = hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else sha256_file(data)
            with self._ask("PUT", name, {"Content-Length": str(size)}, body=body, digest=digest) as answer:
                if answer.status not in (200, 201, 204):
                    raise self._refused("PUT", name, answer)

    def create(self, name: str, data: bytes) -> bool:
        """PUT an object if there is none, and look whose it is: not every server knows the condition."""
        if self.read(name) is not None:
            return False
        headers = {"Content-Length": str(len(data)), "If-None-Match": "*"}
        with self._ask("PUT", name, headers, body=data, digest=hashlib.sha256(data).hexdigest()) as answer:
            if answer.status in (409, 412):
                return False
            if answer.status not in (200, 201, 204):
                raise self._refused("PUT", name, answer)
        return self.read(name) == data

    def read(self, name: str) -> bytes | None:
        """GET a small object."""
        with self._ask("GET", name, {}) as answer:
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise self._refused("GET", name, answer)
            return answer.read(MAX_TEXT + 1)

    @contextlib.contextmanager
    def stream(self, name: str, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """GET an object from ``start`` on, or whole from a server that knows no ranges."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._ask("GET", name, headers) as answer:
            if answer.status not in (200, 206):
                raise self._refused("GET", name, answer)
            # Some servers answer a range by 200: what counts is which bytes they say come.
            range_sent = re.match(r"bytes (\d{1,15})-", answer.headers.get("Content-Range") or "")
            begins = int(range_sent[1]) if range_sent is not None else 0
            if begins not in (0, start) or (answer.status == 206 and range_sent is None):
                raise Away(f"{self.name} answers for other bytes than were asked for")
            yield begins, self._blocks(answer)

    def _blocks(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while block := answer.read1(BLOCK):
                yield block
        except (OSError, http.client.HTTPException) as error:
            raise Away(f"the connection to {self.name} broke off: {_why(error)}") from error

    @contextlib.contextmanager
    def _ask(
        self, method: str, name: str, headers: Mapping[str, str], *, body: bytes | IO[bytes] | None = None, digest: str = ""
    ) -> Iterator[http.client.HTTPResponse]:
        path = urllib.parse.quote(f"{self._base}/{name}")
        if self._tls:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=self._context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)  # type: ignore[assignment]
        with contextlib.closing(connection):
            try:
                connection.request(method, path, body=body, headers={**headers, **self._credentials(method, path, digest)})
                answer = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise Away(f"{self.name} cannot be reached: {_why(error)}") from error
            self._compare_clocks(answer)
            yield answer

    def _compare_clocks(self, answer: http.client.HTTPResponse) -> None:
        with contextlib.suppress(TypeError, ValueError):
            self.clock_offset_s = time.time() - email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()

    def _credentials(self, method: str, path: str, digest: str) -> dict[str, str]:
        """Return the headers that say who asks; ``digest`` is the SHA-256 of the body, '' without one."""
        user = os.environ.get(USER)
        if not user:
            return {}
        pair = f"{user}:{os.environ.get(PASSWORD, '')}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}

    def _refused(self, method: str, name: str, answer: http.client.HTTPResponse) -> Exception:
        what = f"{self.name} answers {method} {name} by {answer.status} {redact(answer.reason or '')}".strip()
        if answer.status in (401, 403):
            skew = "; its clock and this one differ" if abs(self.clock_offset_s or 0.0) > 900 else ""
            return Away(f"{what}: user, password or key are not accepted{skew}")
        if answer.status == 404:
            return Away(f"{what}: publish the bundle to this store")
        if answer.status in (405, 501) and method == "PUT":
            return BadInput(f"{what}: it takes no files; publish to a folder or an S3 store and copy that there")
        return Away(what)


class S3Store(HttpStore):
    """Objects of a bucket, addressed by path; every request is signed (AWS Signature Version 4)."""

    def __init__(self, uri: str) -> None:
        parts = urllib.parse.urlsplit(uri)
        settings = dict(urllib.parse.parse_qsl(parts.query))
        if not parts.path.strip("/") or set(settings) - {"region", "tls", "ca"} or settings.get("tls", "yes") not in ("yes", "no"):
            raise BadInput(f"--bundles {redact_uri(uri)} is no bucket: write {WRITTEN}")
        super().__init__(f"{'http' if settings.get('tls') == 'no' else 'https'}://{parts.netloc}{parts.path}")
        if self._tls and "ca" in settings:
            try:
                self._context = ssl.create_default_context(cafile=settings["ca"])
            except OSError as error:
                raise BadInput(f"--bundles: the file ca={settings['ca']} cannot be used: {error}; name a PEM file") from error
        self._region = settings.get("region", "us-east-1")
        self._authority = parts.netloc
        self.name = f"s3://{parts.netloc}{self._base}"

    def _credentials(self, method: str, path: str, digest: str) -> dict[str, str]:
        key = next((os.environ[name] for name in S3_KEY if os.environ.get(name)), None)
        secret = next((os.environ[name] for name in S3_SECRET if os.environ.get(name)), None)
        if key is None or secret is None:
            raise BadInput(f"{self.name} asks for a key: set {S3_KEY[0]} and {S3_SECRET[0]} in the environment")
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        headers = {
            "host": self._authority,
            "x-amz-content-sha256": digest or hashlib.sha256(b"").hexdigest(),
            "x-amz-date": stamp,
        }
        authorization = sigv4(method, path, headers, key=key, secret=secret, region=self._region)
        return {**headers, "Authorization": authorization}


def sigv4(method: str, path: str, headers: Mapping[str, str], *, key: str, secret: str, region: str) -> str:
    """Return the ``Authorization`` of a request to S3 without a query; ``headers`` (lower case) are all that are signed, among
    them host, x-amz-date and x-amz-content-sha256.
    """
    names = sorted(headers)
    stamp, signed = headers["x-amz-date"], ";".join(names)
    canonical = "\n".join(
        [method, path, "", *(f"{name}:{headers[name].strip()}" for name in names), "", signed, headers["x-amz-content-sha256"]]
    )
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    derived = f"AWS4{secret}".encode()
    for part in (stamp[:8], region, "s3", "aws4_request", text):
        derived = hmac.new(derived, part.encode(), hashlib.sha256).digest()
    return f"AWS4-HMAC-SHA256 Credential={key}/{scope},SignedHeaders={signed},Signature={derived.hex()}"


def download(
    store: ObjectStore,
    name: str,
    target: Path,
    *,
    size: int,
    sha256: str,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Bring an object to ``target``, whole and with this hash, from where an earlier download of it broke off.

    ``progress`` gets the share that is there and may raise to stop. Away where the store cannot be reached or the
    connection breaks (what came stays for the next try), DeviceFault where the disk is too small, BadInput for other bytes
    than were signed.
    """
    partial = target.with_name(f"{target.name}.part")
    if target.is_file() and target.stat().st_size == size and sha256_file(target) == sha256:
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
        _check_space(target.parent, size, have)
        if have < size:
            _fetch(store, name, partial, have if have <= size else 0, size=size, progress=progress)
        if have and sha256_file(partial) != sha256:  # what came earlier may be of another object: once more from the start
            partial.unlink()
            _fetch(store, name, partial, 0, size=size, progress=progress)
        if sha256_file(partial) != sha256:
            partial.unlink()
            raise BadInput(f"{name} in {store.name} has other bytes than were signed: publish it again")
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise DeviceFault(f"the bundle cannot be stored in {target.parent}: {error.strerror}; make room") from error


def _fetch(
    store: ObjectStore, name: str, partial: Path, start: int, *, size: int, progress: Callable[[float], None]
) -> None:
    with store.stream(name, start) as (begins, blocks), partial.open("r+b" if partial.exists() else "w+b") as file:
        file.seek(begins)
        file.truncate()
        have = begins
        try:
            for block in blocks:
                have += len(block)
                if have > size:
                    file.truncate(0)
                    raise BadInput(f"{name} in {store.name} is longer than the {size} bytes that were signed: publish it again")
                file.write(block)
                progress(have / size)
        finally:
            file.flush()
            os.fsync(file.fileno())
    if have < size:
        raise Away(f"{store.name} sent {have} of {size} bytes of {name}; the rest is asked for again")


def _check_space(folder: Path, size: int, have: int) -> None:
    needed = size * (1 + ENGINES_FACTOR) - have + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DeviceFault(
            f"the disk is too small: the bundle and its engines need {needed / 2**20:.0f} MiB in {folder}, and "
            f"{free / 2**20:.0f} MiB are free; make room"
        )


def _why(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return redact(" ".join(text.split()))[:200]
