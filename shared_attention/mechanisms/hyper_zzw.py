"""HyperZ·Z·W: a slow network draws kernels, the activations make them their own context's."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.grid import accept_grid
from shared_attention.masks import Mask
from shared_attention.primitives.depthwise import depthwise_conv
from shared_attention.references.hyper_zzw import reference_hyper_zzw
from shared_attention.spec import Capabilities, MechanismSpec, Option

EPS = 1e-5
RENORMALISED = 0.1
"""Share of the normalised signal that is added within a local slow network."""


class SlowNetwork(nn.Module):
    """Hyper-kernels as a function of coordinates in [-1, 1]: a multiplicative sine network.

    h_0 = sin(F_0 c); h_l = sin(F_l c) · (L_l h_{l-1} + b); W = O h. With a context u each h_l is
    also renormalised, h + 0.1 h / ‖h‖ over the kernel, and multiplied with U_l u.

    Args:
        channels: Kernels.
        dims: Coordinates.
        hidden: Width.
        depth: Multiplicative layers.
        positions: Positions of the kernels in use; sets the scale of the last layer.
        context: Whether the network is given a context.
    """

    def __init__(
        self, channels: int, dims: int, hidden: int, depth: int, positions: int, context: bool
    ) -> None:
        super().__init__()
        self.sines = nn.ModuleList(nn.Linear(dims, hidden) for _ in range(depth + 1))
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth))
        self.contexts = nn.ModuleList(
            nn.Linear(hidden, hidden) for _ in range(depth if context else 0)
        )
        self.out = nn.Linear(hidden, channels)
        for layer, sine in enumerate(self.sines):
            assert isinstance(sine, nn.Linear)
            spread = torch.distributions.Gamma(6.0 / (layer + 1), 1.0).sample(sine.weight.shape)
            sine.weight.data *= 2 * math.pi * spread
            nn.init.zeros_(sine.bias)
        for linear in (*self.layers, *self.contexts, self.out):
            assert isinstance(linear, nn.Linear)
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="linear")
            nn.init.constant_(linear.bias, 0.0 if linear is self.out else 1.0)
        self.out.weight.data /= math.sqrt(positions)

    def forward(self, grid: tuple[int, ...], context: Tensor | None = None) -> Tensor:
        """Return kernels `[*grid, C]`, or `[B, *grid, C]` given `context [B, *grid, hidden]`."""
        weight = self.out.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        axes = [torch.linspace(-1, 1, n, dtype=wide, device=weight.device) for n in grid]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        h = torch.sin(_linear(self.sines[0], places))
        for i, layer in enumerate(self.layers):
            h = torch.sin(_linear(self.sines[i + 1], places)) * _linear(layer, h)
            if context is not None:
                over = tuple(range(h.dim() - 1 - len(grid), h.dim() - 1))
                norm = h.square().sum(over, keepdim=True).clamp(min=1e-24).sqrt()
                h = (h + RENORMALISED * h / norm) * _linear(self.contexts[i], context.to(wide))
        return _linear(self.out, h)


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear layer in the type of `x`."""
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


class HyperZzw(nn.Module):
    """The HyperZ·Z·W operator on grids of 1 or 2 dimensions.

    z = standardised V x per sample and channel. `branch="global"`: kernels W as large as the grid
    come from coordinates, K = W · x elementwise, and y = K * z, a convolution over the whole grid,
    zeros beyond its edge, of which the part centred as z is kept. `branch="local"`: small kernels
    K come from coordinates and from x, averaged to the size of the kernel; y = K * z + b. Every
    channel of every sample has its own K.

    What of the paper this is: its operator and its slow networks. The Terminator block around them
    (recursive gated units, hyper-channel and hyper-spatial gates, bottleneck, group standardisation
    and the slow neural loss) is not.

    Differences from the published code: its global branch multiplies K and z as matrices, rows by
    columns, which needs square images and is not the convolution of the abstract; `form=
    "published"` does that. Its local kernels come from the mean over the batch, so samples depend
    on each other: here each has its own kernels. It stops gradients within the local slow
    network's renormalisation; here they flow. It adds tables of biases per position to the slow
    networks, which fix the size; here there are none, and any grid will do. Kernels lie at
    coordinates relative to the grid, so padding is refused.

    Args:
        channels: C.
        dims: Dimensions of the grid.
        branch: "global" or "local".
        kernel: Size of local kernels, odd.
        hidden: Width of the slow network.
        depth: Multiplicative layers of the slow network.
        length: Typical size of an axis; sets the initial scale of global kernels.
        form: "corrected" or "published"; they differ in the global branch.

    Raises:
        ValueError: A size is out of range or a name unknown.

    Source: Zhang, HyperZ·Z·W Operator Connects Slow-Fast Networks for Full Context Interaction,
    2024, section 3.
    """

    def __init__(
        self,
        channels: int,
        *,
        dims: int = 2,
        branch: Literal["global", "local"] = "global",
        kernel: int = 5,
        hidden: int = 32,
        depth: int = 2,
        length: int = 32,
        form: Literal["corrected", "published"] = "corrected",
    ) -> None:
        super().__init__()
        for name, value in (("hidden", hidden), ("depth", depth), ("length", length)):
            if value < 1:
                raise ValueError(f"hyper_zzw: {name} got {value}, expected at least 1")
        if dims not in SPEC.dims:
            raise ValueError(f"hyper_zzw: dims got {dims}, expected 1 or 2")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"hyper_zzw: kernel got {kernel}, expected an odd size")
        for option in SPEC.options:
            if option.choices:
                option.check("hyper_zzw", {"branch": branch, "form": form}[option.name])
        self.channels, self.dims, self.kernel = channels, dims, kernel
        self.local, self.published = branch == "local", form == "published"
        positions = (kernel if self.local else length) ** dims
        self.slow = SlowNetwork(channels, dims, hidden, depth, positions, self.local)
        self.mixer = nn.Linear(channels, channels)
        if self.local:
            self.reduce = nn.Linear(channels, hidden)
            self.inner = nn.Linear(hidden, hidden)
            self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Mix `x [B, *grid, C]`.

        Args:
            x: `[B, *grid, C]`; square in the published form of the global branch.
            mask: None.

        Raises:
            ValueError: Inputs of another shape or type.
            UnsupportedError: There is a mask.
        """
        accept_grid(SPEC, x, self.channels, mask, dims=(self.dims,))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        z = self._standardised(wide)
        y = self._near(wide, z) if self.local else self._everywhere(wide, z)
        return y.movedim(1, -1).to(x.dtype)

    def _standardised(self, x: Tensor) -> Tensor:
        """Map `[B, *grid, C]` and standardise it over the grid, `[B, C, *grid]`."""
        weight, bias = (p.to(x.dtype) for p in (self.mixer.weight, self.mixer.bias))
        z = torch.baddbmm(bias[:, None], weight.expand(len(x), -1, -1), x.flatten(1, -2).mT)
        return F.layer_norm(z, z.shape[2:], eps=EPS).unflatten(2, x.shape[1:-1])

    def _everywhere(self, x: Tensor, z: Tensor) -> Tensor:
        """Convolve with, or in the published form multiply by, kernels as large as the grid."""
        grid = tuple(x.shape[1:-1])
        kernels = self.slow(grid)
        if kernels.requires_grad:
            # Channels first before the product: its gradients are products in one layout.
            kernels = kernels.movedim(-1, 0).contiguous() * x.movedim(-1, 1).contiguous()
        else:
            kernels = (kernels * x).movedim(-1, 1).contiguous()
        if self.published:
            if self.dims != 2 or grid[0] != grid[1]:
                raise ValueError(
                    f"hyper_zzw: x has the grid {list(grid)}, "
                    "expected a square for the published form"
                )
            return kernels @ z
        axes = tuple(range(-self.dims, 0))
        size = [2 * n for n in grid]
        spectra = (torch.fft.rfftn(y, s=size, dim=axes) for y in (kernels, z))
        full = torch.fft.irfftn(next(spectra) * next(spectra), s=size, dim=axes)
        return full[(..., *(slice(n // 2, n // 2 + n) for n in grid))]

    def _near(self, x: Tensor, z: Tensor) -> Tensor:
        """Convolve each channel of each sample with its own small kernel."""
        kernel = (self.kernel,) * self.dims
        pooled = _pooled(x, self.kernel)
        context = F.gelu(_linear(self.inner, _linear(self.reduce, pooled)))
        kernels = self.slow(kernel, context).movedim(-1, 1).flatten(0, 1)[:, None]
        series = z.flatten(0, 1)[None]
        if kernels.requires_grad:
            y = depthwise_conv(series.movedim(1, -1), kernels).movedim(-1, 1)
        else:
            convolve = (F.conv1d, F.conv2d)[self.dims - 1]
            y = convolve(series, kernels, padding=self.kernel // 2, groups=len(kernels))
        y = y[0].unflatten(0, (len(x), -1))
        return y + self.bias.to(y.dtype)


def _pooled(x: Tensor, size: int) -> Tensor:
    """Average `[B, *grid, C]` to `size` bins along each axis, as `F.adaptive_avg_pool2d` does."""
    for axis in range(1, x.dim() - 1):
        length = x.shape[axis]
        start = torch.arange(size, device=x.device)[:, None]
        start, stop = start * length // size, -(-(start + 1) * length // size)
        at = torch.arange(length, device=x.device)
        share = ((at >= start) & (at < stop)).to(x.dtype) / (stop - start)
        x = torch.tensordot(share, x, ([1], [axis])).movedim(0, axis)
    return x


SPEC = MechanismSpec(
    name="hyper_zzw",
    family="mixer",
    title="HyperZ·Z·W operator",
    paper="Zhang, HyperZ·Z·W Operator Connects Slow-Fast Networks for Full Context Interaction, "
    "2024 (arXiv 2401.17948)",
    equation="y = (W · x) * z, W = slow network of coordinates, z = standardised V x",
    complexity="O(S log S · C), S positions; local: O(S · C · kernel)",
    when_to_use="Pixel-level sequences and images, as a fast network with kernels of its context.",
    correctness="Global published form and slow networks equal to the official code with the same "
    "weights; to a float64 reference that sums over pairs of positions.",
    capabilities=Capabilities(linear_in_v=False),
    options=(
        Option("dims", int, 2, "dimensions of the grid"),
        Option(
            "branch", str, "global", "kernels as large as the grid, or small ones",
            ("global", "local"),
        ),
        Option("kernel", int, 5, "size of local kernels, odd"),
        Option("hidden", int, 32, "width of the slow network"),
        Option("depth", int, 2, "multiplicative layers of the slow network"),
        Option("length", int, 32, "typical size of an axis, for the initial scale"),
        Option(
            "form", str, "corrected", "published: global kernels multiply images as matrices",
            ("corrected", "published"),
        ),
    ),
    module=HyperZzw,
    reference=reference_hyper_zzw,
    dims=(1, 2),
    example={"hidden": 6, "length": 6, "dims": 1},
)  # fmt: skip
