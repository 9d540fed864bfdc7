"""Promises of `retrieval.data.division`."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.data import ImageSet, hold_out_images
from retrieval.data.division import divide, fold_images
from retrieval.errors import DatasetError


def image_set(sizes: str | list[int]) -> ImageSet:
    """Classes of these sizes: image_set([3, 1, 5])."""
    return ImageSet.from_pairs(
        "data", [(f"{c}/{i}.png", f"class {c}") for c, size in enumerate(sizes) for i in range(int(size))]
    )


def counts(images: ImageSet) -> dict[str, int]:
    return dict(zip(images.class_names, images.class_sizes().tolist(), strict=True))


def test_with_classes_other_classes_are_tested() -> None:
    splits = divide(image_set([3] * 8))
    assert list(splits) == ["train", "test"]
    assert (splits["train"].num_classes, splits["test"].num_classes) == (4, 4)
    assert not set(splits["train"].class_names) & set(splits["test"].class_names)
    assert divide(image_set([3] * 8), test_share=0.25)["test"].num_classes == 2


def test_with_all_every_class_trains_and_nothing_is_tested() -> None:
    images = image_set([3, 1, 5])
    assert list(divide(images, "all")) == ["train"]
    assert divide(images, "all")["train"].paths == images.paths


def test_with_images_other_images_of_the_same_classes_are_queries() -> None:
    images = image_set([1, 2, 3, 5, 20])
    splits = divide(images, "images")
    assert list(splits) == ["train", "query", "gallery"]
    assert counts(splits["query"]) == {"class 2": 1, "class 3": 1, "class 4": 4}
    assert counts(splits["train"]) == {"class 0": 1, "class 1": 2, "class 2": 2, "class 3": 4, "class 4": 16}
    assert splits["gallery"].paths == splits["train"].paths
    assert sorted(splits["query"].paths + splits["gallery"].paths) == sorted(images.paths)
    for split in splits.values():
        assert [int(path[0]) for path in split.paths] == [int(split.class_names[label][-1]) for label in split.labels]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_class_keeps_two_training_images(share: float) -> None:
    splits = divide(image_set([3, 4, 5, 6, 40]), "images", test_share=share)
    assert splits["train"].class_sizes().min() >= 2
    assert splits["query"].num_classes == 5


@pytest.mark.parametrize("split", ["classes", "images"])
def test_a_division_is_decided_by_its_seed(split: str) -> None:
    images = image_set([6] * 12)
    paths = [divide(images, split, seed=seed)["train"].paths for seed in (0, 0, 1)]
    assert paths[0] == paths[1] != paths[2]


@pytest.mark.parametrize(
    ("split", "share", "message"),
    [
        ("class", None, "split is 'class'; give one of classes, all, images"),
        ("all", 0.5, "test_share is 0.5, but nothing is tested with split 'all'"),
        ("classes", 0, "test_share is 0; to train on every class and test nothing, choose the split 'all'"),
        ("images", 2, "share is 2; give a number between 0 and 1"),
        ("images", 1.0, "share is 1.0; give a number between 0 and 1"),
    ],
)
def test_a_wrong_split_or_share_is_refused(split: str, share: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        divide(image_set([4] * 8), split, test_share=share)


@pytest.mark.parametrize(
    ("split", "sizes", "message"),
    [
        (
            "classes",
            [4] * 3,
            r"has 3 classes with images \('class 0', 'class 1', 'class 2'\); train and test need two or more each: "
            r"add classes, or train on every class with data\.split=images or data\.split=all, or choose the folder",
        ),
        (
            "all",
            [4],
            r"has 1 class with images \('class 0'\); training needs two or more: add classes, or choose the folder that contains",
        ),
        ("images", [2, 2, 1], "no class has three images"),
    ],
)
def test_too_few_classes_or_images_are_refused(split: str, sizes: list[int], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        divide(image_set(sizes), split)


@pytest.mark.parametrize("sizes", [[4, 4], [3, 4, 5, 30], [10] * 30, [1, 2, 3, 4, 100, 7]])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.4])
def test_held_out_images_leave_two_images_of_every_class_to_find_in_training(sizes: list[int], share: float) -> None:
    images = image_set(sizes)
    kept, held_out = hold_out_images(images, share, seed=3)
    assert held_out is not None
    assert kept.class_names == images.class_names
    assert all(counts(kept)[name] >= 2 for name in held_out.class_names)
    assert len(held_out) >= min(share * len(images), sum(max(0, min(round(share * size), size - 2)) for size in sizes))
    assert sorted(kept.paths + held_out.paths) == sorted(images.paths)


def test_about_the_share_of_the_images_is_held_out_and_decided_by_the_seed() -> None:
    images = image_set(np.random.default_rng(0).integers(2, 40, 100).tolist())
    parts = [hold_out_images(images, 0.1, seed=seed)[1] for seed in (0, 0, 1)]
    paths = [part.paths for part in parts if part is not None]
    assert paths[0] == paths[1] != paths[2]
    for part in paths:
        assert len(part) == pytest.approx(0.1 * len(images), rel=0.1)


def test_nothing_is_held_out_where_no_class_has_three_images() -> None:
    images = image_set([2] * 10)
    assert hold_out_images(images, 0.1, seed=0) == (images, None)


def test_the_only_folder_is_named_where_the_classes_are_inside_it() -> None:
    images = ImageSet.from_pairs("data", [(f"photos/{name}/{i}.png", "photos") for name in "abcd" for i in range(2)])
    with pytest.raises(DatasetError, match=r"has 1 class .* or choose data/photos, which has 4 folders with images"):
        divide(images)


def test_folds_of_images_keep_two_of_each_class_and_hold_out_no_image_twice() -> None:
    images = image_set([1, 2, 3, 5, 20])
    held_out: list[str] = []
    for fold in range(3):
        kept, part = fold_images(images, 3, fold, seed=1)
        assert counts(kept)["class 2"] == 2
        assert min(counts(kept)[f"class {class_}"] for class_ in (1, 2, 3, 4)) == 2
        assert sorted(kept.paths + part.paths) == sorted(images.paths)
        held_out += part.paths
    assert len(held_out) == len(set(held_out)) == 3 + 5 + 20
    assert fold_images(images, 3, 0, seed=1)[1].paths != fold_images(images, 3, 0, seed=2)[1].paths


def test_folds_of_images_refuse_what_cannot_be_held_out() -> None:
    with pytest.raises(ValueError, match="folds is 1; give at least 2"):
        fold_images(image_set([9]), 1, 0, seed=0)
    with pytest.raises(ValueError, match=r"fold is 3; the 3 folds are numbered 0 \.\. 2"):
        fold_images(image_set([9]), 3, 3, seed=0)
    with pytest.raises(ValueError, match="fold 0 of 2 has no image, since too few classes have three images"):
        fold_images(image_set([2, 2]), 2, 0, seed=0)
