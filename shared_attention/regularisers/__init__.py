"""Losses on the attention of any model built on the core, and the contexts they are made of."""

from shared_attention.regularisers.adversarial import (
    AdversarialLoss,
    attention_at,
    attention_iat,
)
from shared_attention.regularisers.attack import worst_perturbation
from shared_attention.regularisers.attended import Attended, attended
from shared_attention.regularisers.entropy import entropy, entropy_loss, row_entropy
from shared_attention.regularisers.perturbed import perturbed, probed
from shared_attention.regularisers.progressive import extract, extract_progressively
from shared_attention.regularisers.supervision import (
    Words,
    gradient_impact,
    supervision_loss,
    word_attention,
)
from shared_attention.regularisers.virtual_adversarial import (
    attention_ivat,
    attention_vat,
    bernoulli_divergence,
    categorical_divergence,
)

__all__ = [
    "AdversarialLoss",
    "Attended",
    "Words",
    "attended",
    "attention_at",
    "attention_iat",
    "attention_ivat",
    "attention_vat",
    "bernoulli_divergence",
    "categorical_divergence",
    "entropy",
    "entropy_loss",
    "extract",
    "extract_progressively",
    "gradient_impact",
    "perturbed",
    "probed",
    "row_entropy",
    "supervision_loss",
    "word_attention",
    "worst_perturbation",
]
