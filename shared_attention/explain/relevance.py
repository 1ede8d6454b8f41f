"""Which inputs mattered: values and gradients beside the weights of attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from shared_attention.explain.capture import LayerTrace
from shared_attention.explain.rollout import start


def value_relevance(traces: Mapping[str, LayerTrace]) -> dict[str, Tensor]:
    """Weigh attention by the size of what it fetches.

    R_ij = ‖Σ_h A_hij v_hj W_o,h‖: how long a vector position i gets from position j. A key of large
    weight whose value is next to nothing, as that of an attention sink, counts little.

    Args:
        traces: From `trace`.

    Returns:
        `[B, 1, L, S]` by layer, not negative, which `rollout` takes in place of weights.

    Source: Kobayashi et al., Attention is Not Only a Weight, EMNLP 2020 (arXiv:2004.10102), eq. 7.
    """
    return {name: _fetched(seen)[:, None] for name, seen in traces.items()}


def _fetched(seen: LayerTrace) -> Tensor:
    """‖Σ_h A_hij v_hj W_o,h‖ `[B, L, S]`, from inner products: no `[L, S, d_model]` is formed."""
    with torch.no_grad():
        given = torch.einsum("bhsd,hdm->bhsm", seen.values, seen.projection)
        gram = torch.einsum("bhsm,bgsm->bshg", given, given)
        weights = seen.weights.permute(0, 3, 2, 1)
        squares = torch.einsum("bslh,bshg,bslg->bls", weights, gram, weights)
        return squares.clamp_min(0).sqrt()


def gradient_relevance(traces: Mapping[str, LayerTrace], score: Tensor) -> dict[str, Tensor]:
    """Weigh attention by how much the score would change with it: max(0, A ∘ ∂score/∂A).

    With out = A v the derivative is ∂score/∂A_ij = ∂score/∂out_i · v_j, whatever the mechanism
    and its kernels: no matrix needs to be part of the graph. The score belongs to one target of
    each sample, added up over the batch.

    Args:
        traces: From `trace`, of the pass that gave the score, run with gradients.
        score: Scalar, such as the logits of the predicted classes added up.

    Returns:
        `[B, H, L, S]` by layer; zero where the score does not depend on the layer. The mean over
        heads of one layer is its map; `relevance_rollout` joins layers.

    Raises:
        ValueError: The score is not a scalar with gradients, or the pass was without.

    Source: Chefer et al., Generic Attention-model Explainability, ICCV 2021 (arXiv:2103.15679),
    eq. 5, there with the attention matrix in the graph.
    """
    if score.dim() or not score.requires_grad:
        raise ValueError(
            f"gradient_relevance: score has shape {list(score.shape)} and requires_grad "
            f"{score.requires_grad}, expected a scalar that requires gradients"
        )
    blind = [name for name, seen in traces.items() if not seen.out.requires_grad]
    if blind:
        raise ValueError(
            f"gradient_relevance: layer {blind[0]!r} ran without gradients; leave out "
            "torch.no_grad(), or give the input requires_grad"
        )
    outs = [seen.out for seen in traces.values()]
    slopes = torch.autograd.grad(score, outs, retain_graph=True, allow_unused=True)
    relevance = {}
    for (name, seen), slope in zip(traces.items(), slopes, strict=True):
        slope = torch.zeros_like(seen.out) if slope is None else slope
        steepness = slope.detach() @ seen.values.detach().mT
        relevance[name] = (seen.weights * steepness).clamp_min(0)
    return relevance


def relevance_rollout(maps: Sequence[Tensor]) -> Tensor:
    """Follow relevance through layers: R <- R + mean_heads(map) R, starting at the identity.

    Unlike in `rollout` rows are not normalised, so a layer on which the score does not depend
    adds nothing, where plain rollout has every layer mix half of its attention in.

    Args:
        maps: From `gradient_relevance`, first layer first, each `[B, H, L, L]`.

    Returns:
        `[B, L, L]`: how much each output position draws on each input position.

    Raises:
        ValueError: There are no matrices, or one is not square or of another size.

    Source: Chefer et al., Generic Attention-model Explainability, ICCV 2021, eq. 6.
    """
    total = start(maps, "relevance_rollout")
    for weights in maps:
        total = total + weights.mean(dim=1) @ total
    return total
