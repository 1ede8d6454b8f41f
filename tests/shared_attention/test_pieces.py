"""Fast paths that compute some blocks at a time give what one pass over all gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shared_attention import attention, masks
from shared_attention.primitives import block_sparse
from shared_attention.primitives import local_blocks as local


def _with_gradients(name: str, inputs: list[Tensor], mask: masks.Mask, **options: int) -> Tensor:
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = attention(*leaves, name, mask, **options)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    gradients = torch.autograd.grad((out * weights).sum(), leaves)
    return torch.cat([x.flatten() for x in (out, *gradients)])


@pytest.mark.parametrize("kind", ["causal", "keys"])
def test_hip_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 61, width, dtype=torch.float64) for width in (6, 6, 5)]
    mask = masks.causal() if kind == "causal" else masks.keys(torch.rand(2, 61) > 0.2)
    options = {"block": 4, "top_k": 2, "sinks": 1, "window": 1}
    whole = _with_gradients("hip", inputs, mask, **options)
    monkeypatch.setattr(block_sparse, "WHOLE", 0)
    monkeypatch.setattr(block_sparse, "PIECE", 1000)
    pieces = _with_gradients("hip", inputs, mask, **options)
    torch.testing.assert_close(pieces, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("width", [9, 40])
@pytest.mark.parametrize("padded", [False, True])
def test_local_blocks_are_the_same_in_pieces(
    monkeypatch: pytest.MonkeyPatch, width: int, padded: bool
) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, heads, 301, 6, dtype=torch.float64) for heads in (4, 2, 2)]
    keys = torch.rand(2, 301) > 0.2 if padded else None
    segments = torch.randint(0, 3, (2, 301)).sort(1).values

    def run() -> Tensor:
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = local.local_blocks(*leaves, left=width, right=3, keys=keys, segments=segments)
        gradients = torch.autograd.grad((out * out.detach()).sum(), leaves)
        return torch.cat([x.flatten() for x in (out, *gradients)])

    whole = run()
    monkeypatch.setattr(local, "PIECE", 1)
    torch.testing.assert_close(run(), whole, rtol=1e-10, atol=1e-10)
