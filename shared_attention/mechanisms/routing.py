"""Routing attention: tokens attend to the recent members of their own k-means cluster."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.errors import UnsupportedError, unsupported
from shared_attention.masks import Mask, new_positions
from shared_attention.mechanisms.routing_state import Members, advance
from shared_attention.primitives.attend_groups import attend_groups, can_group
from shared_attention.primitives.group_pieces import Groups
from shared_attention.primitives.local_blocks import local_blocks
from shared_attention.primitives.rows import Layout, rearrange_rows
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
        out, q, k, valid = self._run(q, k, v, mask, bias)
        loss = _commitment(_routed(q, k), centroids, _nearest(q, k, centroids), valid)
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
        return advance(q, k, v, state, new_positions(mask), _nearest(q, k, self.centroids))

    step = prefill

    def _run(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the output, queries and keys without padding, and which tokens are real."""
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
        if self.form == "published":
            if parts.keys is not None:
                raise UnsupportedError("routing: form='published' cannot honour a key mask")
            out = self._published(q, k, v, parts.causal)
            cluster = None
        else:
            cluster = _nearest(q, k, self.centroids)
            out = self._clustered(q, k, v, cluster, parts.keys, parts.causal)
        if self.training:
            self._update(q, k, cluster, parts.keys)
        return out, q, k, parts.keys

    def _clustered(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cluster: Tensor,
        valid: Tensor | None,
        causal: bool,
    ) -> Tensor:
        """Sort by cluster, attend to neighbours of the same cluster, undo the sorting.

        The sorted sequences of all samples and heads follow each other in one.
        """
        length, clusters = q.shape[2], self.centroids.shape[1] + 1
        if valid is not None:
            cluster = cluster.masked_fill(~valid[:, None], clusters - 1)
        members, order = cluster.sort(dim=-1, stable=True)
        pair = torch.arange(q.shape[0] * q.shape[1], device=q.device)
        labels = (members.flatten(0, 1) + clusters * pair[:, None]).flatten()
        layout = Layout.of(q, k, v)
        order = layout.number(order)
        q, k, v = (layout.rows(x) for x in (q, k, v))
        left = self.window - 1 if causal else self.window // 2
        left, right = (min(n, length - 1) for n in (left, self.window - 1 - left))
        if can_group(q):
            sizes = torch.bincount(labels, minlength=len(pair) * clusters)
            groups = Groups(order, order, sizes, (left, right))
            return layout.undo(attend_groups(q, k, v, groups))
        put_back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)).to(order))
        q, k, v = (rearrange_rows(x, order, put_back)[None, None] for x in (q, k, v))
        out = local_blocks(q, k, v, left=left, right=right, segments=labels[None])[0, 0]
        return layout.undo(rearrange_rows(out, put_back, order))

    def _published(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        """Let every centroid choose its queries and its keys, and average over centroids."""
        batch, heads, length, _ = q.shape
        count = min(self.window, length)
        queries, keys = (_leading(x, self.centroids, count) for x in (q, k))
        layout = Layout.of(q, k, v)
        into, seen = layout.number(queries.flatten(2)), layout.number(keys.flatten(2))
        times = torch.zeros(batch * heads * length, device=q.device)
        times = times.index_add_(0, into, torch.ones_like(into, dtype=times.dtype))
        gain = times.reciprocal().index_select(0, into)
        if causal:
            gain = gain * (queries >= keys[..., :1]).flatten()
        q, k, v = (layout.rows(x) for x in (q, k, v))
        if can_group(q):
            positions = (queries.flatten(), keys.flatten()) if causal else None
            sizes = torch.full((queries[..., 0].numel(),), count)
            groups = Groups(into, seen, sizes, positions=positions)
            return layout.undo(attend_groups(q, k, v, groups, gain.to(q.dtype)))
        q, k, v = (
            x.index_select(0, i).view(batch * heads, -1, count, x.shape[1])
            for x, i in ((q, into), (k, seen), (v, seen))
        )
        visible = (queries[..., :, None] >= keys[..., None, :]).flatten(0, 1) if causal else None
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=visible).flatten(0, 2)
        found = found * gain[:, None].to(found.dtype)
        return layout.undo(found.new_zeros(len(times), v.shape[-1]).index_add(0, into, found))

    @torch.no_grad()
    def _update(self, q: Tensor, k: Tensor, cluster: Tensor | None, valid: Tensor | None) -> None:
        if cluster is None:
            cluster = _nearest(q, k, self.centroids)
        routed = _routed(q, k)
        old = self.centroids.to(routed.dtype)
        every = torch.arange(old.shape[1], device=q.device)
        member = (cluster[:, :, None] == every[:, None]).to(routed.dtype)
        if valid is not None:
            member = member * valid[:, None, None]
        sums, count = (member @ routed).sum(0), member.sum((0, 3))[..., None]
        moved = F.normalize(old * self.decay + sums / count.clamp(min=1) * (1 - self.decay), dim=-1)
        self.centroids.copy_(torch.where(count > 0, moved, old))

    def extra_repr(self) -> str:
        """Show the sizes."""
        heads, clusters, _ = self.centroids.shape
        return f"num_heads={heads}, clusters={clusters}, window={self.window}, form={self.form!r}"


def _routed(q: Tensor, k: Tensor) -> Tensor:
    """The direction of q̂ + k̂, in float32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    return F.normalize(F.normalize(q.to(wide), dim=-1) + F.normalize(k.to(wide), dim=-1), dim=-1)


@torch.no_grad()
def _nearest(q: Tensor, k: Tensor, centroids: Tensor) -> Tensor:
    """Number of the centroid of largest (q̂ + k̂) · μ, `[B, H, L]`."""
    return (_along(q, centroids) + _along(k, centroids)).argmax(dim=-1)


@torch.no_grad()
def _leading(x: Tensor, centroids: Tensor, count: int) -> Tensor:
    """The `count` positions of largest x̂ · μ for each centroid, in order, `[B, H, C, count]`."""
    return select(_along(x, centroids).mT.flatten(0, 1), count).unflatten(0, x.shape[:2])


def _along(x: Tensor, centroids: Tensor) -> Tensor:
    """x̂ · μ for each centroid, `[B, H, L, C]`."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)
    return (x @ centroids.to(x.dtype).mT).div_(length)


def _commitment(routed: Tensor, centroids: Tensor, cluster: Tensor, valid: Tensor | None) -> Tensor:
    own = gather(centroids.to(routed.dtype).expand(len(routed), -1, -1, -1), cluster)
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
