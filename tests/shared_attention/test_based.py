"""Based's linear attention beyond the conformance kit: its features, its limits, its state."""

from __future__ import annotations

import pytest
import torch

from shared_attention import attention, masks
from shared_attention.mechanisms.based import based_attention, empty_taylor, taylor_features


def draw(length: int, width: int, keys: int | None = None):
    random = torch.Generator().manual_seed(length)
    q = torch.randn(2, 2, length, width, generator=random)
    k = torch.randn(2, 2, keys or length, width, generator=random)
    return q, k, torch.randn(2, 2, keys or length, 5, generator=random)


@pytest.mark.parametrize("width", [1, 2, 7, 16])
def test_features_multiply_to_the_taylor_series(width):
    x, y, _ = (t.double() for t in draw(6, width))
    products = taylor_features(x) @ taylor_features(y).mT
    scores = x @ y.mT
    torch.testing.assert_close(products, 1 + scores + scores**2 / 2)
    assert taylor_features(x).shape[-1] == empty_taylor(1, 1, width, 1).shape[2]


def test_follows_the_official_form_with_every_pair_of_channels():
    q, k, v = (x.double() for x in draw(200, 4))
    mapped = [
        torch.cat(
            [torch.ones_like(x[..., :1]), x / 4**0.25, (x[..., None] * x[..., None, :]).flatten(-2)
             / (2**0.5 * 4**0.5)], -1,
        )
        for x in (q, k)
    ]  # fmt: skip
    weights = (mapped[0] @ mapped[1].mT).tril()
    expected = weights / weights.sum(-1, keepdim=True) @ v
    torch.testing.assert_close(based_attention(q, k, v, mask=masks.causal()), expected)


@pytest.mark.parametrize("keys", [20, 300])
def test_features_and_scores_give_the_same_without_a_mask(keys):
    q, k, v = (x.double() for x in draw(9, 16, keys))
    scores = q @ k.mT / 4
    weights = 1 + scores + scores**2 / 2
    expected = weights / weights.sum(-1, keepdim=True) @ v
    torch.testing.assert_close(based_attention(q, k, v), expected)


def test_scores_of_zero_average_what_is_visible():
    q, k, v = draw(70, 4)
    out = attention(0 * q, k, v, "based", masks.causal())
    count = torch.arange(1, 71)[:, None]
    torch.testing.assert_close(out, v.cumsum(2) / count, atol=1e-5, rtol=1e-5)


def test_a_negative_scale_turns_the_scores_round():
    q, k, v = draw(90, 4)
    mask = masks.causal()
    torch.testing.assert_close(
        based_attention(q, k, v, mask=mask, scale=-0.7),
        based_attention(-q, k, v, mask=mask, scale=0.7),
    )
