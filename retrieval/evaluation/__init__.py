"""Exact ranking of a gallery, and its metrics. Takes arrays, and depends on neither models nor files."""

from retrieval.evaluation.best_scores import BestScores, best_scores
from retrieval.evaluation.evaluator import evaluate
from retrieval.evaluation.inputs import number_labels, unit_vectors
from retrieval.evaluation.ranking import METRICS, Ranking, merge_rankings, rank_queries
from retrieval.evaluation.search import Gallery, Neighbours, search
from retrieval.evaluation.summary import ClassFigures, class_figures, figures, intervals

__all__ = [
    "METRICS",
    "BestScores",
    "ClassFigures",
    "Gallery",
    "Neighbours",
    "Ranking",
    "best_scores",
    "class_figures",
    "evaluate",
    "figures",
    "intervals",
    "merge_rankings",
    "number_labels",
    "rank_queries",
    "search",
    "unit_vectors",
]
