"""FlexAttention: its block masks, and its kernel on CPU (slow: it compiles)."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from shared_attention import attention, masks
from shared_attention.mechanisms.flex import to_flex

CPU = torch.device("cpu")


def test_block_masks_are_kept_with_their_mask():
    mask = masks.causal() & masks.document(torch.arange(256)[None] // 100)
    first = to_flex(mask, 1, 2, 256, 256, CPU)
    assert to_flex(mask, 1, 2, 256, 256, CPU) is first
    assert to_flex(mask, 1, 4, 256, 256, CPU) is not first


def test_block_mask_has_the_rule_of_the_mask():
    mask = (masks.causal() | masks.prefix(torch.tensor([3, 70]))) & masks.window(90, None)
    block = to_flex(mask, 2, 1, 130, 200, CPU)
    cells = create_mask(block.mask_mod, 2, 1, 130, 200, device="cpu")
    assert torch.equal(cells, mask.to_dense(130, 200).expand(2, 1, 130, 200))
    assert to_flex(masks.window(10, 0), 1, 1, 512, 512, CPU).sparsity() > 50


@pytest.mark.slow
def test_flex_equals_eager_on_cpu():
    random = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 130, 16, generator=random)
    k, v = (torch.randn(2, 2, 200, 16, generator=random) for _ in range(2))
    valid = torch.arange(200) < torch.tensor([[200], [0]])
    k[1] = torch.nan
    bias = torch.randn(4, 130, 200, generator=random)
    mask = masks.causal() & masks.keys(valid)
    out = attention(q, k, v, mask=mask, bias=bias, backend="flex")
    expected = attention(q, k, v, mask=mask, bias=bias, backend="eager")
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
