"""Training runs: from a configuration to a folder with a trained model and its figures."""

from retrieval.runs.hub import pull, push
from retrieval.runs.indexing import build_index
from retrieval.runs.run import Run, report
from retrieval.runs.run_groups import RunGroup, group_runs
from retrieval.runs.run_list import RunSummary, list_runs
from retrieval.runs.train import train
from retrieval.runs.tune import tune
from retrieval.runs.tuning import Trial, Tuning

__all__ = [
    "Run",
    "RunGroup",
    "RunSummary",
    "Trial",
    "Tuning",
    "build_index",
    "group_runs",
    "list_runs",
    "pull",
    "push",
    "report",
    "train",
    "tune",
]
