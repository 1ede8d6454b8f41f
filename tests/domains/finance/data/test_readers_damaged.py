"""No damage of a file makes a reader raise, hang or lose rows without a word."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.domains.finance.data.damage import KINDS, Originals, damaged, read_damaged

ORIGINALS = Originals()
CASES = 4_000


@pytest.mark.parametrize("kind", KINDS)
def test_good_files_are_read(kind: str, tmp_path: Path) -> None:
    assert read_damaged(kind, ORIGINALS.content[kind], ORIGINALS, tmp_path) == "read"


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=25, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1))
def test_damaged_files(kind: str, tmp_path: Path, seed: int) -> None:
    read_damaged(kind, damaged(kind, ORIGINALS, seed), ORIGINALS, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=25, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=300))
def test_any_bytes(kind: str, tmp_path: Path, content: bytes) -> None:
    read_damaged(kind, content, ORIGINALS, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_damaged_files(kind: str, tmp_path: Path) -> None:
    ends: dict[str, int] = {}
    slowest = 0.0
    for seed in range(CASES):
        begin = time.perf_counter()
        try:
            end = read_damaged(kind, damaged(kind, ORIGINALS, seed), ORIGINALS, tmp_path)
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}: {error!r}") from error
        ends[end] = ends.get(end, 0) + 1
        slowest = max(slowest, time.perf_counter() - begin)
    print(f"\n{kind}: {CASES} cases, {ends}, slowest {1e3 * slowest:.0f} ms")
    assert slowest < 5
