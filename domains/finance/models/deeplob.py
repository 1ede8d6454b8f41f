"""DeepLOB: convolutions over price levels and time, then an LSTM (Zhang et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.finance.models.parts.windows import check_sizes, check_window
from shared_attention.dropout import Dropout

_CHANNELS, _INCEPTION, _HIDDEN = 32, 64, 64
_BOOK = 40
_TIME_KERNEL = 4


class DeepLOB(nn.Module):
    """Join price with size, sides, then levels by convolution; inception; LSTM; scores.

    The first `book_columns` columns are read as ask price, ask size, bid price and bid size of
    each level, best first: convolutions join neighbouring columns in that order, so other columns
    must not be among them. Further columns (order flow, FI-2010's other 104) enter where the
    levels have become one vector for each time step, by a linear map that is added to it, at the
    row that is latest there. Without book columns that map is all that reads the window.

    Published code ends in a softmax, on which its loss takes another; these are scores. Windows
    so short that convolutions would leave less than two steps are preceded by their first row.

    Args:
        lookback: time steps T.
        features: columns F of the window.
        classes: number of classes.
        book_columns: 4 for each level; None is 40, or as many as `features` has. Give 0 where the
            columns are not a book's.
        dropout: probability, before the scores; published code has none.

    Raises:
        ValueError: Sizes are below 1, or `book_columns` is not a multiple of 4 up to `features`.

    Source: DeepLOB: Deep Convolutional Neural Networks for Limit Order Books, IEEE Transactions on
    Signal Processing 2019 (arXiv 1808.03668).
    """

    def __init__(
        self,
        *,
        lookback: int,
        features: int,
        classes: int = 3,
        book_columns: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes("DeepLOB", lookback=lookback, features=features, classes=classes)
        if book_columns is None:
            book_columns = min(_BOOK, features // 4 * 4)
        if book_columns % 4 or not 0 <= book_columns <= features:
            raise ValueError(
                f"DeepLOB: book_columns got {book_columns}, expected a multiple of 4 "
                f"between 0 and the {features} features"
            )
        self.lookback, self.features, self.book_columns = lookback, features, book_columns
        self.book = nn.Sequential()
        blocks = 1
        if book_columns:
            self.book.append(_block(1, (1, 2), nn.LeakyReLU()))
            self.book.append(_block(_CHANNELS, (1, 2), nn.Tanh()))
            self.levels = nn.Conv2d(_CHANNELS, _CHANNELS, (1, book_columns // 4))
            blocks = 3
        more = features - book_columns
        self.more = nn.Linear(more, _CHANNELS, bias=not book_columns) if more else None
        self.steps = nn.Sequential(*_after(nn.LeakyReLU()))
        self.narrow = _inception(1, 3)
        self.wide = _inception(1, 5)
        self.pooled = nn.Sequential(nn.MaxPool2d((3, 1), 1, (1, 0)), *_normed(_CHANNELS, 1))
        self.lstm = nn.LSTM(3 * _INCEPTION, _HIDDEN, batch_first=True)
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(_HIDDEN, classes)
        self.shortest = 2 * (_TIME_KERNEL - 1) * blocks + 2

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores `[B, classes]` of windows `x` `[B, T, F]`.

        Raises:
            ValueError: The windows have another shape.
        """
        check_window("DeepLOB", x, self.lookback, self.features)
        if self.lookback < self.shortest:
            x = functional.pad(x, (0, 0, self.shortest - self.lookback, 0), mode="replicate")
        joined = self._joined(x)
        hidden = self.steps(joined)
        branches = [self.narrow(hidden), self.wide(hidden), self.pooled(hidden)]
        series = torch.cat(branches, dim=1).squeeze(3).transpose(1, 2)
        out, _ = self.lstm(series)
        return self.head(self.dropout(out[:, -1]))

    def _joined(self, x: Tensor) -> Tensor:
        """Return one vector for each time step, `[B, 32, T', 1]`."""
        book, more = x.tensor_split((self.book_columns,), dim=2)
        levels = self.levels(self.book(book.unsqueeze(1))) if self.book_columns else None
        if self.more is None:
            assert levels is not None
            return levels
        steps = x.shape[1] if levels is None else levels.shape[2]
        columns = self.more(more[:, -steps:]).transpose(1, 2).unsqueeze(3)
        return columns if levels is None else levels + columns


def _block(channels: int, kernel: tuple[int, int], activation: nn.Module) -> nn.Sequential:
    """Join neighbouring columns, then convolve over time twice."""
    join = nn.Conv2d(channels, _CHANNELS, kernel, stride=kernel)
    return nn.Sequential(join, *_after(activation))


def _after(activation: nn.Module) -> list[nn.Module]:
    """Return what follows the convolution that joins columns."""
    layers: list[nn.Module] = [activation, nn.BatchNorm2d(_CHANNELS)]
    for _ in range(2):
        time = nn.Conv2d(_CHANNELS, _CHANNELS, (_TIME_KERNEL, 1))
        layers += [time, activation, nn.BatchNorm2d(_CHANNELS)]
    return layers


def _inception(*kernels: int) -> nn.Sequential:
    widths = [_CHANNELS, *(_INCEPTION for _ in kernels)]
    layers = [_normed(width, kernel) for width, kernel in zip(widths, kernels, strict=False)]
    return nn.Sequential(*(part for layer in layers for part in layer))


def _normed(channels: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, _INCEPTION, (kernel, 1), padding=(kernel // 2, 0))
    return [convolution, nn.LeakyReLU(), nn.BatchNorm2d(_INCEPTION)]
