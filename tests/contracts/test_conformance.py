"""Every mechanism of the catalogue does what its spec claims."""

from __future__ import annotations

import pytest

from shared_attention import catalogue
from shared_attention.testing import CHECKS, check_mechanism


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("mechanism", catalogue())
def test_mechanism(mechanism, check):
    found = check_mechanism(mechanism, checks=(check,)).checks[0]
    if found.status == "not claimed":
        pytest.skip(found.reason)
    assert found.status == "passed", found.reason


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", catalogue())
def test_compiled_code(mechanism):
    report = check_mechanism(mechanism, checks=("inductor",), compile=True)
    assert report.ok, str(report)
