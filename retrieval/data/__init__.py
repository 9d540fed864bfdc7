"""Images and batches of images. Every data set has its own reader; all readers have the same interface."""

from retrieval.data.augmentation import AUGMENTATIONS, Augmentation, make_augmentation
from retrieval.data.class_splits import fold_classes, split_classes
from retrieval.data.division import fold_images, hold_out_images
from retrieval.data.image_files import given_images, image_files, images_in, listed_images
from retrieval.data.image_set import ImageSet, require_pairs
from retrieval.data.images import decoding_of, load_image, pixel_limit, to_image
from retrieval.data.loaders import evaluation_loader, training_loader
from retrieval.data.registry import DATASETS, check_options, find_reader, is_published, read_dataset
from retrieval.data.samplers import HierarchicalSampler, MPerClassSampler
from retrieval.data.transforms import Preprocessing, prepare
from retrieval.data.union import union
from retrieval.data.unreadable import readable, readable_files

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "Augmentation",
    "HierarchicalSampler",
    "ImageSet",
    "MPerClassSampler",
    "Preprocessing",
    "check_options",
    "decoding_of",
    "evaluation_loader",
    "find_reader",
    "fold_classes",
    "fold_images",
    "given_images",
    "hold_out_images",
    "image_files",
    "images_in",
    "is_published",
    "listed_images",
    "load_image",
    "make_augmentation",
    "pixel_limit",
    "prepare",
    "read_dataset",
    "readable",
    "readable_files",
    "require_pairs",
    "split_classes",
    "to_image",
    "training_loader",
    "union",
]
