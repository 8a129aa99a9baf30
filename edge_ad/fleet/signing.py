"""Ed25519 keys of a fleet, and texts signed by them; a station trusts the public keys that its settings name, and no other.

A signed text is JSON: the body as it was signed, the fingerprint of the key, and the signature. What is signed is the body
behind its kind, so that a release cannot pass for a desired state.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_ad.errors import BadInput, require
from edge_ad.utils.files import sync_folder, write_private
from edge_ad.utils.text import storable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_TEXT = 65_536  # bytes of a signed text
PASSPHRASE = "EDGE_AD_FLEET_PASSPHRASE"
EXAMPLE = "anna:BASE64, as `edge-ad fleet key` prints it"
_TRUSTED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63}):([A-Za-z0-9+/]{43}=)", re.ASCII)


@dataclass(frozen=True)
class PublicKey:
    """A public key of 32 bytes and the name that its owner goes by on a station."""

    name: str
    raw: bytes

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the key's SHA-256."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.name}:{base64.b64encode(self.raw).decode()}"


Trusted = Mapping[str, PublicKey]  # by fingerprint


def parse_trusted(texts: Sequence[str]) -> dict[str, PublicKey]:
    """Return the keys of ``NAME:BASE64`` texts by fingerprint; BadInput for anything else, and for two keys of one name."""
    keys: dict[str, PublicKey] = {}
    for text in texts:
        match = _TRUSTED.fullmatch(text.strip())
        if match is None:
            raise BadInput(f"[fleet] trusted_keys: {text!r:.80} is no public key: write {EXAMPLE}")
        key = PublicKey(match[1], base64.b64decode(match[2]))
        if any(other.name == key.name and other.raw != key.raw for other in keys.values()):
            raise BadInput(f"[fleet] trusted_keys: two keys are called {key.name}: give each key a name of its own")
        keys[key.fingerprint] = key
    return keys


class SigningKey:
    """A private key and the name it signs under."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicKey(name, private.public_key().public_bytes_raw())

    def sign(self, kind: str, record: Mapping[str, Any]) -> str:
        """Return a record as a signed text of this kind."""
        body = json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        signature = base64.b64encode(self._private.sign(_signed_bytes(kind, body))).decode()
        return json.dumps({"body": body, "key": self.public.fingerprint, "signature": signature})


def make_key(path: Path) -> SigningKey:
    """Make a key pair, write the private half to ``path``, which only its owner may read, and return it; BadInput where a
    file is there already. A passphrase in the environment encrypts it.
    """
    ed25519, serialization = _cryptography()
    private = ed25519.Ed25519PrivateKey.generate()
    passphrase = os.environ.get(PASSPHRASE, "").encode()
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}; choose a folder that can be written") from error
    try:
        write_private(path, pem)
    except FileExistsError as error:
        raise BadInput(f"{path} is there already: a new key would lock out all who trust the old one; name another file") from error
    except OSError as error:
        raise BadInput(f"the key {path} cannot be written: {error.strerror}; make room") from error
    sync_folder(path.parent)
    return SigningKey(_name_of(path), private)


def read_key(path: Path) -> SigningKey:
    """Read a private key; BadInput for one that others may read, that needs another passphrase, or that is no Ed25519 key."""
    ed25519, serialization = _cryptography()
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read the key {path}: {error.strerror}; `edge-ad fleet key` makes one, --key names it") from error
    if mode & 0o077:
        raise BadInput(f"others may read the private key {path}: chmod 600 {path}, and make a new one if they may have done so")
    try:
        private = serialization.load_pem_private_key(data, os.environ.get(PASSPHRASE, "").encode() or None)
    except (ValueError, TypeError) as error:
        raise BadInput(f"the key {path} cannot be read ({error}); if it has a passphrase, set {PASSPHRASE}") from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise BadInput(f"{path} is no Ed25519 key: make one by `edge-ad fleet key`")
    return SigningKey(_name_of(path), private)


def verify(kind: str, text: str | bytes, trusted: Trusted) -> tuple[dict[str, Any], str]:
    """Return the record of a signed text and the name of the key that signed it; BadInput, in one sentence, for any other."""
    what = kind.replace("-", " ")
    envelope = _envelope(what, text)
    if not isinstance(envelope.get("signature"), str):
        raise BadInput(f"the {what} is not signed: publish it by `edge-ad fleet`")
    key = trusted.get(str(envelope.get("key")))
    if key is None:
        known = ", ".join(sorted(one.name for one in trusted.values())) or "none"
        raise BadInput(
            f"the {what} is signed by the unknown key {storable(str(envelope.get('key')), 20)!r}; trusted here: {known} "
            "(trusted_keys of [fleet])"
        )
    body = str(envelope.get("body"))
    try:
        signature = base64.b64decode(envelope["signature"], validate=True)
        _verifier(key).verify(signature, _signed_bytes(kind, body))
        record = json.loads(body)
    except (binascii.Error, ValueError, RecursionError, _invalid_signature()) as error:
        raise BadInput(f"the signature of the {what} is wrong: it was changed after {key.name} signed it; publish anew") from error
    if not isinstance(record, dict):
        raise BadInput(f"the {what} is no record: publish it by `edge-ad fleet`")
    return record, key.name


def _envelope(what: str, text: str | bytes) -> dict[str, Any]:
    if len(text) > MAX_TEXT:
        raise BadInput(f"the {what} is longer than the {MAX_TEXT} bytes allowed: publish it by `edge-ad fleet`")
    try:
        envelope = json.loads(text)
    except (ValueError, RecursionError):
        envelope = None
    if not isinstance(envelope, dict):
        raise BadInput(f"the {what} is not signed: it is no text of `edge-ad fleet`")
    return envelope


def _signed_bytes(kind: str, body: str) -> bytes:
    return f"edge-ad {kind} 1\n{body}".encode("utf-8", "surrogatepass")


def _name_of(path: Path) -> str:
    """Return the name of a key: that of its file, made fit."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem).lstrip("-._")[:64] or "key"


def _cryptography() -> tuple[Any, Any]:
    require("cryptography", extra="fleet", needed_by="edge-ad fleet")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519, serialization


def _verifier(key: PublicKey) -> Any:
    return _cryptography()[0].Ed25519PublicKey.from_public_bytes(key.raw)


def _invalid_signature() -> type[Exception]:
    from cryptography.exceptions import InvalidSignature

    return InvalidSignature
