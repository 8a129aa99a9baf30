"""The tool that measures batches and jobs: a larger first axis gives each image what it gives alone, and a short run."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.session import open_session
from tests.calibration.nets import Net
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.tools.loading import load_tool


def test_a_graph_with_a_batch_gives_each_image_what_it_gives_alone() -> None:
    net = Net()
    flat = net.op("Reshape", net.conv("x", 8, 4, out="conv"), net.const([1, 4 * 16 * 16], np.int64), out="flat")
    payload = net.model([1, 8, 16, 16], {flat: [1, 4 * 16 * 16]})
    images = np.random.default_rng(0).normal(size=(3, 8, 16, 16)).astype(np.float32)
    batch = load_tool("benchmarks/many_images").with_batch(payload, 3, ("x",))
    (together,) = open_session(batch, 1).run(None, {"x": images})
    alone = open_session(payload, 1)
    for image, result in zip(images, together, strict=True):
        np.testing.assert_allclose(result, alone.run(None, {"x": image[None]})[0][0], rtol=1e-5, atol=1e-5)


def test_a_folder_is_judged_with_each_number_of_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), tiny_image(number)[:, :, ::-1])
    arguments = [str(bundle), "--batch", "0", "--images", str(tmp_path), "--jobs", "0", "1", "3", "--turns", "1"]
    monkeypatch.setattr(sys, "argv", ["many_images.py", *arguments])
    assert load_tool("benchmarks/many_images").main() == 0
    out = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in out.splitlines()[2:5]] == ["| 0", "| 1", "| 3"]
    assert "4 images; scores and maps are the same bit for bit" in out
