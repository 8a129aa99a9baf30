"""HVQ-Trans: layers against torch's own, the order of levels and memories by watching the modules."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_ad.models.attention import Attention
from edge_ad.models.hvq import DecoderLayer, EncoderLayer, HvqTokenizer, LearnedPositions, hvq_loss, transport_cost
from edge_ad.presets.networks import HvqSettings

SMALL = HvqSettings(width=8, codes=16, heads=2, feed_forward=12, dropout=0.0)
GRID, CHANNELS = 4, 5


def tokenizer(settings: HvqSettings = SMALL) -> HvqTokenizer:
    torch.manual_seed(0)
    return HvqTokenizer(CHANNELS, GRID, settings).eval()


def copy_attention(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    layers = (ours.query, ours.key, ours.value)
    biases = [layer.bias if layer.bias is not None else torch.zeros(layer.out_features) for layer in layers]
    theirs.in_proj_weight.data = torch.cat([layer.weight for layer in layers])
    theirs.in_proj_bias.data = torch.cat(biases)
    theirs.out_proj.load_state_dict(ours.project.state_dict())


@pytest.mark.parametrize("key_bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_attention_equals_torchs(key_bias: bool, training: bool, batch: int) -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2, key_bias).train(training), nn.MultiheadAttention(8, 2, batch_first=True)
    copy_attention(ours, theirs)
    query, key, value = torch.randn(batch, 3, 8), torch.randn(batch, 5, 8), torch.randn(batch, 5, 8)
    torch.testing.assert_close(ours(query, key, value), theirs(query, key, value)[0])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 8 is not a multiple of 3 heads"):
        Attention(8, 3)


def copy_rest(ours: Any, theirs: Any) -> None:
    theirs.linear1.load_state_dict(ours.up.state_dict())
    theirs.linear2.load_state_dict(ours.down.state_dict())
    for number, norm in enumerate(ours.norms, start=1):
        norm.weight.data.uniform_(0.5, 1.5)
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())


def test_layers_are_post_norm_transformer_layers() -> None:
    """Without positions both layers equal torch's (norm after, ReLU)."""
    torch.manual_seed(0)
    x, memory, nothing = torch.randn(2, 6, 8), torch.randn(2, 6, 8), torch.zeros(6, 8)
    encoder, theirs = EncoderLayer(8, SMALL), nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)
    copy_attention(encoder.attention, theirs.self_attn)
    copy_rest(encoder, theirs)
    torch.testing.assert_close(encoder(x, nothing), theirs(x))
    decoder, other = DecoderLayer(8, SMALL), nn.TransformerDecoderLayer(8, 2, 12, 0.0, batch_first=True)
    copy_attention(decoder.own, other.self_attn)
    copy_attention(decoder.cross, other.multihead_attn)
    copy_rest(decoder, other)
    torch.testing.assert_close(decoder(x, memory, nothing), other(x, memory))


def test_positions_join_queries_and_keys_but_not_values() -> None:
    torch.manual_seed(0)
    layer, x, position = EncoderLayer(8, SMALL), torch.randn(1, 6, 8), torch.randn(6, 8)
    seen: list[tuple[Tensor, ...]] = []
    layer.attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    layer(x, position)
    for result, expected in zip(seen[0], (x + position, x + position, x), strict=True):
        torch.testing.assert_close(result, expected)


def test_positions_join_the_memory_s_keys_too() -> None:
    torch.manual_seed(0)
    layer, x, memory, position = DecoderLayer(8, SMALL), *torch.randn(3, 1, 6, 8)
    seen: list[tuple[Tensor, ...]] = []
    for module in (layer.own, layer.norms[0], layer.cross):
        module.register_forward_hook(lambda _, inputs, out: seen.append((*inputs, out)))
    layer(x, memory, position)
    own, (_, after), cross = seen
    for result, expected in zip(own[:3], (x + position, x + position, x), strict=True):
        torch.testing.assert_close(result, expected)
    for result, expected in zip(cross[:3], (after + position, memory + position, memory), strict=True):
        torch.testing.assert_close(result, expected)


def test_positions_are_column_first() -> None:
    positions = LearnedPositions(3, 4)
    table = positions()
    assert table.shape == (9, 4)
    for row in range(3):
        for column in range(3):
            torch.testing.assert_close(table[row * 3 + column, :2], positions.columns[column])
            torch.testing.assert_close(table[row * 3 + column, 2:], positions.rows[row])
    assert float(positions.rows.detach().min()) >= 0.0
    assert float(positions.rows.detach().max()) <= 1.0


class Watch:
    """Keeps what the tokenizer's modules take and give in one pass."""

    def __init__(self, model: HvqTokenizer, features: Tensor) -> None:
        self.states: list[Tensor] = []
        self.levels: dict[int, tuple[Tensor, Any]] = {}
        self.decoder: list[tuple[Tensor, Tensor]] = []
        self.top: Any = None
        model.embed.register_forward_hook(lambda _, __, out: self.states.append(out))
        model.top.register_forward_hook(lambda _, inputs, out: setattr(self, "top", (inputs[0], out)))
        for layer in model.encoder:
            layer.register_forward_hook(lambda _, __, out: self.states.append(out))
        for number, level in enumerate(model.levels):
            level.register_forward_hook(lambda _, inputs, out, n=number: self.levels.update({n: (inputs[0], out)}))
        for layer in model.decoder:
            layer.register_forward_pre_hook(lambda _, inputs: self.decoder.append(inputs[:2]))
        self.out = model(features)


def test_levels_and_memories_come_from_the_top_down() -> None:
    """q4 = VQ(z4); q_l = VQ_l([z_l, q4]); ids and decoder memories are [3, 2, 1, 0]; the decoder starts from q3."""
    watch = Watch(tokenizer(), torch.randn(2, CHANNELS, GRID, GRID))
    top_input, top = watch.top
    assert len(watch.states) == 5
    assert torch.equal(top_input, watch.states[4])
    for number in range(4):
        taken, given = watch.levels[number]
        assert torch.equal(taken, torch.cat([watch.states[number], top.values], dim=-1))
        assert torch.equal(watch.out.ids[:, 3 - number], given.ids)
        assert torch.equal(watch.decoder[3 - number][1], given.values)
    assert torch.equal(watch.decoder[0][0], watch.levels[3][1].values)
    commitments = [top.commitment, *(given.commitment for _, given in watch.levels.values())]
    torch.testing.assert_close(watch.out.commitment, sum(commitments))


def test_codes_and_reconstruction_have_their_shapes() -> None:
    out = tokenizer()(torch.randn(3, CHANNELS, GRID, GRID) * 5)
    assert out.ids.shape == (3, 4, GRID * GRID)
    assert out.ids.dtype == torch.int64
    assert 0 <= int(out.ids.min()) <= int(out.ids.max()) < SMALL.codes
    assert out.reconstruction.shape == (3, GRID * GRID, CHANNELS)


def test_the_decoder_sees_codes_only() -> None:
    """Where all codebooks answer with the same codes, very different images are redrawn alike."""
    model = tokenizer()
    for quantiser in (model.top, *model.levels):
        quantiser.codebook[1:] = 1e4  # out of reach: code 0 always wins
    features = torch.randn(2, CHANNELS, GRID, GRID) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    out = model(features)
    assert out.ids.unique().tolist() == [0]
    torch.testing.assert_close(out.reconstruction[0], out.reconstruction[1], rtol=1e-4, atol=1e-4)
    model.levels[2].codebook[0] += 1.0
    assert (model(features).reconstruction - out.reconstruction).abs().max() > 1e-3


def test_structure_map_is_the_length_of_the_error() -> None:
    model, features = tokenizer(), torch.randn(2, CHANNELS, GRID, GRID)
    ids, error, shares = model.structure_map(features)
    out = model(features)
    assert shares is None
    drawn = out.reconstruction.transpose(1, 2).reshape(features.shape)
    torch.testing.assert_close(error, torch.linalg.vector_norm(drawn - features, dim=1, keepdim=True))
    assert torch.equal(ids, out.ids)


def test_transport_cost_by_loops() -> None:
    """p_k = softmax_k(<u, e_k> / K), cost = sum_k p_k (1 - cos(u, e_k)), state by state and code by code."""
    torch.manual_seed(0)
    states, codes = 3 * torch.randn(2, 3, 4), torch.randn(5, 4)
    result = transport_cost(states, codes)
    for batch in range(2):
        for cell in range(3):
            u = states[batch, cell].double()
            products = [float(u @ e) / 5 for e in codes.double()]
            total = sum(math.exp(product) for product in products)
            cosines = [float(u @ e / (u.norm() * e.norm())) for e in codes.double()]
            cost = sum(
                math.exp(product) / total * (1 - cosine) for product, cosine in zip(products, cosines, strict=True)
            )
            assert float(result[batch, cell]) == pytest.approx(cost, rel=1e-5)


def test_the_transport_term_is_that_of_the_finest_level() -> None:
    plain, features = tokenizer(), torch.randn(2, CHANNELS, GRID, GRID)
    watch = Watch(plain, features)
    added = tokenizer(replace(SMALL, transport=80.0))
    added.load_state_dict(plain.state_dict())
    finest = torch.cat([watch.states[0], watch.top[1].values], dim=-1)
    expected = plain.structure_map(features)[1] + 80.0 * transport_cost(finest, plain.levels[0].codebook).reshape(
        2, 1, GRID, GRID
    )
    torch.testing.assert_close(added.structure_map(features)[1], expected)
    assert torch.equal(watch.out.top_ids, watch.top[1].ids)


def test_the_loss_is_mse_and_a_quarter_of_the_commitment() -> None:
    model, features = tokenizer(), torch.randn(2, CHANNELS, GRID, GRID)
    out = model(features)
    flat = features.reshape(2, CHANNELS, -1).permute(0, 2, 1)
    expected = ((out.reconstruction - flat) ** 2).mean() + 0.25 * out.commitment
    torch.testing.assert_close(hvq_loss(features, out), expected)


def test_parameters_of_ladmims_tokenizer() -> None:
    """Width 64, pairs of codes 128, 24 x 24 cells of 384 channels: layer by layer."""
    attention = {d: 4 * (d * d + d) for d in (64, 128)}
    feed = {d: d * 1024 + 1024 + 1024 * d + d for d in (64, 128)}
    encoder = attention[64] + feed[64] + 2 * 2 * 64
    decoder = 2 * attention[128] + feed[128] + 3 * 2 * 128
    ends = (384 * 64 + 64) + 2 * 24 * 32 + 2 * 128 + (128 * 384 + 384)
    with torch.device("meta"):
        model = HvqTokenizer(384, 24, HvqSettings())
    assert sum(parameter.numel() for parameter in model.parameters()) == 4 * encoder + 4 * decoder + ends
    codes = [tuple(quantiser.codebook.shape) for quantiser in (model.top, *model.levels)]
    assert codes == [(512, 64)] + [(512, 128)] * 4


def test_soft_codes_do_not_jump_where_hard_ones_do() -> None:
    """Between two images there is a point where codes change: a step of 1e-4 across it moves a soft choice as little."""
    one, other = torch.randn(2, 1, CHANNELS, GRID, GRID)
    hard, soft = tokenizer(), tokenizer(replace(SMALL, softness=0.3))
    soft.load_state_dict(hard.state_dict())
    soft.soften([torch.cat([one, other])])
    low, high = 0.0, 1.0
    first = hard(one).ids
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if torch.equal(hard(torch.lerp(one, other, middle)).ids, first) else (low, middle)

    def jump(model: HvqTokenizer) -> float:
        before, after = (model(torch.lerp(one, other, place)).reconstruction for place in (low, high))
        return float((after - before).detach().norm())

    assert jump(soft) < 0.1 * jump(hard)
    out = soft(one)
    assert out.shares is not None
    torch.testing.assert_close(out.shares.sum(dim=-1), torch.ones(out.shares.shape[:-1]))


def test_the_temperature_is_a_share_of_the_mean_lead() -> None:
    model, features = tokenizer(replace(SMALL, softness=0.5)), torch.randn(4, CHANNELS, GRID, GRID)
    watch = Watch(model, features)
    leads = ((watch.top[0][:, :, None] - model.top.codebook) ** 2).sum(dim=-1).sort(dim=-1).values
    model.soften([features[:2], features[2:]])
    assert model.top.temperature == pytest.approx(
        0.5 * float((leads[..., 1] - leads[..., 0]).mean().detach()), rel=1e-4
    )
    hard = tokenizer()
    hard.soften([features])
    assert hard.top.temperature == 0.0
