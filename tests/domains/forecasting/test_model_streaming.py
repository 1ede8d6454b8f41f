"""The streaming forecaster: step by step equals all at once, in constant memory."""

import pytest
import torch

from domains.forecasting.models import AarenForecaster


def build(attention=None):
    torch.manual_seed(0)
    return AarenForecaster(
        lookback=30,
        horizon=5,
        channels=3,
        time_features=2,
        outputs=2,
        attention=attention,
        d_model=16,
        num_heads=2,
        d_ff=16,
        recent=6,
    ).eval()


def stream(model, past, time, valid=None):
    state = model.init_state(len(past))
    for t in range(past.shape[1]):
        step_valid = None if valid is None else valid[:, t]
        state = model.step(past[:, t], time[:, t], state, valid=step_valid)
    return state


def tensors(state):
    if isinstance(state, torch.Tensor):
        return [state]
    fields = state if isinstance(state, tuple) else vars(state).values()
    return [t for field in fields for t in tensors(field)] if not isinstance(state, int) else []


@pytest.mark.parametrize("attention", [None, "linear"])
def test_streaming_equals_the_whole_window(attention):
    model = build(attention)
    past, time, future = torch.randn(2, 30, 3) + 4, torch.rand(2, 30, 2), torch.rand(2, 5, 2)
    with torch.no_grad():
        whole = model(past, time, future)
        streamed = model.forecast(stream(model, past, time), future)
    torch.testing.assert_close(streamed, whole, rtol=1e-5, atol=1e-5)


def test_streaming_with_padding_and_gaps_equals_the_whole_window():
    model = build()
    past, time, future = torch.randn(2, 30, 3), torch.rand(2, 30, 2), torch.rand(2, 5, 2)
    valid = torch.rand(2, 30) > 0.3
    valid[0, :9] = False
    past = past.masked_fill(~valid.unsqueeze(-1), torch.nan)
    with torch.no_grad():
        whole = model(past, time, future, valid=valid)
        streamed = model.forecast(stream(model, past, time, valid), future)
    torch.testing.assert_close(streamed, whole, rtol=1e-5, atol=1e-5)


def test_left_padding_of_any_length_changes_nothing():
    model = build()
    past, time, future = torch.randn(1, 12, 3), torch.rand(1, 12, 2), torch.rand(1, 5, 2)
    valid = torch.ones(1, 30, dtype=torch.bool)
    valid[:, :18] = False
    padding = torch.full((1, 18, 3), torch.nan)
    with torch.no_grad():
        alone = model(past, time, future)
        padded = model(
            torch.cat([padding, past], 1),
            torch.cat([padding[..., :2], time], 1),
            future,
            valid=valid,
        )
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)


def test_the_state_does_not_grow_and_stays_finite():
    model = build()
    with torch.no_grad():
        state = stream(model, torch.randn(1, 3, 3), torch.rand(1, 3, 2))
        sizes = [t.shape for t in tensors(state)]
        for _ in range(300):
            state = model.step(torch.randn(1, 3) * 1e3 + 1e4, torch.rand(1, 2), state)
        forecast = model.forecast(state, torch.rand(1, 5, 2))
    assert [t.shape for t in tensors(state)] == sizes
    assert forecast.isfinite().all()


def test_a_step_leaves_the_state_it_started_from_alone():
    model = build()
    with torch.no_grad():
        state = stream(model, torch.randn(1, 4, 3), torch.rand(1, 4, 2))
        before = [t.clone() for t in tensors(state)]
        model.step(torch.randn(1, 3), torch.rand(1, 2), state)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(state), strict=True))


def test_a_forecast_moves_with_the_level_and_scale_of_the_stream():
    model = build()
    past, time, future = torch.randn(1, 30, 3), torch.rand(1, 30, 2), torch.rand(1, 5, 2)
    with torch.no_grad():
        here, there = model(past, time, future), model(past * 50 + 300, time, future)
    torch.testing.assert_close(there, here * 50 + 300, rtol=1e-3, atol=0.05)
