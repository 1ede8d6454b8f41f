"""Auto-Correlation beyond the conformance kit: periods, the published form, higher gradients."""

from __future__ import annotations

import math

import pytest
import torch

from shared_attention.mechanisms.auto_correlation import auto_correlation


def draw(length: int, batch: int = 3):
    random = torch.Generator().manual_seed(length)
    return torch.randn(3, batch, 2, length, 4, generator=random).unbind(0)


def test_a_periodic_series_is_shifted_by_its_period():
    time = torch.arange(96.0)
    series = torch.sin(2 * math.pi * time / 24)[None, None, :, None]
    out = auto_correlation(series, series, series, factor=0.3)
    torch.testing.assert_close(out, series, atol=1e-5, rtol=0)


def test_values_move_by_the_lag_at_which_queries_follow_keys():
    k = torch.zeros(1, 1, 32, 1)
    k[0, 0, 3] = 10.0
    v = torch.arange(32.0)[None, None, :, None]
    out = auto_correlation(k.roll(5, 2), k, v, factor=0.3)
    torch.testing.assert_close(out, v.roll(-5, 2))


def test_only_the_published_form_couples_the_batch():
    q, k, v = draw(48)
    for form in ("published", "corrected"):
        whole = auto_correlation(q, k, v, factor=2, form=form)
        alone = auto_correlation(q[:1], k[:1], v[:1], factor=2, form=form)
        assert torch.allclose(whole[:1], alone, atol=1e-5) == (form == "corrected")


def test_published_form_takes_the_lags_of_the_batch_mean():
    q, k, v = draw(24)
    likeness = torch.stack([(q * k.roll(lag, 2)).sum(2).mean((1, 2)) for lag in range(24)], 1)
    lags = likeness.mean(0).topk(6).indices
    weights = likeness[:, lags].softmax(-1)
    shifted = torch.stack([v.roll(-int(lag), 2) for lag in lags], 1)
    expected = (weights[:, :, None, None, None] * shifted).sum(1)
    ours = auto_correlation(q, k, v, factor=2, form="published")
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_gradients():
    inputs = [x[:2, :, :7].double().requires_grad_() for x in draw(9)]
    assert torch.autograd.gradgradcheck(lambda q, k, v: auto_correlation(q, k, v, factor=2), inputs)


def test_longer_keys_are_cut_and_shorter_ones_filled_with_zeros():
    q, k, v = draw(20)
    cut = auto_correlation(q[:, :, :12], k, v)
    torch.testing.assert_close(cut, auto_correlation(q[:, :, :12], k[:, :, :12], v[:, :, :12]))
    filled = auto_correlation(q, k[:, :, :12], v[:, :, :12])
    tail = torch.zeros(3, 2, 8, 4)
    whole = [torch.cat([x[:, :, :12], tail], 2) for x in (k, v)]
    torch.testing.assert_close(filled, auto_correlation(q, *whole))


def test_wrong_options_are_named():
    q, k, v = draw(9)
    with pytest.raises(ValueError, match="auto_correlation: factor got 0, expected more than 0"):
        auto_correlation(q, k, v, factor=0)
    with pytest.raises(ValueError, match="form got 'paper', expected 'corrected' or 'published'"):
        auto_correlation(q, k, v, form="paper")
