"""The training loop, checkpoints, the run folder and distributed training."""

from retrieval.training import distributed
from retrieval.training.checkpoint import PARTS, load_checkpoint, load_newest, restoring, save_checkpoint
from retrieval.training.environment import describe_environment
from retrieval.training.run_folder import RunFolder, write_metrics
from retrieval.training.run_log import RunLog
from retrieval.training.signals import Stopped, StopSignals
from retrieval.training.simix import SiMix
from retrieval.training.trainer import Trainer

__all__ = [
    "PARTS",
    "RunFolder",
    "RunLog",
    "SiMix",
    "StopSignals",
    "Stopped",
    "Trainer",
    "describe_environment",
    "distributed",
    "load_checkpoint",
    "load_newest",
    "restoring",
    "save_checkpoint",
    "write_metrics",
]
