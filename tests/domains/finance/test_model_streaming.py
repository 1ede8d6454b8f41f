"""The streaming model: step by step equals all at once, in constant memory."""

import importlib.util
from pathlib import Path

import pytest
import torch

from domains.finance.models import StreamingLOB
from shared_attention import UnsupportedError

ATTENTIONS = [None, "linear", "window"]


def build(attention=None, **options):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_heads": 2, "d_ff": 24}
    return StreamingLOB(lookback=20, features=6, attention=attention, **sizes, **options).eval()


def stream(model, x, state=None):
    state = model.init_state(len(x)) if state is None else state
    scores = []
    for row in x.unbind(1):
        out, state = model.step(row, state)
        scores.append(out)
    return torch.stack(scores, 1), state


def tensors(state):
    if isinstance(state, torch.Tensor):
        return [state]
    return [] if state is None else [t for field in state for t in tensors(field)]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_step_equals_the_whole_window_up_to_it(attention):
    model, x = build(attention), torch.randn(2, 45, 6) * 3 + 1
    with torch.no_grad():
        steps, _ = stream(model, x)
        for t in (1, 2, 3, 20, 45):
            torch.testing.assert_close(steps[:, t - 1], model(x[:, :t]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_live_form_gives_what_steps_give(attention):
    model, x = build(attention), torch.randn(1, 120, 6) * 4
    live = model.live()
    with torch.no_grad():
        steps, _ = stream(model, x)
    found = torch.stack([live.update(row) for row in x[0]])
    torch.testing.assert_close(found, steps[0], rtol=1e-4, atol=1e-5)


def test_the_live_form_of_the_papers_scan_gives_what_steps_give():
    model, x = build(attention_options={"half_life": None}), torch.randn(1, 120, 6) * 4
    live = model.live()
    with torch.no_grad():
        steps, _ = stream(model, x)
    found = torch.stack([live.update(row) for row in x[0]])
    torch.testing.assert_close(found, steps[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"half_life": None}])
def test_the_live_form_stays_exact_over_a_long_stream(options):
    model, x = build(attention_options=options), torch.randn(5000, 6)
    live, exact = model.live(), model.double().live()
    for row in x:
        found, expected = live.update(row), exact.update(row.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_live_form_keeps_as_much_after_many_updates(attention):
    benchmark = load_benchmark()
    live = build(attention).live()
    sizes = []
    for row in torch.randn(100, 6):
        live.update(row)
        sizes.append(benchmark.kept_bytes(live))
    assert len(set(sizes)) == 1 and sizes[0] > 4 * 16 * 16


def load_benchmark():
    path = Path(__file__).resolve().parents[3] / "scripts" / "benchmarks" / "book_updates.py"
    spec = importlib.util.spec_from_file_location("book_updates", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_live_form_keeps_its_weights_and_refuses_other_rows():
    model = build()
    live, row = model.live(), torch.ones(6)
    first = live.update(row)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        other = model.live().update(row)
    assert not torch.allclose(first, other)
    message = r"LiveBook\.update: got a row of shape \[5\], expected \[6\]"
    with pytest.raises(ValueError, match=message):
        live.update(torch.ones(5))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_state_stops_growing_and_is_not_written_to(attention):
    model = build(attention)
    with torch.no_grad():
        _, state = stream(model, torch.randn(1, 30, 6))
        before = [t.clone() for t in tensors(state)]
        _, later = stream(model, torch.randn(1, 200, 6) * 1e3, state)
    assert [t.shape for t in tensors(later)] == [t.shape for t in before]
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(state), strict=True))
    assert all(t.isfinite().all() for t in tensors(later))


def test_what_is_older_than_training_windows_hardly_counts_or_not_at_all():
    recent, older = torch.randn(1, 20, 6), torch.randn(1, 500, 6)

    def difference(model):
        with torch.no_grad():
            return (model(torch.cat([older, recent], 1)) - model(recent)).abs().max().item()

    never_forgets = difference(build(attention_options={"half_life": None}))
    assert difference(build()) < never_forgets / 10
    assert difference(build("window")) < 1e-6


def test_the_papers_scan_never_forgets():
    model = build(attention_options={"half_life": None})
    assert all(layer.layer.attention.mechanism.half_life is None for layer in model.layers)
    assert build().layers[0].layer.attention.mechanism.half_life == 2.5


def test_mechanisms_whose_state_grows_are_refused():
    with pytest.raises(UnsupportedError, match="StreamingLOB cannot use attention 'softmax'"):
        build("softmax")


def test_rows_of_another_width_and_no_rows_are_refused():
    for shape in ((2, 5, 7), (2, 0, 6), (5, 6)):
        with pytest.raises(ValueError, match=r"StreamingLOB\.forward: got windows of shape"):
            build()(torch.zeros(shape))
