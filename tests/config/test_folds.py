"""Promises of `retrieval.config.folds`."""

from __future__ import annotations

import pytest

from retrieval.config import load
from retrieval.config.folds import read_folds
from retrieval.config.splits import read_splits
from retrieval.data import ImageSet
from retrieval.errors import ConfigError


def images(sizes: list[int]) -> ImageSet:
    return ImageSet.from_pairs(
        "data", [(f"{c}/{i}.png", f"class {c}") for c, size in enumerate(sizes) for i in range(size)]
    )


def test_folds_are_of_the_training_classes_and_no_test_class_is_in_one():
    config, data = load("photos", ["data.split_seed=1"]), images([3] * 24)
    tested = set(read_splits(config, data)["test"].class_names)
    held_out = []
    for fold in read_folds(config, 3, data):
        assert list(fold) == ["train", "validation"]
        classes = [set(part.class_names) for part in fold.values()]
        assert not classes[0] & classes[1]
        assert not tested & (classes[0] | classes[1])
        assert len(classes[0]) == 8
        held_out += fold["validation"].class_names
    assert len(held_out) == len(set(held_out)) == 12
    other = read_folds(load("photos", ["data.split_seed=2"]), 3, data)
    assert other[0]["validation"].paths != read_folds(config, 3, data)[0]["validation"].paths


@pytest.mark.parametrize("split", ["all", "images"])
def test_where_every_class_trains_folds_are_of_images(split):
    config, data = load("photos", [f"data.split={split}"]), images([9] * 4)
    tested = set().union(*(read_splits(config, data)[name].paths for name in ("query",) if split == "images"))
    held_out = []
    for fold in read_folds(config, 2, data):
        assert fold["train"].class_names == data.class_names
        assert not set(fold["train"].paths) & set(fold["validation"].paths)
        assert not tested & set(fold["train"].paths + fold["validation"].paths)
        held_out += fold["validation"].paths
    assert len(held_out) == len(set(held_out)) > 12


def test_classes_of_a_single_image_are_held_out_in_no_fold():
    config = load("photos", ["data.split=classes"])
    splits = {
        "train": images([4, 1, 4, 1, 4, 4]),
        "test": ImageSet.from_pairs("data", [("x/0.png", "x"), ("x/1.png", "x")]),
    }
    for fold in read_folds(config, 2, splits):
        assert fold["validation"].class_sizes().tolist() == [4, 4]
        assert fold["train"].num_classes == 4


def test_validation_images_of_the_data_set_and_patience_do_not_matter():
    data = images([3] * 12)
    brought = {
        "train": data,
        "validation": images([2] * 3),
        "test": ImageSet.from_pairs("d", [("x/0", "x"), ("x/1", "x")]),
    }
    config = load("glyphs", {"training.patience": 2})
    assert sum(fold["validation"].num_classes for fold in read_folds(config, 3, brought)) == 12


def test_too_many_folds_are_one_line():
    with pytest.raises(
        ConfigError, match=r"folds: 4 folds of 6 classes have fewer than two classes; .*lower the number"
    ):
        read_folds(load("photos"), 4, images([3] * 12))
    with pytest.raises(ConfigError, match=r"folds: fold . of 9 has no image"):
        read_folds(load("photos", ["data.split=all"]), 9, images([3] * 4))
