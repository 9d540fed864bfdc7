"""Embedding networks: a backbone (of timm, or any other module), pooling and a head."""

from retrieval.networks.backbone import check_name
from retrieval.networks.embedder import Embedder, create_embedder, pretraining_statistics
from retrieval.networks.embedding import embed
from retrieval.networks.freezing import freeze_batchnorm, set_backbone_trainable
from retrieval.networks.head_start import HEAD_STARTS, start_head
from retrieval.networks.parameter_groups import parameter_groups
from retrieval.networks.receptive_field import unseen_border

__all__ = [
    "HEAD_STARTS",
    "Embedder",
    "check_name",
    "create_embedder",
    "embed",
    "freeze_batchnorm",
    "parameter_groups",
    "pretraining_statistics",
    "set_backbone_trainable",
    "start_head",
    "unseen_border",
]
