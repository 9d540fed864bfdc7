"""What the command line does: train, index, measure, search."""

from retrieval.recipes.index import build_index, evaluate, search
from retrieval.recipes.pictures import draw_search
from retrieval.recipes.run import train
from retrieval.recipes.runs import list_runs

__all__ = ["build_index", "draw_search", "evaluate", "list_runs", "search", "train"]
