"""Dividing a set by classes: all images of a class are in the same part."""

from __future__ import annotations

import numpy as np

from retrieval.data.image_set import ImageSet


def split_classes(images: ImageSet, share: float, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """Divides the classes at random into (kept, held out).

    Args:
        images: The set to divide. Both parts keep its order of images and classes.
        share: The fraction of the classes to hold out, strictly between 0 and 1; rounded to an integer number of classes.
        seed: The seed of the random division.

    Raises:
        ValueError: `share` is not between 0 and 1, or a part would have fewer than two classes.
    """
    if not (isinstance(share, float) and 0 < share < 1):
        raise ValueError(f"share is {share}; give a number between 0 and 1")
    held_out = round(share * images.num_classes)
    if min(held_out, images.num_classes - held_out) < 2:
        raise ValueError(
            f"a share of {share} of {images.num_classes} classes holds out {held_out}; "
            "retrieval needs two classes in each part: change the share or add classes"
        )
    return _hold_out(images, np.random.default_rng(seed).permutation(images.num_classes)[:held_out])


def fold_classes(images: ImageSet, folds: int, fold: int, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """Divides the classes at random into folds of equal size and holds one of them out: (kept, held out).

    Over all folds, every class is held out exactly once. The numbers of classes of two folds differ by at most one.

    Args:
        images: The set to divide. Both parts keep its order of images and classes.
        folds: The number of folds, at least 2.
        fold: The fold to hold out, from 0 to folds - 1.
        seed: The seed of the random division.

    Raises:
        ValueError: There is no such fold, or the folds would have fewer than two classes.
    """
    if folds < 2:
        raise ValueError(f"folds is {folds}; give at least 2")
    if not 0 <= fold < folds:
        raise ValueError(f"fold is {fold}; the {folds} folds are numbered 0 .. {folds - 1}")
    if images.num_classes < 2 * folds:
        raise ValueError(
            f"{folds} folds of {images.num_classes} classes have fewer than two classes; "
            "retrieval needs two in every fold: lower the number of folds or add classes"
        )
    order = np.random.default_rng(seed).permutation(images.num_classes)
    return _hold_out(images, np.array_split(order, folds)[fold])


def _hold_out(images: ImageSet, classes: np.ndarray) -> tuple[ImageSet, ImageSet]:
    held_out = np.isin(images.labels, classes)
    return images.select(np.flatnonzero(~held_out)), images.select(np.flatnonzero(held_out))
