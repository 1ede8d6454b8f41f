"""Triton kernels on a GPU beside the best of PyTorch and of flash-linear-attention.

    python scripts/benchmarks/triton_kernels.py --lengths 1024 4096 16384 65536 --dtype bfloat16

Each kernel is timed beside the eager form of the same mechanism and every backend of PyTorch's
fused attention that runs (flash, efficient, cuDNN) under a causal mask; the scans also beside
flash-linear-attention where it is installed (`pip install flash-linear-attention`). `best` is the
fastest of PyTorch's, `ratio` its time over the kernel's: above 1 the kernel is faster. `ceiling`
is the share of this GPU's own matrix product (decoding: of its own copy) that the kernel reaches,
counting what the mechanism needs, not what is masked. `peak` is memory beyond the inputs. `error`
is the largest difference to the eager form in float32, over its largest value.

A kernel that is slower than what PyTorch offers at every length should be taken out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from shared_attention import attention, masks
from shared_attention.errors import UnsupportedError
from shared_attention.mechanisms.gated_linear import gated_linear_attention

Way = Callable[..., Tensor]
FUSED = (
    SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION
)  # fmt: skip
LEFT, BLOCK = 255, 64


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the least seconds of a call, after two to warm up."""
    best = float("inf")
    for round_ in range(repeats + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        if round_ > 1:
            best = min(best, time.perf_counter() - start)
    return best


def ceilings(dtype: torch.dtype, repeats: int) -> tuple[float, float]:
    """Return the multiplications and additions per second of a large product, bytes of a copy."""
    a = torch.randn(8192, 8192, device="cuda", dtype=dtype)
    product = 2 * 8192**3 / seconds(lambda: a @ a, repeats)
    big = torch.empty(2**29, device="cuda", dtype=torch.uint8)
    return product, 2 * big.numel() / seconds(lambda: big.clone(), repeats)


def fused(backend: SDPBackend) -> Way:
    def run(q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)

    return run


def ways(name: str) -> dict[str, Way]:
    """The kernel, the eager form, and those of others."""
    causal = masks.causal()
    options: dict[str, Any] = {
        "window": {"left": LEFT}, "landmark": {"block": BLOCK}
    }.get(name, {})  # fmt: skip
    found: dict[str, Way] = {}
    for backend in ("triton", "eager"):
        if name == "decode":
            taken = "lean" if backend == "triton" else "sdpa"
            found[backend] = lambda q, k, v, taken=taken: attention(q, k, v, backend=taken)
        elif name == "gated_linear":
            found[backend] = lambda *x, b=backend: gated_linear_attention(*x, backend=b)[0]
        else:
            found[backend] = lambda q, k, v, b=backend: attention(
                q, k, v, name, causal, backend=b, **options
            )
    found |= {f"sdpa {x.name.lower().partition('_')[0]}": fused(x) for x in FUSED}
    return found | others(name)


def others(name: str) -> dict[str, Way]:
    """Flash-linear-attention, whose layout is `[B, L, H, D]`."""
    try:
        if name == "linear":
            from fla.ops.linear_attn import chunk_linear_attn as chunk
        elif name == "gated_linear":
            from fla.ops.gla import chunk_gla as chunk
        else:
            return {}
    except ImportError:
        return {}

    def run(q: Tensor, k: Tensor, v: Tensor, *decay: Tensor) -> Tensor:
        if name == "linear":
            q, k = F.elu(q) + 1, F.elu(k) + 1
        given = [x.transpose(1, 2) for x in (q, k, v, *decay)]
        return chunk(*given)[0].transpose(1, 2)

    return {"fla": run}


def operations(name: str, q: Tensor, v: Tensor) -> float:
    """Multiplications and additions of a forward pass that the mechanism needs."""
    batch, heads, length, width = q.shape
    rows = batch * heads * length
    if name in ("linear", "gated_linear"):
        return rows * 4 * width * v.shape[3]
    keys = min(LEFT + 1, length) if name == "window" else length / 2
    return rows * keys * 2 * (width + v.shape[3])


def draw(name: str, length: int, arguments: argparse.Namespace) -> tuple[Tensor, ...]:
    shape = (arguments.batch, arguments.heads, length, arguments.head_dim)
    own = (*shape[:2], 1, shape[3]) if name == "decode" else shape
    dtype = getattr(torch, arguments.dtype)
    drawn = [torch.randn(s, device="cuda", dtype=dtype) for s in (own, shape, shape)]
    if name == "gated_linear":
        drawn.append(F.logsigmoid(torch.randn(shape, device="cuda")) / 16)
    return tuple(drawn)


def measure(way: Way, inputs: tuple[Tensor, ...], training: bool, repeats: int) -> list[float]:
    """Seconds, and bytes in use at most beyond the inputs."""
    given = tuple(x.detach().requires_grad_(training) for x in inputs)

    def run() -> None:
        with torch.set_grad_enabled(training):
            out = way(*given)
            if training:
                used = [x for x in given if x is not None]
                torch.autograd.grad(out, used, torch.ones_like(out), allow_unused=True)

    took = seconds(run, repeats)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return [took, torch.cuda.max_memory_allocated() - before]


def compare(name: str, length: int, training: bool, arguments: argparse.Namespace) -> None:
    inputs = draw(name, length, arguments)
    results: dict[str, list[float]] = {}
    for way, run in ways(name).items():
        try:
            results[way] = measure(run, inputs, training, arguments.repeats)
        except (RuntimeError, UnsupportedError) as error:
            print(f"# {name}, {length}: {way} does not run: {str(error).splitlines()[0]}")
            torch.cuda.empty_cache()
    if "triton" not in results:
        return
    own, memory = results.pop("triton")
    rivals = {way: took for way, (took, _) in results.items() if way != "fla"}
    best = min(rivals, key=lambda way: rivals[way], default=None)
    with torch.no_grad():
        exact = ways(name)["eager"](*(x.float() for x in inputs))
        error = (ways(name)["triton"](*inputs).float() - exact).abs().max() / exact.abs().max()
    if name == "decode":
        moved = sum(x.numel() * x.element_size() for x in inputs)
        share = moved / own / arguments.ceilings[1]
    else:
        share = (3.5 if training else 1) * operations(name, inputs[0], inputs[2]) / own
        share /= arguments.ceilings[0]
    cells = [name, str(length), "training" if training else "forward", f"{1e3 * own:.3f}"]
    cells += [best or "-", f"{rivals[best] / own:.2f}" if best else "-"]
    cells += [f"{results['fla'][0] / own:.2f}" if "fla" in results else "-"]
    cells += [f"{100 * share:.0f} %", f"{memory / 2**20:.0f}", f"{error.item():.0e}"]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("triton_kernels: no CUDA GPU is available; the kernels are measured on one only")
    torch.manual_seed(0)
    arguments.ceilings = ceilings(getattr(torch, arguments.dtype), 5)
    product, copy = arguments.ceilings
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments.dtype}, "
        f"product {product / 1e12:.0f} TFLOP/s, copy {copy / 1e12:.2f} TB/s"
    )
    print("| kernel | length | pass | ms | best | ratio | fla ratio | ceiling | peak MiB | error |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in arguments.names or ["linear", "gated_linear", "window", "landmark", "decode"]:
        for length in arguments.lengths:
            for training in (False, True) if name != "decode" else (False,):
                compare(name, length, training, arguments)


if __name__ == "__main__":
    main()
