"""Every mechanism of the catalogue does what its spec claims."""

from __future__ import annotations

import pytest

from shared_attention import catalogue
from shared_attention.testing import check_mechanism, checks_of


@pytest.mark.parametrize(
    ("mechanism", "check"),
    [(name, check) for name, spec in catalogue().items() for check in checks_of(spec)],
)
def test_mechanism(mechanism, check):
    found = check_mechanism(mechanism, checks=(check,)).checks[0]
    if found.status == "not claimed":
        pytest.skip(found.reason)
    assert found.status == "passed", found.reason


PUBLISHED = {
    "prob_sparse": ("prefix consistency", "ranks a query among later ones"),
    "auto_correlation": ("batch slots", "takes the lags of the batch's mean correlation"),
}
"""What the published forms, available by name, are known to break."""


@pytest.mark.parametrize("mechanism", PUBLISHED)
def test_published_forms_fail_where_their_docs_say(mechanism):
    check, reason = PUBLISHED[mechanism]
    report = check_mechanism(
        mechanism,
        options={"form": "published"},
        checks=("prefix consistency", "batch slots", "randomness"),
        expected_failures={check: reason},
    )
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
@pytest.mark.parametrize("mechanism", catalogue())
def test_compiled_code(mechanism):
    report = check_mechanism(mechanism, checks=("inductor",), compile=True)
    assert report.ok, str(report)
