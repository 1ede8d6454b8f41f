"""What Triton's interpreter makes of the kernels; run by `test_interpreted.py`, in its own process.

Every case goes through the public call with `backend="triton"` and is compared with the float64
reference or the eager form in float64, outputs and gradients.
"""

from __future__ import annotations

import pytest
import torch

from shared_attention import UnsupportedError, attention, explain_dispatch, masks
from shared_attention.kernels.scan import scan
from shared_attention.mechanisms.gated_linear import GatedLinearAttention, gated_linear_attention
from shared_attention.primitives.decayed_scan import decayed_scan
from shared_attention.references.gated_linear import recurrence
from shared_attention.references.landmark import reference_landmark
from shared_attention.references.linear import reference_linear
from shared_attention.references.softmax import reference_window


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def agree(ours, reference, inputs, tolerance=1e-5):
    """Outputs and gradients of a random weighting of them."""
    mine = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.double().requires_grad_() for x in inputs]
    out, expected = ours(*mine), reference(*theirs)
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    weight = draw(*out.shape, seed=9)
    found = torch.autograd.grad((out * weight).sum(), mine)
    wanted = torch.autograd.grad((expected * weight).sum(), theirs)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, atol=10 * tolerance, rtol=10 * tolerance)


def padding(batch, count):
    valid = torch.arange(count) >= torch.arange(batch)[:, None] * 9
    valid[:, 20:23] = False
    return masks.keys(valid)


@pytest.mark.parametrize("length, count", [(1, 1), (65, 65), (33, 70), (40, 35)])
def test_linear(length, count):
    inputs = draw(2, 2, length, 7), draw(2, 1, count, 7, seed=1), draw(2, 1, count, 19, seed=2)
    mask = masks.causal() if count == 1 else masks.causal() & padding(2, count)
    agree(
        lambda q, k, v: attention(q, k, v, "linear", mask, backend="triton"),
        lambda q, k, v: reference_linear(q, k, v, mask=mask),
        inputs,
    )


@pytest.mark.parametrize("strength", [0.1, 30.0])
@pytest.mark.parametrize("length", [1, 32, 71])
@pytest.mark.parametrize("wide", [False, True], ids=["per head", "per channel"])
def test_gated_linear(length, strength, wide):
    q, k, v = draw(1, 2, length, 6), draw(1, 2, length, 6, seed=1), draw(1, 2, length, 34, seed=2)
    decay = -strength * draw(1, 2, length, 6 if wide else 1, seed=3).exp()
    agree(
        lambda *x: gated_linear_attention(*x, scale=1.0, backend="triton")[0],
        lambda q, k, v, g: recurrence(q, k, v, g.exp().expand_as(k), None),
        (q, k, v, decay),
    )


def test_weak_decays_keep_their_precision_behind_strong_ones():
    q, k, v = (draw(1, 1, 40, 4, seed=i).abs() for i in range(3))
    decay = torch.full((1, 1, 40, 4), -1e-3)
    decay[:, :, 1:9] = -1e5
    out = scan(q, k, v, decay)[0]
    expected = recurrence(q.double(), k.double(), v.double(), decay.double().exp(), None)
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=1e-6)


def test_scan_from_a_state_to_a_state_in_parts():
    parts = [draw(1, 2, 50, 5, seed=i) for i in range(3)]
    decay, start = -draw(1, 2, 50, 5, seed=3).exp(), draw(1, 2, 5, 5, seed=4)

    def both(call):
        def run(q, k, v, g, s):
            first, s = call(*(x[:, :, :37] for x in (q, k, v, g)), s)
            second, s = call(*(x[:, :, 37:] for x in (q, k, v, g)), s)
            return torch.cat([first, second, s], 2)

        return run

    agree(both(scan), both(decayed_scan), (*parts, decay, start))


def test_gated_module_with_padding():
    module = GatedLinearAttention(2, 6, backend="triton")
    eager = GatedLinearAttention(2, 6)
    eager.load_state_dict(module.state_dict())
    inputs = [draw(2, 2, 40, 6, seed=i) for i in range(3)]
    mask = masks.causal() & padding(2, 40)
    agree(lambda *x: module(*x, mask), lambda *x: eager.double()(*x, mask), inputs)


@pytest.mark.parametrize("length, count", [(70, 70), (5, 131), (40, 33)])
@pytest.mark.parametrize("causal", [False, True])
def test_window(length, count, causal):
    inputs = draw(2, 2, length, 5), draw(2, 1, count, 5, seed=1), draw(2, 2, count, 18, seed=2)
    mask = padding(2, count) & masks.causal() if causal else padding(2, count)
    agree(
        lambda q, k, v: attention(q, k, v, "window", mask, left=9, right=3, backend="triton"),
        lambda q, k, v: reference_window(q, k, v, mask=mask, left=9, right=3),
        inputs,
    )


@pytest.mark.parametrize("length, block", [(1, 4), (41, 5), (70, 33)])
@pytest.mark.parametrize("causal", [False, True])
def test_landmark(length, block, causal):
    inputs = [draw(2, h, length, d, seed=h) for h, d in ((2, 6), (1, 6), (2, 17))]
    mask = masks.causal() if causal else None
    if length > 1:
        mask = padding(2, length) & masks.causal() if causal else padding(2, length)
    agree(
        lambda q, k, v: attention(q, k, v, "landmark", mask, block=block, backend="triton"),
        lambda q, k, v: reference_landmark(q, k, v, mask=mask, block=block),
        inputs,
    )


@pytest.mark.parametrize("name", ["linear", "window", "landmark"])
def test_hidden_keys_are_not_read(name):
    q, k, v = (draw(2, 2, 30, 6, seed=i) for i in range(3))
    mask = masks.causal() & padding(2, 30)
    hidden = ~mask.second.valid[:, None, :, None]
    k, v = (x.masked_fill(hidden, torch.nan).requires_grad_() for x in (k, v))
    out = attention(q, k, v, name, mask, backend="triton")
    grads = torch.autograd.grad(out.sum(), (k, v))
    assert all(torch.isfinite(x).all() for x in (out, *grads))
    assert all((g.masked_select(hidden) == 0).all() for g in grads)


@pytest.mark.parametrize("name", ["linear", "window", "landmark"])
@pytest.mark.parametrize("dtype", [torch.float16])
def test_half_precision_is_as_close_as_plain_attention(name, dtype):
    q, k, v = (draw(1, 2, 70, 16, seed=i).to(dtype) for i in range(3))
    wide = [x.double() for x in (q, k, v)]
    plain = attention(q, k, v, mask=masks.causal())
    error = (attention(q, k, v, name, masks.causal(), backend="triton").double()
             - attention(*wide, name, masks.causal())).abs().max()  # fmt: skip
    assert error <= 2 * (plain.double() - attention(*wide, mask=masks.causal())).abs().max()


def test_kernels_are_taken_by_name_only_and_refuse_with_reasons():
    q, k, v = (draw(1, 2, 30, 6, seed=i) for i in range(3))
    for name in ("linear", "window", "landmark", "hip"):
        assert explain_dispatch(q, k, v, name, masks.causal()).chosen == "eager"
    with pytest.raises(UnsupportedError, match="without a causal mask"):
        attention(q, k, v, "linear", backend="triton")
    with pytest.raises(UnsupportedError, match=r"does not compute in torch\.float64"):
        attention(q.double(), k.double(), v.double(), "window", backend="triton")
    with pytest.raises(UnsupportedError, match="give top_k=None"):
        attention(q, k, v, "landmark", backend="triton", top_k=1)
    with pytest.raises(UnsupportedError, match="wider than 128"):
        attention(*(draw(1, 1, 3, 129) for _ in range(3)), "window", backend="triton")


def test_second_derivatives_are_refused():
    q, k, v = (draw(1, 1, 9, 4, seed=i).requires_grad_() for i in range(3))
    for name in ("linear", "window"):
        out = attention(q, k, v, name, masks.causal(), backend="triton")
        (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        with pytest.raises(UnsupportedError, match="second derivatives"):
            torch.autograd.grad(first.sum(), q)
