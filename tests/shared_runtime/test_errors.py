from __future__ import annotations

import pytest

from shared_runtime import errors


def test_exit_codes_are_the_documented_ones() -> None:
    kinds = (
        errors.HeedError,
        errors.UsageError,
        errors.DataError,
        errors.BatchFailures,
        errors.Interrupted,
    )
    assert [kind.exit_code for kind in kinds] == [1, 2, 3, 4, 130]
    assert all(issubclass(kind, ValueError) for kind in kinds)


def test_require_returns_the_module() -> None:
    import json.decoder

    assert errors.require("json.decoder", "all") is json.decoder


def test_require_names_the_extra_that_installs_a_missing_package() -> None:
    with pytest.raises(errors.UsageError) as caught:
        errors.require("no_such_package.inner", "forecasting")
    assert str(caught.value) == (
        "no_such_package is needed for this but is not installed: pip install 'heed[forecasting]'"
    )


def test_require_does_not_hide_a_broken_installation(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken_package.py").write_text("import missing_dependency_of_it")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="missing_dependency_of_it"):
        errors.require("broken_package", "all")
