"""What settings add to a network goes through the exported graph: transport, soft choice, errors in units of normal images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from calibration import precision_sensitive
from calibration.fp16 import choose_fp16
from calibration.graph_view import GraphView
from calibration.placement import operators
from calibration.precision_sensitive import HEAVY
from edge_ad.export.graphs import TokenizerGraph, compare, export_graph
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.presets.networks import HvqSettings

PLAIN = HvqSettings(width=16, codes=32, heads=2, feed_forward=32, layers=2, dropout=0.0)


@pytest.mark.slow
def test_the_graph_of_the_tokenizer_holds_the_transport_term() -> None:
    torch.manual_seed(0)
    plain, added = HvqTokenizer(12, 4, PLAIN).eval(), HvqTokenizer(12, 4, replace(PLAIN, transport=80.0)).eval()
    added.load_state_dict(plain.state_dict())
    tokens = torch.randn(1, 12, 4, 4)
    exported = export_graph("tokenizer", TokenizerGraph(added), [tokens], ["tokens"], outputs=["codes", "map_structure"])
    assert exported.relative_error < 1e-3
    # The same graph is far from the network without the term.
    assert compare("tokenizer", exported.model, TokenizerGraph(plain), [tokens], inputs=["tokens"])[0] > 0.5


@pytest.mark.slow
def test_the_graphs_of_a_soft_choice_hand_its_shares_over_and_keep_it_from_rounding() -> None:
    torch.manual_seed(0)
    model = HvqTokenizer(12, 4, replace(PLAIN, softness=0.3)).eval()
    tokens = torch.randn(1, 12, 4, 4)
    model.soften([tokens])
    names = ["codes", "map_structure", "shares"]
    exported = export_graph("tokenizer", TokenizerGraph(model), [tokens], ["tokens"], outputs=names)
    assert exported.relative_error < 1e-3
    view = GraphView(exported.model)
    products = [node for node in view.graph.node if node.op_type in HEAVY]
    kept = [view.node(position).output[0] for position in precision_sensitive.distances(view)]
    # Top and two levels: a product for the distances and one for the mix each.
    assert len([node for node in products if node.output[0] in kept]) == 6


@pytest.mark.slow
def test_the_product_that_standardises_errors_stays_in_fp32() -> None:
    torch.manual_seed(0)
    model = HvqTokenizer(12, 4, replace(PLAIN, standardise=True)).eval()
    tokens = torch.randn(4, 12, 4, 4)
    model.learn_errors([tokens])
    exported = export_graph("tokenizer", TokenizerGraph(model), [tokens[:1]], ["tokens"], outputs=["codes", "map_structure"])
    assert exported.relative_error < 1e-3
    view = GraphView(exported.model)
    (whitening,) = (i for i, node in enumerate(view.graph.node) if any("fp32_whitening" in name for name in node.input))
    assert view.node(whitening).op_type == "Conv"
    assert precision_sensitive.asked(view) == {whitening}
    assert whitening not in [operator.position for operator in operators(view)]
    assert whitening not in choose_fp16(view)
