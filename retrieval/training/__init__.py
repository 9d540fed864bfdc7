"""The training loop, its checkpoints and its folder."""

from retrieval.training.checkpoint import load_checkpoint, save_checkpoint
from retrieval.training.run_folder import RunFolder, describe_environment, write_metrics
from retrieval.training.trainer import Trainer

__all__ = ["RunFolder", "Trainer", "describe_environment", "load_checkpoint", "save_checkpoint", "write_metrics"]
