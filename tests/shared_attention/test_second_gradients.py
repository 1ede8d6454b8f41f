"""Second derivatives through written-out backward passes are right or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from shared_attention.dropout import dropout
from shared_attention.errors import UnsupportedError
from shared_attention.mechanisms.aggregated import AggregatedAttention
from shared_attention.mechanisms.auto_correlation import _Shifts
from shared_attention.mechanisms.channel import _Gram
from shared_attention.primitives import attend_blocks, block_sparse, edge_products, local_blocks
from shared_attention.primitives.attend import softmax
from shared_attention.primitives.attend_groups import attend_groups
from shared_attention.primitives.biased_attention import biased_attention
from shared_attention.primitives.depthwise import depthwise_conv
from shared_attention.primitives.group_pieces import Groups
from shared_attention.primitives.long_conv import causal_conv
from shared_attention.primitives.permutation import put_back, take
from shared_attention.primitives.rows import rearrange_rows
from shared_attention.primitives.weighted_bags import weighted_bags
from shared_attention.primitives.window_layer import Weights, window_layer

ORDER = torch.tensor([2, 0, 3, 1])
BACK = ORDER.argsort()
BIASES = torch.tensor([2, 0, 0, 3, 1]).expand(2, 2, 5)
LAGS = torch.tensor([[1, 3], [0, 2]])


def draw(*shape: int) -> Tensor:
    x = torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape))
    )
    return x.requires_grad_()


def dropped(x: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dropout(x, 0.5)


def near(x: Tensor) -> Tensor:
    return torch.cat([part.sin().flatten() for part in local_blocks._near(x, 4, 2, 2)])


TWICE: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "take": (lambda x: take(x, ORDER.expand(2, -1)).sin(), (draw(2, 4),)),
    "put_back": (lambda x: put_back(x, ORDER.expand(2, -1)).sin(), (draw(2, 4),)),
    "rearrange_rows": (lambda x: rearrange_rows(x, ORDER, BACK).sin(), (draw(4, 2),)),
    "local_blocks": (near, (draw(1, 10, 2),)),
    "depthwise_conv": (depthwise_conv, (draw(1, 6, 6, 2), draw(2, 1, 5, 5))),
    "causal_conv": (causal_conv, (draw(2, 2, 5), draw(2, 5))),
    "gram": (_Gram.apply, (draw(1, 3, 2),)),
    "shifts": (lambda x, w: _Shifts.apply(x, LAGS, w), (draw(2, 5, 2), draw(2, 2))),
    "dropout": (lambda x: dropped(x).sin(), (draw(3, 4),)),
}


@pytest.mark.parametrize("name", TWICE)
def test_second_gradients(name):
    function, inputs = TWICE[name]
    assert gradgradcheck(function, inputs)


def groups(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend_groups(q, k, v, Groups(ORDER, ORDER, torch.tensor([3, 1]), (1, 1)))


def blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend_blocks.attend_blocks(q, k, v, normaliser=softmax)


def listed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    ids = torch.tensor([[0, 1]])
    how = block_sparse._How(
        ids=ids.expand(2, -1),
        rows=ids.expand(2, -1),
        used=torch.ones(2, 2, dtype=torch.bool),
        real=torch.tensor([4, 4]),
        own=torch.arange(2),
        causal=False,
        scale=1.0,
    )
    return block_sparse._Pieces.apply(q, k, v, how)


def edge_scores(q: Tensor, k: Tensor) -> Tensor:
    return edge_products._Scores.apply(q, k, ORDER, BACK)


def edge_sums(weights: Tensor, v: Tensor) -> Tensor:
    return edge_products._Sums.apply(weights, v, ORDER, BACK, 4)


def windows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rows = torch.arange(6)
    weights = Weights(weight, None, weight[:2], None)
    return window_layer(x, rows.view(2, 3), rows, weights, bias, [None], [2])


def biased(q: Tensor, bias: Tensor) -> Tensor:
    hidden = torch.zeros(1, 1, 1, 5, dtype=torch.bool)
    hidden[..., 4] = True
    bias = bias.masked_fill(hidden, -torch.inf)
    keys = q[:, :1].cos()
    return biased_attention(q, keys, keys.sin(), bias, 0.7)


def biased_by_row(q: Tensor, bias: Tensor) -> Tensor:
    return biased_attention(q, q.sin(), q.cos(), bias, 0.7, BIASES)


ONCE: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "attend_groups": (groups, (draw(4, 2), draw(4, 2), draw(4, 2))),
    "attend_blocks": (blocks, (draw(1, 1, 4, 2), draw(1, 1, 4, 2), draw(1, 1, 4, 2))),
    "block_sparse": (listed, (draw(2, 2, 3), draw(2, 2, 3), draw(2, 2, 3))),
    "window_layer": (windows, (draw(6, 2), draw(6, 2), draw(1, 3, 3))),
    "biased_attention": (biased, (draw(2, 2, 5, 3), draw(1, 2, 5, 5))),
    "biased_attention, rows": (biased_by_row, (draw(2, 2, 5, 3), draw(4, 5))),
    "near_and_far": (AggregatedAttention(4, num_heads=2).double(), (draw(1, 5, 5, 4),)),
    "edge_scores": (edge_scores, (draw(4, 1, 2), draw(4, 1, 2))),
    "edge_sums": (edge_sums, (draw(4, 1), draw(4, 1, 2))),
    "weighted_bags": (lambda x, w: weighted_bags(x, LAGS, w), (draw(4, 2), draw(2, 2))),
}


@pytest.mark.parametrize("name", ONCE)
def test_no_second_gradient_is_given_silently(name):
    function, inputs = ONCE[name]
    assert gradcheck(function, inputs)
    first = torch.autograd.grad(function(*inputs).sum(), inputs, create_graph=True)
    with pytest.raises(UnsupportedError, match="second derivatives are not supported"):
        torch.autograd.grad(sum(x.square().sum() for x in (*first, *inputs)), inputs)
