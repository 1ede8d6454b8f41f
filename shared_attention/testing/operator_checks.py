"""Checks of mixers, poolings, spatial and graph operators."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.errors import UnsupportedError
from shared_attention.masks import Mask
from shared_attention.testing.operator import (
    BATCH,
    GRIDS,
    Inputs,
    Operator,
    float_tensors,
    gradients_by_name,
    leaves,
    pick,
    samples,
)
from shared_attention.testing.report import NotClaimed
from shared_attention.testing.tolerances import HALF_PRECISION_RATIO, assert_close

LENGTHS = (29, 8, 17)
PADDED = 33


def check_reference(operator: Operator) -> None:
    """Values and every gradient, of parameters too, agree with the float64 reference."""
    for dims in operator.every():
        module = operator.module(dims=dims)
        inputs = operator.inputs(dims=dims)
        for name, mask in operator.masks(BATCH, GRIDS[1][0]).items():
            if mask is not None and dims not in (None, 1):
                continue
            where = f"{name}, {dims or 'own'} dimensions"
            expected = operator.reference(module, inputs, mask)
            out = operator.run(module, inputs, mask)
            assert_close(out, expected, f"output ({where})")
            wanted = leaves(module, inputs)
            theirs = gradients_by_name(expected, wanted)
            for which, mine in gradients_by_name(out, wanted).items():
                assert_close(mine, theirs[which], f"gradient of {which} ({where})", "gradients")


def check_gradients(operator: Operator) -> None:
    """Analytic gradients agree with finite differences in float64."""
    for dims in operator.every():
        module = operator.module(torch.float64, dims)
        inputs = operator.inputs(batch=2, dims=dims, dtype=torch.float64)
        names = list(float_tensors(inputs))

        def run(*values: Tensor, names: Any = names, inputs: Any = inputs, m: Any = module) -> Any:
            return operator.run(m, {**inputs, **dict(zip(names, values, strict=True))})

        values = tuple(float_tensors(inputs).values())
        passed = torch.autograd.gradcheck(run, values, raise_exception=False, fast_mode=True)
        assert passed, f"gradients differ from finite differences ({dims or 'own'} dimensions)"


def check_extreme_inputs(operator: Operator) -> None:
    """Inputs of 1e4 give finite outputs and gradients."""
    for dims in operator.every():
        module = operator.module(dims=dims)
        drawn = operator.inputs(dims=dims, grad=False)
        large = {"x"} if "x" in drawn else set(float_tensors(drawn))
        inputs = {
            name: (x * 1e4 if name in large else x).requires_grad_()
            if name in float_tensors(drawn)
            else x
            for name, x in drawn.items()
        }
        out = operator.run(module, inputs)
        assert out.isfinite().all(), "output is not finite at inputs of 1e4"
        for which, gradient in gradients_by_name(out, leaves(module, inputs)).items():
            assert gradient.isfinite().all(), f"gradient of {which} is not finite"


def check_half_precision(operator: Operator) -> None:
    """Errors in half precision stay within twice those of plain PyTorch in the same type."""
    for dtype in (torch.bfloat16, torch.float16):
        module = operator.module(dtype)
        inputs = operator.inputs(dtype=dtype, grad=False)
        with torch.no_grad():
            out = operator.run(module, inputs)
            assert out.dtype == dtype, f"output is {out.dtype} for {dtype} inputs"
            error = _relative_error(out, operator.reference(module, inputs))
            limit = HALF_PRECISION_RATIO * _plain_error(dtype)
        assert error <= limit, f"relative error {error:.1e} in {dtype}, at most {limit:.1e}"


def _plain_error(dtype: torch.dtype) -> float:
    """Error of plain softmax attention with its projections."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 64, 32, generator=random, dtype=torch.float64).to(dtype)
    weight = (torch.randn(4, 32, 32, generator=random, dtype=torch.float64) / 32**0.5).to(dtype)
    return _relative_error(_plain(x, weight), _plain(x.double(), weight.double()))


def _plain(x: Tensor, weight: Tensor) -> Tensor:
    q, k, v = x @ weight[0], x @ weight[1], x @ weight[2]
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v @ weight[3]


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    expected = expected.detach().double()
    return float((actual.detach().double() - expected).abs().max() / expected.abs().max())


def check_prefix_consistency(operator: Operator) -> None:
    """Changing later positions changes no earlier output, and no gradient flows back."""
    operator.needs("causal")
    module = operator.module()
    past, future = operator.inputs(), operator.inputs(seed=100, grad=False)
    whole = operator.run(module, past, operator.causal())
    for cut in (1, 16, 30):
        changed = {
            n: torch.cat([x[:, :cut], 3 * future[n][:, cut:]], 1).detach() for n, x in past.items()
        }
        out = operator.run(module, changed, operator.causal())
        what = f"output before position {cut} when later positions change"
        assert_close(out[:, :cut], whole[:, :cut], what)
    for name, gradient in gradients_by_name(whole[:, :20], float_tensors(past)).items():
        leaked = gradient[:, 20:].abs().max()
        assert leaked == 0, f"output before position 20 has a gradient to later {name}"


def check_state(operator: Operator) -> None:
    """The whole at once, in chunks and step by step give the same, with padding too."""
    operator.needs("state")
    module: Any = operator.module()
    x = operator.inputs(grad=False)["x"]
    valid = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(3)) > 0.3
    for keys in (None, valid) if operator.spec.supports("key_padding") else (None,):
        mask = None if keys is None else masks.keys(keys)
        whole = operator.run(module, {"x": x}, operator.causal(mask))
        for sizes in ((37,), (16, 21), (1,) * 37, (20, *(1,) * 17)):
            out = _stream(module, x, keys, sizes)
            assert_close(out, whole, f"streamed in {len(sizes)} parts against all at once")
    start = module.init_state(len(x), dtype=x.dtype, device=x.device)
    state = module.prefill(x[:, :9], start)[1]
    first = module.prefill(x[:, 9:], state)[0]
    again = module.prefill(x[:, 9:], state)[0]
    assert_close(again, first, "continuing twice from one state, which must not be written to")


def _stream(module: Any, x: Tensor, valid: Tensor | None, sizes: tuple[int, ...]) -> Tensor:
    state = module.init_state(len(x), dtype=x.dtype, device=x.device)
    at, outs = 0, []
    for size in sizes:
        own = slice(at, at + size)
        mask = None if valid is None else masks.keys(valid[:, own])
        if size == 1 and mask is None:
            out, state = module.step(x[:, own], state)
        else:
            out, state = module.prefill(x[:, own], state, mask=mask)
        outs.append(out)
        at += size
    return torch.cat(outs, 1)


def check_padding(operator: Operator) -> None:
    """A sample gives the same alone and padded, left or right; padding itself gives zero."""
    operator.needs("key_padding")
    module = operator.module()
    for causal in _forms(operator):
        for side in ("right", "left"):
            valid = _valid(side)
            x = operator.inputs(length=PADDED, grad=False)["x"]
            whole = operator.run(module, {"x": x}, _mask(operator, valid, causal))
            for b, real in enumerate(valid):
                own = {"x": x[b : b + 1, real]}
                alone = operator.run(module, own, operator.causal() if causal else None)
                what = f"sample of {LENGTHS[b]} padded on the {side} to {PADDED}"
                mine = whole[b : b + 1]
                if operator.spec.family != "pooling":
                    assert (mine[:, ~real] == 0).all(), f"{what}: padded positions are not zero"
                    mine = mine[:, real]
                assert_close(mine, alone, what)


def check_hidden_positions(operator: Operator) -> None:
    """NaN and infinity at padded positions reach neither the output nor a gradient."""
    operator.needs("key_padding")
    module = operator.module()
    valid = _valid("right")
    for causal in _forms(operator):
        mask = _mask(operator, valid, causal)
        clean = operator.inputs(length=PADDED)
        out = operator.run(module, clean, mask)
        expected = gradients_by_name(out, leaves(module, clean))
        for poison in (float("nan"), float("inf")):
            bad = {"x": clean["x"].detach().masked_fill(~valid[..., None], poison)}
            bad["x"].requires_grad_()
            seen = operator.run(module, bad, mask)
            assert_close(seen, out, f"output with {poison} at padded positions")
            for name, mine in gradients_by_name(seen, leaves(module, bad)).items():
                what = f"gradient of {name} with {poison} at padded positions"
                assert_close(mine, expected[name], what, "gradients")


def check_empty_samples(operator: Operator) -> None:
    """A sample without a valid position is exactly zero, with finite gradients."""
    operator.needs("key_padding")
    module = operator.module()
    valid = _valid("right")
    valid[1] = False
    for causal in _forms(operator):
        inputs = operator.inputs(length=PADDED)
        out = operator.run(module, inputs, _mask(operator, valid, causal))
        assert (out[1] == 0).all(), "a sample without any valid position is not exactly zero"
        for name, gradient in gradients_by_name(out, leaves(module, inputs)).items():
            assert gradient.isfinite().all(), f"gradient of {name} is not finite"


def check_batch_slots(operator: Operator) -> None:
    """A sample gives the same alone, beside others and in another slot."""
    if operator.spec.family == "graph":
        raise NotClaimed("has nodes instead of a batch; see 'separate graphs'")
    for dims in operator.every():
        module = operator.module(dims=dims)
        inputs = operator.inputs(dims=dims, grad=False)
        whole = operator.run(module, inputs)
        turned = operator.run(module, samples(inputs, lambda x: x.roll(1, 0)))
        assert_close(turned.roll(-1, 0), whole, "samples in other batch slots")
        for b in range(BATCH):
            alone = operator.run(module, samples(inputs, pick(b)))
            assert_close(alone, whole[b : b + 1], f"sample {b} alone and in a batch")


def check_inputs_unchanged(operator: Operator) -> None:
    """No input is written to."""
    for dims in operator.every():
        module = operator.module(dims=dims)
        for name, mask in operator.masks(BATCH, GRIDS[1][0]).items():
            if mask is not None and dims not in (None, 1):
                continue
            inputs = operator.inputs(dims=dims, grad=False)
            before = samples(inputs, torch.clone)
            operator.run(module, inputs, mask)
            for which, x in inputs.items():
                if isinstance(x, Tensor):
                    assert torch.equal(x, before[which]), f"{which} was written to ({name})"


def check_training_mode(operator: Operator) -> None:
    """The module gives the same in training and in evaluation."""
    if operator.spec.capabilities.train_eval_differs:
        raise NotClaimed("declares that training differs")
    inputs = operator.inputs(grad=False)
    evaluated = operator.run(operator.module(), inputs)
    trained = operator.run(operator.module().train(), inputs)
    assert_close(trained, evaluated, "training against evaluation")


def check_randomness(operator: Operator) -> None:
    """Calls repeat themselves, and neither read nor move the global random state."""
    module, inputs = operator.module(), operator.inputs(grad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = operator.run(module, inputs)
        assert torch.equal(torch.get_rng_state(), before), "the global random state was moved"
        torch.manual_seed(2)
        second = operator.run(module, inputs)
    assert torch.equal(first, second), "two calls with the same inputs differ"


def check_refusals(operator: Operator) -> None:
    """Masks that are not claimed raise UnsupportedError naming the mechanism."""
    if not operator.takes_mask():
        raise NotClaimed("takes no mask")
    inputs = operator.inputs(grad=False)
    batch, length = inputs["x"].shape[:2]
    valid = torch.ones(batch, length, dtype=torch.bool)
    requests: dict[str, Mask] = {
        "causal": masks.causal(),
        "window": masks.window(2, 1),
        "key_padding": masks.keys(valid),
        "dense_mask": masks.document(valid.long()),
    }
    for capability, mask in requests.items():
        if operator.spec.supports(capability):
            continue
        try:
            operator.run(operator.module(), inputs, mask)
        except UnsupportedError as error:
            assert operator.spec.name in str(error), f"the refusal of {capability} names nothing"
        else:
            raise AssertionError(f"{capability} is not claimed, yet was not refused")


def check_messages(operator: Operator) -> None:
    """Inputs of the wrong rank, type or width raise ValueError naming the argument."""
    inputs = operator.inputs(grad=False)
    for name, x in float_tensors(inputs).items():
        wrong: dict[str, Tensor] = {"rank": x[0], "integers": x.long()}
        if name == "x":
            wrong["channels"] = torch.cat([x, x[..., :1]], -1)
        for what, bad in wrong.items():
            if what == "rank" and operator.spec.family == "mixer" and len(operator.spec.dims) > 1:
                bad = x[0, 0]
            try:
                operator.run(operator.module(), {**inputs, name: bad})
            except ValueError as error:
                text = str(error)
                clear = f"{name} " in text and "\n" not in text
                assert clear, f"wrong {what} of {name}: unclear message: {text}"
            else:
                raise AssertionError(f"wrong inputs were accepted: {what} of {name}")


def check_state_dict(operator: Operator) -> None:
    """Saved parameters loaded into a fresh module give the same output."""
    module, inputs = operator.module(), operator.inputs(grad=False)
    arguments = {"channels": operator.channels, **operator.spec.example, **operator.options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        fresh = operator.spec.build(**arguments).eval()
    fresh.load_state_dict(module.state_dict())
    what = "a fresh module with the same state_dict"
    assert_close(operator.run(fresh, inputs), operator.run(module, inputs), what)


def _forms(operator: Operator) -> list[bool]:
    return [False, True] if operator.spec.supports("causal") else [False]


def _mask(operator: Operator, valid: Tensor, causal: bool) -> Mask:
    keys = masks.keys(valid)
    return operator.causal(keys) if causal else keys


def _valid(side: str) -> Tensor:
    position = torch.arange(PADDED)
    lengths = torch.tensor(LENGTHS)[:, None]
    return position < lengths if side == "right" else position >= PADDED - lengths


class Call(nn.Module):
    """A call of the operator with named inputs in a fixed order, for compilers."""

    def __init__(self, operator: Operator, inputs: Inputs) -> None:
        super().__init__()
        self.module = operator.module()
        self.names = tuple(n for n, x in inputs.items() if isinstance(x, Tensor))
        self.rest = {n: x for n, x in inputs.items() if not isinstance(x, Tensor)}
        self.padded = operator.spec.supports("key_padding")
        self.valid: Tensor
        if self.padded:
            length = inputs["x"].shape[1]
            self.register_buffer("valid", torch.arange(length).expand(BATCH, -1) < length - 3)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Call with the tensors in the order of `names`."""
        arguments = {**dict(zip(self.names, tensors, strict=True)), **self.rest}
        if self.padded:
            arguments["mask"] = masks.keys(self.valid)
        return self.module(**arguments)


def _compiled(operator: Operator, backend: str) -> None:
    operator.needs("compile")
    torch.compiler.reset()
    inputs = operator.inputs()
    call = Call(operator, inputs)
    tensors = tuple(inputs[name] for name in call.names)
    wanted = float_tensors(inputs)
    expected = call(*tensors)
    out = torch.compile(call, fullgraph=True, backend=backend)(*tensors)
    assert_close(out, expected, f"compiled with {backend}")
    theirs = gradients_by_name(expected, wanted)
    for name, mine in gradients_by_name(out, wanted).items():
        assert_close(mine, theirs[name], f"gradient of {name} compiled with {backend}", "gradients")
    torch.compiler.reset()


def check_compile(operator: Operator) -> None:
    """One graph without breaks, forward and backward, gives the same."""
    _compiled(operator, "aot_eager")


def check_inductor(operator: Operator) -> None:
    """Code generated by the default compiler gives the same."""
    _compiled(operator, "inductor")


def check_export(operator: Operator) -> None:
    """The exported program gives the same."""
    operator.needs("export")
    inputs = operator.inputs(grad=False)
    call = Call(operator, inputs)
    tensors = tuple(inputs[name] for name in call.names)
    with torch.no_grad():
        program = torch.export.export(call, tensors)
        assert_close(program.module()(*tensors), call(*tensors), "exported program")
