"""What is particular to graph attention: segment softmax, priors, hidden edges."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from shared_attention import attention, masks, priors
from shared_attention.mechanisms.graph_attention import GraphAttention, sample
from shared_attention.primitives.edge_products import edge_scores, edge_sums
from shared_attention.primitives.segment_softmax import segment_softmax

BONES = [(0, 1), (1, 2), (0, 3), (3, 4)]


def test_segment_softmax_equals_a_softmax_of_each_segment():
    scores = 100 * torch.randn(9, 2, dtype=torch.float64)
    scores[3] = scores[5] = -torch.inf
    scores.requires_grad_()
    segments = torch.tensor([2, 0, 2, 4, 0, 2, 1, 0, 1])
    weights = segment_softmax(scores, segments, 5)
    for s in (0, 1, 2):
        torch.testing.assert_close(weights[segments == s], scores[segments == s].softmax(0))
    assert (weights[segments == 4] == 0).all()
    (gradient,) = torch.autograd.grad(weights[[0, 1, 2]].square().sum(), scores)
    assert gradient.isfinite().all()


def test_hops_of_a_skeleton():
    distance = priors.hop_distance(priors.adjacency(BONES, 6))
    assert distance.tolist() == [
        [0, 1, 2, 1, 2, -1],
        [1, 0, 1, 2, 3, -1],
        [2, 1, 0, 3, 4, -1],
        [1, 2, 3, 0, 1, -1],
        [2, 3, 4, 1, 0, -1],
        [-1, -1, -1, -1, -1, 0],
    ]
    groups = priors.hop_masks(distance, 2)
    assert groups.shape == (3, 6, 6)
    assert groups[2].nonzero().tolist() == [[0, 2], [0, 4], [1, 3], [2, 0], [3, 1], [4, 0]]


def test_hop_types_and_the_hop_bias_of_dense_attention_are_the_same():
    torch.manual_seed(0)
    distance = priors.hop_distance(priors.adjacency(BONES, 5))
    layer = GraphAttention(8, num_heads=2, edge_types=5).double()
    torch.nn.init.normal_(layer.type_bias)
    bias = priors.HopBias(distance, 2, 4).double()
    bias.table = layer.type_bias
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    edge_index, edge_type = priors.typed_edges(distance, 3)
    q, k, v = layer.qkv(x).unflatten(-1, (3, 2, 4)).transpose(1, 3).unbind(2)
    dense = attention(q, k, v, bias=bias()).transpose(1, 2).flatten(2)
    out = layer(x.flatten(0, 1), edge_index, edge_type=edge_type)
    torch.testing.assert_close(out.view(3, 5, 8), dense)


def test_edges_are_the_mask_of_dense_attention():
    torch.manual_seed(0)
    joined = priors.adjacency(BONES, 5)
    layer = GraphAttention(8, num_heads=2).double()
    x = torch.randn(5, 8, dtype=torch.float64)
    q, k, v = layer.qkv(x)[None].unflatten(-1, (3, 2, 4)).transpose(1, 3).unbind(2)
    dense = attention(q, k, v, mask=masks.dense(joined)).transpose(1, 2).flatten(2)[0]
    edge_index, _ = priors.typed_edges(torch.where(joined, 0, -1))
    torch.testing.assert_close(layer(x, edge_index), dense)


def test_an_edge_with_a_bias_of_minus_infinity_is_no_edge():
    layer = GraphAttention(8, num_heads=2, edge_dim=3, edge_types=4).double()
    inputs = dict(sample(1, torch.Generator().manual_seed(0)))
    hidden = inputs | {"edge_bias": inputs["edge_bias"].clone()}
    hidden["edge_bias"][:2] = -torch.inf
    fewer = {
        n: x if n == "x" else x[..., 2:] if n == "edge_index" else x[2:] for n, x in inputs.items()
    }
    torch.testing.assert_close(layer(**hidden), layer(**fewer))


def test_a_learned_topology_starts_as_the_known_one_and_stays_symmetric_in_what_it_learns():
    topology = priors.LearnedTopology(priors.chain(4))
    known = torch.tensor([[3, 3, 0, 0], [2, 2, 2, 0], [0, 2, 2, 2], [0, 0, 3, 3]]) / 6
    torch.testing.assert_close(topology(), known, atol=1e-5, rtol=0)
    topology()[0, 3].backward()
    assert torch.equal(topology.learned.grad, topology.learned.grad.T)
    assert not [name for name in topology.state_dict() if name != "learned"]


def test_what_does_not_fit_is_refused():
    layer = GraphAttention(8, num_heads=2, edge_dim=3)
    x, edges = torch.randn(4, 8), torch.tensor([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match=r"edge_features are not given, .* built for 3"):
        layer(x, edges)
    with pytest.raises(ValueError, match=r"edge_index is torch.float32 of shape \[2, 2\]"):
        layer(x, edges.float(), torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"edge_features is .* expected floats \[2, 3\]"):
        layer(x, edges, torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"edge \(0, 9\) names nodes outside 0\.\.4"):
        priors.adjacency([(0, 9)], 5)


def test_gradients_of_edge_features_and_parts_equal_the_plain_products(monkeypatch):
    monkeypatch.setattr("shared_attention.primitives.edge_products.NUMBERS_AT_ONCE", 20)
    torch.manual_seed(0)
    q, weights, k = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 2, 3), (7, 2), (7, 1, 3))
    )
    target = torch.randint(5, (7,))
    scores = edge_scores(q, k, None, target)
    torch.testing.assert_close(scores, (q[target] * k).sum(-1))
    sums = edge_sums(weights, k, None, target, 5)
    one_hot = functional.one_hot(target, 5).double()
    torch.testing.assert_close(
        sums, torch.einsum("en,eh,ehd->nhd", one_hot, weights, k + 0 * q[target])
    )
    assert torch.autograd.gradcheck(lambda a, b: edge_scores(a, b, None, target), (q, k))
    assert torch.autograd.gradcheck(lambda a, b: edge_sums(a, b, None, target, 5), (weights, k))
