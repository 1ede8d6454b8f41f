"""What a trained model says of images, and the training images it looks them up in."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from domains.medical.models.dynamic_subspace_learners import DynamicSubspaceLearners
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


class Embedded(NamedTuple):
    """What a model says of images, all float32.

    Args:
        embedding: `[n, E]`.
        contribution: `[n, *size]`, what each place adds to the embedding; makes the weak masks.
        attention: `[n, *size]`, the attention map alone.
    """

    embedding: np.ndarray
    contribution: np.ndarray
    attention: np.ndarray


def embed(
    model: DynamicSubspaceLearners,
    images: RetrievalImages,
    *,
    batch_size: int,
    device: torch.device,
) -> Embedded:
    """Embed images and show where the embeddings come from.

    Args:
        model: a trained one.
        images: what to embed, without augmentation.
        batch_size: images at once.
        device: where the model is.
    """
    model.eval()
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    with torch.inference_mode():
        for first in range(0, len(images), batch_size):
            rows = np.arange(first, min(first + batch_size, len(images)))
            image = images.batch(rows)["image"].to(device)
            output, size = model.outputs(image), image.shape[2:]
            contribution, attention = model.contribution(output, size), model.attend(output, size)
            for part, values in zip(
                parts, (output.embedding, contribution[:, 0], attention[:, 0]), strict=True
            ):
                part.append(values.float().cpu().numpy())
    return Embedded(*map(np.concatenate, parts))
