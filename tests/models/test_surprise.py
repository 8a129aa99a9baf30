"""The distance of a surprise, against an independent computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from edge_ad.models.lavit import Surprise
from edge_ad.training.recipes import learn_surprise
from tests.training.test_recipes import CPU, lavit_recipe


def test_features_of_a_code_are_the_mean_of_its_cells() -> None:
    """Two images of one channel and four cells, 1 level, 3 codes; mean 3, deviation by hand."""
    surprise = Surprise(levels=1, codes=3, channels=1)
    tokens = torch.tensor([[[[1.0, 3.0], [3.0, 5.0]]], [[[1.0, 1.0], [5.0, 5.0]]]])
    ids = torch.tensor([[[0, 1, 1, 1]], [[0, 0, 1, 1]]])
    surprise.set_features(tokens, ids)
    deviation = float(np.std([1, 3, 3, 5, 1, 1, 5, 5], ddof=1))
    expected = [(1 - 3) / deviation, ((3 + 3 + 5 + 5 + 5) / 5 - 3) / deviation, 0.0]
    torch.testing.assert_close(surprise.features[0, :, 0], torch.tensor(expected))


def test_the_distance_is_mahalanobis() -> None:
    rng = np.random.default_rng(0)
    surprise = Surprise(levels=2, codes=3, channels=2)
    features = rng.normal(size=(2, 3, 2)).astype(np.float32)
    surprise.features.copy_(torch.from_numpy(features))
    root = rng.normal(size=(4, 4))
    centre, precision = rng.normal(size=4), root @ root.T
    surprise.set_goods(torch.from_numpy(centre).float(), torch.from_numpy(precision).float())
    shares = rng.normal(size=(2, 3)).astype(np.float32)
    described = np.concatenate([shares[level] @ features[level] for level in range(2)])
    expected = np.sqrt((described - centre) @ precision @ (described - centre))
    np.testing.assert_allclose(surprise(torch.from_numpy(shares)).numpy(), [expected], rtol=1e-4)


def test_what_goods_do_is_learned_from_goods() -> None:
    """Learned normal images lie around the centre: their mean squared distance is about the number of directions they vary in."""
    recipe = lavit_recipe()
    model = recipe.model
    model.settings = replace(model.settings, surprise="mahalanobis")
    model.surprise = Surprise(model.levels, model.codes, 12)
    learn_surprise(model, recipe.bank, recipe.tokens, recipe.codes, arithmetic=CPU)
    with torch.no_grad():
        scores = [
            float(model.judge(one[None], ids, recipe.bank)[0])
            for one, ids in zip(recipe.tokens, recipe.codes, strict=True)
        ]
        other = float(model.judge(10.0 * recipe.tokens[:1], (recipe.codes[0] + 1) % model.codes, recipe.bank)[0])
    assert np.isfinite(scores).all()
    assert other > np.mean(scores)
