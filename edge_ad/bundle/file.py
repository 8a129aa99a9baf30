"""Open, verify and write a bundle file.

Operators of a graph are read from its protocol buffer and tensors are passed over, so that nothing needs the package
``onnx``, and no graph can run for as long as it likes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from numpy.typing import NDArray

from edge_ad.bundle.contents import (
    GEOMETRY,
    MANIFEST,
    OPTIONAL_PARTS,
    PARTS,
    REFERENCES,
    BundleContents,
    Golden,
    Quantisation,
    check_contents,
    check_manifest,
    graph_member,
    make_manifest,
)
from edge_ad.bundle.graphs import GRAPHS
from edge_ad.bundle.references import References
from edge_ad.bundle.safe_zip import (
    MEMBER_LIMIT,
    MIB,
    SafeZip,
    dump_json,
    dump_npy,
    dump_npz,
    dump_state,
    load_json,
    load_npy,
    load_npz,
    load_state,
    pack,
)
from edge_ad.errors import BadInput
from edge_ad.scoring import Array, Statistics, Thresholds
from edge_ad.utils.files import atomic_write, open_regular, require_writable, sha256_bytes

if TYPE_CHECKING:
    from edge_ad.geometry.geometry import Geometry

_GRAPH, _FUNCTION = 7, 25  # of a model
_NODE, _FUNCTION_NODE = 1, 7  # of a graph, of a function
_TYPE, _ATTRIBUTE = 4, 5  # of a node
_SUBGRAPH, _SUBGRAPHS = 6, 11  # of an attribute
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def check_operators(graph: bytes, where: str) -> None:
    """Raise BadInput for a graph with control flow (Loop, Scan, If), which may never end, and for bytes that are no
    graph.
    """
    try:
        for name, has_graph in _operators(memoryview(graph)):
            if has_graph:
                raise BadInput(
                    f"{where} has the operator {name[:40]!r}, which runs a graph inside it and may never end; the graphs that "
                    "`edge-ad train` writes have none: copy or train the bundle again"
                )
    except (IndexError, ValueError) as error:
        raise BadInput(f"{where} is no ONNX graph ({error}); copy or train the bundle again") from error


def _operators(model: memoryview) -> Iterator[tuple[str, bool]]:
    for number, value in _fields(model):
        if number == _GRAPH:
            yield from _nodes(value, _NODE)
        elif number == _FUNCTION:
            yield from _nodes(value, _FUNCTION_NODE)


def _nodes(graph: memoryview, field: int) -> Iterator[tuple[str, bool]]:
    for number, node in _fields(graph):
        if number != field:
            continue
        name, has_graph = "", False
        for inner, value in _fields(node):
            if inner == _TYPE:
                name = bytes(value).decode("utf-8", "replace")
            elif inner == _ATTRIBUTE:
                has_graph |= any(one in (_SUBGRAPH, _SUBGRAPHS) for one, _ in _fields(value))
        yield name, has_graph


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and the bytes of every field with a length; numbers are passed over."""
    offset = 0
    while offset < len(message):
        key, offset = _varint(message, offset)
        kind = key & 7
        if kind == _VARINT:
            _, offset = _varint(message, offset)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            offset += 8 if kind == _EIGHT_BYTES else 4
        elif kind == _LENGTH:
            size, offset = _varint(message, offset)
            if offset + size > len(message):
                raise ValueError("a field is longer than what holds it")
            yield key >> 3, message[offset : offset + size]
            offset += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: memoryview, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        octet = message[offset]
        value |= (octet & 127) << shift
        offset, shift = offset + 1, shift + 7
        if octet < 128:
            return value, offset
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


SUFFIX = ".edgead"

_MANIFEST_LIMIT = MIB
# Objects that JSON becomes take up to twenty times its size in memory. Those of real bundles are well below 1 MiB.
PART_LIMITS = {
    "report.json": 4 * MIB,
    "ranges.json": 8 * MIB,
    "plan.json": 8 * MIB,
    "masks.npy": 64 * MIB,
    "statistics.npz": 64 * MIB,
    "raw_scores.npz": 64 * MIB,
    GEOMETRY: 64 * MIB,
}
"""What parts of a bundle may hold at most, so that a small file cannot take much memory; others have the limit of a member."""
_MEMBERS = (*PARTS, *OPTIONAL_PARTS, GEOMETRY, REFERENCES)


class Bundle:
    """An opened bundle: every hash was verified.

    Graphs and what belongs to INT8 stay in the file and are verified again when read.
    """

    def __init__(self, path: Path, sha256: str, manifest: dict[str, Any], parts: Mapping[str, bytes]) -> None:
        self.path = path
        self.sha256 = sha256
        self.manifest = manifest
        self.name: str = manifest["name"]
        self.preset: str = manifest["preset"]
        self.settings: dict[str, Any] = manifest["settings"]
        self.created: str = manifest["created"]
        self.parent: str | None = manifest["parent"]
        self.image_size: tuple[int, int] = (manifest["image_size"][0], manifest["image_size"][1])
        self.graphs = tuple(name for name in GRAPHS if graph_member(name) in manifest["members"])
        self.thresholds = _thresholds(manifest["thresholds"], f"{path}: manifest.json")
        self.masks: Array = load_npy(parts["masks.npy"], f"{path}: masks.npy")
        self.statistics = _statistics(parts["statistics.npz"], f"{path}: statistics.npz")
        self.raw_scores: dict[str, Array] = load_npz(
            parts["raw_scores.npz"], f"{path}: raw_scores.npz", PART_LIMITS["raw_scores.npz"]
        )
        self.golden = _golden(parts["golden.npz"], f"{path}: golden.npz")
        self.report = load_json(parts["report.json"], f"{path}: report.json")
        self.references = References()
        if REFERENCES in parts:
            self.references = _references(parts[REFERENCES], f"{path}: {REFERENCES}")
        self._own_geometry = _geometry(parts[GEOMETRY], f"{path}: {GEOMETRY}") if GEOMETRY in parts else None

    @cached_property
    def geometry(self) -> Geometry:
        """How an image becomes the input; made when asked for, since the library of it needs OpenCV."""
        from edge_ad.geometry.geometry import Geometry

        return self._own_geometry or Geometry.square(self.image_size)

    def with_geometry(self, geometry: Geometry) -> Bundle:
        """Return a bundle that reads the same file, but makes inputs by another geometry."""
        other = copy(self)
        other.geometry = other._own_geometry = geometry
        return other

    @property
    def image_bits(self) -> int:
        """How many bits the values of the training's 16-bit files used; 16 where it had none, and in older bundles."""
        bits = self.report.get("image_bits", 16)
        if bits not in (10, 12, 14, 16):
            raise BadInput(f"{self.path} reads images of {bits!r} bits, where 10, 12, 14 or 16 are known: train it again")
        return int(bits)

    @cached_property
    def quantisation(self) -> Quantisation | None:
        """Ranges, plan and proof images, None in a bundle that was never calibrated; BadInput as for ``graph``."""
        present = [name for name in OPTIONAL_PARTS if name in self.manifest["members"]]
        return _quantisation({name: self._read(name) for name in present}, self.path)

    def graph(self, name: str) -> bytes:
        """Return the ONNX bytes of one graph; BadInput if there is none or the file was changed meanwhile."""
        self.graph_sha256(name)
        data = self._read(graph_member(name))
        check_operators(data, f"{self.path}: {graph_member(name)}")
        return data

    def graph_sha256(self, name: str) -> str:
        """Return the sha256 of one graph; BadInput if there is none of that name."""
        if name not in self.graphs:
            raise BadInput(f"{self.path} has no graph {name!r}; it has {', '.join(self.graphs)}")
        return str(self.manifest["members"][graph_member(name)]["sha256"])

    @property
    def scoring_members(self) -> dict[str, str]:
        """The sha256 of each member that gives an image its score, by name; thresholds and report may change without it."""
        return {name: str(entry["sha256"]) for name, entry in self.manifest["members"].items() if name != "report.json"}

    def contents(self) -> BundleContents:
        """Return all contents with the graphs read into memory: what ``write_bundle`` takes."""
        return replace(self.outline(self.quantisation), graphs={name: self.graph(name) for name in self.graphs})

    def outline(self, quantisation: Quantisation | None) -> BundleContents:
        """Return the contents without the bytes of the graphs."""
        return BundleContents(
            name=self.name,
            preset=self.preset,
            settings=self.settings,
            image_size=self.image_size,
            parent=self.parent,
            graphs=dict.fromkeys(self.graphs, b""),
            masks=self.masks,
            statistics=self.statistics,
            thresholds=self.thresholds,
            raw_scores=self.raw_scores,
            golden=self.golden,
            report=self.report,
            quantisation=quantisation,
            geometry=self._own_geometry,
            references=self.references,
        )

    def _read(self, member: str) -> bytes:
        with _reading(self.path) as stream:
            data = SafeZip(stream, str(self.path)).read(member)
        if sha256_bytes(data) != self.manifest["members"][member]["sha256"]:
            raise BadInput(f"{self.path} was changed while in use: {member!r} no longer has its hash; start again")
        return data


def open_bundle(path: Path | str) -> Bundle:
    """Open and verify a bundle; anything wrong with the file raises BadInput with one sentence."""
    path = Path(path)
    with _reading(path) as stream:
        sha256 = _sha256(stream)
        stream.seek(0)
        archive = SafeZip(stream, str(path))
        if MANIFEST not in archive.names:
            raise BadInput(
                f"{path} has no {MANIFEST}, so it is no bundle; give a file that `edge-ad train` wrote (*{SUFFIX})"
            )
        manifest = load_json(archive.read(MANIFEST, _MANIFEST_LIMIT), f"{path}: {MANIFEST}")
        check_manifest(manifest, f"{path}: {MANIFEST}")
        _check_listing(archive.names, manifest["members"], path)
        parts = _verify(archive, manifest["members"], path)
    bundle = Bundle(path, sha256, manifest, parts)
    if manifest["branches"] != list(bundle.statistics.branches):
        raise BadInput(
            f"{path}: the manifest lists {len(manifest['branches'])} branches, but statistics.npz holds "
            f"{len(bundle.statistics.branches)}; copy or train the bundle again"
        )
    check_contents(bundle.outline(_quantisation(parts, path)), str(path))
    return bundle


def write_bundle(path: Path | str, contents: BundleContents, created: datetime | None = None) -> str:
    """Write a bundle atomically and return the sha256 of the file.

    Equal contents and equal ``created`` (default: now; kept in UTC, to the second) give equal bytes. BadInput when the
    contents break the rules that ``open_bundle`` checks.
    """
    check_contents(contents, f"bundle {contents.name!r}")
    members = {graph_member(name): contents.graphs[name] for name in GRAPHS if name in contents.graphs}
    members["masks.npy"] = dump_npy(contents.masks)
    members["statistics.npz"] = dump_npz(contents.statistics.arrays())
    members["raw_scores.npz"] = dump_npz(dict(sorted(contents.raw_scores.items())))
    members["golden.npz"] = dump_npz({"images": contents.golden.images, "raw": contents.golden.raw})
    members["report.json"] = dump_json(contents.report, "the report")
    if contents.quantisation is not None:
        members["ranges.json"] = dump_json(contents.quantisation.ranges, "the ranges")
        members["plan.json"] = dump_json(contents.quantisation.plan, "the plan")
        members["proof.npz"] = dump_npz({"images": contents.quantisation.proof})
    if contents.geometry is not None:
        members[GEOMETRY] = dump_state(*contents.geometry.state(), GEOMETRY)
    if arrays := contents.references.arrays():
        members[REFERENCES] = dump_npz(arrays)
    large = [name for name, data in members.items() if len(data) > PART_LIMITS.get(name, MEMBER_LIMIT)]
    if large:
        limit = PART_LIMITS.get(large[0], MEMBER_LIMIT)
        raise BadInput(
            f"bundle member {large[0]!r} is larger than the {limit // MIB} MiB allowed; use a smaller network"
        )
    manifest = make_manifest(contents, members, created or datetime.now(timezone.utc))
    data = pack({MANIFEST: dump_json(manifest, "the manifest"), **members})
    atomic_write(Path(path), data)
    return sha256_bytes(data)


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        stream = open_regular(path)
    except OSError as error:
        raise BadInput(
            f"cannot read the bundle {path}: {error.strerror or error}; check its name and its rights"
        ) from error
    with stream:
        yield stream


def _sha256(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: stream.read(MIB), b""):
        digest.update(block)
    return digest.hexdigest()


def _check_listing(names: tuple[str, ...], members: Mapping[str, Any], path: Path) -> None:
    unlisted = sorted(set(names) - set(members) - {MANIFEST})
    missing = sorted(set(members) - set(names))
    if unlisted:
        raise BadInput(
            f"{path} has the member {unlisted[0]!r}, which its manifest does not list; copy or train the bundle again"
        )
    if missing:
        raise BadInput(
            f"{path} lacks the member {missing[0]!r}, which its manifest lists; copy or train the bundle again"
        )


def _verify(archive: SafeZip, members: Mapping[str, dict[str, Any]], path: Path) -> dict[str, bytes]:
    """Check the hash and size of every member; return the bytes of all but the graphs."""
    parts: dict[str, bytes] = {}
    for name, entry in members.items():
        digest, size, chunks = hashlib.sha256(), 0, []
        for block in archive.blocks(name, PART_LIMITS.get(name, MEMBER_LIMIT)):
            digest.update(block)
            size += len(block)
            if name in _MEMBERS:
                chunks.append(block)
        if size != entry["bytes"] or digest.hexdigest() != entry["sha256"]:
            raise BadInput(
                f"{path}: member {name!r} does not match its hash in the manifest; copy or train the bundle again"
            )
        if name in _MEMBERS:
            parts[name] = b"".join(chunks)
    return parts


def _statistics(data: bytes, where: str) -> Statistics:
    arrays = load_npz(data, where, PART_LIMITS["statistics.npz"])
    try:
        return Statistics.from_arrays(arrays)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def _references(data: bytes, where: str) -> References:
    try:
        return References.from_arrays(load_npz(data, where))
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def _thresholds(value: object, where: str) -> Thresholds:
    try:
        return Thresholds.from_json(value)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def _geometry(data: bytes, where: str) -> Geometry:
    from edge_ad.geometry.geometry import Geometry

    state = load_state(data, where)
    try:
        return Geometry.from_state(*state)
    except BadInput as error:
        raise BadInput(f"{where}: {error}; copy or train the bundle again") from error


def _golden(data: bytes, where: str) -> Golden:
    arrays: dict[str, NDArray[Any]] = load_npz(data, where)
    if set(arrays) != {"images", "raw"}:
        raise BadInput(f"{where} must hold 'images' and 'raw', but holds {', '.join(sorted(arrays)) or 'nothing'}")
    return Golden(arrays["images"], arrays["raw"])


def _quantisation(parts: Mapping[str, bytes], path: Path) -> Quantisation | None:
    if "plan.json" not in parts:
        return None
    arrays: dict[str, NDArray[Any]] = load_npz(parts["proof.npz"], f"{path}: proof.npz")
    if set(arrays) != {"images"}:
        raise BadInput(f"{path}: proof.npz must hold 'images', but holds {', '.join(sorted(arrays)) or 'nothing'}")
    ranges, plan = (load_json(parts[name], f"{path}: {name}") for name in ("ranges.json", "plan.json"))
    return Quantisation(ranges, plan, arrays["images"])


def child_path(parent: Bundle, out: Path | None, word: str, verb: str) -> Path:
    """Return the file to write, never the parent itself: ``out``, or a free ``<name>-<word>-<number>`` in a folder.

    The folder is ``out`` or that of the parent. BadInput, with the ``verb`` of the command, for a file that no command
    would find and for the parent.
    """
    if out is None or out.is_dir():
        folder = parent.path.parent if out is None else out
        names = (folder / f"{parent.name}-{word}-{number}{SUFFIX}" for number in count(1))
        result = next(path for path in names if not path.exists())
        require_writable(result)
        return result
    if out.suffix != SUFFIX:
        raise BadInput(f"{out} must end in {SUFFIX}, because that is how the other commands find a bundle; rename it")
    if out.exists() and out.samefile(parent.path):
        raise BadInput(f"{out} is the bundle to {verb}, and a parent is never overwritten; give another --out")
    require_writable(out)
    return out
