"""Discrete problems, and how to differentiate them. Knows nothing of labels, embeddings or losses."""

from retrieval.solvers.blackbox import Blackbox
from retrieval.solvers.identity import Identity
from retrieval.solvers.layer import GradientRule, solve
from retrieval.solvers.matching import match
from retrieval.solvers.noise import gumbel, sum_of_gamma, two_point
from retrieval.solvers.projections import center, normalize, standardize, whole
from retrieval.solvers.ranking import rank
from retrieval.solvers.top_k import top_k

__all__ = [
    "Blackbox",
    "GradientRule",
    "Identity",
    "center",
    "gumbel",
    "match",
    "normalize",
    "rank",
    "solve",
    "standardize",
    "sum_of_gamma",
    "top_k",
    "two_point",
    "whole",
]
