"""Promises of `retrieval.data.own_splits`."""

from __future__ import annotations

import pytest

from retrieval.data import ImageSet
from retrieval.data.own_splits import arrange
from retrieval.errors import DatasetError


def image_set(split: str, classes: str) -> ImageSet:
    """One image per letter, of the class with that name."""
    return ImageSet.from_pairs("data", [(f"{split}/{name}/{i}.png", name) for i, name in enumerate(classes)])


def sets(**splits: str) -> dict[str, ImageSet]:
    return {split: image_set(split, classes) for split, classes in splits.items()}


def line(caplog: pytest.LogCaptureFixture) -> str:
    (message,) = caplog.messages
    return message


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="retrieval")


def test_test_classes_that_are_no_training_classes_are_searched_among_themselves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = sets(train="aabb", test="ccdd")
    assert arrange(given, "photos") == given
    assert line(caplog) == (
        "photos: its own splits train, test are used; no test class is a training class: "
        "the test images are searched among themselves"
    )


def test_test_classes_that_are_training_classes_are_queries_against_the_training_images(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = sets(train="aabbcc", test="ab")
    assert arrange(given, "photos") == {"train": given["train"], "query": given["test"], "gallery": given["train"]}
    assert "the test images are queries, the training images their gallery" in line(caplog)


def test_of_mixed_test_classes_the_kind_with_more_images_is_tested_and_the_others_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed = sets(train="aabb", test="aabc")
    assert arrange(closed, "photos")["query"] is closed["test"]
    assert "their gallery; 1 image (1 class) of classes that are not in train are left out" in line(caplog)
    caplog.clear()
    found = arrange(sets(train="aabb", test="accdd"), "photos")
    assert (list(found), found["test"].class_names, len(found["test"])) == (["train", "test"], ("c", "d"), 4)
    assert "1 image (1 class) of training classes are left out" in line(caplog)


def test_validation_images_are_used_and_training_with_nothing_tested_is_said(caplog: pytest.LogCaptureFixture) -> None:
    given = sets(train="aabb", validation="aabb")
    assert arrange(given, "photos") == given
    assert line(caplog) == "photos: its own splits train, validation are used; nothing is tested"


def test_queries_without_a_class_in_the_gallery_are_counted_and_all_of_them_are_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = sets(train="aabb", query="cx", gallery="ccd")
    assert arrange(given, "photos") == given
    assert "1 image (1 class) of classes that are not in gallery are left out" in line(caplog)
    with pytest.raises(DatasetError, match="photos: no class of query is in gallery"):
        arrange(sets(train="aabb", query="x", gallery="ccd"), "photos")
