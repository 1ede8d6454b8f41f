"""Streaming forecasts: one step of AarenForecaster beside a Transformer over its whole window.

    python scripts/benchmarks/streaming.py --observations 1000 10000 100000

After each number of observations it prints the bytes of the state and the median processor time
to take in one more and forecast. A plain Transformer keeps the window and reads all of it again.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from domains.forecasting.models import AarenForecaster, TransformerForecaster
from domains.forecasting.models.aaren import AarenState

LOOKBACK, HORIZON, CHANNELS, TIME_FEATURES = 96, 24, 7, 4
SIZES = {
    "lookback": LOOKBACK,
    "horizon": HORIZON,
    "channels": CHANNELS,
    "time_features": TIME_FEATURES,
}


def state_bytes(state: object) -> int:
    """Return the bytes of every tensor in a state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, tuple):
        return sum(map(state_bytes, state))
    return sum(map(state_bytes, vars(state).values())) if hasattr(state, "__dict__") else 0


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median processor time of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def observe(model: AarenForecaster, state: AarenState, count: int) -> AarenState:
    """Take in `count` random observations."""
    for _ in range(count):
        state = model.step(torch.randn(1, CHANNELS), torch.rand(1, TIME_FEATURES) - 0.5, state)
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observations", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=201)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    stream = AarenForecaster(**SIZES).eval()
    plain = TransformerForecaster(
        **SIZES, d_model=128, num_heads=8, d_ff=256, encoder_layers=2, decoder_layers=1
    ).eval()
    new, calendar = torch.randn(1, CHANNELS), torch.rand(1, TIME_FEATURES) - 0.5
    window, times = torch.randn(1, LOOKBACK, CHANNELS), torch.rand(1, LOOKBACK, TIME_FEATURES) - 0.5
    ahead = torch.rand(1, HORIZON, TIME_FEATURES) - 0.5
    print(f"torch {torch.__version__}, 1 thread, median of {arguments.repeats}")
    print(
        "| observations | state bytes | step ms | step and forecast ms | whole window ms | ratio |"
    )
    print("|---|---|---|---|---|---|")
    with torch.inference_mode():
        state, seen = stream.init_state(1), 0
        for target in sorted(arguments.observations):
            state, seen = observe(stream, state, target - seen), target
            step = median_seconds(lambda s=state: stream.step(new, calendar, s), arguments.repeats)
            both = median_seconds(
                lambda s=state: stream.forecast(stream.step(new, calendar, s), ahead),
                arguments.repeats,
            )
            whole = median_seconds(lambda: plain(window, times, ahead), arguments.repeats)
            cells = [f"{target:,}", f"{state_bytes(state):,}"]
            cells += [f"{1e3 * seconds:.3f}" for seconds in (step, both, whole)]
            print(f"| {' | '.join(cells)} | {whole / both:.1f} |", flush=True)


if __name__ == "__main__":
    main()
