"""The gate between torch and ONNX: what differs is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edge_ad.errors import GateRefused
from edge_ad.export.graphs import compare, export_graph


class Twice(nn.Module):
    """y = factor * x, and which of the elements are positive."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.factor * x, (x > 0).to(torch.int32)


X = torch.linspace(-1.0, 1.0, 400).reshape(1, 400)


@pytest.fixture(scope="module")
def exported() -> bytes:
    result = export_graph("twice", Twice(2.0), [X], ["x"], outputs=["y", "sign"], others=[[X * 5]])
    assert result.name == "twice"
    assert result.relative_error < 1e-6
    return result.model


def test_a_graph_carries_its_versions(exported: bytes) -> None:
    model = onnx.load_model_from_string(exported)
    assert model.ir_version == 10
    assert [(entry.domain, entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")] == [("", 20)]


def test_errors_are_relative_to_the_range(exported: bytes) -> None:
    """Torch says 2.02 x, the graph 2 x: 0.02 of at most 2.02."""
    relative, absolute = compare("twice", exported, Twice(2.02), [X], inputs=["x"])
    assert absolute == pytest.approx(0.02, rel=1e-3)
    assert relative == pytest.approx(0.02 / 2.02, rel=1e-3)


@pytest.mark.parametrize(("flipped", "refused"), [(4, False), (5, True)])
def test_codes_may_differ_in_one_of_a_hundred_cells(exported: bytes, flipped: int, refused: bool) -> None:
    class Other(Twice):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y, sign = super().forward(x)
            sign[0, :flipped] = 7
            return y, sign

    if refused:
        with pytest.raises(GateRefused, match=r"other codes than torch in 1.2% of the cells"):
            compare("twice", exported, Other(2.0), [X], inputs=["x"])
    else:
        assert compare("twice", exported, Other(2.0), [X], inputs=["x"])[0] < 1e-6


def test_another_shape_is_refused(exported: bytes) -> None:
    class Other(Twice):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y, sign = super().forward(x)
            return y[:, :3], sign

    with pytest.raises(GateRefused, match=r"shape \(1, 400\) where torch gives \(1, 3\)"):
        compare("twice", exported, Other(2.0), [X], inputs=["x"])


@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_a_graph_that_differs_from_torch_is_not_written(wrong: float) -> None:
    """The module answers the exporter with other values than it answers the check."""

    class Fickle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + (0.0 if torch.compiler.is_exporting() else wrong)

    with pytest.raises(GateRefused, match="the exported graph fickle differs from torch by .* of its range"):
        export_graph("fickle", Fickle(), [X], ["x"], outputs=["y"])


def test_simplified_graphs_say_the_same_as_torch_on_new_input(exported: bytes) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(1, 400)).astype(np.float32)
    y, sign = session.run(None, {"x": x})
    np.testing.assert_allclose(y, 2 * x, rtol=1e-6)
    np.testing.assert_array_equal(sign, x > 0)
