"""The plain classifier that metric learning is compared with, and its Grad-CAM maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.medical.retrieval.backbone import ResidualFeatures
from domains.medical.retrieval.data import RetrievalImages

_WIDTH = 24
_BATCH = 32
STEPS = 150
_MOST = (64, 32)
_RATE = 2e-3


class Classifier(nn.Module):
    """The residual features of the default model, averaged, and a linear map to classes.

    It sees images of at most 64 x 64, or 32 x 32 x 32, so that a baseline costs little.

    Args:
        channels: of an image.
        targets: classes.
        spatial_dims: 2 or 3.
    """

    def __init__(self, channels: int, targets: int, spatial_dims: int) -> None:
        super().__init__()
        self.backbone = ResidualFeatures(channels, spatial_dims, _WIDTH)
        self.head = nn.Linear(4 * _WIDTH, targets)

    def forward(self, image: Tensor) -> Tensor:
        """Return class scores `[B, targets]`."""
        return self.head(self.embed(image))

    def features(self, image: Tensor) -> Tensor:
        """Return the last grid of features, `[B, F, *grid]`; larger images are made smaller."""
        most = _MOST[image.dim() - 4]
        size = [min(length, most) for length in image.shape[2:]]
        small = functional.interpolate(image, size, mode="area")
        return self.backbone(small)

    def embed(self, image: Tensor) -> Tensor:
        """Return the features before the last layer, `[B, F]`."""
        return self.features(image).flatten(2).mean(2)


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier with what it says of images."""

    model: Classifier
    device: torch.device

    def embeddings(self, images: RetrievalImages) -> np.ndarray:
        """Return features `[n, F]` of length one."""
        parts = []
        with torch.inference_mode():
            for rows in _chunks(len(images)):
                image = images.batch(rows)["image"].to(self.device)
                features = functional.normalize(self.model.embed(image), dim=1)
                parts.append(features.cpu().numpy())
        return np.concatenate(parts)

    def maps(self, images: RetrievalImages) -> np.ndarray:
        """Return Grad-CAM maps `[n, *size]` of the predicted class, 0 to 1."""
        parts = [
            grad_cam(self.model, images.batch(rows)["image"].to(self.device)).cpu().numpy()
            for rows in _chunks(len(images))
        ]
        return np.concatenate(parts)


def train_classifier(images: RetrievalImages, *, seed: int, device: torch.device) -> Classifier:
    """Train on the training part with cross-entropy, 150 steps of 32 images, one cycle of rates.

    Draws come from `seed` alone; the global random state stays as it is.

    Args:
        images: training part, with its augmentation.
        seed: of weights and order.
        device: where to train.
    """
    channels, *size = images.images.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(channels, int(images.target.max()) + 1, len(size)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, STEPS)
    random = np.random.default_rng(seed)
    model.train()
    for step in range(STEPS):
        images.start_epoch(step)
        batch = images.batch(random.choice(len(images), min(_BATCH, len(images)), replace=False))
        loss = functional.cross_entropy(
            model(batch["image"].to(device)), batch["target"].to(device)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def grad_cam(model: Classifier, image: Tensor) -> Tensor:
    """Return what raises the predicted class's score, `[B, *grid]` in 0 to 1.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2.
    """
    features = model.features(image).detach().requires_grad_(True)
    scores = model.head(features.flatten(2).mean(2))
    (gradient,) = torch.autograd.grad(scores.max(1).values.sum(), features)
    return cam(features, gradient, image.shape[2:])


def cam(features: Tensor, gradient: Tensor, size: torch.Size) -> Tensor:
    """Return [Σ_c mean(gradient_c) features_c]_+ at `size`, each map scaled to 0 to 1."""
    weight = gradient.flatten(2).mean(2)
    found = torch.einsum("bc,bc...->b...", weight, features.detach()).relu()[:, None]
    mode = "bilinear" if len(size) == 2 else "trilinear"
    found = functional.interpolate(found, tuple(size), mode=mode, align_corners=False)[:, 0]
    flat = found.flatten(1)
    low, high = (x.view(-1, *(1,) * len(size)) for x in (flat.amin(1), flat.amax(1)))
    return (found - low) / (high - low).clamp_min(1e-12)


def _chunks(count: int) -> list[np.ndarray]:
    return [np.arange(i, min(i + _BATCH, count)) for i in range(0, count, _BATCH)]
