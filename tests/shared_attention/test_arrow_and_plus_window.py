"""Arrow attention and plus-shaped attention against softmax with the masks that they stand for."""

from __future__ import annotations

import pytest
import torch

from shared_attention import attention, masks
from shared_attention.mechanisms import plus_window
from shared_attention.mechanisms.plus_window import plus_window_attention
from shared_attention.references.softmax import reference_softmax
from shared_attention.testing import check_mechanism


def draw(*shape: int):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(8)).unbind(0)


@pytest.mark.parametrize("check", ["padding", "hidden keys", "empty rows"])
def test_narrow_windows(check):
    options = {"prefix": 3, "left": 4, "right": 2}
    report = check_mechanism("arrow", options=options, checks=(check,))
    assert report.ok, report


def test_arrow_is_softmax_with_its_mask():
    q, k, v = draw(2, 2, 70, 8)
    mask = masks.arrow(3) | masks.window(4, 2)
    out = attention(q, k, v, "arrow", prefix=3, left=4, right=2)
    torch.testing.assert_close(out, attention(q, k, v, mask=mask))


def test_candidates_of_an_arrow_see_the_context_and_themselves_only():
    ids = torch.tensor([[0, 0, 1, 1, 2]])
    allowed = (masks.arrow(2) | masks.document(ids)).to_dense(5, 5)[0, 0]
    expected = torch.ones(5, 5, dtype=torch.bool)
    expected[2:4, 4] = expected[4, 2:4] = False
    assert torch.equal(allowed, expected)


def test_the_arrow_mask_is_the_same_for_flex():
    mod = masks.arrow(2).mask_mod(4, 6, torch.device("cpu"))
    query, key = torch.arange(4)[:, None], torch.arange(6)
    assert torch.equal(mod(query, key, query, key), masks.arrow(2).to_dense(4, 6)[0, 0])
    with pytest.raises(ValueError, match=r"masks\.arrow: n got -1"):
        masks.arrow(-1)


@pytest.mark.parametrize("padded", [False, True])
def test_plus_window_is_softmax_over_the_row_and_the_column_of_the_whole_grid(padded):
    batch, heads, rows, half = 2, 2, 7, 2
    q, k, v = draw(batch, heads, rows, 5, 4)
    column = (0.5 * k, 0.5 * q, 0.5 * v)
    valid = torch.ones(batch, rows, 5, dtype=torch.bool)
    if padded:
        valid = torch.rand(valid.shape, generator=torch.Generator().manual_seed(1)) > 0.2
    out = plus_window_attention(q, k, v, column=column, valid=valid)
    cells = [(i, o) for i in range(rows) for o in range(5) if 0 <= i + o - half < rows]
    expected = torch.zeros(batch, heads, rows, 5, 8, dtype=torch.float64)
    for b in range(batch):
        real = [(i, o) for i, o in cells if valid[b, i, o]]
        for part, (one, key, value) in enumerate(((q, k, v), column)):
            line = [i if part == 0 else i + o for i, o in real]
            same = torch.tensor(line)[:, None] == torch.tensor(line)
            index = tuple(torch.tensor(real).T)
            flat = [x[b : b + 1, :, index[0], index[1]] for x in (one, key, value)]
            found = reference_softmax(*flat, mask=masks.dense(same))[0]
            expected[b, :, index[0], index[1], part * 4 : part * 4 + 4] = found
    torch.testing.assert_close(out, expected.float())


def test_plus_window_does_not_read_what_is_hidden():
    q, k, v = draw(1, 1, 6, 3, 4)
    valid = torch.rand(1, 6, 3, generator=torch.Generator().manual_seed(2)) > 0.4
    bad = [x.masked_fill(~valid[:, None, ..., None], torch.nan) for x in (k, v)]
    out = plus_window_attention(q, *bad, column=(q, *bad), valid=valid)
    torch.testing.assert_close(out, plus_window_attention(q, k, v, valid=valid))


def test_grids_that_do_not_fit_are_named():
    q, k, v = draw(1, 1, 6, 3, 4)
    with pytest.raises(ValueError, match=r"plus_window: k has shape \[1, 1, 6, 2, 4\]"):
        plus_window_attention(q, k[:, :, :, :2], v)
    with pytest.raises(ValueError, match=r"plus_window: valid has shape \[1, 6\]"):
        plus_window_attention(q, k, v, valid=torch.ones(1, 6).bool())


def test_plus_window_in_pieces_is_the_whole(monkeypatch):
    q, k, v = draw(2, 3, 9, 5, 4)
    valid = torch.rand(2, 9, 5, generator=torch.Generator().manual_seed(2)) > 0.2
    whole = plus_window_attention(q.requires_grad_(), k, v, valid=valid)
    monkeypatch.setattr(plus_window, "PIECE", 1)
    torch.testing.assert_close(plus_window_attention(q.detach(), k, v, valid=valid), whole)
