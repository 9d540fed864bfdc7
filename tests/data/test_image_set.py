"""Promises of `retrieval.data.image_set`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset

from retrieval.data.image_set import ImageSet, require_pairs, stays_below_root
from retrieval.data.names import natural_key
from retrieval.errors import DatasetError


def image_set(class_names: str) -> ImageSet:
    """One image per letter, of the class with that name: image_set("aab")."""
    return ImageSet.from_pairs("data", [(f"{name}/{i}.png", name) for i, name in enumerate(class_names)])


def names_of(images: ImageSet) -> list[str]:
    return [images.class_names[label] for label in images.labels]


def test_pairs_keep_their_order_and_classes_come_in_natural_order() -> None:
    images = ImageSet.from_pairs("data", [("x.png", "c10"), ("w.png", "c9"), ("v.png", "c10"), ("u.png", "B")])
    assert images.root == Path("data")
    assert images.paths == ("x.png", "w.png", "v.png", "u.png")
    assert images.class_names == ("B", "c9", "c10")
    assert images.labels.tolist() == [2, 1, 2, 0]
    assert images.labels.dtype == np.int64
    assert (len(images), images.num_classes, images.class_sizes().tolist()) == (4, 3, [1, 1, 2])


@given(st.lists(st.text(max_size=6), unique=True))
def test_natural_order_is_an_order_of_any_names(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


def test_labels_are_a_copy_that_cannot_be_written() -> None:
    labels = np.array([0, 1], dtype=np.int32)
    images = ImageSet(Path("data"), ("a.png", "b.png"), labels, ("a", "b"))
    labels[:] = 7
    assert images.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        images.labels[0] = 1


@pytest.mark.parametrize(
    ("paths", "labels", "class_names", "message"),
    [
        ((), [], (), "without images"),
        (("a", "b"), [0], ("x",), "one integer per path"),
        (("a", "b"), [0.0, 1.0], ("x", "y"), "one integer per path"),
        (("a", "b"), [[0], [1]], ("x", "y"), "one integer per path"),
        (("a", "b"), [0, 2], ("x", "y", "z"), "every one present"),
        (("a", "b"), [-1, 0], ("x", "y"), "every one present"),
        (("a", "b"), [1, 2], ("x", "y"), "every one present"),
        (("a", "a"), [0, 1], ("x", "y"), "paths holds 'a' twice"),
        (("a", "b"), [0, 1], ("x", "x"), "class_names holds 'x' twice"),
        (("a", "../b"), [0, 1], ("x", "y"), "does not stay below the root"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    paths: tuple[str, ...], labels: list[float], class_names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSet(Path("data"), paths, np.array(labels), class_names)


@pytest.mark.parametrize("path", ["a.png", "a/b/c.png", "..a/b..png", "10:30.png", "a b", "é.png"])
def test_ordinary_paths_stay_below_the_root(path: str) -> None:
    assert stays_below_root(path)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "..", "a/../../b", "a/..", "C:/b", "c:b", "a\\..\\b", "a\0b"])
def test_paths_that_could_leave_the_root_on_some_system_are_noticed(path: str) -> None:
    assert not stays_below_root(path)


def test_super_labels_are_kept_with_their_images_by_a_selection() -> None:
    plain = image_set("abcab")
    assert plain.super_labels is None
    super_labels = np.array([3, 1, 3, 3, 1], dtype=np.uint8)
    images = ImageSet(plain.root, plain.paths, plain.labels, plain.class_names, super_labels)
    super_labels[:] = 0
    assert images.super_labels is not None
    assert images.super_labels.tolist() == [3, 1, 3, 3, 1]
    assert images.super_labels.dtype == np.int64
    selected = images.select([4, 2])
    assert selected.super_labels is not None
    assert selected.super_labels.tolist() == [1, 3]
    assert plain.select([4, 2]).super_labels is None
    with pytest.raises(ValueError, match="read-only"):
        images.super_labels[0] = 1


@pytest.mark.parametrize(
    ("super_labels", "message"),
    [
        ([0, 0, 1, 1], "differ within a class"),
        ([0, 1, 0], "one integer per path"),
        ([0.0, 1.0, 0.0, 1.0], "one integer per path"),
    ],
)
def test_super_labels_that_do_not_fit_are_refused(super_labels: list[float], message: str) -> None:
    images = image_set("abab")
    with pytest.raises(ValueError, match=message):
        ImageSet(images.root, images.paths, images.labels, images.class_names, np.array(super_labels))


def test_a_selection_keeps_the_order_given_and_numbers_its_classes_anew() -> None:
    images = image_set("abcabc").select([5, 0, 3])
    assert images.paths == ("c/5.png", "a/0.png", "a/3.png")
    assert images.class_names == ("a", "c")
    assert images.labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize("indices", [[], [0.0], [True, False], [[0]], [-1], [4], [0, 0]])
def test_a_selection_that_is_no_list_of_positions_is_refused(indices: list[float]) -> None:
    with pytest.raises(ValueError, match=r"indices|twice"):
        image_set("abab").select(indices)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from("abcdefghijklm"), min_size=1), st.data())
def test_any_selection_keeps_every_image_with_its_class(class_names: list[str], data: st.DataObject) -> None:
    images = image_set("".join(class_names))
    indices = data.draw(st.lists(st.sampled_from(range(len(images))), min_size=1, unique=True))
    selected = images.select(indices)
    assert list(zip(selected.paths, names_of(selected), strict=True)) == [
        (images.paths[index], class_names[index]) for index in indices
    ]


def test_the_fingerprint_depends_on_the_list_and_not_on_the_root() -> None:
    images = image_set("aab")
    elsewhere = ImageSet(Path("elsewhere"), images.paths, images.labels, images.class_names)
    assert images.fingerprint() == elsewhere.fingerprint()
    assert len(images.fingerprint()) == 64
    others = [
        images.select([1, 0, 2]),
        images.select([0, 2]),
        ImageSet(images.root, images.paths, np.array([0, 1, 1]), images.class_names),
        ImageSet(images.root, images.paths, images.labels, ("a", "c")),
        ImageSet(images.root, ("a/0.png", "a/1.png", "b/3.png"), images.labels, images.class_names),
        ImageSet(images.root, images.paths, images.labels, images.class_names, np.array([0, 0, 1])),
    ]
    assert len({images.fingerprint(), *(other.fingerprint() for other in others)}) == 7


def test_a_set_is_a_map_style_data_set_of_image_and_label(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("L", (4 + number, 2), number).save(tmp_path / f"{number}.png")
    images = ImageSet(tmp_path, ("0.png", "1.png", "2.png"), np.array([1, 0, 1]), ("a", "b"))
    assert isinstance(images, Dataset)
    assert [(image.mode, image.size, label) for image, label in images] == [
        ("RGB", (4, 2), 1),
        ("RGB", (5, 2), 0),
        ("RGB", (6, 2), 1),
    ]
    assert type(images[0][1]) is int
    wide = images.with_transform(lambda image: image.width)
    assert list(wide) == [(4, 1), (5, 0), (6, 1)]
    assert list(wide.select([2, 1])) == [(6, 1), (5, 0)]
    assert wide.load(2).size == (6, 2)
    assert images.transform is None
    assert wide.with_transform(None)[0][0].size == (4, 2)
    assert wide.fingerprint() == images.fingerprint()


def test_an_image_that_cannot_be_loaded_is_named_by_its_file() -> None:
    images = image_set("aab")
    assert images.where(2) == "data/b/2.png"
    assert images.origin == "data"
    for read in (images.load, images.__getitem__):
        with pytest.raises(DatasetError, match=r"^data/b/2.png: cannot be read as an image \(No such file"):
            read(2)


def test_a_lone_image_is_named_with_its_folder_and_a_remedy() -> None:
    require_pairs(image_set("aabb"), "train")
    with pytest.raises(
        DatasetError, match=r"data/b: class 'b' \(and 1 more classes\) of the train set .* second image"
    ):
        require_pairs(image_set("aabcdd"), "train")
    with pytest.raises(DatasetError, match=r"class 'b' of the validation set"):
        require_pairs(image_set("aab"), "validation")
