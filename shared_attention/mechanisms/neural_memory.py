"""Titans' neural memory: a small network that learns keys to values while it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.masks import Mask
from shared_attention.mechanisms.memory_chunk import (
    MemoryState,
    Weights,
    advance,
    fill_slots,
    read_slots,
    unit,
)
from shared_attention.primitives.hidden import blank_hidden
from shared_attention.references.neural_memory import reference_neural_memory
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec, Option


class NeuralMemory(nn.Module):
    """Learn at test time: M_t = (1 - α_t) M_{t-1} + S_t, S_t = η_t S_{t-1} - θ_t ∇‖M(k_t) - v_t‖².

    M is a network of `depth` matrices with GELU between them, and out_t = M_t(q_t). Queries and
    keys are normalised, and θ, η, α are sigmoids of a linear map of the key, one per head. As in
    the paper the gradients of a chunk are all taken at the weights that it starts from, so a
    chunk is computed at once: the weights at each of its positions are never formed, only their
    products, as attention within the chunk. Gradients of M are written out, so training
    differentiates plain matrix products.

    The result does not depend on how a stream is cut: chunks are counted in the positions of
    each sample that are not padding. Padded positions write nothing, and give zero. The paper
    takes the gates from the layer's input; a mechanism sees keys.

    Args:
        num_heads: Heads, each with a memory of its own.
        head_dim: Width of queries, keys and values.
        depth: Matrices of the memory; 1 is a linear memory.
        expansion: Width of the memory's hidden layers in head widths.
        chunk: Positions whose gradients are taken at the same weights.
        max_step: Largest θ.

    Raises:
        ValueError: An option is not positive.

    Source: Behrouz et al., Titans, 2024, section 3, eq. 8-14 and 3.2.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        depth: int = 2,
        expansion: int = 2,
        chunk: int = 64,
        max_step: float = 0.01,
    ) -> None:
        super().__init__()
        options = {"depth": depth, "expansion": expansion, "chunk": chunk, "max_step": max_step}
        for name, value in options.items():
            if value <= 0:
                raise ValueError(f"neural_memory: option {name} got {value}, expected more than 0")
        self.chunk = chunk
        self.max_step = max_step
        widths = [head_dim, *[expansion * head_dim] * (depth - 1), head_dim]
        self.initial = nn.ParameterList(
            nn.Parameter(torch.randn(num_heads, a, b) / math.sqrt(a)) for a, b in pairwise(widths)
        )
        self.gates = nn.Parameter(torch.randn(num_heads, head_dim, 3) / math.sqrt(head_dim))
        self.gate_bias = nn.Parameter(torch.tensor([0.0, 0.0, -7.0]).repeat(num_heads, 1, 1))

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Write and read position after position.

        Args:
            q: `[B, H, L, D]`.
            k: `[B, H, L, D]`.
            v: `[B, H, L, D]`.
            mask: `masks.causal()`, with `masks.keys(valid)` where there is padding.
            bias: Not supported.

        Returns:
            `[B, H, L, D]`; zero at padded positions.

        Raises:
            ValueError: The tensors do not fit together.
            UnsupportedError: The mask is of another kind, or there is a bias.
        """
        valid = accept(SPEC, q, k, v, mask, bias).keys
        return self._run(q, k, v, None, valid)[0]

    def init_state(
        self,
        batch: int,
        kv_heads: int,
        key_dim: int,
        value_dim: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> MemoryState:
        """Return the learned initial memory of each sample."""
        wide = torch.promote_types(dtype or self.gates.dtype, torch.float32)
        weights = tuple(
            w.to(device=device, dtype=wide).expand(batch, -1, -1, -1) for w in self.initial
        )
        count = torch.zeros(batch, dtype=torch.int64, device=weights[0].device)
        return MemoryState(weights, tuple(map(torch.zeros_like, weights)), weights, count)

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, state: MemoryState, mask: Mask | None = None
    ) -> tuple[Tensor, MemoryState]:
        """Continue over new positions; `mask` is None or `masks.keys` of them."""
        valid = accept(SPEC, q, k, v, masks.onwards(mask)).keys
        return self._run(q, k, v, state, valid)

    step = prefill

    def recall(self, q: Tensor, weights: Weights) -> Tensor:
        """Read from fixed weights, without writing: `[B, H, L, D]`."""
        x = unit(q.to(weights[0].dtype))
        for weight in weights[:-1]:
            x = F.gelu(x @ weight)
        return (x @ weights[-1]).to(q.dtype)

    def _run(
        self, q: Tensor, k: Tensor, v: Tensor, state: MemoryState | None, valid: Tensor | None
    ) -> tuple[Tensor, MemoryState]:
        chunk, length = self.chunk, q.shape[2]
        wide = torch.promote_types(q.dtype, torch.float32)
        if valid is not None:
            k, v = blank_hidden(k, v, valid[:, None, None])
        k = k.to(wide)
        inputs: Sequence[Tensor] = (unit(q.to(wide)), unit(k), v.to(wide), self._gates(k, valid))
        real = torch.ones_like(k[:, 0, :, 0], dtype=torch.bool) if valid is None else valid
        aligned = length == 1 or (state is None and valid is None)
        if state is None:
            batch, heads, _, width = k.shape
            state = self.init_state(batch, heads, width, width, dtype=wide, device=k.device)
        reached = state.filled + real.sum(1)
        if not aligned:
            size = length + chunk - 1
            slot = torch.where(real, state.filled[:, None] + real.cumsum(1) - 1, size)
            inputs = [fill_slots(x, slot, size) for x in inputs]
        if length > 1:
            inputs = [F.pad(x, (0, 0, 0, -x.shape[2] % chunk)) for x in inputs]
        outs = []
        for n, part in enumerate(zip(*(x.split(chunk, 2) for x in inputs), strict=True)):
            out, weights, momentum = advance(state, *part)
            outs.append(out)
            passed = (reached >= (n + 1) * chunk)[:, None, None, None]
            start = (
                torch.where(passed, new, old) for new, old in zip(weights, state.start, strict=True)
            )
            state = MemoryState(weights, momentum, tuple(start), reached % chunk)
        out = torch.cat(outs, 2)
        out = out[:, :, :length] if aligned else read_slots(out, slot)
        return out.masked_fill(~real[:, None, :, None], 0).to(q.dtype), state

    def _gates(self, k: Tensor, valid: Tensor | None) -> Tensor:
        """θ, log η, log(1 - α) and 1 of each position `[B, H, L, 4]`; zero where not valid."""
        step, keep, forget = (k @ self.gates.to(k.dtype) + self.gate_bias.to(k.dtype)).unbind(-1)
        gates = [self.max_step * step.sigmoid(), F.logsigmoid(keep), F.logsigmoid(-forget)]
        gates.append(torch.ones_like(step))
        stacked = torch.stack(gates, -1)
        return stacked if valid is None else stacked.masked_fill(~valid[:, None, :, None], 0)


SPEC = MechanismSpec(
    name="neural_memory",
    family="attention",
    title="Neural memory (Titans)",
    paper="Behrouz et al., Titans: Learning to Memorize at Test Time, 2024 (arXiv:2501.00663)",
    equation="out_t = M_t(q_t), M_t = (1 - α_t) M_{t-1} + S_t, "
    "S_t = η_t S_{t-1} - θ_t ∇‖M(k_t) - v_t‖²",
    complexity="O(L · (D² · expansion + chunk · D)) time; constant memory per step when streaming",
    when_to_use="Streams longer than any window, with associations learned while reading.",
    correctness="Against automatic differentiation in float64, one position at a time; equal to "
    "lucidrains/titans-pytorch.",
    capabilities=Capabilities(
        causal="always",
        key_padding=True,
        value_dim=False,
        scale=False,
        state=True,
        linear_in_v=False,
    ),
    options=(
        Option("depth", int, 2, "matrices of the memory; 1 is a linear memory"),
        Option("expansion", int, 2, "width of the memory's hidden layers in head widths"),
        Option("chunk", int, 64, "positions whose gradients are taken at the same weights"),
        Option("max_step", float, 0.01, "largest step size"),
    ),
    module=NeuralMemory,
    reference=reference_neural_memory,
)
