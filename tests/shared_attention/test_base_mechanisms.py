"""softmax, window and linear against float64 references: values and every gradient."""

from __future__ import annotations

import pytest
import torch

from shared_attention import attention, attention_output, catalogue, masks

VALID = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
NONE_VALID = torch.tensor([[False] * 9, [True] * 9])
MASKS = {
    "none": None,
    "causal": masks.causal(),
    "keys": masks.keys(VALID),
    "no key": masks.keys(NONE_VALID),
    "causal and keys": masks.causal() & masks.keys(VALID),
    "prefix": masks.causal() | masks.prefix(3),
    "narrow": masks.window(2, 1),
    "document": masks.document((torch.arange(9)[None] // 4).expand(2, -1)),
}
LENGTHS = (9, 4, 12, 1)
STRUCTURED = ("none", "causal", "keys", "no key", "causal and keys")


def draw(length: int, keys: int = 9, *, heads: int = 4, kv_heads: int = 2, dtype=torch.float32):
    random = torch.Generator().manual_seed(length)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=dtype).requires_grad_()

    return tensor(2, heads, length, 8), tensor(2, kv_heads, keys, 8), tensor(2, kv_heads, keys, 6)


def assert_agrees(out, reference, inputs, tolerance=2e-5):
    assert out.shape == reference.shape
    torch.testing.assert_close(out.double(), reference, atol=tolerance, rtol=tolerance)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(out, inputs, weight.to(out.dtype))
    theirs = torch.autograd.grad(reference, inputs, weight.double())
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize(
    ("length", "name"),
    [(n, name) for n in LENGTHS for name in MASKS if n == 9 or name != "document"],
)
def test_softmax(length, name, biased, backend):
    q, k, v = draw(length)
    bias = torch.randn(4, length, 9, requires_grad=True) if biased else None
    out = attention(q, k, v, "softmax", MASKS[name], bias, backend=backend)
    reference = catalogue()["softmax"].reference(q, k, v, mask=MASKS[name], bias=bias)
    assert_agrees(out, reference, (q, k, v, bias) if biased else (q, k, v))


@pytest.mark.parametrize("name", [*STRUCTURED, "narrow"])
@pytest.mark.parametrize("length", LENGTHS)
def test_window(length, name):
    inputs = draw(length)
    out = attention(*inputs, "window", MASKS[name], left=2, right=3)
    reference = catalogue()["window"].reference(*inputs, mask=MASKS[name], left=2, right=3)
    assert_agrees(out, reference, inputs)


@pytest.mark.parametrize("name", STRUCTURED)
@pytest.mark.parametrize("length", LENGTHS)
def test_linear(length, name):
    inputs = draw(length)
    out = attention(*inputs, "linear", MASKS[name])
    assert_agrees(out, catalogue()["linear"].reference(*inputs, mask=MASKS[name]), inputs)


@pytest.mark.parametrize("length", [63, 64, 65, 130])
def test_several_chunks_and_blocks(length):
    random = torch.Generator().manual_seed(length)
    valid = torch.rand(2, length, generator=random) > 0.3
    mask = masks.causal() & masks.keys(valid)
    inputs = draw(length, length, heads=2)
    for name, options in (("linear", {}), ("window", {"left": 5, "right": 2})):
        out = attention(*inputs, name, mask, **options)
        reference = catalogue()[name].reference(*inputs, mask=mask, **options)
        assert_agrees(out, reference, inputs)


def test_softmax_takes_blocks_for_narrow_windows_and_agrees():
    inputs = draw(70, 80)
    mask = masks.window(3, 4)
    rich = attention_output(*inputs, mask=mask)
    assert rich.backend == "blocks"
    assert_agrees(rich.out, catalogue()["softmax"].reference(*inputs, mask=mask), inputs)


def test_window_never_holds_a_length_by_length_matrix():
    q = torch.randn(1, 1, 4096, 8, requires_grad=True)
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: shapes.append(t.numel()) or t, lambda t: t
    ):
        attention(q, q, q, "window", masks.causal(), left=16).sum().backward()
    assert max(shapes) < 4096 * 256


@pytest.mark.parametrize("name", ["softmax", "window", "linear"])
def test_extreme_logits_stay_finite(name):
    q, k, v = (1e4 * x.detach() for x in draw(9))
    for x in (q, k, v):
        x.requires_grad_()
    out = attention(q, k, v, name, masks.causal())
    grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert all(x.isfinite().all() for x in (out, *grads))


@pytest.mark.parametrize(
    ("name", "backend"),
    [("softmax", "sdpa"), ("softmax", "eager"), ("softmax", "blocks"), ("window", "eager")],
)
def test_nan_in_padding_reaches_neither_output_nor_gradients(name, backend):
    valid = torch.ones(2, 40, dtype=torch.bool)
    valid[1, 30:] = False
    mask = masks.keys(valid) & masks.window(4, 4)
    q, k, v = draw(40, 40)
    clean = attention(q, k, v, name, mask, backend=backend)
    k, v = (x.detach().clone() for x in (k, v))
    k[1, :, 30:] = torch.nan
    v[1, :, 30:] = torch.inf
    k.requires_grad_(), v.requires_grad_()
    out = attention(q, k, v, name, mask, backend=backend)
    assert torch.equal(out, clean)
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (q, k, v)))


def test_weights_and_lse_are_those_of_the_definition():
    q, k, v = draw(9, kv_heads=4, dtype=torch.float64)
    mask = masks.causal() & masks.keys(NONE_VALID)
    rich = attention_output(q, k, v, mask=mask, need=("weights", "lse"))
    scores = (q @ k.mT / 8**0.5).masked_fill(~mask.to_dense(9, 9), -torch.inf)
    torch.testing.assert_close(rich.lse, scores.logsumexp(-1))
    assert (rich.weights[0] == 0).all() and (rich.out[0] == 0).all()
    torch.testing.assert_close(rich.weights[1], scores[1].softmax(-1))
    torch.testing.assert_close(rich.weights @ v, rich.out)
    assert torch.autograd.grad(rich.lse[1].sum(), q)[0].isfinite().all()


@pytest.mark.parametrize("name", ["softmax", "window", "linear"])
@pytest.mark.parametrize("cuts", [(7, 20), (1, 2, 3, 20), tuple(range(1, 21))], ids=len)
def test_streaming_equals_full(name, cuts):
    options = {"left": 4} if name == "window" else {}
    spec = catalogue()[name]
    q, k, v = draw(20, 20)
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[1, 3:9] = False
    full = attention(q, k, v, name, masks.causal() & masks.keys(valid), **options)
    state = spec.init_state(2, 2, 8, 6, dtype=q.dtype, **options)
    parts, start = [], 0
    for stop in cuts:
        piece = slice(start, stop)
        out, state = spec.prefill(
            q[:, :, piece],
            k[:, :, piece],
            v[:, :, piece],
            state,
            mask=masks.keys(valid[:, piece]),
            **options,
        )
        parts.append(out)
        start = stop
    torch.testing.assert_close(torch.cat(parts, 2), full, atol=1e-5, rtol=1e-5)


def test_linear_rows_far_below_zero_keep_their_weights_and_gradients():
    q, k, v = (x.detach().double() for x in draw(9))
    q = (q - 200).requires_grad_()
    inputs = [x.float() for x in (q, k, v)]
    out = attention(*inputs, "linear")
    reference = catalogue()["linear"].reference(q, k, v)
    torch.testing.assert_close(out.double(), reference, atol=1e-4, rtol=1e-4)
    ours, theirs = (torch.autograd.grad(x.square().sum(), q)[0] for x in (out, reference))
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["softmax", "window", "linear"])
def test_need_state_continues(name):
    spec = catalogue()[name]
    q, k, v = draw(12, 12)
    full = attention(q, k, v, name, masks.causal())
    head = attention_output(
        q[:, :, :8], k[:, :, :8], v[:, :, :8], name, masks.causal(), need=("state",)
    )
    tail, _ = spec.step(q[:, :, 8:9], k[:, :, 8:9], v[:, :, 8:9], head.state)
    torch.testing.assert_close(head.out, full[:, :, :8], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tail, full[:, :, 8:9], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "window", "linear"])
def test_state_of_constant_size_is_constant(name):
    spec = catalogue()[name]
    q = torch.randn(1, 1, 100, 4)
    state = spec.init_state(1, 1, 4, 4, dtype=q.dtype)
    _, state = spec.prefill(q, q, q, state)
    size = sum(
        t.numel() for t in (state if isinstance(state, tuple) else (state,)) if t is not None
    )
    assert size == {"softmax": 2 * 100 * 4, "window": 2 * 64 * 4, "linear": 4 * 5}[name]
