"""Gated linear attention: a linear-attention state that forgets, channel by channel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.errors import UnsupportedError
from shared_attention.inputs import check_inputs
from shared_attention.kernels import scan as kernels
from shared_attention.kernels import support
from shared_attention.masks import Mask
from shared_attention.primitives.decayed_scan import decayed_scan
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.hidden import blank_hidden
from shared_attention.references.gated_linear import reference_gated_linear
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec, Option


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    scale: float | None = None,
    backend: str = "eager",
) -> tuple[Tensor, Tensor]:
    """Return out_t = scale q_t S_t with S_t = diag(α_t) S_{t-1} + k_t v_tᵀ, and the last S.

    Computed in chunks (see `decayed_scan`): linear in the length, exact at any decay, in float32
    for half-precision inputs. Positions that are not valid neither write nor decay the state.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, L, Dk]`, Hk dividing H.
        v: `[B, Hv, L, Dv]`, Hv dividing H.
        log_decay: log α, at most 0, `[B, Hk, L, Dk]`, or `[B, Hk, L, 1]` for one per head.
        state: `[B, Hk, Dk, Dv]` of earlier positions.
        valid: bool `[B, L]`, the positions that are real.
        scale: Defaults to 1 / sqrt(Dk).
        backend: "eager" or "triton", which is then used or refused.

    Returns:
        `(out [B, H, L, Dv], state [B, Hk, Dk, Dv])`; the state is at least float32.

    Raises:
        ValueError: There is no backend of that name.
        UnsupportedError: The Triton kernels cannot serve the inputs.

    Source: Yang et al., Gated Linear Attention Transformers, eq. 3.
    """
    if backend not in ("eager", "triton"):
        raise ValueError(f"gated_linear has no backend {backend!r}; expected eager or triton")
    reasons = support.why_not(check_inputs(q, k, v)) if backend == "triton" else []
    if reasons:
        raise UnsupportedError(f"gated_linear cannot serve this call; triton: {', '.join(reasons)}")
    heads, groups = q.shape[1], q.shape[1] // k.shape[1]
    if valid is not None:
        k, v = blank_hidden(k, v, valid[:, None, None])
        log_decay = log_decay.masked_fill(~valid[:, None, :, None], 0)
    k, v, log_decay = (expand_heads(x, heads) for x in (k, v, log_decay))
    state = None if state is None else expand_heads(state, heads)
    scan = decayed_scan if backend == "eager" else kernels.scan
    out, after = scan(q, k, v, log_decay, state)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return (scale * out).to(q.dtype), after[:, ::groups]


def empty_memory(
    batch: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> Tensor:
    """Return the state of no positions, `[B, Hk, Dk, Dv]`, at least float32."""
    wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
    return torch.zeros(batch, kv_heads, key_dim, value_dim, dtype=wide, device=device)


class GatedLinearAttention(nn.Module):
    """`gated_linear_attention` with gates of low rank, α_t = σ(k_t W₁ W₂ + b)^(1/normaliser).

    The paper takes the gates from the layer's input; a mechanism sees keys, so here they come
    from each head's keys, through matrices of the same form. The swish gate on the output and
    the norm of each head belong to the paper's layer, not to the mechanism, and are left out.

    Args:
        num_heads: Heads.
        head_dim: Width of a key.
        rank: Width of the bottleneck.
        normaliser: Root taken of the gates; larger remembers longer.
        backend: Of `gated_linear_attention`.

    Raises:
        ValueError: `rank` or `normaliser` is not positive.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        rank: int = 16,
        normaliser: float = 16.0,
        backend: str = "eager",
    ) -> None:
        super().__init__()
        for name, value in (("rank", rank), ("normaliser", normaliser)):
            if value <= 0:
                raise ValueError(f"gated_linear: option {name} got {value}, expected more than 0")
        self.normaliser = normaliser
        self.backend = backend
        self.down = nn.Parameter(torch.empty(num_heads, head_dim, rank))
        self.up = nn.Parameter(torch.empty(num_heads, rank, head_dim))
        self.bias = nn.Parameter(torch.zeros(num_heads, 1, head_dim))
        for weight in (self.down, self.up):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Attend to every prefix.

        Args:
            q: `[B, H, L, D]`.
            k: `[B, H, L, D]`.
            v: `[B, H, L, Dv]`.
            mask: `masks.causal()`, with `masks.keys(valid)` where there is padding.
            bias: Not supported.

        Returns:
            `[B, H, L, Dv]`; zero before the first valid key.

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
    ) -> Tensor:
        """Return the state of no positions, `[B, H, D, Dv]`, at least float32."""
        return empty_memory(batch, kv_heads, key_dim, value_dim, dtype=dtype, device=device)

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, state: Tensor, mask: Mask | None = None
    ) -> tuple[Tensor, Tensor]:
        """Continue over new positions; `mask` is None or `masks.keys` of them."""
        valid = accept(SPEC, q, k, v, masks.onwards(mask)).keys
        return self._run(q, k, v, state, valid)

    step = prefill

    def _run(
        self, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if valid is not None:
            k, v = blank_hidden(k, v, valid[:, None, None])
        gates = k @ self.down @ self.up + self.bias
        log_decay = F.logsigmoid(gates.to(torch.promote_types(k.dtype, torch.float32)))
        return gated_linear_attention(
            q, k, v, log_decay / self.normaliser, state, valid=valid, backend=self.backend
        )


SPEC = MechanismSpec(
    name="gated_linear",
    family="attention",
    title="Gated linear attention",
    paper="Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, "
    "ICML 2024 (arXiv:2312.06635)",
    equation="out_t = q_t S_t / √D, S_t = diag(α_t) S_{t-1} + k_t v_tᵀ, "
    "α_t = σ(k_t W₁ W₂ + b)^(1/τ)",
    complexity="O(L · D · Dv) time; constant memory per step when streaming",
    when_to_use="Long causal sequences whose distant past may fade; streaming.",
    correctness="Against the recurrence in float64, one position at a time.",
    capabilities=Capabilities(causal="always", key_padding=True, scale=False, state=True),
    options=(
        Option("rank", int, 16, "width of the gates' bottleneck"),
        Option("normaliser", float, 16.0, "root taken of the gates; larger remembers longer"),
    ),
    module=GatedLinearAttention,
    reference=reference_gated_linear,
)
