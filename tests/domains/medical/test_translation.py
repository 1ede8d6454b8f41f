"""One optimiser for translators and discriminators: who learns from which loss."""

from __future__ import annotations

import torch
from torch import nn

from domains.medical.models.parts.translation import (
    Decoder,
    Encoder,
    GuidedTranslator,
    PatchDiscriminator,
    adversarial_losses,
    guide_loss,
)


def test_each_loss_teaches_its_own_side_only():
    judge = PatchDiscriminator(2, 4)
    translator = nn.Conv2d(1, 1, 3, padding=1)
    image, real = torch.randn(2, 2, 1, 16, 16).unbind(0)
    of_judge, of_translator = adversarial_losses(judge, real, translator(image))
    grads = torch.autograd.grad(
        of_judge, [*judge.parameters(), *translator.parameters()], allow_unused=True
    )
    count = len(list(judge.parameters()))
    assert all(g is not None and g.abs().sum() > 0 for g in grads[:count])
    assert all(g is None for g in grads[count:])
    of_translator.backward()
    assert all(p.grad is None for p in judge.parameters())
    assert all(p.grad.abs().sum() > 0 for p in translator.parameters())


def test_the_losses_are_least_squares_towards_real_and_not():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3), keepdim=True)

    real, fake = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.25)
    of_judge, of_translator = adversarial_losses(Mean(), real, fake)
    assert of_judge.item() == (0.5**2 + 0.25**2) / 2 and of_translator.item() == 0.75**2


def test_one_optimiser_teaches_both_sides():
    torch.manual_seed(0)
    judge, level = PatchDiscriminator(2, 8), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([*judge.parameters(), level], lr=3e-3)
    for _ in range(150):
        noise, other = torch.randn(2, 8, 1, 16, 16).unbind(0)
        losses = adversarial_losses(judge, 2 + noise, level + other)
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
    assert level.item() > 0.25


def test_decoding_comes_back_to_the_finest_grid_and_reads_the_skips():
    widths, strides = [4, 8, 16], [(2, 2, 1), (2, 2, 2)]
    encoder, decoder = Encoder(3, 1, widths, strides), Decoder(3, widths, strides)
    maps = encoder(torch.randn(1, 1, 8, 12, 6))
    assert [tuple(m.shape) for m in maps] == [
        (1, 4, 8, 12, 6),
        (1, 8, 4, 6, 6),
        (1, 16, 2, 3, 3),
    ]
    out = decoder(maps[-1], maps)
    assert out.shape == maps[0].shape
    for at in range(2):
        changed = [m + (1.0 if i == at else 0.0) * torch.randn_like(m) for i, m in enumerate(maps)]
        assert not torch.allclose(decoder(maps[-1], changed), out)


def test_the_guide_stresses_features():
    widths, strides = [4, 8], [(2, 2)]
    translator = GuidedTranslator(2, widths, strides)
    maps = Encoder(2, 1, widths, strides)(torch.randn(1, 1, 8, 8))
    guided, image, guide = translator(maps)
    plain = translator.decoder(maps[-1], maps)
    torch.testing.assert_close(guided, plain * (1 + guide.sigmoid()))
    assert image.shape == guide.shape == (1, 1, 8, 8)


def test_the_guide_loss_gives_rare_foreground_half_of_the_weight():
    label = torch.zeros(1, 10, 10, dtype=torch.int64)
    label[0, 0, 0] = 2
    right = torch.where(label[:, None] > 0, 20.0, -20.0)
    missed = torch.full_like(right, -20.0)
    assert guide_loss(right, label) < 1e-6
    torch.testing.assert_close(guide_loss(missed, label), torch.tensor(10.0))
    assert guide_loss(missed, torch.zeros_like(label)) < 1e-6
