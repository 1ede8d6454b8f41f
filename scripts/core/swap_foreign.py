"""Swap attention in three models this project did not write: do they agree, train, keep masks?

`python scripts/core/swap_foreign.py MAMS_ACSA_FOLDER` trains a `torch.nn.TransformerEncoder` and a
BERT-type encoder of transformers on the categories of MAMS sentences, and a vision transformer of
torchvision on scikit-learn's digits, swaps mechanisms in, and prints one table row each.
"""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared_attention import swap

MECHANISMS = ("softmax", "window", "log_n", "linear", "flow", "gated", "agent")
SIZES = {"width": 64, "heads": 4, "layers": 2, "length": 40, "vocabulary": 4000}
Batch = tuple[Tensor, ...]


@dataclass
class Task:
    """Training and validation data: inputs first, labels last."""

    train: Batch
    validation: Batch
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]


class TorchEncoder(nn.Module):
    """PyTorch's own encoder with an embedding before it and a mean after it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        width = SIZES["width"]
        self.embedding = nn.Embedding(SIZES["vocabulary"], width)
        self.positions = nn.Embedding(SIZES["length"], width)
        layer = nn.TransformerEncoderLayer(width, SIZES["heads"], 128, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, SIZES["layers"])
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """Return logits `[B, classes]` of `ids [B, L]`, True in `real [B, L]` being tokens."""
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        return self.head(mean(self.encoder(x, src_key_padding_mask=~real), real))


class Bert(nn.Module):
    """A BERT-type encoder of transformers with a mean after it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=SIZES["vocabulary"],
            hidden_size=SIZES["width"],
            intermediate_size=128,
            num_hidden_layers=SIZES["layers"],
            num_attention_heads=SIZES["heads"],
            max_position_embeddings=SIZES["length"],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.1,
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(SIZES["width"], classes)

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """Return logits `[B, classes]` of `ids [B, L]`, True in `real [B, L]` being tokens."""
        return self.head(mean(self.bert(ids, attention_mask=real.long())[0], real))


def vision_transformer() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(8, 2, SIZES["layers"], SIZES["heads"], SIZES["width"], 128, 0.0)


def mean(x: Tensor, real: Tensor) -> Tensor:
    return (x * real[..., None]).sum(1) / real.sum(1, keepdim=True)


def sentences(path: Path) -> list[tuple[list[str], set[str]]]:
    found = []
    for sentence in ElementTree.parse(path).getroot():
        words = re.findall(r"[a-z']+", (sentence.findtext("text") or "").lower())
        labels = {entry.attrib["category"] for entry in sentence.iter("aspectCategory")}
        found.append((words[: SIZES["length"]], labels))
    return found


def mams(folder: Path) -> Task:
    parts = {name: sentences(folder / f"{name}.xml") for name in ("train", "val")}
    counts: dict[str, int] = {}
    for words, _ in parts["train"]:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    kept = sorted(counts, key=lambda word: (-counts[word], word))[: SIZES["vocabulary"] - 2]
    index = {word: i + 2 for i, word in enumerate(kept)}
    classes = sorted({label for _, labels in parts["train"] for label in labels})

    def tensors(rows: list[tuple[list[str], set[str]]]) -> Batch:
        ids = torch.zeros(len(rows), SIZES["length"], dtype=torch.long)
        target = torch.zeros(len(rows), len(classes))
        for i, (words, labels) in enumerate(rows):
            ids[i, : len(words)] = torch.tensor([index.get(word, 1) for word in words])
            target[i, [classes.index(label) for label in labels]] = 1
        return ids, ids > 0, target

    def micro_f1(logits: Tensor, target: Tensor) -> float:
        guess = logits > 0
        hits = (guess & target.bool()).sum()
        return float(2 * hits / (guess.sum() + target.sum()))

    return Task(
        tensors(parts["train"]),
        tensors(parts["val"]),
        functional.binary_cross_entropy_with_logits,
        micro_f1,
    )


def digits() -> Task:
    from sklearn.datasets import load_digits

    images, target = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 16
    y = torch.tensor(target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, rest = order[:1400], order[1400:]
    return Task(
        (x[train], y[train]),
        (x[rest], y[rest]),
        functional.cross_entropy,
        lambda logits, label: float((logits.argmax(-1) == label).float().mean()),
    )


def fit(model: nn.Module, task: Task, epochs: int) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    order = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(task.train[0]), generator=order).split(64):
            *inputs, target = (part[rows] for part in task.train)
            loss = task.loss(model(*inputs), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


@torch.no_grad()
def outputs(model: nn.Module, inputs: Batch) -> Tensor:
    model.eval()
    return torch.cat([model(*parts) for parts in zip(*(x.split(64) for x in inputs), strict=True)])


@torch.no_grad()
def padding_change(model: nn.Module, task: Task) -> float:
    """The largest change of an output when what stands at padded places, and their number, do."""
    ids, real, _ = task.validation
    whole = outputs(model, (ids, real))
    other = ids.masked_fill(~real, 7)
    change = (outputs(model, (other, real)) - whole).abs().max()
    for row in range(20):
        count = int(real[row].sum())
        alone = model(ids[row : row + 1, :count], real[row : row + 1, :count])
        change = torch.maximum(change, (alone[0] - whole[row]).abs().max())
    return float(change)


def compare(title: str, model: nn.Module, task: Task, epochs: int, further: int) -> None:
    *inputs, target = task.validation
    fit(model, task, epochs)
    original = outputs(model, tuple(inputs))
    print(f"| {title} | original | {task.score(original, target):.3f} | | | |", flush=True)
    for mechanism in MECHANISMS:
        torch.manual_seed(0)
        ours = copy.deepcopy(model)
        try:
            swap(ours, mechanism, **({"left": 4, "right": 4} if mechanism == "window" else {}))
            out = outputs(ours, tuple(inputs))
        except ValueError as error:
            reason = str(error).split("; mechanisms that")[0]
            print(f"| {title} | {mechanism} | refused: {reason} | | | |", flush=True)
            continue
        fit(ours, task, further)
        after = task.score(outputs(ours, tuple(inputs)), target)
        padding = f"{padding_change(ours, task):.0e}" if len(inputs) > 1 else "no padding"
        change = float((out - original).abs().max())
        row = f"{task.score(out, target):.3f} | {after:.3f} | {change:.0e} | {padding}"
        print(f"| {title} | {mechanism} | {row} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mams", type=Path, help="folder with train.xml and val.xml of MAMS-ACSA")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--further", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | attention | score at once | after training | change at once | padding |")
    print("|---|---|---:|---:|---:|---:|")
    text, images = mams(arguments.mams), digits()
    classes = text.train[-1].shape[1]
    models: list[tuple[str, Callable[[], nn.Module], Task]] = [
        ("torchvision ViT, digits", vision_transformer, images),
        ("nn.TransformerEncoder, MAMS", lambda: TorchEncoder(classes), text),
        ("transformers BERT, MAMS", lambda: Bert(classes), text),
    ]
    for title, build, task in models:
        torch.manual_seed(0)
        compare(title, build(), task, arguments.epochs, arguments.further)


if __name__ == "__main__":
    main()
