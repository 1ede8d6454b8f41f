"""Small synthetic data sets in the formats of the field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

WIDE, LONG, TRAIN, TEST = "hourly.csv", "shops.csv", "gestures_TRAIN.ts", "gestures_TEST.ts"
_HOURS_APART = 5


def write_samples(out: Path, seed: int) -> list[Path]:
    """Write a wide hourly table, daily sales of shops and labelled gestures; return the files."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [out / name for name in (WIDE, LONG, TRAIN, TEST)]
    _hourly(rng).to_csv(paths[0], index=False, float_format="%.4f")
    _shops(rng).to_csv(paths[1], index=False, float_format="%.3f")
    for path, count in ((paths[2], 120), (paths[3], 60)):
        path.write_text(_gestures(rng, count), encoding="utf-8")
    return paths


def _hourly(rng: np.random.Generator, hours: int = 24 * 200) -> pd.DataFrame:
    """Load of five feeders: day and week shapes, drifting level, noise, and weather.

    Weather moves over them from the first to the last, some hours from one to the next, so what
    the first feeders do tells what the others will.
    """
    time = np.arange(hours)
    day, week = 2 * np.pi * time / 24, 2 * np.pi * time / 168
    front = _autoregressive(rng, hours + 4 * _HOURS_APART, 0.98)
    columns = {}
    for number in range(5):
        phase = rng.uniform(0, 0.8)
        shape = np.sin(day - phase) + 0.4 * np.sin(2 * day + rng.uniform(0, 6.28))
        weekly = 0.5 * np.cos(week - phase)
        level = np.cumsum(rng.normal(0, 0.01, hours))
        own = _autoregressive(rng, hours, 0.8)
        weather = front[(4 - number) * _HOURS_APART :][:hours]
        strength = rng.uniform(0.8, 1.2)
        signal = (1 + 0.3 * np.tanh(weather)) * shape + weekly + strength * weather + level
        columns[f"feeder_{number + 1}"] = 20 + 5 * (signal + 0.35 * own)
    date = pd.date_range("2023-01-01", periods=hours, freq="h").strftime("%Y-%m-%d %H:%M:%S")
    return pd.DataFrame({"date": date, **columns})


def _shops(rng: np.random.Generator) -> pd.DataFrame:
    """Daily sales of shops that opened at different times, with a promotion known ahead."""
    frames = []
    for number, days in enumerate((900, 900, 760, 600, 430, 300)):
        date = pd.date_range(end="2024-06-30", periods=days, freq="D")
        promotion = (rng.random(days) < 0.08).astype(float)
        week = np.array([0, -0.05, 0, 0.05, 0.25, 0.6, 0.35])[date.dayofweek]
        year = 0.3 * np.sin(2 * np.pi * (date.dayofyear - 80) / 365.25)
        level = rng.uniform(40, 200)
        noise = _autoregressive(rng, days, 0.5) * 0.05
        sales = level * np.exp(week + year + 0.4 * promotion + noise)
        frames.append(
            pd.DataFrame(
                {
                    "unique_id": f"shop_{number + 1}",
                    "ds": date.strftime("%Y-%m-%d"),
                    "y": np.maximum(sales, 0),
                    "promotion": promotion,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _gestures(rng: np.random.Generator, count: int) -> str:
    """Four gestures as three-axis acceleration of different lengths."""
    header = (
        "@problemName Gestures\n@timeStamps false\n@missing false\n@univariate false\n"
        "@dimension 3\n@equalLength false\n@classLabel true circle line push wave\n@data\n"
    )
    lines = []
    for number in range(count):
        label = ("circle", "line", "push", "wave")[number % 4]
        length = int(rng.integers(18, 41))
        turn = np.linspace(0, 2 * np.pi * rng.uniform(0.9, 1.1), length) + rng.uniform(0, 0.8)
        zero = np.zeros(length)
        axes = {
            "circle": (np.sin(turn), np.cos(turn), zero),
            "line": (np.sin(turn), np.sin(turn), zero),
            "push": (zero, zero, np.sin(turn)),
            "wave": (np.sin(2 * turn), zero, np.cos(turn)),
        }[label]
        noisy = [axis * rng.uniform(0.7, 1.3) + rng.normal(0, 0.35, length) for axis in axes]
        text = ":".join(",".join(f"{v:.4f}" for v in axis) for axis in noisy)
        lines.append(f"{text}:{label}")
    return header + "\n".join(lines) + "\n"


def _autoregressive(rng: np.random.Generator, steps: int, memory: float) -> np.ndarray:
    from scipy.signal import lfilter

    drive = rng.normal(0, np.sqrt(1 - memory**2), steps)
    return lfilter([1.0], [1.0, -memory], drive)
