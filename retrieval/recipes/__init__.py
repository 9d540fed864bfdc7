"""What the command line does: train, index, measure, search."""

from retrieval.recipes.compare import compare
from retrieval.recipes.edit import add_images, describe_index, merge_indices, remove_images
from retrieval.recipes.export import embed_to_files, export_onnx, export_vectors
from retrieval.recipes.index import build_index, index_vectors
from retrieval.recipes.measure import Ranking, evaluate, evaluate_classes, evaluate_rankings
from retrieval.recipes.outputs import claim_file, require_free_file
from retrieval.recipes.page import write_page
from retrieval.recipes.pictures import draw_search
from retrieval.recipes.report import write_report
from retrieval.recipes.run import train
from retrieval.recipes.runs import list_runs
from retrieval.recipes.search import search

__all__ = [
    "Ranking",
    "add_images",
    "build_index",
    "claim_file",
    "compare",
    "describe_index",
    "draw_search",
    "embed_to_files",
    "evaluate",
    "evaluate_classes",
    "evaluate_rankings",
    "export_onnx",
    "export_vectors",
    "index_vectors",
    "list_runs",
    "merge_indices",
    "remove_images",
    "require_free_file",
    "search",
    "train",
    "write_page",
    "write_report",
]
