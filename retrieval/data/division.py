"""Dividing a single set of images into the splits of a run."""

from __future__ import annotations

import numpy as np

from retrieval.data.class_splits import split_classes
from retrieval.data.image_set import ImageSet
from retrieval.data.list_file import shorten
from retrieval.errors import DatasetError, plural

SPLITS = ("classes", "all", "images")
TEST_SHARES = {"classes": 0.5, "images": 0.2}


def divide(
    images: ImageSet, split: str = "classes", *, test_share: float | None = None, seed: int = 0
) -> dict[str, ImageSet]:
    """Divides a set of images into what is trained on and what is tested.

    Args:
        images: The set to divide.
        split: "classes": "train" and "test" have different classes. "all": everything is "train", and nothing is tested. "images":
            some images of every class are "query", and the others are both "train" and "gallery".
        test_share: The share of the classes in "test" (by default 0.5), or of the images of each class in "query" (by default 0.2).
        seed: The seed of the random division.

    Raises:
        ValueError: There is no such split, `test_share` is not between 0 and 1 or is given for "all", or a part would have fewer
            than two classes.
        DatasetError: There are too few classes or images.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; give one of {', '.join(SPLITS)}")
    if split == "all" and test_share is not None:
        raise ValueError(f"test_share is {test_share}, but nothing is tested with split 'all'; leave it out")
    if test_share == 0:
        raise ValueError("test_share is 0; to train on every class and test nothing, choose the split 'all'")
    if test_share is not None and not (isinstance(test_share, float) and 0 < test_share < 1):
        raise ValueError(f"test_share is {test_share}; give a number between 0 and 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; give 0 or more")
    fewest = 4 if split == "classes" else 2
    if images.num_classes < fewest:
        names = ", ".join(shorten(name) for name in images.class_names)
        need = "train and test need two or more each" if split == "classes" else "training needs two or more"
        other = ", or train on every class with data.split=images or data.split=all" if images.num_classes > 1 else ""
        raise DatasetError(
            f"{images.origin}: has {plural(images.num_classes, 'class', 'classes')} with images ({names}); {need}: "
            f"add classes{other}, or choose {_folder_of_classes(images) or 'the folder that contains all of them'}"
        )
    if split == "all":
        return {"train": images}
    share = TEST_SHARES[split] if test_share is None else test_share
    if split == "classes":
        train, test = split_classes(images, share, seed=seed)
        return {"train": train, "test": test}
    gallery, query = _take_queries(images, share, seed)
    return {"train": gallery, "query": query, "gallery": gallery}


def _folder_of_classes(images: ImageSet) -> str | None:
    """The only class folder, if its images are in folders of it, which are then the classes that were meant."""
    parts = [path.split("/") for path in images.paths]
    inner = {names[1] for names in parts if len(names) > 2}
    if images.num_classes > 1 or len(inner) < 2 or not images.is_on_disk:
        return None
    return f"{images.root / parts[0][0]}, which has {len(inner)} folders with images"


def require_pairs_to_find(splits: dict[str, ImageSet], origin: str) -> dict[str, ImageSet]:
    """Checks that some test image has another one of its class to find, and returns the splits.

    Raises:
        DatasetError: Every test class has a single image.
    """
    test = splits.get("test")
    if test is not None and test.class_sizes().max() < 2:
        raise DatasetError(
            f"{origin}: each of the {test.num_classes:,} test classes has a single image, so no test image has another to find; "
            "add images of these classes, or choose the split 'all' (data.split), which tests nothing"
        )
    return splits


def hold_out_images(images: ImageSet, share: float, *, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """Divides the images at random into (kept, held out); every class stays in the kept part.

    The held-out images come from classes with at least three images, sampled at random. Each of these classes gives about the same
    share of its images, at least one, and two or more of its images are kept.

    Args:
        images: The set to divide. Both parts keep its order of images and classes.
        share: The share of all images to hold out, about.
        seed: The seed of the random division.

    Returns:
        (kept, held out); held out is None where no class has three images.
    """
    generator = np.random.default_rng(seed)
    members = [positions for positions in _members(images) if len(positions) >= 3]
    chosen: list[np.ndarray] = []
    held_out = 0
    for class_ in generator.permutation(len(members)):
        if held_out >= share * len(images):
            break
        size = len(members[class_])
        chosen.append(generator.permutation(members[class_])[: min(max(1, round(share * size)), size - 2)])
        held_out += len(chosen[-1])
    return _take(images, np.concatenate(chosen)) if chosen else (images, None)


def fold_images(images: ImageSet, folds: int, fold: int, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """Divides the images at random into folds and holds one of them out: (kept, held out); every class stays in the kept part.

    Each class with at least three images gives the same share of its images to every fold, and two or more of its images are kept.
    Over all folds, no image is held out twice.

    Args:
        images: The set to divide. Both parts keep its order of images and classes.
        folds: The number of folds, at least 2.
        fold: The fold to hold out, from 0 to folds - 1.
        seed: The seed of the random division.

    Raises:
        ValueError: There is no such fold, or it would be empty.
    """
    if folds < 2:
        raise ValueError(f"folds is {folds}; give at least 2")
    if not 0 <= fold < folds:
        raise ValueError(f"fold is {fold}; the {folds} folds are numbered 0 .. {folds - 1}")
    generator = np.random.default_rng(seed)
    chosen = []
    for class_, positions in enumerate(_members(images)):
        part = generator.permutation(positions)[(fold + class_) % folds :: folds]
        chosen.append(part[: max(0, len(positions) - 2)])
    if not sum(map(len, chosen)):
        raise ValueError(
            f"fold {fold} of {folds} has no image, since too few classes have three images: lower the number of folds or add images"
        )
    return _take(images, np.concatenate(chosen))


def _take_queries(images: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Takes a share of the images of each class, at least one, where at least two are left: (gallery, query)."""
    if not (isinstance(share, float) and 0 < share < 1):
        raise ValueError(f"share is {share}; give a number between 0 and 1")
    generator = np.random.default_rng(seed)
    taken = np.concatenate(
        [
            generator.permutation(positions)[: max(0, min(max(1, round(share * len(positions))), len(positions) - 2))]
            for positions in _members(images)
        ]
    )
    if not len(taken):
        raise DatasetError(
            f"{images.origin}: no class has three images, of which one could be a query and two be trained on; add images"
        )
    return _take(images, taken)


def _members(images: ImageSet) -> list[np.ndarray]:
    """The positions of the images of every class."""
    return np.split(np.argsort(images.labels, kind="stable"), np.cumsum(images.class_sizes())[:-1])


def _take(images: ImageSet, positions: np.ndarray) -> tuple[ImageSet, ImageSet]:
    """(The other images, the images at these positions), both in the order of the set."""
    is_taken = np.zeros(len(images), dtype=bool)
    is_taken[positions] = True
    return images.select(np.flatnonzero(~is_taken)), images.select(np.flatnonzero(is_taken))
