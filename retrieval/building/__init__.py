"""From the words of a configuration to objects: the only place that knows both."""

from retrieval.building.data import (
    build_augmentation,
    build_preprocessing,
    build_sampler,
    build_training_loader,
    measured_splits,
    name_images,
    read_splits,
    with_absolute_paths,
)
from retrieval.building.losses import build_loss
from retrieval.building.model import (
    build_model,
    describe_model,
    embed_images,
    load_embedder,
    pick_device,
    without_head,
)
from retrieval.building.progress import ProgressBar
from retrieval.building.training import build_trainer

__all__ = [
    "ProgressBar",
    "build_augmentation",
    "build_loss",
    "build_model",
    "build_preprocessing",
    "build_sampler",
    "build_trainer",
    "build_training_loader",
    "describe_model",
    "embed_images",
    "load_embedder",
    "measured_splits",
    "name_images",
    "pick_device",
    "read_splits",
    "with_absolute_paths",
    "without_head",
]
