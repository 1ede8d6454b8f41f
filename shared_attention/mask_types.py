"""The kinds of masks: what each allows, as a tensor and for FlexAttention.

True means "may attend". Positions are aligned bottom-right: with L queries and S keys, query i
stands at key position i + S - L, so the last query always sees the last key under `causal()`.
Shape letters: B batch, H heads, L query length, S key length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""FlexAttention's form: (batch, head, query index, key index) -> bool."""


class Mask:
    """Which keys each query may attend to."""

    def __and__(self, other: Mask) -> Mask:
        """Both must allow."""
        return And(self, _mask(other))

    def __or__(self, other: Mask) -> Mask:
        """Either may allow."""
        return Or(self, _mask(other))

    def check(self, batch: int, heads: int, length: int, keys: int) -> None:
        """Raise ValueError where the mask does not fit inputs of these sizes."""

    def to_dense(self, length: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
        """Return the mask as bool `[B or 1, H or 1, L or 1, S]`."""
        raise TypeError(f"{type(self).__name__} defines no dense form")

    def mask_mod(self, length: int, keys: int, device: torch.device) -> MaskMod:
        """Return the mask as FlexAttention's `mask_mod`."""
        raise TypeError(f"{type(self).__name__} defines no mask_mod")


@dataclass(frozen=True)
class Causal(Mask):
    """Keys up to the query's own position."""

    def to_dense(self, length: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
        """Return bool `[1, 1, L, S]`."""
        return Window(None, 0).to_dense(length, keys, device)

    def mask_mod(self, length: int, keys: int, device: torch.device) -> MaskMod:
        """Return the mask as FlexAttention's `mask_mod`."""
        return Window(None, 0).mask_mod(length, keys, device)


@dataclass(frozen=True)
class Window(Mask):
    """Keys from `left` before to `right` after the query's position; None is unbounded."""

    left: int | None
    right: int | None

    def to_dense(self, length: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
        """Return bool `[1, 1, L, S]`."""
        query = torch.arange(length, device=device)[:, None]
        key = torch.arange(keys, device=device)[None, :]
        return self._visible(key - query - (keys - length))[None, None]

    def mask_mod(self, length: int, keys: int, device: torch.device) -> MaskMod:
        """Return the mask as FlexAttention's `mask_mod`."""
        return lambda b, h, q, k: self._visible(k - q - (keys - length))

    def _visible(self, ahead: Tensor) -> Tensor:
        visible = torch.ones_like(ahead, dtype=torch.bool)
        if self.left is not None:
            visible = visible & (ahead >= -self.left)
        if self.right is not None:
            visible = visible & (ahead <= self.right)
        return visible


@dataclass(frozen=True, eq=False)
class Keys(Mask):
    """Keys that are valid."""

    valid: Tensor
    """bool `[B, S]`."""

    def check(self, batch: int, heads: int, length: int, keys: int) -> None:
        """Raise ValueError where the mask does not fit inputs of these sizes."""
        _check_sizes("masks.keys", self.valid, (batch, keys), "[batch, keys]")

    def to_dense(self, length: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
        """Return bool `[B, 1, 1, S]`."""
        return self.valid.to(device)[:, None, None, :]

    def mask_mod(self, length: int, keys: int, device: torch.device) -> MaskMod:
        """Return the mask as FlexAttention's `mask_mod`."""
        valid = self.valid.to(device)
        return lambda b, h, q, k: valid[b, k]


@dataclass(frozen=True, eq=False)
class Document(Mask):
    """Keys of the query's own document."""

    query_ids: Tensor
    """int `[B, L]`."""
    key_ids: Tensor
    """int `[B, S]`."""

    def check(self, batch: int, heads: int, length: int, keys: int) -> None:
        """Raise ValueError where the mask does not fit inputs of these sizes."""
        _check_sizes("masks.document", self.query_ids, (batch, length), "[batch, queries]")
        _check_sizes("masks.document", self.key_ids, (batch, keys), "[batch, keys]")

    def to_dense(self, length: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
        """Return bool `[B, 1, L, S]`."""
        query, key = self.query_ids.to(device), self.key_ids.to(device)
        return (query[:, :, None] == key[:, None, :])[:, None]

    def mask_mod(self, length: int, keys: int, device: torch.device) -> MaskMod:
        """Return the mask as FlexAttention's `mask_mod`."""
        query, key = self.query_ids.to(device), self.key_ids.to(device)
        return lambda b, h, q, k: query[b, q] == key[b, k]


@dataclass(frozen=True, eq=False)
class Prefix(Mask):
    """The first keys, whatever the query."""

    sizes: Tensor
    """int `[B]` or `[1]`."""

    def check(self, batch: int, heads: int, length: int, keys: int) -> None:
        """Raise ValueError where the mask does not fit inputs of these sizes."""
        if self.sizes.shape[0] not in (1, batch):
            _check_sizes("masks.prefix", self.sizes, (batch,), "[batch]")

    def to_dense(self, length: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
        """Return bool `[B or 1, 1, 1, S]`."""
        key = torch.arange(keys, device=device)
        return (key < self.sizes.to(device)[:, None])[:, None, None, :]

    def mask_mod(self, length: int, keys: int, device: torch.device) -> MaskMod:
        """Return the mask as FlexAttention's `mask_mod`."""
        sizes = self.sizes.to(device)
        return lambda b, h, q, k: k < sizes[b if sizes.shape[0] > 1 else 0]


@dataclass(frozen=True)
class Arrow(Mask):
    """The first keys whatever the query, and every key for the first queries."""

    size: int

    def to_dense(self, length: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
        """Return bool `[1, 1, L, S]`."""
        query = torch.arange(length, device=device)[:, None] + (keys - length)
        key = torch.arange(keys, device=device)
        return ((key < self.size) | (query < self.size))[None, None]

    def mask_mod(self, length: int, keys: int, device: torch.device) -> MaskMod:
        """Return the mask as FlexAttention's `mask_mod`."""
        return lambda b, h, q, k: (k < self.size) | (q + (keys - length) < self.size)


@dataclass(frozen=True, eq=False)
class Dense(Mask):
    """An explicit boolean tensor."""

    allowed: Tensor
    """bool `[B or 1, H or 1, L or 1, S or 1]`."""

    def check(self, batch: int, heads: int, length: int, keys: int) -> None:
        """Raise ValueError where the mask does not fit inputs of these sizes."""
        sizes = (batch, heads, length, keys)
        if any(have not in (1, want) for have, want in zip(self.allowed.shape, sizes, strict=True)):
            raise ValueError(
                f"masks.dense: got shape {list(self.allowed.shape)}, "
                f"expected one that broadcasts to {list(sizes)}"
            )

    def to_dense(self, length: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
        """Return bool `[B or 1, H or 1, L or 1, S]`."""
        return self.allowed.to(device).expand(-1, -1, -1, keys)

    def mask_mod(self, length: int, keys: int, device: torch.device) -> MaskMod:
        """Return the mask as FlexAttention's `mask_mod`."""
        allowed = self.allowed.to(device)
        one = [size == 1 for size in allowed.shape]

        def mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            index = [
                torch.zeros_like(i) if single else i
                for i, single in zip((b, h, q, k), one, strict=True)
            ]
            return allowed[index[0], index[1], index[2], index[3]]

        return mod


@dataclass(frozen=True)
class _Pair(Mask):
    first: Mask
    second: Mask

    @staticmethod
    def join(first: Tensor, second: Tensor) -> Tensor:
        """Join what both allow."""
        raise NotImplementedError

    def check(self, batch: int, heads: int, length: int, keys: int) -> None:
        """Raise ValueError where the mask does not fit inputs of these sizes."""
        self.first.check(batch, heads, length, keys)
        self.second.check(batch, heads, length, keys)

    def to_dense(self, length: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
        """Return bool `[B or 1, H or 1, L or 1, S]`."""
        first, second = (x.to_dense(length, keys, device) for x in (self.first, self.second))
        return self.join(first, second)

    def mask_mod(self, length: int, keys: int, device: torch.device) -> MaskMod:
        """Return the mask as FlexAttention's `mask_mod`."""
        first = self.first.mask_mod(length, keys, device)
        second = self.second.mask_mod(length, keys, device)
        join = self.join
        return lambda b, h, q, k: join(first(b, h, q, k), second(b, h, q, k))


class And(_Pair):
    """Allowed by both."""

    @staticmethod
    def join(first: Tensor, second: Tensor) -> Tensor:
        """Join what both allow."""
        return first & second


class Or(_Pair):
    """Allowed by either."""

    @staticmethod
    def join(first: Tensor, second: Tensor) -> Tensor:
        """Join what either allows."""
        return first | second


def _mask(other: object) -> Mask:
    if not isinstance(other, Mask):
        raise ValueError(
            f"masks: cannot combine a mask with a {type(other).__name__}; "
            "wrap a boolean tensor in masks.dense(...)"
        )
    return other


def _check_sizes(where: str, tensor: Tensor, expected: tuple[int, ...], legend: str) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"{where}: got shape {list(tensor.shape)}, expected {legend} = {list(expected)}"
        )
