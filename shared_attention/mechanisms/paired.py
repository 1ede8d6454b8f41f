"""Which queries are padding, and mechanisms that need as many queries as keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared_attention.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor


def same_lengths(name: str, what: str, q: Tensor, k: Tensor) -> None:
    """Refuse queries and keys of different lengths.

    Raises:
        UnsupportedError: The lengths differ.
    """
    if q.shape[2] != k.shape[2]:
        raise UnsupportedError(
            f"{name}: {what} needs as many queries as keys, "
            f"got {q.shape[2]} queries and {k.shape[2]} keys"
        )


def query_padding(
    keys: Tensor | None, q: Tensor, k: Tensor, self_attention: bool | None
) -> Tensor | None:
    """Return which queries are real, bool `[B, L]`, or None when all are.

    In self-attention a padded key is a padded query too. Mechanisms whose rows depend on each
    other must not count it, or the amount of padding would change the result.

    Args:
        keys: Which keys are real, bool `[B, S]`, or None when all are.
        q: Queries `[B, H, L, D]`.
        k: Keys `[B, H, S, D]`.
        self_attention: Whether queries and keys come from one sequence; None takes it from
            their lengths being equal.

    Raises:
        ValueError: `self_attention` is True but the lengths differ.
    """
    equal = q.shape[2] == k.shape[2]
    if self_attention and not equal:
        raise ValueError(
            f"attention: self_attention=True got {q.shape[2]} queries and {k.shape[2]} keys, "
            "expected equal lengths"
        )
    return keys if (equal if self_attention is None else self_attention) else None
