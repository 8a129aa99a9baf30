"""Untrusted zip files, read within bounds: every doubt is one BadInput sentence.

NumPy arrays and JSON as bytes and back; nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import math
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput

MIB = 1 << 20
MEMBER_LIMIT = 512 * MIB
TOTAL_LIMIT = 2048 * MIB
RATIO_LIMIT = 200  # deflate reaches 1,032 on zeros; weights and images stay below 20
RATIO_FREE = 16 * MIB  # up to this size any ratio is harmless
MEMBERS_LIMIT = 1000
BLOCK = MIB

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's first day: equal contents give equal bytes
_END_RECORD = struct.Struct("<4s4H2LH")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)*")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".bin")
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # zipfile's for encryption, and its child NotImplementedError for a version or method that it lacks
    OSError,
    ValueError,
    struct.error,
    OverflowError,
    MemoryError,
)


class SafeZip:
    """A zip opened for reading, its directory checked; ``source`` is named in every error."""

    def __init__(self, stream: IO[bytes], source: str) -> None:
        self._source = source
        self._total = 0
        _check_ends(stream, source)
        with damage(source):
            self._zip = zipfile.ZipFile(stream)
            infos = self._zip.infolist()
        if len(infos) > MEMBERS_LIMIT:
            raise BadInput(
                f"{source} has {len(infos)} members, but {MEMBERS_LIMIT} are allowed; it is not a bundle of edge-ad"
            )
        for info in infos:
            _check_entry(info, source)
        self.names = tuple(info.filename for info in infos)
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise BadInput(f"{source} has two members named {repeated[0]!r}; each name is allowed once")

    def blocks(self, name: str, limit: int = MEMBER_LIMIT) -> Iterator[bytes]:
        """Yield a member in blocks; BadInput when more comes out than the limits allow, whatever the headers say."""
        info = self._zip.getinfo(name)
        limit = min(limit, MEMBER_LIMIT)
        size = 0
        with damage(f"{self._source}: member {name!r}"), self._zip.open(info) as member:
            while block := member.read(BLOCK):
                size += len(block)
                self._total += len(block)
                self._check_size(name, size, limit, info.compress_size)
                yield block

    def read(self, name: str, limit: int = MEMBER_LIMIT) -> bytes:
        """Return a whole member."""
        return b"".join(self.blocks(name, limit))

    def _check_size(self, name: str, size: int, limit: int, packed: int) -> None:
        where = f"{self._source}: member {name!r}"
        if size > limit:
            raise BadInput(f"{where} is larger than the {limit // MIB} MiB allowed; it is refused as a size bomb")
        if self._total > TOTAL_LIMIT:
            raise BadInput(
                f"{self._source} unpacks to more than the {TOTAL_LIMIT // MIB} MiB allowed; it is refused as "
                "a size bomb"
            )
        if size > RATIO_FREE and size > RATIO_LIMIT * packed:
            raise BadInput(f"{where} unpacks to over {RATIO_LIMIT} times its packed size; it is refused as a size bomb")


@contextmanager
def damage(where: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise BadInput(f"{where} is damaged ({error or type(error).__name__}); copy or train it again") from error


def _check_ends(stream: IO[bytes], source: str) -> None:
    """A bundle starts with a member and ends with the directory's end record, so a cut or padded file is noticed."""
    with damage(source):
        head = stream.read(4)
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - _END_RECORD.size))
        tail = stream.read(_END_RECORD.size)
        stream.seek(0)
    if head != b"PK\x03\x04":
        raise BadInput(
            f"{source} is not a zip file, so it is no bundle; give a file that `edge-ad train` wrote (*.edgead)"
        )
    if size > TOTAL_LIMIT:
        raise BadInput(f"{source} has {size // MIB} MiB, but {TOTAL_LIMIT // MIB} MiB are allowed")
    if len(tail) < _END_RECORD.size or not tail.startswith(b"PK\x05\x06"):
        raise BadInput(f"{source} is cut short or has bytes after its end; copy it again and compare its size")
    *_, length, start, comment = _END_RECORD.unpack(tail)
    if comment or start + length + _END_RECORD.size != size:
        raise BadInput(f"{source} is damaged: its directory does not end where the file does; copy it again")


def _check_entry(info: zipfile.ZipInfo, source: str) -> None:
    name = info.orig_filename
    if not _SAFE_NAME.fullmatch(name) or any(part in (".", "..") for part in name.split("/")):
        raise BadInput(f"{source} has a member with the unsafe path {name!r}; it is refused")
    if PurePath(name).suffix.lower() in _PICKLES:
        raise BadInput(
            f"{source} has the member {name!r}, which may hold a pickle; pickles are refused because they can run code"
        )
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise BadInput(
            f"{source} has the member {name!r}, which is a link or special file; only plain files are allowed"
        )
    if info.flag_bits & 1:
        raise BadInput(f"{source} has the encrypted member {name!r}; a bundle is not encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(
            f"{source}: member {name!r} is packed by method {info.compress_type}; only stored and deflate are allowed"
        )
    if info.file_size > MEMBER_LIMIT:
        raise BadInput(
            f"{source}: member {name!r} says it has {info.file_size // MIB} MiB, but {MEMBER_LIMIT // MIB} "
            "MiB are allowed; "
            "it is refused as a size bomb"
        )


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return a zip of stored ``members``, with fixed dates: equal members in equal order give equal bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return stream.getvalue()


# The header as NumPy writes it. NumPy's own reader evaluates it as a Python literal, which can fail in many ways.
_NPY_HEADER = re.compile(
    r"\{'descr': (?:'([^']*)'|\[.*\]), 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,12}(?:, ?)?){0,8})\), \} *\n"
)
_VALUES = "values"
_NPY_TYPES = ("|u1", "|i1", "|b1", "<i4", "<i8", "<f4", "<f8")


def dump_npy(array: NDArray[Any]) -> bytes:
    """Return ``array`` as the bytes of a .npy file; object arrays are refused."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def load_npy(data: bytes, where: str) -> NDArray[Any]:
    """Return the array in the bytes of a .npy file; object arrays, other formats and wrong lengths raise BadInput."""
    start = 10 + int.from_bytes(data[8:10], "little")
    header = _NPY_HEADER.fullmatch(data[10:start].decode("latin-1"))
    if data[:8] != b"\x93NUMPY\x01\x00" or not header:
        raise BadInput(f"{where} is damaged: it is no array of plain numbers (NumPy 1.0); train the bundle again")
    code, order, lengths = header.groups()
    if code == "|O":
        raise BadInput(f"{where} holds Python objects (a pickle); pickles are refused because they can run code")
    if code not in _NPY_TYPES or order != "False":
        raise BadInput(f"{where} must hold plain numbers in row order, but holds {code!r:.20}; train the bundle again")
    dtype, shape = np.dtype(code), tuple(int(length) for length in lengths.split(",") if length.strip())
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise BadInput(f"{where} is damaged: its header promises {list(shape)} numbers, but its length does not match")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).copy()


def dump_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return named arrays as the bytes of a .npz file, the same bytes for the same arrays."""
    return pack({f"{name}.npy": dump_npy(array) for name, array in arrays.items()})


def load_npz(data: bytes, where: str, limit: int = MEMBER_LIMIT) -> dict[str, NDArray[Any]]:
    """Return the named arrays in the bytes of a .npz file, each of ``limit`` bytes at most; BadInput as ``load_npy``
    and ``SafeZip``.
    """
    archive = SafeZip(io.BytesIO(data), where)
    strange = [name for name in archive.names if not name.endswith(".npy") or "/" in name]
    if strange:
        raise BadInput(f"{where} has the member {strange[0]!r}; only arrays (*.npy) are allowed in it")
    return {name[: -len(".npy")]: load_npy(archive.read(name, limit), f"{where}: {name}") for name in archive.names}


def dump_json(value: Mapping[str, Any], where: str) -> bytes:
    """Return ``value`` as readable JSON; NumPy values become plain, NaN and unknown types raise BadInput."""
    try:
        return (json.dumps(value, indent=1, allow_nan=False, default=_plain) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{where} cannot be written as JSON ({error}); only finite numbers, text, lists and objects can"
        ) from error


def load_json(data: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in ``data``; anything else, NaN or a key given twice raises BadInput."""
    try:
        value = json.loads(
            data.decode(), parse_constant=_refuse_constant, parse_int=_short_int, object_pairs_hook=_single_keys
        )
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not valid JSON ({error}); copy or train the bundle again") from error
    if not isinstance(value, dict):
        raise BadInput(f"{where} must be a JSON object, but is a {type(value).__name__}")
    return value


def dump_state(values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], where: str) -> bytes:
    """Return plain values and named arrays as one .npz file, the same bytes for the same state."""
    return dump_npz({**arrays, _VALUES: np.frombuffer(dump_json(values, where), np.uint8)})


def load_state(data: bytes, where: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what ``dump_state`` was given; BadInput where the bytes are anything else."""
    try:
        arrays = load_npz(data, where)
        if _VALUES not in arrays:
            raise BadInput("it has no values")
        return load_json(arrays.pop(_VALUES).tobytes(), where), arrays
    except BadInput as error:
        raise BadInput(f"{where} cannot be read ({error}): train again, or use an undamaged bundle") from error


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _short_int(digits: str) -> int:
    """Refuse whole numbers that fit into no 64 bits: they become no float either."""
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _single_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice")
    return value
