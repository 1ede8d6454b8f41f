"""What every test shares: one thread, and the real data sets where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def heed_data() -> Path:
    """Folder of the real data sets: HEED_DATA, or ../shared/data beside the checkout."""
    data = Path(os.environ.get("HEED_DATA") or CHECKOUT.parent / "shared" / "data")
    if not data.is_dir():
        pytest.skip(f"no real data at {data}: set HEED_DATA to its folder")
    return data


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, whichever ran before it."""
    torch.manual_seed(0)
