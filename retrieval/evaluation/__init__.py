"""Exact ranking of a gallery, and its measures. Takes arrays; knows nothing of models or files."""

from retrieval.evaluation.evaluator import evaluate
from retrieval.evaluation.ranking import METRICS, Ranking, merge_rankings, rank_queries
from retrieval.evaluation.search import Neighbours, search
from retrieval.evaluation.summary import ClassFigures, class_figures, figures, intervals

__all__ = [
    "METRICS",
    "ClassFigures",
    "Neighbours",
    "Ranking",
    "class_figures",
    "evaluate",
    "figures",
    "intervals",
    "merge_rankings",
    "rank_queries",
    "search",
]
