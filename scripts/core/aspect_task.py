"""A small real task for attention: the sentiment towards an aspect of a sentence (MAMS).

Every sentence names aspects of opposite sentiment, so that a model has to attend to the right
words. Data: MAMS ATSA (Jiang et al., EMNLP 2019), in `nlp/mams/ATSA` of the folder HEED_DATA, or of
`../shared/data`; 11,186 training, 1,332 validation and 1,336 test aspects of 3 classes.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.layers import MultiHeadAttention

POLARITIES = ("negative", "neutral", "positive")
PAD, UNKNOWN = 0, 1
FAR = 15
"""Distances to the aspect beyond this are alike."""
TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass
class Samples:
    """Aspects with their sentences, padded."""

    ids: Tensor
    """int `[N, S]`."""
    distance: Tensor
    """int `[N, S]`, 0 to 2 FAR; FAR on the aspect itself."""
    label: Tensor
    """int `[N]`."""
    index: Tensor
    """int `[N]`, their numbers in the whole part."""

    @property
    def valid(self) -> Tensor:
        """Words that are there, bool `[N, S]`."""
        return self.ids != PAD

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, chosen: Tensor) -> Samples:
        length = int(self.valid[chosen].any(0).nonzero().max()) + 1
        cut = (x[chosen, :length] for x in (self.ids, self.distance))
        return Samples(*cut, self.label[chosen], self.index[chosen])


class AspectModel(nn.Module):
    """Embed words and their distances to the aspect, and let the aspect attend to them."""

    def __init__(self, words: int, width: int = 48) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width, padding_idx=PAD)
        self.place = nn.Embedding(2 * FAR + 1, width)
        self.pool = MultiHeadAttention(width, 1)
        self.classify = nn.Linear(width, len(POLARITIES))
        self.dropout = nn.Dropout(0.4)

    def forward(self, batch: Samples) -> Tensor:
        """Return logits `[N, 3]`."""
        mask = masks.keys(batch.valid)
        x = self.dropout(self.word(batch.ids) + self.place(batch.distance))
        on = (batch.distance == FAR).to(x.dtype)[..., None]
        aspect = (x * on).sum(1, keepdim=True) / on.sum(1, keepdim=True)
        return self.classify(self.dropout(self.pool(aspect, x, mask=mask)[:, 0]))


def load() -> tuple[Samples, Samples, Samples, int]:
    """Return training, validation and test samples, and the number of words."""
    root = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("HEED_DATA") or root.parent / "shared" / "data")
    folder = data / "nlp" / "mams" / "ATSA"
    if not folder.is_dir():
        raise SystemExit(f"no MAMS data at {folder}: set HEED_DATA to the folder that has nlp/mams")
    parts = [list(_read(folder / f"{name}.xml")) for name in ("train", "val", "test")]
    counts = Counter(word for words, _, _ in parts[0] for word in words)
    known = [word for word, count in counts.most_common() if count > 1]
    ids = {word: index for index, word in enumerate(known, start=2)}
    train, validation, test = (_pad(part, ids) for part in parts)
    return train, validation, test, len(ids) + 2


def _read(path: Path) -> Iterator[tuple[list[str], list[int], int]]:
    for sentence in ElementTree.parse(path).getroot():
        text = sentence.findtext("text", "")
        found = list(TOKEN.finditer(text.lower()))
        for term in sentence.iter("aspectTerm"):
            start, end = int(term.attrib["from"]), int(term.attrib["to"])
            on = [i for i, m in enumerate(found) if m.start() < end and m.end() > start]
            places = [
                max(-FAR, min(FAR, i - on[0] if i < on[0] else max(0, i - on[-1]))) + FAR
                for i in range(len(found))
            ]
            yield [m.group() for m in found], places, POLARITIES.index(term.attrib["polarity"])


def _pad(part: list[tuple[list[str], list[int], int]], ids: dict[str, int]) -> Samples:
    size = max(len(words) for words, _, _ in part)
    rows = torch.zeros(len(part), size, dtype=torch.long)
    places = torch.zeros(len(part), size, dtype=torch.long)
    for i, (words, distance, _) in enumerate(part):
        rows[i, : len(words)] = torch.tensor([ids.get(word, UNKNOWN) for word in words])
        places[i, : len(words)] = torch.tensor(distance)
    label = torch.tensor([label for _, _, label in part])
    return Samples(rows, places, label, torch.arange(len(part)))


def batches(samples: Samples, size: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Yield indices of batches of similar length; in order where there is no generator."""
    lengths = samples.valid.sum(-1)
    if generator is None:
        yield from lengths.argsort().split(size)
        return
    order = torch.randperm(len(samples), generator=generator)
    groups = [g[lengths[g].argsort()].split(size) for g in order.split(16 * size)]
    whole = [batch for group in groups for batch in group]
    for i in torch.randperm(len(whole), generator=generator).tolist():
        yield whole[i]


@torch.no_grad()
def accuracy(model: AspectModel, samples: Samples) -> float:
    """Return the share of samples predicted right."""
    model.eval()
    right = 0
    for chosen in batches(samples, 256, None):
        batch = samples[chosen]
        right += int((model(batch).argmax(-1) == batch.label).sum())
    return right / len(samples)


Objective = Callable[[AspectModel, Samples, Callable[[], Tensor]], Tensor]
"""`objective(model, batch, loss) -> scalar`, with `loss()` the cross-entropy of the batch."""


def train(
    seed: int,
    objective: Objective,
    data: tuple[Samples, Samples, Samples, int],
    epochs: int = 8,
) -> tuple[AspectModel, float]:
    """Train a model; return it at its best epoch by validation accuracy, and that accuracy."""
    fit, validation, _, words = data
    torch.manual_seed(seed)
    model = AspectModel(words)
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    best, kept = -1.0, deepcopy(model.state_dict())
    for _ in range(epochs):
        model.train()
        for chosen in batches(fit, 128, order):
            batch = fit[chosen]
            optimiser.zero_grad(set_to_none=True)

            def loss(batch: Samples = batch) -> Tensor:
                return F.cross_entropy(model(batch), batch.label)

            objective(model, batch, loss).backward()
            optimiser.step()
        score = accuracy(model, validation)
        if score > best:
            best, kept = score, deepcopy(model.state_dict())
    model.load_state_dict(kept)
    model.eval()
    return model, best
