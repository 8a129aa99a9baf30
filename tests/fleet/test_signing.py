"""Signed texts: who is trusted, what is refused and in which words, and how the private key lies on the disk."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_ad.errors import BadInput
from edge_ad.fleet.signing import PASSPHRASE, SigningKey, make_key, parse_trusted, read_key, verify

RECORD = {"schema": 1, "text": "ä", "number": 3}


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return make_key(tmp_path / "anna.key")


def test_a_record_comes_back_with_the_name_that_the_station_gave_the_key(key: SigningKey) -> None:
    trusted = parse_trusted([str(key.public).replace("anna:", "line-engineer:")])
    assert verify("release", key.sign("release", RECORD), trusted) == (RECORD, "line-engineer")


def changed(text: str, **values: object) -> str:
    return json.dumps({**json.loads(text), **values})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: "no JSON", "is not signed"),
        (lambda text: "[1]", "is not signed"),
        (lambda text: json.dumps(RECORD), "is not signed"),
        (lambda text: changed(text, signature=None), "is not signed"),
        (lambda text: changed(text, key="0123456789abcdef"), "unknown key '0123456789abcdef'; trusted here: anna"),
        (lambda text: changed(text, body='{"number":4}'), "was changed after anna signed it"),
        (lambda text: changed(text, signature="!"), "was changed after anna signed it"),
        (lambda text: changed(text, signature="AAAA"), "was changed after anna signed it"),
        (lambda text: text + " " * 70_000, "longer than the 65536 bytes"),
    ],
)
def test_what_is_not_trusted_is_refused_in_a_sentence(spoil: Callable[[str], str], words: str, key: SigningKey) -> None:
    with pytest.raises(BadInput, match=words):
        verify("release", spoil(key.sign("release", RECORD)), parse_trusted([str(key.public)]))


def test_a_text_of_one_kind_does_not_pass_for_another(key: SigningKey) -> None:
    with pytest.raises(BadInput, match="the signature of the desired state is wrong"):
        verify("desired state", key.sign("release", RECORD), parse_trusted([str(key.public)]))


def test_a_key_that_is_not_named_is_not_trusted(key: SigningKey, tmp_path: Path) -> None:
    other = make_key(tmp_path / "ben.key")
    with pytest.raises(BadInput, match="unknown key"):
        verify("release", other.sign("release", RECORD), parse_trusted([str(key.public)]))


@pytest.mark.parametrize("texts", [["anna"], ["anna:AAAA"], [" :" + "A" * 43 + "="], ["a/b:" + "A" * 43 + "="]])
def test_what_is_no_public_key_is_refused(texts: list[str]) -> None:
    with pytest.raises(BadInput, match="is no public key"):
        parse_trusted(texts)


def test_two_keys_of_one_name_are_refused() -> None:
    with pytest.raises(BadInput, match="two keys are called anna"):
        parse_trusted(["anna:" + "A" * 43 + "=", "anna:" + "B" * 42 + "A="])


def test_the_private_key_is_for_its_owner_alone(key: SigningKey, tmp_path: Path) -> None:
    path = tmp_path / "anna.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path).public == key.public
    with pytest.raises(BadInput, match="is there already"):
        make_key(path)
    path.chmod(0o640)
    with pytest.raises(BadInput, match="others may read the private key"):
        read_key(path)


def test_a_passphrase_encrypts_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "a long one")
    made = make_key(tmp_path / "anna.key")
    assert b"ENCRYPTED" in (tmp_path / "anna.key").read_bytes()
    assert read_key(tmp_path / "anna.key").public == made.public
    monkeypatch.setenv(PASSPHRASE, "another one")
    with pytest.raises(BadInput, match=PASSPHRASE):
        read_key(tmp_path / "anna.key")


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff\xfe"])
def test_a_file_that_is_no_key_is_bad_input(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "anna.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadInput, match="cannot be read"):
        read_key(path)
