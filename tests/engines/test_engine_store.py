"""An engine is loaded only where every field of its signature agrees, and never before that was checked."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.engines import engine_store
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.selection import open_pipeline
from edge_ad.engines.tensorrt.backend import TrtBackend
from edge_ad.errors import BadInput
from tests.fixtures.fake_gpu import FakeGpu, fake_gpu
from tests.fixtures.tiny_bundle import make_tiny_bundle

TIMES = 200


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with engines of the tensorrt backend beside it."""
    path = make_tiny_bundle(tmp_path_factory.mktemp("signed") / "tiny.edgead")
    patch = pytest.MonkeyPatch()
    with patch.context() as patched, fake_gpu(patched):
        bundle = open_bundle(path)
        backend = TrtBackend()
        engine_store.store(bundle, backend, "fp16", {name: bundle.graph(name) for name in bundle.graphs}, kept_fp32=["lavit"])
        engine_store.make_current(bundle, "tensorrt", "fp16")
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu(monkeypatch) as held:
        yield held


@pytest.fixture
def copied(ready: Path, tmp_path: Path) -> Bundle:
    shutil.copytree(ready.parent, tmp_path / "copy")
    return open_bundle(tmp_path / "copy" / ready.name)


def signature_of(bundle: Bundle) -> Path:
    return engine_store.engine_folder(bundle.path, "tensorrt", "fp16") / engine_store.FILE


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the way to every field, tables and lists included."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from leaves(inner, (*path, key))


def other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, dict):
        return {} if value else {"plan.json": "0"}
    if isinstance(value, list):
        return [*value, "lavit"]
    return value + 1 if isinstance(value, int) else f"{value}0"


def changed(held: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    table = held = json.loads(json.dumps(held))
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = other(table[path[-1]])
    return held


def test_the_fields(ready: Path) -> None:
    held = json.loads(signature_of(open_bundle(ready)).read_text())
    assert list(held) == [
        "schema", "backend", "backend_version", "precision", "profile", "recipe",
        "cuda", "sm", "device", "board", "l4t", "kept_fp32", "graphs", "seal",
    ]  # fmt: skip
    assert set(held["graphs"]["teacher"]) == {"source", "sha256", "bytes"}
    assert held["profile"] == {"image": [1, 64, 64, 3]}


def test_an_untouched_engine_runs(copied: Bundle, gpu: FakeGpu) -> None:
    with open_pipeline(copied):
        assert gpu.trt.loaded == len(copied.graphs)


def test_every_changed_field_is_refused_before_anything_is_loaded(copied: Bundle, gpu: FakeGpu) -> None:
    """One at a time; once as it is, and once with a seal that fits, as a file from another device has it."""
    path = signature_of(copied)
    held = json.loads(path.read_text())
    fields = list(leaves(held))
    assert len(fields) > 30
    for field in fields:
        forged = changed(held, field)
        texts = [json.dumps(forged, indent=1) + "\n"]
        if field[0] not in ("seal", "kept_fp32"):
            texts.append(engine_store.to_text(forged))
        for text in texts:
            path.write_text(text)
            with pytest.raises(BadInput, match="rebuild with `edge-ad build-engine --fp16`"):
                open_pipeline(copied)
    for field in held:
        path.write_text(
            engine_store.to_text({key: value for key, value in held.items() if key != field and key != "seal"})
        )
        if field not in ("seal", "kept_fp32"):
            with pytest.raises(BadInput, match="rebuild with"):
                open_pipeline(copied)
    assert gpu.trt.loaded == 0


@pytest.mark.parametrize(
    ("field", "result", "here"),
    [("sm", "8.9", "8.7"), ("backend_version", "10.3.0", "10.16.2"), ("l4t", "36.4.3", ""), ("board", "Orin NX", "")],
)
def test_a_foreign_engine_is_reported_by_what_differs(copied: Bundle, gpu: FakeGpu, field: str, result: str, here: str) -> None:
    path = signature_of(copied)
    path.write_text(engine_store.to_text(json.loads(path.read_text()) | {field: result}))
    with pytest.raises(BadInput, match=f"was made for {field} '{result}', but here it is '{here}'; rebuild"):
        open_pipeline(copied)
    assert gpu.trt.loaded == 0


def damage(data: bytes, rng: random.Random) -> bytes:
    """Return other bytes: cut, flipped, overwritten, lengthened, exchanged or empty."""
    place = rng.randrange(max(1, len(data)))
    size = rng.randrange(1, 64)
    ways: list[Callable[[], bytes]] = [
        lambda: data[:place],
        lambda: data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :],
        lambda: data[:place] + rng.randbytes(size) + data[place + size :],
        lambda: data[:place] + bytes(size) + data[place + size :],
        lambda: data + rng.randbytes(size),
        lambda: data[place:] + data[:place],
        lambda: rng.randbytes(len(data)),
        lambda: b"",
    ]
    result = rng.choice(ways)()
    return result if result != data else data + b"\0"


def test_randomly_damaged_files_are_never_loaded(copied: Bundle, gpu: FakeGpu) -> None:
    """Engines, their signatures, the choice of the engine and the bundle: refused in one sentence, 200 times."""
    rng = random.Random(6)
    folder = engine_store.engine_folder(copied.path, "tensorrt", "fp16")
    current = engine_store.engines_folder(copied.path) / "current.json"
    files = [*sorted(folder.iterdir()), current, copied.path]
    held = {path: path.read_bytes() for path in files}
    for _ in range(TIMES):
        path = rng.choice(files)
        path.write_bytes(damage(held[path], rng))
        if path == current and _same(path, held[path]):  # a change that JSON does not see
            continue
        gpu.trt.loaded = 0
        with pytest.raises(BadInput) as caught:
            open_pipeline(open_bundle(copied.path))
        assert "\n" not in str(caught.value)
        assert gpu.trt.loaded == 0, path
        path.write_bytes(held[path])
    with open_pipeline(open_bundle(copied.path)):
        pass


def _same(path: Path, data: bytes) -> bool:
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        return False
    wanted = json.loads(data)
    keys = ("schema", "backend", "precision", "bundle")
    same = isinstance(value, dict) and all(value.get(key) == wanted[key] for key in keys)
    path.write_bytes(data)
    return same


def test_the_same_of_onnxruntime(tmp_path: Path) -> None:
    from edge_ad.deployment.build import build

    bundle = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    build(bundle, "fp16", threads=1)
    path = engine_store.engine_folder(bundle.path, "onnxruntime", "fp16") / engine_store.FILE
    held = json.loads(path.read_text())
    assert list(held["machine"]) == ["system", "architecture", "processor", "instructions"]
    for field in leaves(held):
        path.write_text(json.dumps(changed(held, field), indent=1) + "\n")
        with pytest.raises(BadInput, match="rebuild with `edge-ad build-engine --fp16`"):
            Pipeline(bundle, precision="fp16", threads=1)
