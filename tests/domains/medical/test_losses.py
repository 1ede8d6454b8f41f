"""Losses against their formulas, and how a model's output is supervised."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from domains.medical.losses import criterion, supervised
from domains.medical.models.output import SegmentationOutput
from domains.medical.tasks import SegmentationTask
from domains.medical.training_config import MedicalTraining

NAMES = ("dice_ce", "dice_focal", "dice_ce_boundary", "cross_entropy")


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, generator=generator)
    return logits, torch.randint(0, 3, (2, 6, 5), generator=generator)


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    p = logits.double().softmax(1).gather(1, label[:, None])
    return -p.log().mean()


def dice(logits: Tensor, label: Tensor) -> Tensor:
    p = logits.double().softmax(1)
    terms = []
    for item in range(len(p)):
        for k in range(1, p.shape[1]):
            truth = (label[item] == k).double()
            both = (p[item, k] * truth).sum()
            terms.append(1 - (2 * both + 1e-5) / (p[item, k].sum() + truth.sum() + 1e-5))
    return torch.stack(terms).mean()


def test_formulas(pair: tuple[Tensor, Tensor]) -> None:
    logits, label = pair
    ce, overlap = cross_entropy(logits, label), dice(logits, label)
    p = logits.double().softmax(1)
    truth = torch.nn.functional.one_hot(label, 3).movedim(-1, 1).double()
    focal = ((1 - p) ** 2 * -p.log() * truth).mean()
    expected = {
        "cross_entropy": ce,
        "dice_ce": ce + overlap,
        "dice_focal": overlap + focal,
    }
    for name, value in expected.items():
        torch.testing.assert_close(
            criterion(name)(logits, label).double(), value, rtol=1e-5, atol=0
        )
    assert criterion("dice_ce_boundary")(logits, label) > ce + overlap


@pytest.mark.parametrize("name", NAMES)
def test_a_right_answer_costs_less_and_wrong_ones_are_mended(
    name: str, pair: tuple[Tensor, Tensor]
) -> None:
    logits, label = pair
    right = 20 * torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()
    loss = criterion(name)
    assert loss(right, label) < 0.1 * loss(logits, label)
    leaf = logits.clone().requires_grad_()
    loss(leaf, label).backward()
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
    assert loss(logits - leaf.grad, label) < loss(logits, label)


def test_half_precision_is_computed_in_single(pair: tuple[Tensor, Tensor]) -> None:
    logits, label = pair
    for name in NAMES:
        half = criterion(name)(logits.bfloat16(), label)
        single = criterion(name)(logits.bfloat16().float(), label)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, single)


def test_heads_are_weighted_to_one_and_compared_at_their_own_resolution(
    pair: tuple[Tensor, Tensor],
) -> None:
    logits, label = pair
    coarse = logits[:, :, ::2, :3].contiguous()
    loss = criterion("cross_entropy")
    output = SegmentationOutput(logits, ((coarse, 0.5),), {"extra": torch.tensor(0.25)})
    nearest = label[:, [1, 3, 5]][:, :, [0, 2, 4]]
    expected = (loss(logits, label) + 0.5 * loss(coarse, nearest) + 0.25) / 1.5
    torch.testing.assert_close(supervised(output, label, loss), expected)


class OwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.scale * image, -image], dim=1)

    def outputs(self, image: Tensor) -> SegmentationOutput:
        return SegmentationOutput(self(image), auxiliary={"aux": 3 * self.scale})


class Terms(OwnLoss):
    def loss_terms(self, output: SegmentationOutput, label: Tensor) -> dict[str, Tensor]:
        return {"a": output.logits.sum() * 0 + 2.0, "b": self.scale}


def test_a_model_may_have_heads_or_a_loss_of_its_own() -> None:
    batch = {"image": torch.ones(2, 1, 4, 4), "label": torch.zeros(2, 4, 4, dtype=torch.int64)}
    training = MedicalTraining(loss="cross_entropy")
    plain = SegmentationTask(OwnLoss(), training)
    plain.eval()
    alone = plain.loss(batch)
    plain.train()
    torch.testing.assert_close(plain.loss(batch), alone + 3)
    own = SegmentationTask(Terms(), training)
    own.train()
    torch.testing.assert_close(own.loss(batch), torch.tensor(3.0))
    own.eval()
    torch.testing.assert_close(own.loss(batch), alone)
