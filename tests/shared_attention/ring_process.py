"""One process of a ring, compared with full attention: `python -m ... RANK COUNT STORE`."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from shared_attention import attention, masks
from shared_attention.ring import ring_attention

LENGTH = 12


def compare(causal: bool, kv_heads: int, dtype: torch.dtype) -> None:
    rank, count = dist.get_rank(), dist.get_world_size()
    random = torch.Generator().manual_seed(0)
    heads = (4, kv_heads, kv_heads)
    widths = (8, 8, 6)
    drawn = [
        torch.randn(2, h, count * LENGTH, d, generator=random, dtype=dtype)
        for h, d in zip(heads, widths, strict=True)
    ]
    own = slice(rank * LENGTH, (rank + 1) * LENGTH)
    parts = [x[:, :, own].clone().requires_grad_() for x in drawn]
    whole = [x.double().requires_grad_() for x in drawn]
    mask = masks.causal() if causal else None
    out = ring_attention(*parts, mask=mask)
    expected = attention(*whole, mask=mask)
    torch.testing.assert_close(out.double(), expected[:, :, own], atol=1e-6, rtol=1e-6)
    weight = torch.randn(expected.shape, generator=random)
    mine = torch.autograd.grad((out * weight[:, :, own]).sum(), parts)
    theirs = torch.autograd.grad((expected * weight).sum(), whole)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.double(), b[:, :, own], atol=2e-6, rtol=2e-6)


def main() -> None:
    rank, count, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    for causal in (False, True):
        for kv_heads in (4, 2):
            compare(causal, kv_heads, torch.float32)
            compare(causal, kv_heads, torch.float64)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
