"""The training loop, its checkpoints and its folder."""

from retrieval.training import distributed
from retrieval.training.checkpoint import load_checkpoint, load_newest, save_checkpoint
from retrieval.training.environment import describe_environment
from retrieval.training.run_folder import RunFolder, write_metrics
from retrieval.training.run_list import RunSummary, list_runs
from retrieval.training.signals import Stopped, StopSignals
from retrieval.training.simix import SiMix
from retrieval.training.trainer import Trainer

__all__ = [
    "RunFolder",
    "RunSummary",
    "SiMix",
    "StopSignals",
    "Stopped",
    "Trainer",
    "describe_environment",
    "distributed",
    "list_runs",
    "load_checkpoint",
    "load_newest",
    "save_checkpoint",
    "write_metrics",
]
