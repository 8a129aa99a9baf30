"""Every way to spoil a bundle gives one sentence."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_ad.bundle import open_bundle, safe_zip
from edge_ad.bundle.file import check_operators
from edge_ad.errors import BadInput
from edge_ad.scoring import BRANCHES
from edge_ad.utils.files import sha256_bytes
from tests.fixtures.plain_bundle import make_plain_bundle, plain_contents


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_plain_bundle(tmp_path_factory.mktemp("bundle") / "tray.edgead")


# Spoiling a bundle: each takes the members and the manifest apart, changes one thing and packs them again.

Members = dict[str, bytes]


def unpack(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rehash(members: Members, /, **manifest_changes: Any) -> Members:
    """Give every member its right hash again, as a forger would."""
    manifest = json.loads(members["manifest.json"])
    others = {name: data for name, data in members.items() if name != "manifest.json"}
    manifest["members"] = {name: {"sha256": sha256_bytes(data), "bytes": len(data)} for name, data in others.items()}
    manifest = {**manifest, **manifest_changes}
    return {"manifest.json": json.dumps({k: v for k, v in manifest.items() if v != "gone"}).encode(), **others}


def npy(array: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npz(**arrays: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def statistics(**changes: NDArray[Any]) -> bytes:
    return npz(**{**plain_contents().statistics.arrays(), **changes})


def swapped(name: str, data: bytes) -> Callable[[Members], Members]:
    return lambda members: rehash({**members, name: data})


def manifest(**changes: Any) -> Callable[[Members], Members]:
    return lambda members: rehash(members, **changes)


def raw_manifest(text: str | bytes) -> Callable[[Members], Members]:
    data = text.encode() if isinstance(text, str) else text
    return lambda members: {**members, "manifest.json": data}


def without(name: str) -> Callable[[Members], Members]:
    return lambda members: {key: data for key, data in members.items() if key != name}


FLOAT32 = np.float32
HOLLOW = npy(np.zeros(3, np.float32))[:-4]  # promises more numbers than follow

CELLS = np.ones((1, 2, 3), FLOAT32)
REFUSED: list[tuple[str, Callable[[Members], Members], str]] = [
    ("no manifest", without("manifest.json"), "has no manifest.json"),
    ("bad JSON", raw_manifest("{'a': 1}"), "manifest.json is not valid JSON"),
    ("not UTF-8", raw_manifest(b'{"a": "\xff"}'), "not valid JSON"),
    ("NaN in JSON", raw_manifest('{"schema": NaN}'), "NaN is not a number in JSON"),
    ("key twice", raw_manifest('{"schema": 1, "schema": 2}'), "a key appears twice"),
    ("deep JSON", raw_manifest("[" * 100_000), "not valid JSON"),
    ("not an object", raw_manifest("[1]"), "must be a JSON object, but is a list"),
    ("large manifest", raw_manifest(b" " * (5 << 20)), "larger than the 1 MiB allowed"),
    ("other format", manifest(format="zip"), "does not say 'edge-ad bundle'"),
    ("newer schema", manifest(schema=6), "has schema 6, but this edge-ad 0.1.0 reads schemas up to 5: upgrade edge-ad"),
    ("older schema", manifest(schema=0), "train the bundle again"),
    ("odd schema", manifest(schema="1"), "'schema' must be a whole number"),
    ("field missing", manifest(parent="gone"), "lacks 'parent'"),
    ("bad name", manifest(name="../x"), "'name' must be 1 to 100 characters without slashes"),
    ("bad preset", manifest(preset=7), "'preset' must be"),
    ("bad settings", manifest(settings=[]), "'settings' must be a JSON object"),
    ("bad size", manifest(image_size=[0, 8]), "'image_size' must be [height, width]"),
    ("bad parent", manifest(parent="abc"), "'parent' must be null or a sha256"),
    ("bad branches", manifest(branches=["logic"]), "'branches' must be structure, logic"),
    ("too few branches", manifest(branches=list(BRANCHES[:4])), "of which an older bundle has the first 5"),
    ("other branches", manifest(branches=list(BRANCHES)), "the manifest lists 6 branches, but statistics.npz holds 5"),
    ("bad thresholds", manifest(thresholds={"ng": 1}), "thresholds must be a JSON object"),
    (
        "thresholds crossed",
        manifest(thresholds={**plain_contents().thresholds.to_json(), "warn": 99.0}),
        "WARN threshold 99",
    ),
    ("no list", manifest(members=[]), "'members' must be a JSON object"),
    ("bad entry", manifest(members={"masks.npy": {"sha256": "x", "bytes": 1}}), "must have a sha256"),
    ("changed member", lambda m: {**m, "report.json": b"{}"}, "'report.json' does not match its hash"),
    ("changed graph", lambda m: {**m, "graphs/lavit.onnx": b"?"}, "'graphs/lavit.onnx' does not match its hash"),
    ("listed, absent", without("graphs/lavit.onnx"), "lacks the member 'graphs/lavit.onnx'"),
    ("unlisted", lambda m: {**m, "more.txt": b"x"}, "'more.txt', which its manifest does not list"),
    ("unknown member", swapped("more.txt", b"x"), "unknown member 'more.txt'"),
    ("unknown graph", swapped("graphs/other.onnx", b"x"), "unknown member 'graphs/other.onnx'"),
    ("part missing", lambda m: rehash(without("masks.npy")(m)), "does not list 'masks.npy'"),
    ("no fusion", lambda m: rehash(without("graphs/fusion.onnx")(m)), "lacks the graph 'fusion'"),
    ("pickle by name", swapped("model.pkl", pickle.dumps(1)), "may hold a pickle"),
    ("torch by name", swapped("graphs/teacher.pt", b"x"), "may hold a pickle"),
    ("pickle as array", swapped("masks.npy", pickle.dumps([1])), "masks.npy is damaged"),
    ("object array", swapped("masks.npy", npy(np.array([{}]))), "holds Python objects (a pickle)"),
    ("object in npz", swapped("statistics.npz", statistics(mean=np.array([{}] * 5))), "holds Python objects"),
    ("text array", swapped("masks.npy", npy(np.array([["a"]]))), "must hold plain numbers"),
    ("column order", swapped("masks.npy", npy(np.asfortranarray(np.eye(2, 4)))), "in row order"),
    ("hollow array", swapped("masks.npy", HOLLOW), "its length does not match"),
    ("torn header", swapped("masks.npy", HOLLOW.replace(b"(3,)", b"(3,(")), "masks.npy is damaged"),
    ("huge", swapped("masks.npy", HOLLOW.replace(b"(3,), }      ", b"(9999999,), }")), "header promises [9999999]"),
    ("structured", swapped("masks.npy", npy(np.zeros(2, [("a", "f4")]))), "must hold plain numbers"),
    ("mask values", swapped("masks.npy", npy(np.full((2, 4), 0.5, FLOAT32))), "must hold only 0 and 1"),
    ("mask dtype", swapped("masks.npy", npy(np.eye(2, 4))), "masks.npy is float64, but must be float32"),
    ("mask shape", swapped("masks.npy", npy(np.zeros(4, FLOAT32))), "masks.npy has shape [4]"),
    ("statistics names", swapped("statistics.npz", npz(mean=np.zeros(5, FLOAT32))), "exactly quantiles"),
    ("statistics dtype", swapped("statistics.npz", statistics(mean=np.zeros(5))), "float64, but must be float32"),
    ("statistics shape", swapped("statistics.npz", statistics(std=np.ones(4, FLOAT32))), "statistics 'std'"),
    ("raw shape", swapped("raw_scores.npz", npz(normalise=np.zeros((3, 4), FLOAT32))), "shape [3, 4]"),
    ("npz of others", swapped("raw_scores.npz", safe_zip.pack({"a.txt": b"x"})), "only arrays (*.npy)"),
    ("no npz", swapped("raw_scores.npz", b"PK"), "raw_scores.npz is not a zip file"),
    ("golden names", swapped("golden.npz", npz(images=np.zeros((1, 8, 6, 3), np.uint8))), "'images' and 'raw'"),
    (
        "golden size",
        swapped("golden.npz", npz(images=np.zeros((1, 8, 8, 3), np.uint8), raw=np.zeros((1, 5), FLOAT32))),
        "golden.npz: images has shape [1, 8, 8, 3], but must have [any, 8, 6, 3]",
    ),
    (
        "golden count",
        swapped("golden.npz", npz(images=np.zeros((1, 8, 6, 3), np.uint8), raw=np.zeros((2, 5), FLOAT32))),
        "golden.npz: raw has shape [2, 5], but must have [1, 5]",
    ),
    (
        "golden empty",
        swapped("golden.npz", npz(images=np.zeros((0, 8, 6, 3), np.uint8), raw=np.zeros((0, 5), FLOAT32))),
        "golden.npz holds no images",
    ),
    ("references of others", swapped("references.npz", npz(bank=CELLS)), "references hold 'bank', but may hold only memory_bank"),
    ("half a reference", swapped("references.npz", npz(memory_bank=CELLS)), "one of 'memory_bank' and 'memory_norms'"),
    ("reference dtype", swapped("references.npz", npz(memory_bank=np.ones((1, 2, 3)))), "float64, but must be float32"),
    ("reference rank", swapped("references.npz", npz(cell_mean=CELLS, cell_std=CELLS)), "must have 1 dimensions above 0"),
    (
        "reference shape",
        swapped("references.npz", npz(memory_bank=CELLS, memory_norms=CELLS)),
        "'memory_norms' has shape [1, 2, 3], but 'memory_bank' of shape [1, 2, 3] needs [1, 2, 1]",
    ),
    (
        "reference not finite",
        swapped("references.npz", npz(cell_mean=np.full(4, np.nan, FLOAT32), cell_std=np.ones(4, FLOAT32))),
        "references 'cell_mean' holds a value that is not finite",
    ),
    (
        "deviation of 0",
        swapped("references.npz", npz(cell_mean=np.ones(4, FLOAT32), cell_std=np.zeros(4, FLOAT32))),
        "references 'cell_std' must be above 0, but its least value is 0",
    ),
    ("report", swapped("report.json", b"[]"), "report.json must be a JSON object"),
    ("absolute path", swapped("/etc/x", b""), "unsafe path '/etc/x'"),
    ("path escape", swapped("graphs/../../x", b""), "unsafe path"),
    ("backslash", swapped("graphs\\x", b""), "unsafe path"),
    ("drive", swapped("C:x", b""), "unsafe path"),
    ("folder", swapped("graphs/", b""), "unsafe path"),
]


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        open_bundle(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_spoilt_bundles_are_refused(
    change: Callable[[Members], Members], message: str, path: Path, tmp_path: Path
) -> None:
    spoilt = tmp_path / "b.edgead"
    spoilt.write_bytes(safe_zip.pack(change(unpack(path))))
    assert message in refusal(spoilt)


def test_files_that_are_no_zip_or_cut_short(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    table = [
        (b"", "is not a zip file"),
        (b"hello", "is not a zip file"),
        (b"x" + whole, "is not a zip file"),
        (whole[:-1], "is cut short"),
        (whole[: len(whole) // 2], "is cut short"),
        (whole + b"x", "is cut short or has bytes after its end"),
        (whole[:40] + whole[41:], "its directory does not end where the file does"),
    ]
    spoilt = tmp_path / "b.edgead"
    for data, message in table:
        spoilt.write_bytes(data)
        assert message in refusal(spoilt)
    assert "No such file" in refusal(tmp_path / "none.edgead")
    assert "cannot read the bundle" in refusal(tmp_path)


def add(path: Path, target: Path, info: zipfile.ZipInfo, data: bytes) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for name, member in unpack(path).items():
            archive.writestr(name, member)
        archive.writestr(info, data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_odd_entries_are_refused(path: Path, tmp_path: Path) -> None:
    link, lzma, newer = (zipfile.ZipInfo(name) for name in ("link", "packed", "newer"))
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    lzma.compress_type = zipfile.ZIP_LZMA
    newer.extract_version = 99
    table = [
        (link, "is a link or special file"),
        (lzma, "packed by method 14"),
        (newer, "is damaged (zip file version 9.9)"),
        (zipfile.ZipInfo("masks.npy"), "two members named 'masks.npy'"),
    ]
    for info, message in table:
        add(path, tmp_path / "b.edgead", info, b"target")
        assert message in refusal(tmp_path / "b.edgead")


def deflated(path: Path, target: Path, name: str, data: bytes) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, held in rehash({**unpack(path), name: data}).items():
            archive.writestr(member, held)


def test_size_bombs_are_refused_while_unpacking(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "b.edgead"
    deflated(path, bomb, "graphs/lavit.onnx", bytes(40 << 20))
    assert bomb.stat().st_size < 1 << 20
    assert "over 200 times its packed size" in refusal(bomb)
    monkeypatch.setattr(safe_zip, "RATIO_LIMIT", 10_000)
    open_bundle(bomb)  # the ratio alone was at fault
    monkeypatch.setattr(safe_zip, "TOTAL_LIMIT", 39 << 20)
    assert "unpacks to more than the 39 MiB allowed" in refusal(bomb)
    monkeypatch.setattr(safe_zip, "MEMBER_LIMIT", 16 << 20)
    assert "says it has 40 MiB, but 16 MiB are allowed" in refusal(bomb)


def test_a_bomb_whose_header_lies_is_refused(path: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "b.edgead"
    deflated(path, bomb, "graphs/lavit.onnx", bytes(40 << 20))
    data = bomb.read_bytes()
    assert data.count(struct.pack("<L", 40 << 20)) == 2  # in the local header and in the directory
    bomb.write_bytes(data.replace(struct.pack("<L", 40 << 20), struct.pack("<L", 500)))
    assert "damaged" in refusal(bomb)


@pytest.mark.parametrize("value", ["1" + "0" * 400, "-1" + "0" * 400, "1" + "0" * 5000, "1e400"])
@pytest.mark.parametrize("key", ["ng", "warn", "goods"])
def test_a_threshold_without_end_is_refused(key: str, value: str, path: Path, tmp_path: Path) -> None:
    members = unpack(path)
    manifest = json.loads(members["manifest.json"])
    manifest["thresholds"][key] = "HERE"
    members["manifest.json"] = json.dumps(manifest).encode().replace(b'"HERE"', value.encode())
    spoilt = tmp_path / "b.edgead"
    spoilt.write_bytes(safe_zip.pack(members))
    refusal(spoilt)


@pytest.mark.parametrize("special", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_refused_and_not_waited_for(special: Callable[[Path], object], tmp_path: Path) -> None:
    spoilt = tmp_path / "b.edgead"
    special(spoilt)
    refusal(spoilt)


_MEMORY = """
import resource, sys
from edge_ad.bundle import open_bundle
from edge_ad.errors import BadInput
from edge_ad.scoring import BRANCHES
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_bundle(sys.argv[1])
except BadInput as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("member", ["report.json", "ranges.json", "raw_scores.npz"])
def test_a_small_file_takes_little_memory(member: str, path: Path, tmp_path: Path) -> None:
    """A member of 40 or 80 MB that packs into about one, by less than the 200 times that are allowed of any member."""
    members = unpack(path)
    rng = np.random.default_rng(1)
    zeros = np.zeros((4_000_000, 5), np.float32)
    zeros[::60, 0] = rng.random(len(zeros[::60]))
    lists = b'{"a":[' + b"".join(b"[]," * 400 + b"%d," % number for number in rng.integers(0, 1 << 40, 30_000)) + b"0]}"
    members[member] = {
        "report.json": lists,
        "ranges.json": lists,
        "raw_scores.npz": npz(normalise=zeros),
    }[member]
    members.setdefault("plan.json", b"{}")
    members.setdefault("proof.npz", npz(images=np.zeros((1, 8, 6, 3), np.uint8)))
    members.setdefault("ranges.json", b"{}")
    spoilt = tmp_path / "b.edgead"
    with zipfile.ZipFile(spoilt, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in rehash(members).items():
            archive.writestr(name, data)
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(spoilt)], capture_output=True, text=True, check=True)
    message, taken = done.stdout.rsplit("\n", 2)[0], int(done.stdout.split()[-1])
    assert "size bomb" in message
    assert taken < 200, f"{taken} MiB for a file of {spoilt.stat().st_size >> 10} KiB"


def endless() -> bytes:
    """A graph whose loop is told to go on for ever."""
    import onnx
    from onnx import TensorProto, helper

    boolean = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["again"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), boolean, helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, []), helper.make_tensor_value_info("y", 1, [1])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["", "forever", "start"], ["end"], body=body)],
        "endless",
        [],
        [helper.make_tensor_value_info("end", 1, [1])],
        [
            onnx.numpy_helper.from_array(np.array(True), "forever"),
            onnx.numpy_helper.from_array(np.zeros(1, np.float32), "start"),
        ],
    )
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    return model


@pytest.mark.parametrize(
    ("graph", "message"),
    [(endless(), "'Loop'"), (b"no graph", "is no ONNX graph"), (b"\x3a\x7f\x00", "is no ONNX graph")],
)
def test_a_graph_that_may_never_end_is_refused(graph: bytes, message: str, path: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "b.edgead"
    spoilt.write_bytes(safe_zip.pack(rehash({**unpack(path), "graphs/fusion.onnx": graph})))
    with pytest.raises(BadInput, match=message):
        open_bundle(spoilt).graph("fusion")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_graph_or_refused(data: bytes) -> None:
    try:
        check_operators(data, "b.edgead")
    except BadInput as error:
        assert "b.edgead" in str(error)  # noqa: PT017 (most bytes are refused, some are not)
