"""Bilinear normalisation, constraints and the book's columns against explicit forms."""

import pytest
import torch

from domains.finance.models import BilinearNormalisation
from domains.finance.models.parts.axis_attention import TwiceProjectedAttention
from domains.finance.models.parts.constraints import between, within_norm
from domains.finance.models.parts.order_types import OrderTypes


def explicit(layer, x):
    """The layer's equation, one number at a time in double precision."""
    p = {name: value.detach().double().flatten() for name, value in layer.named_parameters()}
    a, b = p["time_share"].clamp(min=0), p["feature_share"].clamp(min=0)
    out = torch.empty_like(x, dtype=torch.float64)

    def score(value, values):
        spread = values.std() if len(values) > 1 else torch.tensor(0.0)
        return (value - values.mean()) / (spread if spread >= 1e-4 else 1.0)

    for i, window in enumerate(x.double()):
        for t in range(x.shape[1]):
            for f in range(x.shape[2]):
                row = score(window[t, f], window[t])
                column = score(window[t, f], window[:, f])
                over_row = p["time_scale"][t] * row + p["time_shift"][t]
                over_column = p["feature_scale"][f] * column + p["feature_shift"][f]
                out[i, t, f] = a * over_row + b * over_column
    return out


@pytest.mark.parametrize("size", [(7, 5), (1, 4), (6, 1), (1, 1)])
def test_bilinear_normalisation_is_its_equation(size):
    torch.manual_seed(0)
    layer = BilinearNormalisation(lookback=size[0], features=size[1])
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(3, *size) * 20 + 500
    x[0, 0] = 3.0
    x[1, :, -1] = 585.91
    expected = explicit(layer, x).float()
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_constant_steps_features_and_windows_keep_outputs_and_gradients_finite():
    layer = BilinearNormalisation(lookback=6, features=4)
    x = torch.randn(4, 6, 4)
    x[0, 2] = 7.0
    x[1, :, 1] = -1.0
    x[2] = 0.0
    x.requires_grad_()
    out = layer(x)
    out.square().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_a_negative_share_counts_as_nothing_and_returns_when_its_gradient_says_so():
    layer = BilinearNormalisation(lookback=5, features=3)
    share = layer.time_share
    with torch.no_grad():
        share.fill_(-0.2)
    x = torch.randn(8, 5, 3)
    out = layer(x)
    with torch.no_grad():
        share.fill_(0.0)
    torch.testing.assert_close(out, layer(x))
    assert layer.time_share is share
    weight = torch.randn_like(out)
    slopes = []
    for sign in (1, -1):
        share.grad = None
        with torch.no_grad():
            share.fill_(-0.2)
        (sign * weight * layer(x)).sum().backward()
        slopes.append(share.grad.item())
    assert min(slopes) < -1 and max(slopes) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("start", [-0.5, 0.4, 1.7])
def test_projected_descent_settles_on_the_nearest_allowed_value(start):
    for target, expected in ((-1.0, 0.0), (0.3, 0.3), (2.0, 1.0)):
        x = torch.nn.Parameter(torch.tensor([start]))
        for _ in range(300):
            x.grad = None
            (between(x, 0.0, 1.0) - target).square().sum().backward()
            x.data -= 0.1 * x.grad
        assert between(x, 0.0, 1.0).item() == pytest.approx(expected, abs=1e-3)


def test_norms_are_limited_without_writing_to_the_weight():
    weight = torch.nn.Parameter(torch.randn(6, 4) * 20)
    before = weight.detach().clone()
    used = within_norm(weight, 10.0)
    torch.testing.assert_close(used, before * (10 / before.norm()))
    assert torch.equal(weight, before)
    (-used * before).sum().backward()
    torch.testing.assert_close(weight.grad, torch.zeros_like(before), rtol=0, atol=1e-3)
    small = torch.nn.Parameter(torch.randn(6, 4))
    assert torch.equal(within_norm(small, 10.0), small)
    within_norm(small, 10.0).square().sum().backward()
    torch.testing.assert_close(small.grad, 2 * small.detach())


@pytest.mark.parametrize("mechanism", ["softmax", "linear", "scan", "flow", "window"])
@pytest.mark.parametrize("num_heads", [1, 2])
def test_maps_applied_as_one_give_what_they_give_one_after_another(mechanism, num_heads):
    torch.manual_seed(0)
    layer = TwiceProjectedAttention(8, num_heads, mechanism=mechanism).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    inner = layer.before(x).split(8, dim=-1)
    outer = zip(
        inner, layer.project_in.weight.split(8), layer.project_in.bias.split(8), strict=True
    )
    heads = [layer._heads(torch.nn.functional.linear(*maps)) for maps in outer]
    attended = layer.mechanism(*heads).transpose(1, 2).flatten(2)
    expected = layer.after(layer.project_out(attended))
    torch.testing.assert_close(layer(x), expected)


def test_order_types_are_looked_up_and_trained():
    table = OrderTypes(1)
    x = torch.randn(2, 4, 3)
    x[..., 1] = torch.tensor([0.0, 2.0, 1.0, 2.0])
    out = table(x)
    assert torch.equal(out[..., [0, 2]], x[..., [0, 2]])
    assert torch.equal(out[0, :, 1], table.value[torch.tensor([0, 2, 1, 2])])
    out.sum().backward()
    assert torch.equal(table.value.grad, torch.tensor([2.0, 2.0, 4.0]))
    assert not OrderTypes(None).value.requires_grad
