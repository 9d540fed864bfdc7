"""Exact ranking of a gallery, and its measures. Takes arrays; knows nothing of models or files."""

from retrieval.evaluation.evaluator import evaluate
from retrieval.evaluation.search import Neighbours, search

__all__ = ["Neighbours", "evaluate", "search"]
