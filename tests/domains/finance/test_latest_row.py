"""The path from the last row: piecewise linear functions, and nothing but the last row."""

from __future__ import annotations

import pytest
import torch

from domains.finance.models.mlplob import MLPLOB
from domains.finance.models.parts.latest import LatestRow, PiecewiseLinearEncoding
from domains.finance.models.tlob import TLOB


def test_encoding_counts_the_bins_below_and_the_place_within() -> None:
    encode = PiecewiseLinearEncoding(8)
    scores = torch.special.ndtri(torch.linspace(0.01, 0.99, 99, dtype=torch.float64)).float()
    encoded = encode(scores[:, None]) + 0.5
    assert encoded.shape == (99, 8)
    edges = torch.special.ndtri(torch.arange(1, 8, dtype=torch.float64) / 8)
    for row, score in zip(encoded, scores, strict=True):
        below = int((edges <= score).sum())
        torch.testing.assert_close(row[:below], torch.ones(below))
        assert 0 <= row[below] <= 1
        assert (row[below + 1 :] == 0).all()
    assert (encode(torch.full((1, 1), 100.0)) == 0.5).all()


def test_a_linear_map_of_the_encoding_follows_a_threshold() -> None:
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    truth = (x[:, 0] > 0.3).double()
    for features, least in ((PiecewiseLinearEncoding(24)(x).double(), 0.95), (x.double(), 0.0)):
        design = torch.cat([features, torch.ones(len(x), 1)], dim=1)
        fitted = design @ torch.linalg.lstsq(design, truth[:, None], driver="gelsd").solution
        explained = 1 - (fitted[:, 0] - truth).square().mean() / truth.var()
        assert (explained > 0.9) == (least > 0)


@pytest.mark.parametrize("model", [TLOB, MLPLOB])
def test_the_path_is_added_to_the_model_and_reads_the_last_row(model: type) -> None:
    torch.manual_seed(0)
    built = model(lookback=8, features=6, d_model=8, layers=1, latest_bins=5).eval()
    x = torch.randn(3, 8, 6)
    with_path = built(x)
    path, built.latest = built.latest, None
    torch.testing.assert_close(with_path, built(x) + path(x[:, -1]))
    assert isinstance(path, LatestRow)
    with_path.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in path.parameters())
