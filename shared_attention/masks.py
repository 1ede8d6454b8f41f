"""Masks as small symbolic values that compose with `&` and `|`.

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
class And(Mask):
    """Allowed by both."""

    first: Mask
    second: Mask

    def check(self, batch: int, heads: int, length: int, keys: int) -> None:
        """Raise ValueError where the mask does not fit inputs of these sizes."""
        self.first.check(batch, heads, length, keys)
        self.second.check(batch, heads, length, keys)

    def to_dense(self, length: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
        """Return bool `[B or 1, H or 1, L or 1, S]`."""
        return self.first.to_dense(length, keys, device) & self.second.to_dense(
            length, keys, device
        )

    def mask_mod(self, length: int, keys: int, device: torch.device) -> MaskMod:
        """Return the mask as FlexAttention's `mask_mod`."""
        first = self.first.mask_mod(length, keys, device)
        second = self.second.mask_mod(length, keys, device)
        return lambda b, h, q, k: first(b, h, q, k) & second(b, h, q, k)


@dataclass(frozen=True)
class Or(Mask):
    """Allowed by either."""

    first: Mask
    second: Mask

    def check(self, batch: int, heads: int, length: int, keys: int) -> None:
        """Raise ValueError where the mask does not fit inputs of these sizes."""
        self.first.check(batch, heads, length, keys)
        self.second.check(batch, heads, length, keys)

    def to_dense(self, length: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
        """Return bool `[B or 1, H or 1, L or 1, S]`."""
        return self.first.to_dense(length, keys, device) | self.second.to_dense(
            length, keys, device
        )

    def mask_mod(self, length: int, keys: int, device: torch.device) -> MaskMod:
        """Return the mask as FlexAttention's `mask_mod`."""
        first = self.first.mask_mod(length, keys, device)
        second = self.second.mask_mod(length, keys, device)
        return lambda b, h, q, k: first(b, h, q, k) | second(b, h, q, k)


def causal() -> Mask:
    """Let each query see the keys up to its own position, aligned bottom-right."""
    return Causal()


def window(left: int | None, right: int | None) -> Mask:
    """Let each query see `left` keys before its position to `right` after it, itself included.

    Args:
        left: Number of earlier keys, or None for all of them.
        right: Number of later keys, or None for all of them.

    Raises:
        ValueError: A side is negative.
    """
    for name, side in (("left", left), ("right", right)):
        if side is not None and side < 0:
            raise ValueError(f"masks.window: {name} got {side}, expected None or at least 0")
    return Window(left, right)


def keys(valid: Tensor) -> Mask:
    """Hide the keys that are not valid, such as padding.

    Args:
        valid: bool `[B, S]`, True where the key is real. `nn.MultiheadAttention`'s
            `key_padding_mask` has the opposite sense: pass its negation.

    Raises:
        ValueError: `valid` is not a boolean matrix.
    """
    _check_tensor("masks.keys", valid, "bool [batch, keys]", dims=(2,), boolean=True)
    return Keys(valid)


def document(ids: Tensor | tuple[Tensor, Tensor]) -> Mask:
    """Let each query see the keys of its own document only.

    Args:
        ids: int `[B, L]` for queries and keys alike, or `(query_ids [B, L], key_ids [B, S])`.

    Raises:
        ValueError: The ids are not integer matrices.
    """
    query_ids, key_ids = ids if isinstance(ids, tuple) else (ids, ids)
    for tensor in (query_ids, key_ids):
        _check_tensor("masks.document", tensor, "integer [batch, length]", dims=(2,))
    return Document(query_ids, key_ids)


def prefix(n: int | Tensor) -> Mask:
    """Let every query see the first keys.

    Together with `causal()`, joined by `|`, it is the mask of prefix language models.

    Args:
        n: Number of first keys, or int `[B]` with one number per sample.

    Raises:
        ValueError: `n` is negative, or not an integer vector.
    """
    if isinstance(n, int):
        if n < 0:
            raise ValueError(f"masks.prefix: n got {n}, expected at least 0")
        return Prefix(torch.tensor([n]))
    _check_tensor("masks.prefix", n, "an int, or integer [batch]", dims=(1,))
    return Prefix(n)


def arrow(n: int) -> Mask:
    """Let every query see the first `n` keys, and the first `n` queries see every key.

    Joined by `|` with `window(w, w)` it is SeNER's arrow attention, whose first position is
    [CLS]; with `document(ids)` it is Uni-Encoder's, where `n` positions of context are read
    together with several candidates that do not see each other.

    Raises:
        ValueError: `n` is negative.
    """
    if n < 0:
        raise ValueError(f"masks.arrow: n got {n}, expected at least 0")
    return Arrow(n)


def dense(allowed: Tensor) -> Mask:
    """Use an explicit boolean tensor.

    Args:
        allowed: bool, True = may attend, of 2 to 4 dimensions, broadcastable to [B, H, L, S].

    Raises:
        ValueError: `allowed` is not boolean or has another number of dimensions.
    """
    expected = "bool, True = may attend, broadcastable to [B, H, L, S]"
    _check_tensor("masks.dense", allowed, expected, dims=(2, 3, 4), boolean=True)
    return Dense(allowed[(None,) * (4 - allowed.dim())])


@dataclass(frozen=True)
class Parts:
    """A mask taken apart: all parts must allow."""

    causal: bool = False
    window: tuple[int | None, int | None] | None = None
    keys: Tensor | None = None
    """bool `[B, S]`."""
    rest: Mask | None = None
    """What has no structure that backends use."""


_NOTHING = Parts()


def split(mask: Mask | None) -> Parts:
    """Take a mask apart for backends that use structure.

    A window that ends at the query sets `causal` as well; an unbounded one leaves no trace.
    """
    if mask is None:
        return _NOTHING
    if isinstance(mask, And):
        return _join(split(mask.first), split(mask.second))
    if isinstance(mask, Causal):
        return Parts(causal=True)
    if isinstance(mask, Window):
        bounded = mask.left is not None or mask.right not in (None, 0)
        sides = (mask.left, mask.right) if bounded else None
        return Parts(causal=mask.right == 0, window=sides)
    if isinstance(mask, Keys):
        return Parts(keys=mask.valid)
    return Parts(rest=mask)


def _join(a: Parts, b: Parts) -> Parts:
    window = a.window or b.window
    if a.window is not None and b.window is not None:
        window = (_least(a.window[0], b.window[0]), _least(a.window[1], b.window[1]))
    valid = a.keys if b.keys is None else b.keys if a.keys is None else a.keys & b.keys
    rest = a.rest if b.rest is None else b.rest if a.rest is None else a.rest & b.rest
    return Parts(a.causal or b.causal, window, valid, rest)


def onwards(mask: Mask | None) -> Mask:
    """Return the mask under which a stream continues: causal, and `mask` of the new keys.

    Raises:
        ValueError: `mask` is not None or `masks.keys(valid)`.
    """
    if mask is None:
        return causal()
    if not isinstance(mask, Keys):
        raise ValueError(
            f"prefill: mask got {type(mask).__name__}, expected masks.keys(valid) of the new "
            "positions; causality is implied"
        )
    return causal() & mask


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _mask(other: object) -> Mask:
    if not isinstance(other, Mask):
        raise ValueError(
            f"masks: cannot combine a mask with a {type(other).__name__}; "
            "wrap a boolean tensor in masks.dense(...)"
        )
    return other


def _check_tensor(
    where: str, tensor: Tensor, expected: str, dims: tuple[int, ...], boolean: bool = False
) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{where}: got a {type(tensor).__name__}, expected a tensor: {expected}")
    right_type = tensor.dtype == torch.bool if boolean else not tensor.is_floating_point()
    if not right_type or tensor.dim() not in dims:
        raise ValueError(
            f"{where}: got {tensor.dtype} of shape {list(tensor.shape)}, expected {expected}"
        )


def _check_sizes(where: str, tensor: Tensor, expected: tuple[int, ...], legend: str) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"{where}: got shape {list(tensor.shape)}, expected {legend} = {list(expected)}"
        )
