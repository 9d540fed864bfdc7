"""Embedding models."""

from retrieval.models.embedder import Embedder, create_embedder, pretraining_statistics
from retrieval.models.embedding import embed

__all__ = ["Embedder", "create_embedder", "embed", "pretraining_statistics"]
