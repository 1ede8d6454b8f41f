"""The block-sparse stage of HiP attention as a Triton kernel, forward only."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from shared_attention.inputs import Inputs


def why_not(inputs: Inputs) -> list[str]:
    """List the reasons why the kernel cannot serve these inputs."""
    reasons = []
    if importlib.util.find_spec("triton") is None:
        reasons.append("triton is missing: pip install 'heed-core[triton]'")
    if inputs.q.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        reasons.append(f"the tensors are on {inputs.q.device.type}, it needs cuda")
    if inputs.q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        reasons.append(f"it does not compute in {inputs.q.dtype}")
    if inputs.needs_grad and torch.is_grad_enabled():
        reasons.append("it has no backward pass")
    return reasons


def attend_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ids: Tensor,
    used: Tensor,
    *,
    real: Tensor,
    causal: bool,
    block: int,
    scale: float,
) -> Tensor:
    """As `primitives.block_sparse.attend_blocks`: scores never leave the processor's registers."""
    batch, heads, length, width = q.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    ids = torch.where(used, ids, -1).to(torch.int32).contiguous()
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    kernel, power = _kernel()
    kernel[(length // block, batch * heads)](
        q, k, v, ids, real.to(torch.int32), out, scale, length, ids.shape[3], heads,
        width, v.shape[3], block,
        BLOCK=max(16, power(block)), WIDTH=max(16, power(width)),
        VALUES=max(16, power(v.shape[3])), CAUSAL=causal,
    )  # fmt: skip
    return out


@functools.cache
def _kernel() -> tuple[Any, Any]:
    """Define the kernel, so that triton is imported only where it is used."""
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(  # type: ignore[no-untyped-def]
        q, k, v, ids, real, out, scale, length, listed, heads, width, values, block,
        BLOCK: tl.constexpr, WIDTH: tl.constexpr, VALUES: tl.constexpr, CAUSAL: tl.constexpr,
    ):  # fmt: skip
        own, problem = tl.program_id(0), tl.program_id(1).to(tl.int64)
        count = tl.load(real + problem // heads)
        inside, d, dv = tl.arange(0, BLOCK), tl.arange(0, WIDTH), tl.arange(0, VALUES)
        query = own * block + inside
        row = (inside < block)[:, None]
        at = problem * length + query[:, None]
        one = tl.load(q + at * width + d[None, :], mask=row & (d < width)[None, :], other=0.0)
        top = tl.full([BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        sums = tl.zeros([BLOCK, VALUES], tl.float32)
        for n in range(listed):
            number = tl.load(ids + (problem * (length // block) + own) * listed + n)
            if number >= 0:
                key = number * block + inside
                there = (inside < block) & (key < count)
                from_key = problem * length + key[:, None]
                keys = tl.load(
                    k + from_key * width + d[None, :],
                    mask=there[:, None] & (d < width)[None, :],
                    other=0.0,
                )
                scores = tl.dot(one, tl.trans(keys), input_precision="ieee") * scale
                seen = row & there[None, :]
                if CAUSAL:
                    seen = seen & (key[None, :] <= query[:, None])
                scores = tl.where(seen, scores, float("-inf"))
                higher = tl.maximum(top, tl.max(scores, 1))
                finite = tl.where(higher == float("-inf"), 0.0, higher)
                weights = tl.exp(scores - finite[:, None])
                kept = tl.exp(top - finite)
                read = tl.load(
                    v + from_key * values + dv[None, :],
                    mask=there[:, None] & (dv < values)[None, :],
                    other=0.0,
                )
                total = total * kept + tl.sum(weights, 1)
                added = tl.dot(weights.to(read.dtype), read, input_precision="ieee")
                sums = sums * kept[:, None] + added
                top = higher
        mean = sums / tl.where(total > 0, total, 1.0)[:, None]
        tl.store(
            out + at * values + dv[None, :],
            mean.to(out.dtype.element_ty),
            mask=row & (dv < values)[None, :],
        )

    return kernel, triton.next_power_of_2
