"""A model is not tested on what it was trained on."""

from __future__ import annotations

import json

import pytest

from domains.finance.data.splits import require_unseen, spans
from shared_runtime.errors import DataError
from tests.domains.finance.data.made_books import make_book


def test_the_same_stretch_is_refused_and_later_ones_are_not() -> None:
    day = make_book(300)
    trained = json.loads(json.dumps(spans([day.rows(slice(0, 200))])))
    require_unseen(trained, [day.rows(slice(200, 300)), make_book(300, day="2031-01-02")])
    for again in (day, day.rows(slice(150, 250)), day.rows(slice(0, 200))):
        with pytest.raises(DataError, match="overlaps what the model was trained on"):
            require_unseen(trained, [again])
