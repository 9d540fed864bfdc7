"""Images on disk, and batches of them. One reader a file, all with the same interface."""

from retrieval.data.augmentation import AUGMENTATIONS, Augmentation, make_augmentation
from retrieval.data.class_splits import fold_classes, split_classes
from retrieval.data.image_set import ImageSet, require_pairs
from retrieval.data.images import load_image
from retrieval.data.loaders import evaluation_loader, training_loader
from retrieval.data.registry import DATASETS, read_dataset
from retrieval.data.samplers import HierarchicalSampler, MPerClassSampler
from retrieval.data.transforms import Preprocessing, prepare

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "Augmentation",
    "HierarchicalSampler",
    "ImageSet",
    "MPerClassSampler",
    "Preprocessing",
    "evaluation_loader",
    "fold_classes",
    "load_image",
    "make_augmentation",
    "prepare",
    "read_dataset",
    "require_pairs",
    "split_classes",
    "training_loader",
]
