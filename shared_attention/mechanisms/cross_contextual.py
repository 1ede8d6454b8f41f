"""Cross-contextual attention: encoder and decoder exchange global context at a skip connection."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from shared_attention.grid import accept_grid
from shared_attention.references.cross_contextual import reference_cross_contextual
from shared_attention.spec import Capabilities, MechanismSpec, Option


class ContextToken(nn.Module):
    """Multi-head attention of one token to itself and to the tokens of another branch.

    t <- t + W_o Σ_j softmax_j(q · k_j) v_j over j in {n, c_1, ..., c_S}, n = norm(t), q = W_q n,
    k, v = W_kv of each. As there is a single query, scores are (W_kᵀ q) · c_j and the output is
    W_v Σ_j a_j c_j: keys and values of the S tokens are never formed.

    Args:
        channels: C.
        num_heads: H.
        head_dim: D.
    """

    def __init__(self, channels: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        inner = num_heads * head_dim
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, inner, bias=False)
        self.key = nn.Linear(channels, inner, bias=False)
        self.value = nn.Linear(channels, inner, bias=False)
        self.out = nn.Linear(inner, channels)

    def forward(self, token: Tensor, context: Tensor) -> Tensor:
        """Return the next `token [B, 1, C]` given `context [B, S, C]`."""
        heads = (self.num_heads, self.head_dim)
        own = self.norm(token)
        q = self.query(own[:, 0]).unflatten(-1, heads) / math.sqrt(self.head_dim)
        seen = torch.einsum("bhd,hdc->bhc", q, self.key.weight.unflatten(0, heads))
        scores = torch.cat([seen @ own.mT, seen @ context.mT], -1)
        to_own, to_context = scores.softmax(-1).split((1, context.shape[1]), -1)
        mean = to_own * own + to_context @ context
        attended = torch.einsum("bhc,hdc->bhd", mean, self.value.weight.unflatten(0, heads))
        return token + self.out(attended.flatten(1))[:, None]


class CrossContextualAttention(nn.Module):
    """Two branches of a U-shaped network, each with a token that reads the other branch.

    Each branch's token starts as the mean of its positions. `depth` times, the decoder's token
    attends to the skip's positions, then the skip's token to the decoder's. The result of both,
    one after the other along channels, is meant for the linear layer that follows a skip
    connection.

    The published code leaves the first position of each branch out of the context and overwrites
    it with the token, so the top left corner of every feature map is lost. Here every position is
    context, and what attention added to a token is added to every position of its branch, so that
    the token is the branch's new mean. `form="published"` overwrites.

    Args:
        channels: C of both branches.
        depth: Rounds of exchange.
        num_heads: Heads.
        head_dim: Width of a head.
        form: "corrected" or "published".

    Raises:
        ValueError: A size is out of range or the form unknown.

    Source: Aghdam et al., Attention Swin U-Net, ISBI 2023, section 2.3.
    """

    def __init__(
        self,
        channels: int,
        *,
        depth: int = 2,
        num_heads: int = 8,
        head_dim: int = 64,
        form: Literal["corrected", "published"] = "corrected",
    ) -> None:
        super().__init__()
        for name, value in (("depth", depth), ("num_heads", num_heads), ("head_dim", head_dim)):
            if value < 1:
                raise ValueError(f"cross_contextual: {name} got {value}, expected at least 1")
        if form not in ("corrected", "published"):
            raise ValueError(
                f"cross_contextual: form got {form!r}, expected 'corrected' or 'published'"
            )
        self.channels, self.published = channels, form == "published"
        self.decoder = nn.ModuleList(
            ContextToken(channels, num_heads, head_dim) for _ in range(depth)
        )
        self.encoder = nn.ModuleList(
            ContextToken(channels, num_heads, head_dim) for _ in range(depth)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Let decoder features and skip features read each other.

        Args:
            x: Decoder features `[B, *grid, C]`.
            skip: Encoder features of the same shape.

        Returns:
            `[B, *grid, 2 C]`: the decoder's features, then the skip's.

        Raises:
            ValueError: Inputs of another shape or type.
        """
        accept_grid(SPEC, x, self.channels)
        accept_grid(SPEC, skip, self.channels, name="skip")
        if x.shape != skip.shape or x.dtype != skip.dtype:
            raise ValueError(
                f"cross_contextual: x is {x.dtype} {list(x.shape)} but skip is {skip.dtype} "
                f"{list(skip.shape)}, expected the same"
            )
        one, other = x.flatten(1, -2), skip.flatten(1, -2)
        token, other_token = start, other_start = one.mean(1, True), other.mean(1, True)
        left_out = 1 if self.published else 0
        for decoder, encoder in zip(self.decoder, self.encoder, strict=True):
            token = decoder(token, other[:, left_out:])
            other_token = encoder(other_token, one[:, left_out:])
        if self.published:
            one = torch.cat([token, one[:, 1:]], 1)
            other = torch.cat([other_token, other[:, 1:]], 1)
        else:
            one = one + (token - start)
            other = other + (other_token - other_start)
        return torch.cat([one, other], -1).unflatten(1, x.shape[1:-1])


def _sample(batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    shape = (2, batch, 5, 4, 8)
    x, skip = torch.randn(shape, generator=generator, dtype=torch.float64).unbind(0)
    return {"x": x, "skip": skip}


SPEC = MechanismSpec(
    name="cross_contextual",
    family="spatial",
    title="Cross-contextual attention",
    paper="Aghdam et al., Attention Swin U-Net: Cross-Contextual Attention Mechanism for Skin "
    "Lesion Segmentation, ISBI 2023 (arXiv 2210.16898)",
    equation="t_x <- t_x + Attn(t_x, {t_x} ∪ skip), t_s <- t_s + Attn(t_s, {t_s} ∪ x); "
    "y = [x + Δt_x ; skip + Δt_s]",
    complexity="O(S · C · H), S positions",
    when_to_use="Skip connections of U-shaped networks.",
    correctness="Equal to the official code with the same weights in its published form; to a "
    "float64 reference with keys and values of every position.",
    capabilities=Capabilities(linear_in_v=False),
    options=(
        Option("depth", int, 2, "rounds of exchange"),
        Option("num_heads", int, 8, "heads"),
        Option("head_dim", int, 64, "width of a head"),
        Option(
            "form",
            str,
            "corrected",
            "published: the token overwrites the first position",
            ("corrected", "published"),
        ),
    ),
    module=CrossContextualAttention,
    reference=reference_cross_contextual,
    dims=(1, 2, 3),
    example={"num_heads": 2, "head_dim": 3},
    sample=_sample,
)
