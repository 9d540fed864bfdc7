"""Callbacks: code that a training run calls after a step, an epoch or a measurement, and three that log to a tracker.

    training.callbacks=[tensorboard]                                         in a configuration
    training.callbacks=[{name: wandb, options: {project: birds}}]            with options
    training.callbacks=["my_hooks:Log"]                                      a class of your own

The trackers name a figure alike: "validation recall@1" becomes "validation/recall@1", the loss of a step "step/loss". MLflow
does not allow "@" in a name, so it gets "validation/recall_at_1".
"""

from retrieval.training.callbacks.callback import Callback, Callbacks, TrackedRun
from retrieval.training.callbacks.mlflow import RUN_ID_FILE, MLflow
from retrieval.training.callbacks.tensorboard import EVENT_FILES, TensorBoard
from retrieval.training.callbacks.wandb import WandB

CALLBACKS: dict[str, type] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}

__all__ = [
    "CALLBACKS",
    "EVENT_FILES",
    "RUN_ID_FILE",
    "Callback",
    "Callbacks",
    "MLflow",
    "TensorBoard",
    "TrackedRun",
    "WandB",
]
