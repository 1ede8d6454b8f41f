"""What a model attended to: exact effective matrices, relevance, heads, ablation, calibration.

`plots`, which draws all of it, is a module of its own: it needs matplotlib.
"""

from shared_attention.explain.ablation import ablate, head_importance
from shared_attention.explain.calibration import calibrate, calibrated, heads_to_calibrate
from shared_attention.explain.capture import LayerTrace, capture, trace
from shared_attention.explain.heads import (
    dormant_heads,
    find_sinks,
    head_statistics,
    mean_by_context,
    norm_ratio,
    sink_share,
)
from shared_attention.explain.matrix import attention_matrix
from shared_attention.explain.operators import OperatorMatrix, operator_matrix
from shared_attention.explain.relevance import (
    gradient_relevance,
    relevance_rollout,
    value_relevance,
)
from shared_attention.explain.retrieval import retrieval_scores
from shared_attention.explain.rollout import rollout

__all__ = [
    "LayerTrace",
    "OperatorMatrix",
    "ablate",
    "attention_matrix",
    "calibrate",
    "calibrated",
    "capture",
    "dormant_heads",
    "find_sinks",
    "gradient_relevance",
    "head_importance",
    "head_statistics",
    "heads_to_calibrate",
    "mean_by_context",
    "norm_ratio",
    "operator_matrix",
    "relevance_rollout",
    "retrieval_scores",
    "rollout",
    "sink_share",
    "trace",
    "value_relevance",
]
