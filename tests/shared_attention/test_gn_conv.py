"""Recursive gated convolution and the depthwise convolution it stands on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shared_attention import UnsupportedError, masks
from shared_attention.mechanisms.gn_conv import GnConv
from shared_attention.primitives.depthwise import depthwise_conv

GRIDS = [(23,), (9, 12), (5, 8, 7)]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def plain(x, weight, bias, padding):
    convolve = (F.conv1d, F.conv2d, F.conv3d)[x.dim() - 3]
    y = convolve(x.movedim(-1, 1), weight, bias, padding=padding, groups=len(weight))
    return y.movedim(1, -1)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("grid", GRIDS)
def test_depthwise_convolution_and_its_gradients_are_those_of_pytorch(grid, size):
    x = draw(2, *grid, 6).double().requires_grad_()
    weight = draw(6, 1, *[size] * len(grid)).double().requires_grad_()
    bias = draw(6).double().requires_grad_()
    mine = depthwise_conv(x, weight, bias)
    theirs = plain(x, weight, bias, size // 2)
    torch.testing.assert_close(mine, theirs)
    along = torch.randn_like(mine)
    wanted = (x, weight, bias)
    for a, b in zip(
        torch.autograd.grad(mine, wanted, along),
        torch.autograd.grad(theirs, wanted, along),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("size", [3, 11])
def test_causal_depthwise_convolution_sees_nothing_later(size):
    x, weight = draw(2, 20, 4).requires_grad_(), draw(4, 1, size).requires_grad_()
    mine = depthwise_conv(x, weight, causal=True)
    ahead = F.pad(x, (0, 0, size - 1, 0))
    torch.testing.assert_close(mine, plain(ahead, weight, None, 0))
    assert torch.autograd.grad(mine[:, :9].sum(), x)[0][:, 9:].abs().max() == 0


def test_depthwise_convolution_can_be_differentiated_twice():
    x, weight = draw(1, 6, 6, 2).double(), draw(2, 1, 5, 5).double()
    inputs = (x.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradgradcheck(depthwise_conv, inputs, fast_mode=True)


def test_second_order_is_two_nested_gates():
    module = GnConv(4, order=2, kernel=3, dims=1)
    x = draw(1, 10, 4)
    p, q = module.proj_in(x).split((2, 6), -1)
    gates = plain(q, module.dwconv.weight, module.dwconv.bias, 1) / 3
    out = module.proj_out(module.pws[0](p * gates[..., :2]) * gates[..., 2:])
    torch.testing.assert_close(module(x), out)


def test_a_padded_image_gives_what_it_gives_alone():
    module = GnConv(8, order=3)
    image = draw(1, 6, 7, 8)
    padded = F.pad(image, (0, 0, 2, 3, 1, 4), value=float("nan"))
    inside = F.pad(torch.ones(1, 6, 7, dtype=torch.bool), (2, 3, 1, 4))
    out = module(padded, mask=masks.keys(inside.flatten(1)))
    torch.testing.assert_close(out[:, 1:7, 2:9], module(image))
    assert (out[~inside] == 0).all()


def test_a_voxel_reaches_as_far_as_the_kernel():
    module = GnConv(4, order=2, kernel=3, dims=3)
    x = draw(1, 7, 7, 7, 4).requires_grad_()
    reach = torch.autograd.grad(module(x)[0, 3, 3, 3].sum(), x)[0].abs().sum(-1)[0] > 0
    expected = torch.zeros(7, 7, 7, dtype=torch.bool)
    expected[2:5, 2:5, 2:5] = True
    assert torch.equal(reach, expected)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="order got 4 with 12 channels"):
        GnConv(12, order=4)
    with pytest.raises(ValueError, match="kernel got 4, expected an odd size"):
        GnConv(16, kernel=4)
    with pytest.raises(ValueError, match="dims got 4"):
        GnConv(16, dims=4)
    module = GnConv(16)
    with pytest.raises(ValueError, match=r"x has shape \[1, 5, 16\].* 2 grid dimensions"):
        module(draw(1, 5, 16))
    with pytest.raises(ValueError, match=r"masks\.keys"):
        module(draw(1, 5, 5, 16), mask=torch.ones(1, 25, dtype=torch.bool))
    with pytest.raises(UnsupportedError, match="gn_conv cannot honour a causal mask"):
        module(draw(1, 5, 5, 16), mask=masks.causal())
