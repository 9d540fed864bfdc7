"""Promises of `retrieval.data.union`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.data import ImageSet, union


def classes_of(images: ImageSet) -> dict[str, str]:
    return {path: images.class_names[label] for path, label in zip(images.paths, images.labels, strict=True)}


def test_every_image_is_in_the_union_once_in_the_order_of_the_sets(tmp_path: Path) -> None:
    whole = ImageSet.from_pairs(tmp_path, [(f"{name}/{i}.png", name) for name in "abc" for i in range(3)])
    train, gallery, query = whole.select([0, 1, 4]), whole.select([0, 1, 2, 3, 4]), whole.select([8, 7, 5, 6])
    images = union([train, gallery, query])
    order = [0, 1, 4, 2, 3, 8, 7, 5, 6]
    assert images.paths == tuple(whole.paths[i] for i in order)
    assert classes_of(images) == classes_of(whole)
    assert images.root == tmp_path


def test_paths_of_several_roots_start_from_the_folder_that_they_have_in_common(tmp_path: Path) -> None:
    one = ImageSet.from_pairs(tmp_path / "x" / "one", [("a/1.png", "a")])
    two = ImageSet.from_pairs(tmp_path / "x", [("one/a/1.png", "a"), ("b/2.png", "b")])
    images = union([one, two])
    assert (images.root, images.paths) == (tmp_path / "x", ("one/a/1.png", "b/2.png"))


def test_images_of_one_data_set_keep_their_positions_in_it() -> None:
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), dtype=np.uint8)
    whole = ImageSet.from_dataset(pixels, labels=list("aabbcc"))
    images = union([whole.select([4, 5]), whole.select([0, 1, 4])])
    assert images.paths == ("000004", "000005", "000000", "000001")
    assert [np.asarray(images.load(i))[0, 0, 0] for i in range(4)] == [4, 5, 0, 1]


def test_images_of_several_data_sets_become_one(tmp_path: Path) -> None:
    first = ImageSet.from_dataset(np.zeros((2, 4, 4, 3), dtype=np.uint8), labels=["a", "b"])
    (tmp_path / "c").mkdir()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "c" / "1.png")
    images = union([first, ImageSet.from_pairs(tmp_path, [("c/1.png", "c")])])
    assert [images.class_names[label] for label in images.labels] == ["a", "b", "c"]
    assert [np.asarray(images.load(i))[0, 0, 0] for i in range(3)] == [0, 0, 9]
    assert images[2][1] == 2


def test_an_image_that_two_of_several_sets_share_is_in_the_union_once() -> None:
    first, second = (
        ImageSet.from_dataset(np.full((4, 4, 4, 3), shade, dtype=np.uint8), labels=list("aabb")) for shade in (1, 2)
    )
    images = union([first.select([0, 1]), first.select([2, 3]), first, second])
    assert len(images) == 8
    assert [np.asarray(images.load(i))[0, 0, 0] for i in range(8)] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert len(union([first.select([0, 1]), first.select([2, 3]), first])) == 4
