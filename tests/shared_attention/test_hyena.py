"""Hyena beyond the conformance kit: long exact convolutions, directions, grids, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shared_attention import UnsupportedError, masks
from shared_attention.mechanisms.hyena import Hyena, _convolve
from shared_attention.primitives.long_conv import causal_conv, grid_conv


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(**options) -> Hyena:
    torch.manual_seed(0)
    return Hyena(4, hidden=8, **options).double()


@pytest.mark.parametrize("length", [1, 128, 129, 700, 1100])
def test_causal_convolution_is_the_sum_over_earlier_positions(length):
    x, filters = draw(2, 3, length).requires_grad_(), draw(2, length, seed=1).requires_grad_()
    ahead = F.pad(x.transpose(0, 1), (length - 1, 0))
    plain = F.conv1d(ahead, filters.flip(-1)[:, None], groups=2).transpose(0, 1)
    mine = causal_conv(x, filters)
    torch.testing.assert_close(mine, plain)
    along = draw(2, 3, length, seed=2)
    for a, b in zip(
        torch.autograd.grad(mine, (x, filters), along),
        torch.autograd.grad(plain, (x, filters), along),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_huge_later_values_leave_earlier_outputs_as_they_are():
    x, filters = draw(2, 1, 700).float(), draw(2, 700, seed=1).float()
    later = x.clone()
    later[..., 400:] *= 1e9
    assert torch.equal(causal_conv(later, filters)[..., :400], causal_conv(x, filters)[..., :400])
    leak = grid_conv(later.transpose(0, 1), filters) - grid_conv(x.transpose(0, 1), filters)
    assert leak[..., :400].abs().max() > 1


def test_long_convolutions_can_be_differentiated_twice():
    inputs = (draw(1, 2, 140).requires_grad_(), draw(1, 140, seed=1).requires_grad_())
    assert torch.autograd.gradgradcheck(causal_conv, inputs, fast_mode=True)


def test_the_mask_chooses_how_and_not_what_is_computed():
    module, x = build(order=3), draw(2, 300, 4)
    torch.testing.assert_close(module(x, mask=masks.causal()), module(x))


def test_a_longer_sequence_begins_like_a_shorter_one():
    module, x = build(length=16), draw(1, 50, 4)
    torch.testing.assert_close(module(x)[:, :20], module(x[:, :20]))


@pytest.mark.parametrize("filters", ["joint", "product"])
@pytest.mark.parametrize("directions", ["sequential", "all"])
def test_an_image_gives_the_same_alone_and_padded_on_every_side(directions, filters):
    module = build(dims=2, order=3, length=8, directions=directions, filters=filters)
    image = draw(1, 5, 7, 4)
    padded = F.pad(image, (0, 0, 2, 1, 1, 3), value=float("nan"))
    inside = F.pad(torch.ones(1, 5, 7, dtype=torch.bool), (2, 1, 1, 3))
    out = module(padded, mask=masks.keys(inside.flatten(1)))
    torch.testing.assert_close(out[:, 1:6, 2:9], module(image))
    assert (out[~inside] == 0).all()


def flipped(module: Hyena, x: torch.Tensor) -> torch.Tensor:
    """What a module gives on the mirrored image with mirrored short kernels."""
    module.short.weight.data = module.short.weight.data.flip((2, 3))
    out = module(x.flip((1, 2))).flip((1, 2))
    module.short.weight.data = module.short.weight.data.flip((2, 3))
    return out


def test_directions_are_reflections_of_the_forward_one():
    x = draw(1, 6, 9, 4)
    forward, opposite = build(dims=2), build(dims=2, directions="sequential")
    opposite.load_state_dict(forward.state_dict())
    torch.testing.assert_close(opposite(x), flipped(forward, x))
    every = build(dims=2, directions="all")
    every.load_state_dict(forward.state_dict() | {"mix": torch.tensor([0.0, 0, 0, 1])})
    torch.testing.assert_close(every(x), opposite(x))
    every.load_state_dict(forward.state_dict() | {"mix": torch.tensor([1.0, 0, 0, 0])})
    torch.testing.assert_close(every(x), forward(x))


def test_a_product_of_filters_is_convolved_as_the_joint_filter_it_makes():
    module, x = build(dims=2, filters="product"), draw(2, 4, 6, 4)
    rows, columns = (own((size,)) for own, size in zip(module.filters, (4, 6), strict=True))
    joint = grid_conv(x.movedim(-1, 1), (rows[:, None] * columns).movedim(-1, 0)).movedim(1, -1)
    torch.testing.assert_close(_convolve(x, [rows, columns], False), joint)


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="order got 1, expected at least 2"):
        Hyena(4, order=1)
    with pytest.raises(ValueError, match="directions got 'both'"):
        Hyena(4, directions="both")
    with pytest.raises(UnsupportedError, match="causal mask with directions='all'"):
        build(directions="all")(draw(1, 5, 4), mask=masks.causal())
    with pytest.raises(UnsupportedError, match="in 2 dimensions"):
        build(dims=2)(draw(1, 5, 5, 4), mask=masks.causal())
