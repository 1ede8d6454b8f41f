"""PoNet and LAMA against their references, without and with padding, and what they promise."""

from __future__ import annotations

import pytest
import torch

from shared_attention import UnsupportedError, masks
from shared_attention.mechanisms import lama, ponet
from shared_attention.testing.subject import gradients, state_in_double
from shared_attention.testing.tolerances import assert_close

BUILD = {
    "ponet": lambda **options: ponet.PoNet(8, **{"num_heads": 2, "segments": 4, **options}),
    "lama": lambda **options: lama.LowRankPooling(8, **{"num_heads": 3, **options}),
}
SPECS = {"ponet": ponet.SPEC, "lama": lama.SPEC}
OPTIONS = {"ponet": {"num_heads": 2, "segments": 4}, "lama": {"num_heads": 3}}


@pytest.fixture(params=BUILD)
def name(request):
    return request.param


@pytest.fixture
def module(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BUILD[name]()


def draw(length: int, batch: int = 3, **kind):
    random = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, 8, generator=random, **kind)


VALID = {
    "none": None,
    "right": torch.arange(33) < torch.tensor([[29], [8], [1]]),
    "left": torch.arange(33) >= torch.tensor([[29], [8], [1]]),
    "scattered": torch.rand(3, 33, generator=torch.Generator().manual_seed(0)) > 0.3,
}


@pytest.mark.parametrize("padding", VALID)
def test_values_and_gradients_follow_the_reference(name, module, padding):
    mask = None if VALID[padding] is None else masks.keys(VALID[padding])
    x = draw(33).requires_grad_()
    before = x.detach().clone()
    leaves = (x, *module.parameters())
    out = module(x, mask)
    parameters = state_in_double(module)
    expected = SPECS[name].reference(x, mask=mask, parameters=parameters, **OPTIONS[name])
    assert_close(out, expected, name)
    for mine, theirs in zip(gradients(out, leaves), gradients(expected, leaves), strict=True):
        assert_close(mine, theirs, f"gradient of {name}", "gradients")
    assert torch.equal(x, before)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 64])
def test_short_sequences(name, module, length):
    x = draw(length)
    parameters = state_in_double(module)
    assert_close(module(x), SPECS[name].reference(x, parameters=parameters, **OPTIONS[name]), name)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_has_no_influence_and_is_never_read(name, module, side):
    valid, x = VALID[side], draw(33)
    poisoned = x.masked_fill(~valid[..., None], torch.nan).requires_grad_()
    out = module(poisoned, masks.keys(valid))
    for b in range(3):
        alone = module(x[b : b + 1, valid[b]])[0]
        assert_close(out[b] if name == "lama" else out[b, valid[b]], alone, f"sample {b}")
    assert gradients(out, (poisoned,))[0].isfinite().all()


def test_a_sample_of_padding_gives_zero_with_finite_gradients(module):
    x = draw(9).requires_grad_()
    valid = torch.ones(3, 9, dtype=torch.bool)
    valid[1] = False
    out = module(x, masks.keys(valid))
    assert (out[1] == 0).all()
    assert gradients(out, (x,))[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_extreme_inputs(name, module, dtype):
    x = draw(65, dtype=torch.float32).to(dtype)
    half = module.to(dtype)(x)
    assert half.dtype == dtype
    expected = SPECS[name].reference(x, parameters=state_in_double(module), **OPTIONS[name])
    error = (half.double() - expected).abs().max() / expected.abs().max()
    assert error < 4 * torch.finfo(dtype).eps
    assert module.float()(1e4 * draw(33)).isfinite().all()


def test_gradients_agree_with_finite_differences(module):
    x = draw(6, dtype=torch.float64).requires_grad_()
    valid = torch.arange(6) < torch.tensor([[6], [4], [2]])
    module = module.double()
    assert torch.autograd.gradcheck(lambda x: module(x, masks.keys(valid)), (x,))


def test_one_graph_captures_it(module):
    x, valid = draw(17), torch.arange(17) < torch.tensor([[17], [4], [2]])

    def call(x, valid):
        return module(x, masks.keys(valid))

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, valid), call(x, valid))
    torch.compiler.reset()


def test_the_weights_of_lama_are_distributions_over_what_is_valid():
    valid = VALID["scattered"]
    weights = BUILD["lama"]().weights(draw(33), masks.keys(valid))
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 3))
    assert (weights.transpose(1, 2)[~valid] == 0).all()


def test_refusals_say_what_and_why(name, module):
    with pytest.raises(UnsupportedError, match=f"{name} cannot honour a causal mask"):
        module(draw(5), masks.causal())
    with pytest.raises(ValueError, match=r"x has shape \[5, 8\], expected \[batch, \*grid, 8\]"):
        module(draw(5)[0])
    with pytest.raises(ValueError, match=r"masks\.keys"):
        module(draw(5), torch.ones(3, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=f"{name}: "):
        BUILD[name](num_heads=0)
