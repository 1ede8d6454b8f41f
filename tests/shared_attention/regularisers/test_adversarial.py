"""AT and iAT find the worst perturbation of their kind; the clean loss counts once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.layers import KeyValueCache, MultiHeadAttention
from shared_attention.regularisers import (
    attended,
    attention_at,
    attention_iat,
    perturbed,
    worst_perturbation,
)

VALID = torch.arange(6) < torch.tensor([[6], [4], [5]])
LABEL = torch.tensor([0, 2, 1])


class Reader(nn.Module):
    """One query that attends to words, then a classifier."""

    def __init__(self, heads: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 16))
        self.pool = MultiHeadAttention(16, heads)
        self.classify = nn.Linear(16, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query.expand(len(x), -1, -1)
        return self.classify(self.dropout(self.pool(query, x, mask=masks.keys(VALID))[:, 0]))


@pytest.fixture
def words() -> Tensor:
    return torch.randn(3, 6, 16, dtype=torch.float64)


def reader(**options: float) -> Reader:
    torch.manual_seed(1)
    return Reader(**options).double()


def test_at_is_the_steepest_direction_of_each_row(words):
    model = reader()

    def loss() -> Tensor:
        return F.cross_entropy(model(words), LABEL)

    (r,) = worst_perturbation(model, loss, epsilon=1e-4)["pool"]
    torch.testing.assert_close(r.norm(dim=-1), torch.full((3, 2, 1), 1e-4).double())
    assert (r.masked_fill(VALID[:, None, None], 0) == 0).all()

    def rise(direction: Tensor) -> Tensor:
        with perturbed(model, {"pool": [direction]}):
            return loss() - loss_clean

    loss_clean = loss().detach()
    best = rise(r)
    assert best > 0
    for _ in range(50):
        other = torch.randn(3, 2, 1, 6).double()
        other = 1e-4 * other / other.norm(dim=-1, keepdim=True)
        assert rise(other) < best
    torch.testing.assert_close(rise(-r), -best, rtol=1e-3, atol=1e-12)


def alphas(model: Reader, words: Tensor, own_norm: bool) -> Tensor:
    """The perturbation of iAT by its definition: α over every pair of visible positions."""
    with attended(model) as calls:
        model(words)
    a = calls[0].weights.detach()
    d = a[..., :, None] - a[..., None, :]
    seen = VALID[:, None, None]
    d = d * (seen[..., :, None] & seen[..., None, :])
    if own_norm:
        d = d / d.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    alpha = torch.zeros_like(d, requires_grad=True)
    with perturbed(model, {"pool": [(alpha * d).sum(-1)]}):
        loss = F.cross_entropy(model(words), LABEL)
    (gradient,) = torch.autograd.grad(loss, alpha)
    gradient = gradient / gradient.flatten(-2).norm(dim=-1)[..., None, None]
    r = (gradient * d).sum(-1)
    return r / r.norm(dim=-1, keepdim=True)


def test_iat_is_its_definition_by_differences_of_visible_positions(words):
    model = reader()

    def loss() -> Tensor:
        return F.cross_entropy(model(words), LABEL)

    (iat,) = worst_perturbation(model, loss, epsilon=1, differences=True)["pool"]
    (at,) = worst_perturbation(model, loss, epsilon=1)["pool"]
    torch.testing.assert_close(iat, alphas(model, words, own_norm=False))
    assert (iat - at).abs().max() > 0.05
    torch.testing.assert_close(at, alphas(model, words, own_norm=True))


def test_samples_of_a_batch_do_not_share_directions(words):
    model = reader()
    other = torch.cat([words[:1], torch.randn(2, 6, 16, dtype=torch.float64)])
    found = []
    for x in (words, other):
        worst = worst_perturbation(
            model, lambda x=x: F.cross_entropy(model(x), LABEL), epsilon=1, differences=True
        )
        found.append(worst["pool"][0][0])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("train", [attention_at, attention_iat])
def test_clean_loss_counts_once_and_gradients_are_those_of_both_losses(train, words):
    model = reader()
    calls = 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        return F.cross_entropy(model(words), LABEL)

    found = train(model, loss, epsilon=2.0)
    assert calls == 2
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(found.clean, loss())
    assert found.adversarial > found.clean
    (found.clean + found.adversarial).backward()
    gradient = model.query.grad.clone()
    model.zero_grad()
    worst = worst_perturbation(model, loss, epsilon=2.0, differences=train is attention_iat)
    total = loss()
    with perturbed(model, worst):
        total = total + loss()
    total.backward()
    torch.testing.assert_close(gradient, model.query.grad)


def test_both_passes_drop_the_same_and_later_draws_go_on(words):
    model = reader(dropout=0.5).train()
    seen: list[Tensor] = []
    model.dropout.register_forward_hook(lambda m, x, out: seen.append(out == 0))

    def loss() -> Tensor:
        return F.cross_entropy(model(words), LABEL)

    attention_at(model, loss)
    assert torch.equal(seen[0], seen[1])
    attention_at(model, loss)
    assert not torch.equal(seen[1], seen[2])


def test_tiny_gradients_give_whole_perturbations(words):
    model = reader()
    big, small = (
        worst_perturbation(
            model, lambda s=s: s * F.cross_entropy(model(words), LABEL), epsilon=3.0
        )["pool"][0]
        for s in (1.0, 1e-180)
    )
    torch.testing.assert_close(big, small)


def test_a_layer_that_does_not_matter_gets_zeros(words):
    model = reader()
    worst = worst_perturbation(model, lambda: model(words).sum() * 0, epsilon=1.0)
    assert torch.equal(worst["pool"][0], torch.zeros(3, 2, 1, 6).double())


def test_bad_calls_are_refused(words):
    model = reader()
    with pytest.raises(ValueError, match="epsilon got 0"):
        attention_at(model, lambda: model(words).sum(), epsilon=0)
    with pytest.raises(ValueError, match="no attention layer was called"):
        attention_at(model, lambda: model.classify(words).sum())
    layer = MultiHeadAttention(16, 4)
    with pytest.raises(ValueError, match="calls with a cache take none"):
        attention_at(layer, lambda: layer(words.float(), cache=KeyValueCache()).sum())


@pytest.mark.parametrize("train", [attention_at, attention_iat])
@pytest.mark.parametrize("mechanism", ["selective", "clipped_softmax"])
def test_mechanisms_other_than_softmax(train, mechanism):
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 4, mechanism=mechanism)
    x = torch.randn(2, 6, 16)
    found = train(layer, lambda: layer(x).square().mean(), epsilon=0.5)
    assert found.adversarial > found.clean
    found.adversarial.backward()
    assert layer.project_in.weight.grad.isfinite().all()
