"""What a trained model says of images, and the training images it looks them up in."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from domains.medical.retrieval.data import RetrievalImages


@dataclass(frozen=True)
class Gallery:
    """Embedded training images, which go with the model.

    Args:
        embedding: float32 `[G, E]`.
        target: int64 `[G]`.
        ids: of the cases.
        patients: of the cases.
    """

    embedding: np.ndarray
    target: np.ndarray
    ids: Sequence[str]
    patients: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON, the embedding as base64 of little-endian float32."""
        content = np.ascontiguousarray(self.embedding, dtype="<f4").tobytes()
        return {
            "embedding": base64.b64encode(content).decode("ascii"),
            "values": int(self.embedding.shape[1]),
            "target": self.target.tolist(),
            "ids": list(self.ids),
            "patients": list(self.patients),
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Gallery:
        """Return the gallery that `to_json` gave `state` for."""
        content = np.frombuffer(base64.b64decode(state["embedding"]), dtype="<f4")
        return cls(
            content.reshape(-1, state["values"]).copy(),
            np.asarray(state["target"], dtype=np.int64),
            state["ids"],
            state["patients"],
        )


def embed(
    model: nn.Module, images: RetrievalImages, *, batch_size: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings `[n, E]` and attention maps `[n, *size]`, both float32.

    Args:
        model: Dynamic Subspace Learners.
        images: what to embed, without augmentation.
        batch_size: images at once.
        device: where the model is.
    """
    model.eval()
    embeddings, maps = [], []
    with torch.inference_mode():
        for first in range(0, len(images), batch_size):
            rows = np.arange(first, min(first + batch_size, len(images)))
            image = images.batch(rows)["image"].to(device)
            output = model.outputs(image)  # type: ignore[operator]
            mode = "bilinear" if image.dim() == 4 else "trilinear"
            attention = functional.interpolate(
                output.attention.float(), tuple(image.shape[2:]), mode=mode, align_corners=False
            )
            embeddings.append(output.embedding.float().cpu().numpy())
            maps.append(attention[:, 0].cpu().numpy())
    return np.concatenate(embeddings), np.concatenate(maps)
