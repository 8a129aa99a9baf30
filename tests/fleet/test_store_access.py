"""Stores: a folder, a web server and a real object store are asked for the same, and a broken one harms nothing."""

from __future__ import annotations

import errno
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.fleet.store_access import Away, ObjectStore, download, open_store, sigv4
from tests.fixtures.file_server import FileServer
from tests.fixtures.s3_server import KEY, SECRET, S3Server, s3_missing

DATA = random.Random(0).randbytes(600_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
NAME = "bundles/one.edgead"
NO_S3 = pytest.mark.skipif(s3_missing() is not None, reason=s3_missing() or "")


@pytest.fixture(params=["folder", "http", pytest.param("s3", marks=NO_S3)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    if request.param == "folder":
        (tmp_path / "bundles-folder").mkdir()
        yield open_store(str(tmp_path / "bundles-folder"))
        return
    monkeypatch.setenv("EDGE_AD_S3_KEY", KEY)
    monkeypatch.setenv("EDGE_AD_S3_SECRET", SECRET)
    server = FileServer(tmp_path / "http") if request.param == "http" else S3Server(tmp_path / "s3")
    try:
        yield open_store(server.uri if isinstance(server, FileServer) else server.uri())
    finally:
        server.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    made = FileServer(tmp_path / "http")
    (made.folder / NAME).parent.mkdir()
    (made.folder / NAME).write_bytes(DATA)
    yield made
    made.stop()


def fetch(store: ObjectStore, target: Path, size: int = len(DATA), sha256: str = SHA256) -> bytes:
    download(store, NAME, target, size=size, sha256=sha256)
    return target.read_bytes()


def test_objects_come_back_and_a_download_goes_on_where_it_broke_off(store: ObjectStore, tmp_path: Path) -> None:
    assert store.read("releases/000001.json") is None
    assert store.create("releases/000001.json", b"first")
    assert not store.create("releases/000001.json", b"second")
    assert store.read("releases/000001.json") == b"first"
    file = tmp_path / "file"
    file.write_bytes(DATA)
    store.put(NAME, file)
    assert fetch(store, tmp_path / "a" / "one.edgead") == DATA
    partial = tmp_path / "b" / "one.edgead.part"
    partial.parent.mkdir()
    partial.write_bytes(DATA[:250_000])
    assert fetch(store, tmp_path / "b" / "one.edgead") == DATA
    assert not partial.exists()


def test_only_the_rest_is_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    server.breaks_after = 300_000
    with pytest.raises(Away, match="broke off|the rest is asked for again"):
        fetch(open_store(server.uri), tmp_path / "one.edgead")
    have = (tmp_path / "one.edgead.part").stat().st_size
    assert 0 < have <= 300_000
    assert fetch(open_store(server.uri), tmp_path / "one.edgead") == DATA
    assert server.served[NAME] <= len(DATA) + 300_000 - have


def test_a_server_without_ranges_sends_all_again(server: FileServer, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "one.edgead.part").write_bytes(b"x" * 1000)
    assert fetch(open_store(server.uri), tmp_path / "one.edgead") == DATA


@pytest.mark.parametrize(
    ("size", "sha256", "words"),
    [
        (len(DATA), "0" * 64, "other bytes than were signed"),
        (len(DATA) - 1, SHA256, "longer than the 599999 bytes that were signed"),
        (len(DATA) + 1, SHA256, "sent 600000 of 600001 bytes"),
    ],
)
def test_other_bytes_than_were_signed_are_never_kept(
    size: int, sha256: str, words: str, server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises((BadInput, Away), match=words):
        fetch(open_store(server.uri), tmp_path / "one.edgead", size, sha256)
    assert not (tmp_path / "one.edgead").exists()


@pytest.mark.parametrize("length", [1000, len(DATA), len(DATA) + 1])
def test_bytes_of_an_earlier_download_that_are_wrong_are_brought_anew(length: int, server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "one.edgead.part").write_bytes(b"x" * length)
    assert fetch(open_store(server.uri), tmp_path / "one.edgead") == DATA


def test_a_disk_without_room_is_reported_before_anything_is_brought(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DeviceFault, match="the disk is too small: the bundle and its engines need"):
        fetch(open_store(server.uri), tmp_path / "one.edgead", size=10**15)
    assert NAME not in server.served


@pytest.mark.parametrize(("status", "words"), [(403, "are not accepted"), (404, "publish the bundle"), (500, "by 500")])
def test_a_store_that_refuses_is_reported_in_a_sentence(status: int, words: str, server: FileServer, tmp_path: Path) -> None:
    server.status = status
    with pytest.raises(Away, match=words):
        fetch(open_store(server.uri), tmp_path / "one.edgead")


def test_a_store_that_is_away_is_worth_another_try(tmp_path: Path) -> None:
    for uri in ("http://127.0.0.1:1/fleet", str(tmp_path / "unmounted")):
        with pytest.raises(Away, match="cannot be reached|is not there"):
            open_store(uri).read("releases/000001.json")


def test_the_clock_of_the_store_is_compared_with_this_one(server: FileServer) -> None:
    server.ahead_s = 365 * 86_400.0
    store = open_store(server.uri)
    store.read("releases/000001.json")
    assert store.clock_offset_s == pytest.approx(-server.ahead_s, abs=60)


@NO_S3
def test_an_object_store_refuses_a_wrong_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AD_S3_KEY", KEY)
    monkeypatch.setenv("EDGE_AD_S3_SECRET", "wrong")
    server = S3Server(tmp_path / "s3")
    try:
        with pytest.raises(Away, match="are not accepted"):
            open_store(server.uri()).read("releases/000001.json")
    finally:
        server.stop()


def test_a_request_is_signed_as_amazon_s_own_example() -> None:
    """The GET of "Authenticating Requests: Using the Authorization Header", Amazon S3 API Reference."""
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "range": "bytes=0-9",
        "x-amz-content-sha256": hashlib.sha256(b"").hexdigest(),
        "x-amz-date": "20130524T000000Z",
    }
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    signed = sigv4("GET", "/test.txt", headers, key="AKIAIOSFODNN7EXAMPLE", secret=secret, region="us-east-1")
    assert signed.endswith("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", "is empty"),
        ("ftp://host/folder", "there is no store ftp://"),
        ("https://user:password@host/folder", "a password does not belong in an address"),
        ("https://host/folder?x=1", "is no address of a folder"),
        ("s3://host", "is no bucket"),
        ("s3://host/bucket?tls=maybe", "is no bucket"),
        ("s3://host/bucket?ca=/nowhere.pem", "cannot be used"),
    ],
)
def test_an_address_that_is_none_is_refused(uri: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        open_store(uri)
    assert "password@" not in str(caught.value).replace("a password does not", "")


def test_a_disk_that_fills_up_is_not_reported_as_a_store_that_cannot_be_read(store: ObjectStore, tmp_path: Path) -> None:
    store.put(NAME, DATA)

    def fill(share: float) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DeviceFault, match="cannot be stored in .*No space left on device; make room"):
        download(store, NAME, tmp_path / "a" / "one.edgead", size=len(DATA), sha256=SHA256, progress=fill)
    assert not list((tmp_path / "a").iterdir()), "nothing of it takes the room that is short"
