"""Discrete problems, and how to differentiate them. Knows nothing of labels, embeddings or losses."""

from retrieval.solvers.identity import solve
from retrieval.solvers.noise import two_point
from retrieval.solvers.projections import center, normalize, standardize
from retrieval.solvers.ranking import rank

__all__ = ["center", "normalize", "rank", "solve", "standardize", "two_point"]
