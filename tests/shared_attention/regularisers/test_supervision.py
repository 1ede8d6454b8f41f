"""Words are extracted by rule, hidden after that, and ask for the attention they should have."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shared_attention import masks
from shared_attention.layers import MultiHeadAttention
from shared_attention.regularisers import (
    Attended,
    Words,
    attended,
    extract,
    extract_progressively,
    gradient_impact,
    supervision_loss,
    word_attention,
)

VALID = torch.tensor([[True, True, True, True], [True, True, True, False]])


def test_the_visible_word_with_the_highest_impact_is_taken():
    impact = torch.tensor([[0.1, 0.7, 0.2, 0.0], [0.1, 0.2, 0.1, 9.0]])
    words = extract(impact, torch.tensor([True, False]), VALID, Words.none(VALID))
    assert words.active.tolist() == [[False, True, False, False], [False] * 4]
    assert words.misleading.tolist() == [[False] * 4, [False, True, False, False]]
    again = extract(impact, torch.tensor([True, True]), VALID, words)
    assert again.active.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert torch.equal(again.misleading, words.misleading)


def test_even_impacts_and_none_give_no_word():
    even = torch.ones(2, 4)
    correct = torch.tensor([True, True])
    low = extract(even, correct, VALID, Words.none(VALID), max_entropy=math.log(3.5))
    assert low.active.sum(-1).tolist() == [0, 1]
    nothing = extract(torch.zeros(2, 4), correct, VALID, Words.none(VALID))
    assert not nothing.active.any()
    hidden = extract(even, correct, torch.zeros_like(VALID), Words.none(VALID))
    assert not hidden.active.any()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 6), st.integers(1, 8))
def test_words_are_valid_disjoint_and_one_more_at_most(seed, batch, size, rounds):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(batch, size, generator=generator) < 0.7
    words = Words.none(valid)
    for _ in range(rounds):
        before = words.active | words.misleading
        impact = torch.rand(batch, size, generator=generator)
        correct = torch.rand(batch, generator=generator) < 0.5
        words = extract(impact, correct, words.visible(valid), words)
        found = words.active | words.misleading
        assert not (words.active & words.misleading).any()
        assert not (found & ~valid).any()
        assert (before & ~found).sum() == 0
        assert ((found ^ before).sum(-1) <= 1).all()
        assert torch.equal(words.visible(valid).any(-1), valid.any(-1))


def test_loss_by_hand_and_where_nothing_is_active():
    words = Words(
        torch.tensor([[True, True, False, False], [False] * 4]),
        torch.tensor([[False, False, True, False], [False, True, False, False]]),
    )
    attention = torch.tensor([[0.2, 0.5, 0.2, 0.1], [0.6, 0.3, 0.1, 0.0]], requires_grad=True)
    loss = supervision_loss(attention, words)
    expected = ((0.3**2 + 0.0 + 0.2**2) + 0.3**2) / 2
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert attention.grad.isfinite().all()
    assert attention.grad[0, 3] == 0 and attention.grad[1, 0] == 0
    assert supervision_loss(attention, Words.none(VALID)) == 0
    assert supervision_loss(attention[1:], words[1:]).item() == pytest.approx(0.09)
    with pytest.raises(ValueError, match=r"attention has shape \[1, 4\]"):
        supervision_loss(attention[:1], words)


def test_word_attention_is_the_mean_over_heads_and_real_queries():
    layer = MultiHeadAttention(8, 2)
    with attended(layer) as calls:
        layer(torch.randn(2, 4, 8), mask=masks.keys(VALID))
    found = word_attention(calls[0])
    by_hand = [calls[0].weights[i, :, : int(VALID[i].sum())].mean((0, 1)) for i in range(2)]
    torch.testing.assert_close(found, torch.stack(by_hand))
    torch.testing.assert_close(found.sum(-1), torch.ones(2))
    none = Attended("a", calls[0].weights, calls[0].allowed, torch.zeros(1, 4, dtype=torch.bool))
    assert torch.equal(word_attention(none), torch.zeros(2, 4))


def test_gradient_impact_is_the_length_of_each_words_gradient():
    x = torch.randn(2, 4, 3, requires_grad=True)
    weights = torch.randn(2, 4, 3)
    loss = (x * weights).sum()
    torch.testing.assert_close(gradient_impact(loss, x), weights.norm(dim=-1))
    loss.backward()
    assert x.grad is not None


class Reader(nn.Module):
    """Attends to words and says which of four classes they are of."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.word = nn.Embedding(count, 8)
        self.query = nn.Parameter(torch.randn(1, 1, 8))
        self.pool = MultiHeadAttention(8, 1)
        self.classify = nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        query = self.query.expand(len(ids), -1, -1)
        return self.classify(self.pool(query, self.word(ids), mask=masks.keys(visible))[:, 0])


def test_progressive_extraction_finds_both_planted_words_and_supervision_spreads_attention():
    torch.manual_seed(0)
    label = torch.arange(64) % 4
    ids = torch.randint(8, 24, (64, 6))
    ids[:, 1], ids[:, 4] = label, label + 4
    valid = torch.ones_like(ids, dtype=torch.bool)
    kept: list[Reader] = []

    def train(visible: torch.Tensor, words: Words | None = None) -> Reader:
        model = Reader(24)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
        for _ in range(60):
            optimiser.zero_grad()
            with attended(model) as calls:
                loss = nn.functional.cross_entropy(model(ids, visible), label)
            if words is not None:
                loss = loss + supervision_loss(word_attention(calls[0]), words)
            loss.backward()
            optimiser.step()
        return model

    def examine(visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with attended(kept[-1]) as calls, torch.no_grad():
            logits = kept[-1](ids, visible)
        return word_attention(calls[0]), logits.argmax(-1) == label

    words = extract_progressively(valid, lambda v: kept.append(train(v)), examine, rounds=2)
    assert words.active[:, [1, 4]].float().mean() > 0.8
    assert words.active[:, [0, 2, 3, 5]].float().mean() < 0.1
    kept.append(train(valid, words))
    with attended(kept[-1]) as calls, torch.no_grad():
        kept[-1](ids, valid)
    attention = word_attention(calls[0])
    assert (attention[:, 1] - attention[:, 4]).abs().mean() < 0.2
    assert attention[:, [1, 4]].sum(-1).mean() > 0.8
