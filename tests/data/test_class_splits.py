"""Promises of `retrieval.data.class_splits`."""

from __future__ import annotations

import pytest

from retrieval.data import ImageSet, fold_classes, split_classes


def image_set(class_names: str) -> ImageSet:
    """One image per letter, of the class with that name: image_set("aab")."""
    return ImageSet.from_pairs("data", [(f"{name}/{i}.png", name) for i, name in enumerate(class_names)])


def check_that_nothing_is_lost(images: ImageSet, kept: ImageSet, held_out: ImageSet) -> None:
    """Every image is in one part, in the old order, with its class; no class is in both."""
    assert not set(kept.class_names) & set(held_out.class_names)
    assert sorted(kept.paths + held_out.paths) == sorted(images.paths)
    for part in (kept, held_out):
        places = [images.paths.index(path) for path in part.paths]
        assert places == sorted(places)
        assert [part.class_names[label] for label in part.labels] == [path[0] for path in part.paths]


@pytest.mark.parametrize(("share", "held_out"), [(0.2, 2), (0.5, 6), (0.8, 9)])
def test_a_split_divides_the_classes_and_loses_no_image(share: float, held_out: int) -> None:
    images = image_set("abcdefghijk" * 3)
    kept, held = split_classes(images, share, seed=3)
    assert held.num_classes == held_out
    check_that_nothing_is_lost(images, kept, held)


def test_a_split_is_decided_by_its_seed_alone() -> None:
    images = image_set("abcdefghijk" * 2)
    splits = [split_classes(images, 0.5, seed=seed)[1].class_names for seed in (0, 0, 1, 2)]
    assert splits[0] == splits[1]
    assert len(set(splits)) == 3


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan"), 50, "0.5"])
def test_a_share_outside_0_and_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share is"):
        split_classes(image_set("abcdef"), share, seed=0)


@pytest.mark.parametrize(("class_names", "share"), [("abc", 0.5), ("abcdefghij", 0.1), ("abcdefghij", 0.9)])
def test_a_split_with_fewer_than_two_classes_on_a_side_is_refused(class_names: str, share: float) -> None:
    with pytest.raises(ValueError, match="two classes in each part"):
        split_classes(image_set(class_names), share, seed=0)


@pytest.mark.parametrize(
    ("class_names", "folds"), [("abcd", 2), ("abcdefghijk" * 3, 2), ("abcdefghijk", 4), ("abcdef", 3)]
)
def test_over_the_folds_every_class_is_held_out_once_in_nearly_equal_parts(class_names: str, folds: int) -> None:
    images = image_set(class_names)
    parts = [fold_classes(images, folds, fold, seed=5) for fold in range(folds)]
    for kept, held_out in parts:
        check_that_nothing_is_lost(images, kept, held_out)
    held_out_names = [name for _, held_out in parts for name in held_out.class_names]
    assert sorted(held_out_names) == sorted(images.class_names)
    sizes = [held_out.num_classes for _, held_out in parts]
    assert max(sizes) - min(sizes) <= 1


def test_folds_are_decided_by_their_seed_alone() -> None:
    images = image_set("abcdefghijk" * 2)
    folds = [fold_classes(images, 3, 1, seed=seed)[1].class_names for seed in (0, 0, 1, 2)]
    assert folds[0] == folds[1]
    assert len(set(folds)) == 3


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (1, 0, "folds is 1; give at least 2"),
        (3, 3, r"fold is 3; the 3 folds are numbered 0 \.\. 2"),
        (3, -1, "fold is -1"),
        (4, 0, "4 folds of 7 classes have fewer than two classes"),
    ],
)
def test_folds_that_do_not_exist_or_are_too_small_are_refused(folds: int, fold: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fold_classes(image_set("abcdefg"), folds, fold, seed=0)
