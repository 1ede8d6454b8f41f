"""Masks against brute force over every (query, key) pair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_attention import masks

BATCH, HEADS, LENGTH, KEYS = 2, 2, 4, 6


def brute(rule) -> torch.Tensor:
    cells = torch.zeros(BATCH, HEADS, LENGTH, KEYS, dtype=torch.bool)
    for b in range(BATCH):
        for h in range(HEADS):
            for i in range(LENGTH):
                for j in range(KEYS):
                    cells[b, h, i, j] = rule(b, h, i, j)
    return cells


def dense(mask: masks.Mask, length: int = LENGTH, keys: int = KEYS) -> torch.Tensor:
    mask.check(BATCH, HEADS, length, keys)
    return mask.to_dense(length, keys).expand(BATCH, HEADS, length, keys)


def leaf(kind: str, seed: int):
    """A mask and the rule it stands for, written independently."""
    random = torch.Generator().manual_seed(seed)
    shift = KEYS - LENGTH
    if kind == "causal":
        return masks.causal(), lambda b, h, i, j: j <= i + shift
    if kind == "window":
        left, right = seed % 4, seed % 3
        return masks.window(left, right), lambda b, h, i, j: -left <= j - (i + shift) <= right
    if kind == "keys":
        valid = torch.rand(BATCH, KEYS, generator=random) > 0.5
        return masks.keys(valid), lambda b, h, i, j: valid[b, j]
    if kind == "document":
        query = torch.randint(0, 2, (BATCH, LENGTH), generator=random)
        key = torch.randint(0, 2, (BATCH, KEYS), generator=random)
        return masks.document((query, key)), lambda b, h, i, j: query[b, i] == key[b, j]
    if kind == "prefix":
        sizes = torch.randint(0, KEYS, (BATCH,), generator=random)
        return masks.prefix(sizes), lambda b, h, i, j: j < sizes[b]
    allowed = torch.rand(HEADS, LENGTH, KEYS, generator=random) > 0.5
    return masks.dense(allowed), lambda b, h, i, j: allowed[h, i, j]


KINDS = st.sampled_from(["causal", "window", "keys", "document", "prefix", "dense"])
TREES = st.recursive(
    st.tuples(KINDS, st.integers(0, 11)),
    lambda inner: st.tuples(st.sampled_from(["&", "|"]), inner, inner),
    max_leaves=5,
)


def grow(tree):
    if tree[0] not in ("&", "|"):
        return leaf(*tree)
    (first, rule), (second, other) = grow(tree[1]), grow(tree[2])
    if tree[0] == "&":
        return first & second, lambda *cell: rule(*cell) and other(*cell)
    return first | second, lambda *cell: rule(*cell) or other(*cell)


@settings(max_examples=60, deadline=None)
@given(TREES)
def test_any_composition_equals_brute_force(tree):
    mask, rule = grow(tree)
    assert torch.equal(dense(mask), brute(rule))


@settings(max_examples=40, deadline=None)
@given(TREES)
def test_parts_put_together_again_are_the_mask(tree):
    mask, _ = grow(tree)
    parts = masks.split(mask)
    together = torch.ones(BATCH, HEADS, LENGTH, KEYS, dtype=torch.bool)
    if parts.causal:
        together = together & dense(masks.causal())
    if parts.window is not None:
        together = together & dense(masks.window(*parts.window))
    if parts.keys is not None:
        together = together & dense(masks.keys(parts.keys))
    if parts.rest is not None:
        together = together & dense(parts.rest)
    assert torch.equal(together, dense(mask))


@settings(max_examples=40, deadline=None)
@given(TREES)
def test_flex_form_is_the_dense_form(tree):
    mask, _ = grow(tree)
    mod = mask.mask_mod(LENGTH, KEYS, torch.device("cpu"))
    cells = torch.cartesian_prod(*map(torch.arange, (BATCH, HEADS, LENGTH, KEYS)))
    flat = torch.vmap(lambda cell: mod(*cell))(cells)
    assert torch.equal(flat.reshape(BATCH, HEADS, LENGTH, KEYS), dense(mask))


def test_last_query_sees_the_last_key_at_unequal_lengths():
    assert masks.causal().to_dense(2, 5).int().tolist() == [[[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]]]
    more_queries = masks.causal().to_dense(3, 2)[0, 0]
    assert more_queries.int().tolist() == [[0, 0], [1, 0], [1, 1]]


def test_split_recognises_structure():
    valid = torch.tensor([[True, False]])
    parts = masks.split(masks.window(3, 0) & masks.keys(valid) & masks.window(None, 2))
    assert (parts.causal, parts.window, parts.rest) == (True, (3, 0), None)
    assert torch.equal(parts.keys, valid)
    assert masks.split(masks.window(None, None)) == masks.Parts()
    assert masks.split(masks.causal() | masks.prefix(1)).rest is not None


def test_structural_masks_are_values():
    assert masks.causal() & masks.window(1, 2) == masks.causal() & masks.window(1, 2)
    assert hash(masks.causal()) == hash(masks.causal())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: masks.keys(torch.ones(2, 3)),
            "masks.keys: got torch.float32 of shape [2, 3], expected bool [batch, keys]",
        ),
        (
            lambda: masks.dense(torch.zeros(3, dtype=torch.bool)),
            "masks.dense: got torch.bool of shape [3], expected bool, True = may attend, "
            "broadcastable to [B, H, L, S]",
        ),
        (
            lambda: masks.document(torch.ones(2, 3)),
            "masks.document: got torch.float32 of shape [2, 3], expected integer [batch, length]",
        ),
        (
            lambda: masks.window(-1, 0),
            "masks.window: left got -1, expected None or at least 0",
        ),
        (lambda: masks.prefix(-1), "masks.prefix: n got -1, expected at least 0"),
        (
            lambda: masks.keys([[True]]),
            "masks.keys: got a list, expected a tensor: bool [batch, keys]",
        ),
        (
            lambda: masks.causal() & torch.ones(2, 2, dtype=torch.bool),
            "masks: cannot combine a mask with a Tensor; wrap a boolean tensor in masks.dense(...)",
        ),
    ],
)
def test_wrong_arguments_say_what_was_expected(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            masks.keys(torch.ones(2, 5, dtype=torch.bool)),
            "masks.keys: got shape [2, 5], expected [batch, keys] = [2, 6]",
        ),
        (
            masks.document(torch.zeros(2, 4, dtype=torch.int64)),
            "masks.document: got shape [2, 4], expected [batch, keys] = [2, 6]",
        ),
        (
            masks.dense(torch.ones(3, 6, dtype=torch.bool)),
            "masks.dense: got shape [1, 1, 3, 6], expected one that broadcasts to [2, 2, 4, 6]",
        ),
        (
            masks.prefix(torch.ones(3, dtype=torch.int64)),
            "masks.prefix: got shape [3], expected [batch] = [2]",
        ),
    ],
)
def test_masks_that_do_not_fit_the_inputs_are_refused(mask, message):
    with pytest.raises(ValueError) as error:
        (masks.causal() & mask).check(BATCH, HEADS, LENGTH, KEYS)
    assert str(error.value) == message
