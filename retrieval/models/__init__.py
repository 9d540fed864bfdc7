"""Embedding models."""

from retrieval.models.embedder import Embedder, create_embedder, pretraining_statistics
from retrieval.models.embedding import embed
from retrieval.models.freezing import freeze_batchnorm, set_backbone_trainable
from retrieval.models.parameter_groups import parameter_groups

__all__ = [
    "Embedder",
    "create_embedder",
    "embed",
    "freeze_batchnorm",
    "parameter_groups",
    "pretraining_statistics",
    "set_backbone_trainable",
]
