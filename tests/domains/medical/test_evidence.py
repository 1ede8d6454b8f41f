"""Opinions against a belief calculus over subsets, and losses against torch's distributions."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from domains.medical.models.parts.evidence import (
    belief,
    combine,
    conflict,
    dice_loss,
    evidence_from,
    evidential_cross_entropy,
    knowledge,
    log_parameters,
    misleading_evidence,
    vacuity,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.rand(*shape, generator=generator, dtype=torch.float64)


def masses(evidence: torch.Tensor) -> dict[frozenset[int], float]:
    """Masses of one voxel `[K]` on subsets of the frame."""
    frame = frozenset(range(len(evidence)))
    each = belief(evidence[None])[0]
    found = {frozenset([k]): each[k].item() for k in range(len(evidence))}
    found[frame] = vacuity(evidence[None]).item()
    return found


def dempster(one: dict, other: dict) -> dict[frozenset[int], float]:
    """Dempster's rule over any subsets, by definition."""
    joint: dict[frozenset[int], float] = {}
    for (a, mass_a), (b, mass_b) in product(one.items(), other.items()):
        joint[a & b] = joint.get(a & b, 0.0) + mass_a * mass_b
    conflict = joint.pop(frozenset(), 0.0)
    return {subset: mass / (1 - conflict) for subset, mass in joint.items()}


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_combination_is_dempsters_rule(classes):
    for seed in range(5):
        one, other = draw(2, classes, seed=seed).unbind(0)
        expected = dempster(masses(one), masses(other))
        found = masses(combine(one[None], other[None])[0])
        assert set(found) == set(expected)
        for subset, mass in expected.items():
            assert found[subset] == pytest.approx(mass, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_conflict_is_what_dempsters_rule_throws_away(classes):
    one, other = draw(2, classes, seed=3).unbind(0)
    a, b = masses(one), masses(other)
    expected = sum(a[x] * b[y] for x, y in product(a, b) if not x & y)
    found = conflict(one[None], other[None])
    assert found.item() == pytest.approx(expected, abs=1e-12)
    nothing = torch.zeros_like(one)[None]
    assert conflict(one[None], nothing).item() == 0


def test_evidence_of_scores_gives_softplus_logits_and_stays_finite():
    scores = torch.linspace(-20, 11, 50)
    torch.testing.assert_close(
        log_parameters(evidence_from(scores)), torch.nn.functional.softplus(scores)
    )
    assert torch.isfinite(evidence_from(torch.tensor([1e9]))).all()


def test_knowledge_is_the_divergence_from_the_flat_dirichlet():
    evidence = draw(2, 3, 4)
    flat = torch.distributions.Dirichlet(torch.ones(3, dtype=torch.float64))
    given = torch.distributions.Dirichlet(evidence.movedim(1, -1) + 1)
    expected = torch.distributions.kl_divergence(given, flat)
    torch.testing.assert_close(knowledge(evidence), expected)
    assert knowledge(torch.zeros(1, 3, 2)).abs().max() < 1e-6


def test_combination_commutes_and_associates_and_no_evidence_is_neutral():
    one, other, third = draw(3, 2, 4, 3, 3).unbind(0)
    torch.testing.assert_close(combine(one, other), combine(other, one))
    torch.testing.assert_close(
        combine(combine(one, other), third), combine(one, combine(other, third))
    )
    assert torch.equal(combine(one, torch.zeros_like(one)), one)
    assert (vacuity(combine(one, other)) < torch.minimum(vacuity(one), vacuity(other))).all()


def test_complete_conflict_stays_finite():
    one, other = torch.tensor([[1e6, 0.0]]), torch.tensor([[0.0, 1e6]])
    torch.testing.assert_close(belief(combine(one, other)), torch.tensor([[0.5, 0.5]]))


def test_belief_and_vacuity_add_up_to_one():
    evidence = draw(2, 3, 4, 4)
    total = belief(evidence).sum(1, keepdim=True) + vacuity(evidence)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_the_softmax_of_the_logits_is_the_mean_of_the_dirichlet():
    evidence = draw(2, 3, 4, 4)
    mean = torch.distributions.Dirichlet((evidence + 1).movedim(1, -1)).mean.movedim(-1, 1)
    torch.testing.assert_close(log_parameters(evidence).softmax(1), mean)


def test_cross_entropy_is_its_expectation_under_the_dirichlet():
    evidence = draw(1, 3, 1)
    label = torch.tensor([[2]])
    torch.manual_seed(0)
    samples = torch.distributions.Dirichlet(evidence[0, :, 0] + 1).sample((200_000,))
    expected = -samples[:, 2].log().mean().item()
    assert evidential_cross_entropy(evidence, label).item() == pytest.approx(expected, rel=0.01)


def test_misleading_evidence_is_the_divergence_from_no_evidence():
    evidence, label = draw(2, 3, 4), torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    parameters = (evidence + 1).movedim(1, -1)
    parameters = torch.where(torch.nn.functional.one_hot(label, 3).bool(), 1.0, parameters)
    flat = torch.distributions.Dirichlet(torch.ones_like(parameters))
    expected = torch.distributions.kl_divergence(torch.distributions.Dirichlet(parameters), flat)
    torch.testing.assert_close(misleading_evidence(evidence, label), expected)


def test_evidence_for_the_label_alone_does_not_mislead():
    evidence = torch.zeros(1, 3, 2)
    evidence[:, 1] = 50
    label = torch.ones(1, 2, dtype=torch.int64)
    torch.testing.assert_close(misleading_evidence(evidence, label), torch.zeros(1, 2))
    assert (misleading_evidence(evidence, 0 * label) > 1).all()


@pytest.mark.parametrize("loss", [evidential_cross_entropy, misleading_evidence])
def test_gradients(loss):
    evidence = draw(1, 3, 2).requires_grad_()
    label = torch.tensor([[0, 2]])
    assert torch.autograd.gradcheck(lambda e: loss(e, label), evidence)


def test_dice_loss_pools_the_foreground():
    label = torch.tensor([[[0, 1], [1, 2]], [[0, 0], [0, 0]]])
    right = torch.nn.functional.one_hot(label, 3).movedim(-1, 1).double()
    assert dice_loss(right, label).item() == pytest.approx(0)
    half = right.clone()
    half[0, 1, 0, 1], half[0, 0, 0, 1] = 0, 1
    assert dice_loss(half, label).item() == pytest.approx(1 - (3 / 4 + 1) / 2)
