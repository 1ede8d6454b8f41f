"""Medical segmentation: data, models, metrics and prediction. Importing this imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domains.medical.data.case import Case, DataSet, Scan
    from domains.medical.data.config import DataConfig
    from domains.medical.data.fingerprint import fingerprint
    from domains.medical.data.layouts import read_data_set
    from domains.medical.data.plan import Plan
    from domains.medical.data.planning import make_plan
    from domains.medical.data.preprocessing import preprocess, restore
    from domains.medical.data.reading import read_label, read_scan
    from domains.medical.data.writing import write_mask
    from domains.medical.metrics import score_case
    from domains.medical.models.att_swin_unet import AttSwinUNet
    from domains.medical.models.attention_unet import AttentionUnet
    from domains.medical.models.dyn_unet import DynUNet
    from domains.medical.models.dynamic_subspace_learners import DynamicSubspaceLearners
    from domains.medical.models.mefn import MEFN
    from domains.medical.models.mpu_net import MPUNet
    from domains.medical.models.ms_guided_net import MSGuidedNet
    from domains.medical.models.segresnet import SegResNet
    from domains.medical.models.swin_unetr import SwinUNETR
    from domains.medical.models.unet import UNet
    from domains.medical.prediction import predict_scan

_HOMES = {
    "AttSwinUNet": "models.att_swin_unet",
    "AttentionUnet": "models.attention_unet",
    "Case": "data.case",
    "DataConfig": "data.config",
    "DataSet": "data.case",
    "DynUNet": "models.dyn_unet",
    "DynamicSubspaceLearners": "models.dynamic_subspace_learners",
    "MEFN": "models.mefn",
    "MPUNet": "models.mpu_net",
    "MSGuidedNet": "models.ms_guided_net",
    "Plan": "data.plan",
    "Scan": "data.case",
    "SegResNet": "models.segresnet",
    "SwinUNETR": "models.swin_unetr",
    "UNet": "models.unet",
    "fingerprint": "data.fingerprint",
    "make_plan": "data.planning",
    "predict_scan": "prediction",
    "preprocess": "data.preprocessing",
    "read_data_set": "data.layouts",
    "read_label": "data.reading",
    "read_scan": "data.reading",
    "restore": "data.preprocessing",
    "score_case": "metrics",
    "write_mask": "data.writing",
}
__all__ = [
    "MEFN",
    "AttSwinUNet",
    "AttentionUnet",
    "Case",
    "DataConfig",
    "DataSet",
    "DynUNet",
    "DynamicSubspaceLearners",
    "MPUNet",
    "MSGuidedNet",
    "Plan",
    "Scan",
    "SegResNet",
    "SwinUNETR",
    "UNet",
    "fingerprint",
    "make_plan",
    "predict_scan",
    "preprocess",
    "read_data_set",
    "read_label",
    "read_scan",
    "restore",
    "score_case",
    "write_mask",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"domains.medical.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
