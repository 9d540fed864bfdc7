"""What the command line does: train, index, measure, search."""

from retrieval.recipes.index import build_index, evaluate, search
from retrieval.recipes.pictures import draw_neighbours, draw_search
from retrieval.recipes.run import describe, train
from retrieval.recipes.runs import list_runs

__all__ = ["build_index", "describe", "draw_neighbours", "draw_search", "evaluate", "list_runs", "search", "train"]
