"""Multi-head attention beside `torch.nn.MultiheadAttention`, with the same weights.

    python scripts/benchmarks/multihead.py --threads 1

Outputs are compared first; times are the least of interleaved rounds, in processor seconds.
"""

from __future__ import annotations

import argparse
import functools

import torch
from timing import interleaved
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.layers import MultiHeadAttention

SHAPES = (
    (32, 96, 64, 8),
    (32, 96, 512, 8),
    (32, 336, 64, 8),
    (8, 512, 256, 8),
    (1, 64, 128, 4),
    (4, 32, 64, 4),
)
"""(batch, length, d_model, heads)."""


def pair(d_model: int, heads: int) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    ours = MultiHeadAttention(d_model, heads)
    theirs = nn.MultiheadAttention(d_model, heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.project_in.weight)
        theirs.in_proj_bias.copy_(ours.project_in.bias)
        theirs.out_proj.weight.copy_(ours.project_out.weight)
        theirs.out_proj.bias.copy_(ours.project_out.bias)
    return ours, theirs


@functools.cache
def causal_mask(length: int) -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(length)


def forward(model: nn.Module, x: Tensor, masked: bool) -> Tensor:
    if isinstance(model, MultiHeadAttention):
        return model(x, mask=masks.causal() if masked else None)
    hidden = causal_mask(x.shape[1]) if masked else None
    return model(x, x, x, need_weights=False, attn_mask=hidden, is_causal=masked)[0]


def train_step(model: nn.Module, x: Tensor, masked: bool) -> None:
    model.zero_grad()
    forward(model, x, masked).square().mean().backward()


def compare(shape: tuple[int, int, int, int], masked: bool, repeats: int) -> str:
    batch, length, d_model, heads = shape
    ours, theirs = pair(d_model, heads)
    x = torch.randn(batch, length, d_model)
    error = (forward(ours, x, masked) - forward(theirs, x, masked)).abs().max().item()
    ours.eval(), theirs.eval()
    with torch.no_grad():
        inference = interleaved(
            {
                "ours": lambda: forward(ours, x, masked),
                "torch": lambda: forward(theirs, x, masked),
            },
            repeats,
        )
    ours.train(), theirs.train()
    x.requires_grad_()
    training = interleaved(
        {
            "ours": lambda: train_step(ours, x, masked),
            "torch": lambda: train_step(theirs, x, masked),
        },
        repeats,
    )
    cells = [f"{batch}x{length}x{d_model}/{heads}", "causal" if masked else "full", f"{error:.0e}"]
    for times in (inference, training):
        ratio = times["torch"] / times["ours"]
        cells += [f"{1e3 * times['ours']:.2f}", f"{1e3 * times['torch']:.2f}", f"{ratio:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {arguments.threads} thread(s); a ratio above 1 is ours faster"
    )
    print(
        "| batch x length x width/heads | mask | difference "
        "| forward ms | torch | ratio | training ms | torch | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        for masked in (False, True):
            print(compare(shape, masked, arguments.repeats), flush=True)


if __name__ == "__main__":
    main()
