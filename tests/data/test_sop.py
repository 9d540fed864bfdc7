"""Promises of `retrieval.data.sop`."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.data import sop
from retrieval.errors import DatasetError

HEADER = "image_id class_id super_class_id path\n"
KINDS = {1: "bicycle_final", 2: "cabinet_final", 3: "chair_final"}


def rows(first_class: int, classes: int, first_image: int = 1) -> str:
    """A list of `classes` classes with two or three images each."""
    lines = [HEADER]
    image = first_image
    for label in range(first_class, first_class + classes):
        for view in range(2 + label % 2):
            lines.append(f"{image} {label} {label % 3 + 1} {KINDS[label % 3 + 1]}/{label:012}_{view}.JPG\n")
            image += 1
    return "".join(lines)


def write(folder: Path, train: str, test: str, *, images: bool = True) -> Path:
    """A tree of the official shape."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, content in (("train", train), ("test", test)):
        (folder / f"Ebay_{split}.txt").write_text(content)
        for line in content.splitlines()[1:] if images else ():
            path = folder / line.split()[3]
            path.parent.mkdir(exist_ok=True)
            path.touch()
    return folder


@pytest.mark.parametrize("below", ["", "Stanford_Online_Products", "Stanford_Online_Products/Stanford_Online_Products"])
def test_the_lists_are_train_and_test_and_a_class_has_the_super_class_of_its_kind(tmp_path: Path, below: str) -> None:
    write(tmp_path / below, rows(8, 5), rows(13, 2, first_image=13))
    splits = sop.read(tmp_path, check_counts=False)
    assert list(splits) == ["train", "test"]
    train, test = splits["train"], splits["test"]
    assert train.class_names == ("8", "9", "10", "11", "12")
    assert train.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4]
    assert train.paths[0] == "chair_final/000000000008_0.JPG"
    assert train.super_labels is not None
    assert train.super_labels.tolist() == [2, 2, 0, 0, 0, 1, 1, 2, 2, 2, 0, 0]
    assert test.super_labels is not None
    assert test.super_labels.tolist() == [1, 1, 1, 2, 2]  # the numbers mean the same kinds as in train
    assert all((images.root / path).is_file() for images in splits.values() for path in images.paths)


def test_the_published_counts_are_asserted_unless_told_otherwise(tmp_path: Path) -> None:
    write(tmp_path, rows(1, 3), rows(4, 3))
    with pytest.raises(
        DatasetError, match=r"train set has 8 images of 3 classes .* has 59551 of 11318; .*check_counts"
    ):
        sop.read(tmp_path)


@pytest.mark.slow
def test_lists_of_the_true_size_are_read_whole(tmp_path: Path) -> None:
    train = "".join(f"{i} {i % 11_318} {i % 11_318 % 12} bicycle_final/{i}.JPG\n" for i in range(59_551))
    test = "".join(f"{i} {i % 11_316 + 11_318} {i % 11_316 % 12} bicycle_final/_{i}.JPG\n" for i in range(60_502))
    splits = sop.read(write(tmp_path, HEADER + train, HEADER + test, images=False), check_images=False)
    for split, images in splits.items():
        assert (len(images), images.num_classes) == sop.PUBLISHED[split]
        assert images.super_labels is not None
        assert set(images.super_labels) == set(range(12))
    with pytest.raises(DatasetError, match=r"bicycle_final/0.JPG: this and 59550 more of the 59551 train images"):
        sop.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 1 1 a.JPG\n", r"line 1: '1 1 1 a.JPG' is not 'image_id class_id super_class_id path'"),
        ("", "is empty"),
        (HEADER + "1 1 a.JPG\n", r"line 2: '1 1 a.JPG' is not '<image_id> <class_id> <super_class_id> <path>'"),
        (HEADER + "1 one 1 a.JPG\n", r"line 2: class_id 'one' is not an integer"),
        (HEADER + "1 1 1.0 a.JPG\n", r"line 2: super_class_id '1.0' is not an integer"),
        (HEADER + "1 1 1 a.JPG\n1 1 1 b.JPG\n", r"line 3: image_id '1' is listed twice"),
        (HEADER + "1 1 1 a.JPG\n2 1 1 ./a.JPG\n", r"line 3: image 'a.JPG' is listed twice"),
        (HEADER + "1 1 1 a.JPG\n2 1 2 b.JPG\n", r"line 3: class '1' has super-class '2', but '1' in an earlier line"),
        (
            HEADER + "1 1 1 a.JPG\n2 5 1 b.JPG\n",
            r"Ebay_test.txt, line 2: class '5' is in train and in test.*closed-set",
        ),
    ],
)
def test_a_malformed_list_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path, content, rows(5, 2), images=False)
    with pytest.raises(DatasetError, match=message) as caught:
        sop.read(tmp_path, check_counts=False)
    assert "\n" not in str(caught.value)


def test_a_missing_list_is_named_with_what_root_must_be(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"Ebay_train.txt is missing \(looked in .*/Stanford_Online_Products/.*root must be"
    ):
        sop.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "images", "classes"),
    [
        ("cub200_train", 5_864, 100),
        ("cub200_test", 5_924, 100),
        ("cars196_train", 8_054, 98),
        ("cars196_test", 8_131, 98),
        ("inshop_train", 25_882, 3_997),
        ("inshop_query", 14_218, 3_985),
        ("inshop_gallery", 12_612, 3_985),
    ],
)
def test_real_lists_in_this_format_are_read_whole(shared_data: Path, name: str, images: int, classes: int) -> None:
    path = shared_data / "lists" / f"{name}.txt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    entries = sop.read_list(path)
    assert (len(entries), len({entry.class_name for entry in entries})) == (images, classes)
