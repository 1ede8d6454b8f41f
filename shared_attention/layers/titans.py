"""Titans: attention as short-term memory and a network as long-term memory, put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.errors import UnsupportedError
from shared_attention.linear import Linear
from shared_attention.masks import Mask
from shared_attention.mechanisms.neural_memory import MemoryState, NeuralMemory
from shared_attention.primitives.local_blocks import Beside, local_blocks


class TitansState(NamedTuple):
    """What a Titans layer continues from; it does not grow beyond a window or a segment."""

    memory: MemoryState
    k: Tensor
    """Keys of the window, or of the segment so far, `[B, H, n, D]`."""
    v: Tensor
    """Their values `[B, H, n, D]`."""


class Titans(nn.Module):
    """What the three architectures share; use `MemoryAsContext`, `...AsGate` or `...AsLayer`.

    Each maps `[B, L, d_model]` to the same shape, is causal by construction, and streams: however
    a sequence is cut, `prefill` and `step` give what `forward` gives. `persistent` learned
    tokens are seen by every position. The memory does not read them: its learned start plays
    their part. Short convolutions are left out.

    Args:
        d_model: Width.
        num_heads: Heads of the attention and of the memory; divides `d_model`.
        window: Earlier positions that attention sees; for `MemoryAsContext`, the length of a
            segment, which is also the memory's chunk.
        persistent: Learned tokens.
        memory_options: Options of `NeuralMemory`.

    Raises:
        ValueError: The sizes do not fit.

    Source: Behrouz et al., Titans, 2024, section 4.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        window: int = 64,
        persistent: int = 4,
        memory_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"Titans: num_heads {num_heads} does not divide d_model {d_model}")
        if window < 1 or persistent < 1:
            raise ValueError(
                f"Titans: window got {window} and persistent {persistent}, expected at least 1"
            )
        self.num_heads = num_heads
        self.window = window
        self.persistent = nn.Parameter(torch.randn(1, persistent, d_model))
        self.attention_in = Linear(d_model, 3 * d_model)
        self.memory_in = Linear(d_model, 3 * d_model)
        self.project_out = Linear(d_model, d_model)
        self.memory = NeuralMemory(num_heads, d_model // num_heads, **(memory_options or {}))

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Map `x [B, L, d_model]`; `mask` is None or `masks.causal()`.

        Raises:
            UnsupportedError: The mask is of another kind.
        """
        if mask not in (None, masks.causal()):
            raise UnsupportedError("Titans: takes no mask but masks.causal(), which is implied")
        return self.prefill(x, self.init_state(x.shape[0], dtype=x.dtype, device=x.device))[0]

    def init_state(
        self,
        batch: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> TitansState:
        """Return the state of no positions."""
        like = self.persistent.new_empty(0, dtype=dtype, device=device)
        width = self.persistent.shape[-1] // self.num_heads
        memory = self.memory.init_state(
            batch, self.num_heads, width, width, dtype=like.dtype, device=like.device
        )
        nothing = like.new_empty(batch, self.num_heads, 0, width)
        return TitansState(memory, nothing, nothing)

    def prefill(self, x: Tensor, state: TitansState) -> tuple[Tensor, TitansState]:
        """Continue over new positions `[B, L, d_model]`; returns `(out, state)`."""
        raise NotImplementedError

    def step(self, x: Tensor, state: TitansState) -> tuple[Tensor, TitansState]:
        """As `prefill`, for one position."""
        return self.prefill(x, state)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut projected q, k and v `[B, L, 3 d_model]` into heads `[B, H, L, D]`."""
        q, k, v = x.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _remember(self, x: Tensor, memory: MemoryState) -> tuple[Tensor, MemoryState]:
        out, memory = self.memory.prefill(*self._heads(self.memory_in(x)), memory)
        return _joined(out), memory

    def _look_around(self, x: Tensor, state: TitansState) -> tuple[Tensor, Tensor, Tensor]:
        """Attend to the persistent tokens and the window; also the window to go on with."""
        q, k, v = self._heads(self.attention_in(x))
        always = self._heads(self.attention_in(self.persistent))[1:]
        k, v = torch.cat([state.k, k], 2), torch.cat([state.v, v], 2)
        out = local_blocks(q, k, v, left=self.window, right=0, beside=_seen_by_all(*always, x))
        return _joined(out), k[:, :, -self.window :], v[:, :, -self.window :]


def _seen_by_all(k: Tensor, v: Tensor, x: Tensor) -> Beside:
    """Offer the keys and values `[1, H, P, D]` to every position of `x [B, L, d_model]`."""
    k, v = (y.expand(len(x), -1, -1, -1) for y in (k, v))
    return Beside(k, v, x.new_ones(1, x.shape[1], k.shape[2], dtype=torch.bool))


class MemoryAsGate(Titans):
    """o = norm(y) ∘ σ(norm(M(x))), y windowed attention: both branches read the input."""

    def __init__(self, d_model: int, num_heads: int, **options: Any) -> None:
        super().__init__(d_model, num_heads, **options)
        self.gate = _Gate(d_model)

    def prefill(self, x: Tensor, state: TitansState) -> tuple[Tensor, TitansState]:
        """Continue over new positions `[B, L, d_model]`; returns `(out, state)`."""
        near, k, v = self._look_around(x, state)
        far, memory = self._remember(x, state.memory)
        return self.project_out(self.gate(near, far)), TitansState(memory, k, v)


class MemoryAsLayer(Titans):
    """o = attention(M(x)): the memory compresses what windowed attention then reads."""

    def prefill(self, x: Tensor, state: TitansState) -> tuple[Tensor, TitansState]:
        """Continue over new positions `[B, L, d_model]`; returns `(out, state)`."""
        far, memory = self._remember(x, state.memory)
        out, k, v = self._look_around(far, state)
        return self.project_out(out), TitansState(memory, k, v)


class MemoryAsContext(Titans):
    """Attention reads, beside its segment, what the memory recalls for it, and then writes to it.

    In each segment h_t = M(q_t) from the memory as the segment found it; y_t attends to the
    persistent tokens, h_1..h_t and x_1..x_t; the memory learns y_t; o_t = norm(y_t) ∘
    σ(norm(M_t(y_t))). The paper writes h and M for a whole segment at once, so that a position
    would see later ones of its segment; here both go no further than the position.
    """

    def __init__(self, d_model: int, num_heads: int, **options: Any) -> None:
        memory = {**(options.pop("memory_options", None) or {})}
        window = options.get("window", 64)
        if memory.setdefault("chunk", window) != window:
            raise ValueError(
                f"MemoryAsContext: the memory's chunk got {memory['chunk']}, expected the "
                f"segment's length {window}"
            )
        super().__init__(d_model, num_heads, memory_options=memory, **options)
        self.recall_query = Linear(d_model, d_model)
        self.gate = _Gate(d_model)

    def prefill(self, x: Tensor, state: TitansState) -> tuple[Tensor, TitansState]:
        """Continue over new positions `[B, L, d_model]`; returns `(out, state)`."""
        first = self.window - state.k.shape[2] // 2
        cuts = range(first, x.shape[1], self.window)
        outs = []
        for part in x.tensor_split(list(cuts), dim=1):
            out, state = self._segment(part, state)
            outs.append(out)
        return self.project_out(torch.cat(outs, 1)), state

    def _segment(self, x: Tensor, state: TitansState) -> tuple[Tensor, TitansState]:
        """Continue within one segment; keys of h and x alternate in the state."""
        ask = self.recall_query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        recalled = _joined(self.memory.recall(ask, state.memory.start))
        both = torch.stack([recalled, x], dim=2).flatten(1, 2)
        q, k, v = self._heads(self.attention_in(both))
        seen = state.k.shape[2] + 2 * torch.arange(1, x.shape[1] + 1, device=x.device)
        k, v = torch.cat([state.k, k], 2), torch.cat([state.v, v], 2)
        always = [y.expand(x.shape[0], -1, -1, -1)
                  for y in self._heads(self.attention_in(self.persistent))[1:]]  # fmt: skip
        visible = torch.arange(k.shape[2], device=x.device) < seen[:, None]
        visible = F.pad(visible, (self.persistent.shape[1], 0), value=True)
        keys, values = torch.cat([always[0], k], 2), torch.cat([always[1], v], 2)
        y = _joined(F.scaled_dot_product_attention(q[:, :, 1::2], keys, values, attn_mask=visible))
        read, memory = self._remember(y, state.memory)
        if k.shape[2] == 2 * self.window:
            k, v = k[:, :, :0], v[:, :, :0]
        return self.gate(y, read), TitansState(memory, k, v)


class _Gate(nn.Module):
    """Both branches normalised with learned weights, the second through a sigmoid."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.near = nn.RMSNorm(d_model)
        self.far = nn.RMSNorm(d_model)

    def forward(self, near: Tensor, far: Tensor) -> Tensor:
        return self.near(near) * self.far(far).sigmoid()


def _joined(x: Tensor) -> Tensor:
    """Put heads `[B, H, L, D]` side by side, `[B, L, H D]`."""
    return x.transpose(1, 2).flatten(2)
