"""The models of the domain, as `heed medical models` lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared_runtime.domain import ModelSpec

RETRIEVE = "retrieve"
"""Task of models that embed whole images; those of the others segment."""
_PACKAGE = "domains.medical.models"
_SETTINGS = {
    "learning_rate": 2e-3,
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup_steps": 20,
    "clip_norm": 1.0,
    "average": 0.99,
}
_RETRIEVAL = {
    "epochs": 60,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "optimizer": "adamw",
    "schedule": "cosine",
    "select": "last",
    "patience": 0,
}
"""The last epoch is kept: the learners are merged late, and few images validate."""
_WEIGHTS = ("weights",)
"""Arguments that only a new model needs."""


def _model(
    name: str,
    module: str,
    *,
    paper: str,
    summary: str,
    attention: str | None = None,
    task: str = "segment",
    training: Mapping[str, Any] = _SETTINGS,
    new_only: Sequence[str] = (),
) -> ModelSpec:
    target = f"{_PACKAGE}.{module}:{name}"
    return ModelSpec(name, target, task, paper, summary, attention, dict(training), new_only)


_SPECS = (
    _model(
        "MPUNet",
        "mpu_net",
        attention="position",
        paper="Yu, Han and Song, 3D Medical Image Segmentation based on multi-scale MPU-Net, 2023 "
        "(arXiv 2307.05799)",
        summary="a U-Net with position attention at its bottleneck, and multi-scale and "
        "cross-attention in its decoder",
    ),
    _model(
        "MSGuidedNet",
        "ms_guided_net",
        attention="position",
        new_only=_WEIGHTS,
        paper="Sinha and Dolz, Multi-scale self-guided attention for medical image segmentation, "
        "2020 (arXiv 1906.02849)",
        summary="position and channel attention at four scales, guided by a shared encoder",
    ),
    _model(
        "AttSwinUNet",
        "att_swin_unet",
        attention="swin_window",
        new_only=_WEIGHTS,
        paper="Aghdam et al., Attention Swin U-Net, ISBI 2023 (arXiv 2210.16898)",
        summary="windowed attention whose encoder maps guide the decoder, and cross-contextual "
        "skips",
    ),
    _model(
        "MEFN",
        "mefn",
        attention="softmax",
        task="fuse",
        paper="Multi-modal Evidential Fusion Network for Trusted PET/CT Tumor Segmentation, 2024 "
        "(arXiv 2406.18327)",
        summary="PET and CT with evidence of each, fused by Dempster and Shafer, and an "
        "uncertainty map",
    ),
    _model(
        "DynamicSubspaceLearners",
        "dynamic_subspace_learners",
        attention="convolutions",
        task=RETRIEVE,
        training=_RETRIEVAL,
        new_only=_WEIGHTS,
        paper="Adiga, Dolz and Lombaert, Attention-based Dynamic Subspace Learners for Medical "
        "Image Analysis, 2022 (arXiv 2206.09068)",
        summary="embeds images for retrieval with a growing number of learners, and shows where "
        "it looks",
    ),
    _model(
        "UNet",
        "unet",
        paper="Kerfoot et al., Left-Ventricle Quantification Using Residual U-Net, 2019; MONAI's",
        summary="a residual U-Net",
    ),
    _model(
        "DynUNet",
        "dyn_unet",
        paper="Isensee et al., nnU-Net, Nature Methods 2021; MONAI's",
        summary="the U-Net of nnU-Net, its kernels and strides from the patch",
    ),
    _model(
        "AttentionUnet",
        "attention_unet",
        paper="Oktay et al., Attention U-Net, 2018 (arXiv 1804.03999); MONAI's",
        summary="a U-Net whose skips are gated",
    ),
    _model(
        "SwinUNETR",
        "swin_unetr",
        paper="Hatamizadeh et al., Swin UNETR, 2022 (arXiv 2201.01266); MONAI's",
        summary="a windowed transformer as encoder, convolutions as decoder",
    ),
    _model(
        "SegResNet",
        "segresnet",
        paper="Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization, 2018 "
        "(arXiv 1810.11654); MONAI's",
        summary="a residual encoder-decoder",
    ),
)
MODELS: Mapping[str, ModelSpec] = {spec.name: spec for spec in _SPECS}
