"""Cross-contextual attention beyond the conformance kit."""

from __future__ import annotations

import pytest
import torch

from shared_attention.mechanisms.cross_contextual import CrossContextualAttention


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(**options) -> CrossContextualAttention:
    torch.manual_seed(0)
    return CrossContextualAttention(8, num_heads=2, head_dim=3, **options)


def test_the_published_form_loses_the_first_position_and_the_default_does_not():
    x, skip = draw(1, 4, 5, 8), draw(1, 4, 5, 8, seed=1)
    corner = torch.zeros(1, 4, 5, dtype=torch.bool)
    corner[0, 0, 0] = True
    published = build(form="published")(x, skip)
    both = torch.cat([x, skip], -1)
    assert torch.equal(published[~corner], both[~corner])
    added = build()(x, skip) - both
    torch.testing.assert_close(added, added[:, :1, :1].expand_as(added))
    assert (added.abs() > 1e-6).any()


def test_places_may_be_permuted():
    module, x, skip = build(), draw(2, 30, 8), draw(2, 30, 8, seed=1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    out = module(x[:, order], skip[:, order])
    torch.testing.assert_close(out, module(x, skip)[:, order])


def test_each_branch_depends_on_the_other():
    module, x = build(depth=1), draw(1, 4, 5, 8).requires_grad_()
    skip = draw(1, 4, 5, 8, seed=1).requires_grad_()
    out = module(x, skip)
    assert torch.autograd.grad(out[..., :8].sum(), skip, retain_graph=True)[0].abs().min() > 0
    assert torch.autograd.grad(out[..., 8:].sum(), x)[0].abs().min() > 0


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="depth got 0"):
        build(depth=0)
    with pytest.raises(ValueError, match="form got 'other'"):
        build(form="other")
    with pytest.raises(ValueError, match=r"skip is torch\.float32 .*expected the same"):
        build()(draw(1, 4, 5, 8), draw(1, 5, 4, 8))
