"""NumPy arrays and JSON as bytes and back; nothing is ever unpickled."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle.safe_zip import MEMBER_LIMIT, SafeZip, pack
from edge_ad.errors import BadInput

# The header as NumPy writes it. NumPy's own reader evaluates it as a Python literal, which can fail in many ways.
_NPY_HEADER = re.compile(
    r"\{'descr': (?:'([^']*)'|\[.*\]), 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,12}(?:, ?)?){0,8})\), \} *\n"
)
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
    """Return the named arrays in the bytes of a .npz file, each of ``limit`` bytes at most; BadInput as ``load_npy`` and
    ``SafeZip``.
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
