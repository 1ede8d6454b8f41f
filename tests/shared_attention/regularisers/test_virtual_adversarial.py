"""VAT and iVAT need no label and find what moves predictions most."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn

from shared_attention import masks
from shared_attention.layers import MultiHeadAttention
from shared_attention.regularisers import (
    attended,
    attention_ivat,
    attention_vat,
    bernoulli_divergence,
    categorical_divergence,
    perturbed,
)

VALID = torch.arange(5) < torch.tensor([[5]])


class Reader(nn.Module):
    """One query that attends to words, then a classifier."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 16))
        self.pool = MultiHeadAttention(16, 1)
        self.classify = nn.Linear(16, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query.expand(len(x), -1, -1)
        valid = VALID.expand(len(x), -1)
        return 3 * self.classify(self.dropout(self.pool(query, x, mask=masks.keys(valid))[:, 0]))


@pytest.fixture
def words() -> Tensor:
    return torch.randn(1, 5, 16, dtype=torch.float64)


@pytest.fixture
def model() -> Reader:
    return Reader().double()


def test_divergences_equal_those_of_torch_and_vanish_where_equal():
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    kl = distributions.kl_divergence
    expected = kl(distributions.Categorical(logits=a), distributions.Categorical(logits=b)).mean()
    torch.testing.assert_close(categorical_divergence(a, b), expected)
    expected = kl(distributions.Bernoulli(logits=a), distributions.Bernoulli(logits=b)).mean()
    torch.testing.assert_close(bernoulli_divergence(a, b), expected)
    assert categorical_divergence(a, a) == 0
    assert bernoulli_divergence(a, a) == 0
    extreme = torch.tensor([[1e4, -1e4, 0.0]])
    assert categorical_divergence(extreme, -extreme).isfinite()
    assert bernoulli_divergence(extreme, -extreme).isfinite()


def kl_at(model: Reader, words: Tensor, r: Tensor) -> Tensor:
    with perturbed(model, {"pool": [r.view(1, 1, 1, 5)]}):
        moved = model(words)
    return categorical_divergence(model(words).detach(), moved)


@pytest.mark.parametrize("differences", [False, True])
def test_power_iteration_finds_the_first_eigenvector_of_the_hessian(model, words, differences):
    with attended(model) as calls:
        model(words)
    a = calls[0].weights.detach()[0, 0, 0]
    spread = (a[:, None] - a).square().sum(-1) if differences else torch.ones(5).double()
    zero = torch.zeros(5, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda r: kl_at(model, words, r), zero)
    root = spread.sqrt()
    first = torch.linalg.eigh(root[:, None] * hessian * root).eigenvectors[:, -1] * root
    first = 0.01 * first / first.norm()
    expected = 0.5 * (first @ hessian @ first)
    vat = attention_ivat if differences else attention_vat
    found = vat(model, lambda: model(words), epsilon=0.01, iterations=40, probe=1e-4)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("vat", [attention_vat, attention_ivat])
def test_one_iteration_beats_random_directions(vat, model, words):
    found = vat(model, lambda: model(words), epsilon=0.5)
    drawn = torch.randn(20, 5, dtype=torch.float64)
    others = [kl_at(model, words, 0.5 * r / r.norm()) for r in drawn]
    assert found > torch.stack(others).mean()


@pytest.mark.parametrize("vat", [attention_vat, attention_ivat])
def test_training_on_it_makes_predictions_steadier(vat):
    torch.manual_seed(0)
    model, x = Reader(), torch.randn(16, 5, 16)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    values = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = vat(model, lambda: model(x), epsilon=1.0)
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.5 * values[0]


def test_no_gradient_goes_through_the_clean_predictions(model, words):
    generator = torch.Generator().manual_seed(0)
    loss = attention_vat(model, lambda: model(words), generator=generator)
    assert all(p.grad is None for p in model.parameters())
    (found,) = torch.autograd.grad(loss, model.classify.bias)
    clean = model(words).softmax(-1).detach()
    moved = []
    model.register_forward_hook(lambda m, x, out: moved.append(out))
    attention_vat(model, lambda: model(words), generator=generator.manual_seed(0))
    q = moved[-1].detach().softmax(-1)
    torch.testing.assert_close(found, 3 * (q - clean)[0])


def test_every_pass_drops_the_same_and_directions_differ_from_call_to_call(words):
    model = Reader(dropout=0.5).double().train()
    seen: list[Tensor] = []
    model.dropout.register_forward_hook(lambda m, x, out: seen.append(out == 0))
    attention_vat(model, lambda: model(words))
    assert len(seen) == 3
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2])
    model.eval()
    first, second = (attention_vat(model, lambda: model(words)) for _ in range(2))
    assert first != second
    same = [
        attention_vat(model, lambda: model(words), generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    ]
    assert torch.equal(*same)


def test_unlabelled_batches_of_another_size_add_to_a_labelled_loss():
    torch.manual_seed(0)
    model = Reader()
    labelled, unlabelled = torch.randn(4, 5, 16), torch.randn(9, 5, 16)
    loss = F.cross_entropy(model(labelled), torch.tensor([0, 1, 2, 0]))
    loss = loss + attention_ivat(model, lambda: model(unlabelled))
    loss.backward()
    assert model.query.grad.isfinite().all()


def test_bad_calls_are_refused(model, words):
    with pytest.raises(ValueError, match="epsilon got -1"):
        attention_vat(model, lambda: model(words), epsilon=-1)
    with pytest.raises(ValueError, match=r"iterations and probe got 0 and 0.1"):
        attention_vat(model, lambda: model(words), iterations=0)
    with pytest.raises(ValueError, match="no attention layer was called"):
        attention_vat(model, lambda: model.classify(words[:, 0]))
