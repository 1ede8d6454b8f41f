"""Routing attention: tokens attend to the recent members of their own k-means cluster."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.errors import UnsupportedError, unsupported
from shared_attention.masks import Mask, new_positions
from shared_attention.mechanisms.routing_state import Members, advance
from shared_attention.primitives.local_blocks import local_blocks
from shared_attention.primitives.topk import gather, select
from shared_attention.references.routing import reference_routing
from shared_attention.refusal import accept
from shared_attention.result import AttentionOutput
from shared_attention.spec import Capabilities, MechanismSpec, Option


class RoutingAttention(nn.Module):
    """Route each token to the centroid nearest to it and attend within the cluster.

    A token is routed by r_i = (q̂_i + k̂_i) / 2, x̂ = x / |x|, which is the paper's shared
    query-key vector where q = k, to the centroid μ_c of largest r_i · μ_c. It attends with
    softmax(q kᵀ / √D) to `window` members of its cluster: the last ones up to and including
    itself under a causal mask, half of them on either side otherwise. Tokens are sorted by
    cluster and attend in local blocks of the sorted sequence, so nothing of size L² exists.

    What differs from the published code, and is restored by `form="published"`:

    - Each centroid takes the `window` nearest queries and, separately, keys. Some tokens are
      taken by none and get zero, others are averaged over several clusters. Here every token
      has exactly one cluster and sees itself.
    - Under a causal mask that choice depends on later tokens, so earlier outputs change with
      the future. Here a token's cluster depends on itself alone.
    - Padding takes part in the choice; `published` therefore refuses a key mask.

    In training, `forward` moves the centroids after its output is computed: an exponential
    moving average of the mean member over all samples of the batch, which later calls then use.
    The output itself never depends on other samples, nor on the mode.

    Args:
        num_heads: Heads, each with centroids of its own.
        head_dim: Width of queries and keys.
        clusters: Number of centroids; the paper takes √L.
        window: Members that each token attends to; the paper takes L / clusters.
        decay: What a centroid keeps of itself in each update.
        form: `corrected`, or `published` for comparison with the published code.

    Raises:
        ValueError: An option is out of range.

    Source: Roy et al., Routing Transformers, TACL 2021, section 4.1, algorithm 1.
    """

    centroids: Tensor

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        clusters: int = 16,
        window: int = 64,
        decay: float = 0.999,
        form: Literal["corrected", "published"] = "corrected",
    ) -> None:
        super().__init__()
        for name, value in (("clusters", clusters), ("window", window)):
            if value < 1:
                raise ValueError(f"routing: option {name} got {value}, expected at least 1")
        if not 0 <= decay <= 1:
            raise ValueError(f"routing: option decay got {decay}, expected 0 to 1")
        self.window = window
        self.decay = decay
        self.form = form
        centroids = F.normalize(torch.randn(num_heads, clusters, head_dim), dim=-1)
        self.register_buffer("centroids", centroids)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Attend; in training also move the centroids.

        Args:
            q: `[B, H, L, D]`.
            k: `[B, H, L, D]`.
            v: `[B, H, L, Dv]`.
            mask: `masks.causal()`, `masks.keys(valid)` or both; padded keys are padded queries.
            bias: Refused.

        Returns:
            `[B, H, L, Dv]`; zero for padded queries.

        Raises:
            UnsupportedError: A bias, a mask of another kind, or a shape that is not supported.
        """
        return self._run(q, k, v, mask, bias)[0]

    def output(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None, bias: Tensor | None = None
    ) -> AttentionOutput:
        """As `forward`, with `aux["commitment"]`: mean |r̂_i - μ_c(i)|² over real tokens.

        Add it to the loss, weighted by 1e-4, to hold queries and keys near their centroids.
        """
        centroids = self.centroids.clone()
        out, routed, cluster, valid = self._run(q, k, v, mask, bias)
        loss = _commitment(routed, centroids.to(routed.dtype), cluster, valid)
        return AttentionOutput(out, aux={"commitment": loss})

    def init_state(
        self,
        batch: int,
        kv_heads: int,
        key_dim: int,
        value_dim: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Members:
        """Return the state of no positions.

        Raises:
            UnsupportedError: The form is the published one, which reads the future.
        """
        if self.form == "published":
            raise UnsupportedError("routing: form='published' reads the future and has no state")
        shape = (batch, kv_heads, self.centroids.shape[1])
        k = torch.zeros(*shape, self.window, key_dim, dtype=dtype, device=device)
        v = torch.zeros(*shape, self.window, value_dim, dtype=dtype, device=device)
        return Members(k, v, torch.zeros(shape, dtype=torch.int64, device=device))

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, state: Members, mask: Mask | None = None
    ) -> tuple[Tensor, Members]:
        """Attend causally from new positions to the last members of their clusters.

        The centroids stay where they are, in training too. The state keeps `window` members of
        each cluster, whatever came before.
        """
        return advance(q, k, v, state, new_positions(mask), self.centroids)

    step = prefill

    def _run(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the output, routing vectors, clusters and which tokens are real."""
        parts = accept(SPEC, q, k, v, mask)
        if bias is not None:
            raise unsupported("routing", "bias", "an additive bias")
        if q.shape[1] != len(self.centroids):
            raise ValueError(
                f"routing: q has {q.shape[1]} heads, expected num_heads = {len(self.centroids)}"
            )
        if parts.keys is not None:
            hidden = ~parts.keys[:, None, :, None]
            q, k, v = (x.masked_fill(hidden, 0) for x in (q, k, v))
        wide = torch.promote_types(q.dtype, torch.float32)
        routed = F.normalize(_unit(q.to(wide)) + _unit(k.to(wide)), dim=-1)
        cluster = (routed.detach() @ self.centroids.to(wide).mT).argmax(dim=-1)
        if self.form == "published":
            if parts.keys is not None:
                raise UnsupportedError("routing: form='published' cannot honour a key mask")
            out = self._published(q, k, v, parts.causal)
        else:
            out = self._clustered(q, k, v, cluster, parts.keys, parts.causal)
        if self.training:
            self._update(routed.detach(), cluster, parts.keys)
        return out, routed, cluster, parts.keys

    def _clustered(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cluster: Tensor,
        valid: Tensor | None,
        causal: bool,
    ) -> Tensor:
        """Sort by cluster, attend to neighbours of the same cluster, undo the sorting."""
        batch, heads, length, _ = q.shape
        if valid is not None:
            cluster = cluster.masked_fill(~valid[:, None], self.centroids.shape[1])
        members, order = cluster.sort(dim=-1, stable=True)
        members = members.flatten(0, 1)
        left = self.window - 1 if causal else self.window // 2
        right = self.window - 1 - left
        q, k, v = (gather(x, order).flatten(0, 1)[:, None] for x in (q, k, v))
        out = local_blocks(
            q,
            k,
            v,
            left=min(left, length - 1),
            right=min(right, length - 1),
            keys=None if valid is None else members < self.centroids.shape[1],
            segments=members,
        )
        return gather(out[:, 0].unflatten(0, (batch, heads)), order.argsort(dim=-1))

    def _published(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        """Let every centroid choose its queries and its keys, and average over centroids."""
        batch, heads, length, _ = q.shape
        centroids = self.centroids.to(q.dtype)
        count = min(self.window, length)
        queries, keys = (
            select((_unit(x) @ centroids.mT).mT.flatten(0, 1), count).unflatten(0, (batch, heads))
            for x in (q, k)
        )
        flat, flat_keys = queries.flatten(2), keys.flatten(2)
        q, k, v = (
            gather(x, index).unflatten(2, (-1, count)).flatten(0, 1)
            for x, index in ((q, flat), (k, flat_keys), (v, flat_keys))
        )
        seen = None
        if causal:
            seen = (queries[..., :, None] >= keys[..., None, :]).flatten(0, 1)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        found = found.flatten(1, 2).unflatten(0, (batch, heads))
        index = flat[..., None].expand_as(found)
        out = found.new_zeros(batch, heads, length, v.shape[-1])
        once = torch.ones_like(found[..., :1])
        times = torch.zeros_like(out[..., :1]).scatter_add(2, flat[..., None], once)
        return out.scatter_add(2, index, found) / times.clamp(min=1)

    @torch.no_grad()
    def _update(self, routed: Tensor, cluster: Tensor, valid: Tensor | None) -> None:
        member = F.one_hot(cluster, self.centroids.shape[1]).to(routed.dtype)
        if valid is not None:
            member = member * valid[:, None, :, None]
        sums = torch.einsum("bhlc,bhld->hcd", member, routed)
        count = member.sum((0, 2))[..., None]
        old = self.centroids.to(routed.dtype)
        moved = F.normalize(old * self.decay + sums / count.clamp(min=1) * (1 - self.decay), dim=-1)
        self.centroids.copy_(torch.where(count > 0, moved, old))

    def extra_repr(self) -> str:
        """Show the sizes."""
        heads, clusters, _ = self.centroids.shape
        return f"num_heads={heads}, clusters={clusters}, window={self.window}, form={self.form!r}"


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def _commitment(routed: Tensor, centroids: Tensor, cluster: Tensor, valid: Tensor | None) -> Tensor:
    own = gather(centroids.expand(len(routed), -1, -1, -1), cluster)
    distance = (routed - own).square().sum(-1)
    if valid is None:
        return distance.mean()
    real = valid[:, None].to(distance.dtype)
    return (distance * real).sum() / (real.sum() * routed.shape[1]).clamp(min=1)


SPEC = MechanismSpec(
    name="routing",
    family="attention",
    title="Routing attention",
    paper="Roy et al., Efficient Content-Based Sparse Attention with Routing Transformers, "
    "TACL 2021 (arXiv:2003.05997)",
    equation="out_i = Σ_j softmax_j(q_i k_jᵀ / √D) v_j over the last w members j of cluster "
    "c(i) = argmax_c (q̂_i + k̂_i) · μ_c",
    complexity="O(L · (clusters + window) · d): L^1.5 with both at √L",
    when_to_use="Long sequences where related tokens lie far apart, as in Routing Transformers.",
    correctness="Published form equal to lucidrains/routing-transformer; corrected form to a "
    "token-by-token float64 reference.",
    capabilities=Capabilities(
        causal="exact",
        key_padding=True,
        scale=False,
        state=True,
        weights=True,
        train_eval_differs=True,
    ),
    options=(
        Option("clusters", int, 16, "number of centroids; the paper takes √L"),
        Option("window", int, 64, "members of its cluster that each token attends to"),
        Option("decay", float, 0.999, "what a centroid keeps of itself in each update"),
        Option(
            "form",
            str,
            "corrected",
            "published: centroids choose tokens, which leaks the future and leaves some out",
            ("corrected", "published"),
        ),
    ),
    module=RoutingAttention,
    reference=reference_routing,
)
