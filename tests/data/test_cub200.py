"""Promises of `retrieval.data.cub200`."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.data import cub200
from retrieval.errors import DatasetError

CLASSES = "1 001.Albatross\n2 002.Auklet\n3 003.Bunting\n4 004.Cardinal\n"
IMAGE_PATHS = [f"{name}/{name}_{i}.jpg" for name in CLASSES.split()[1::2] for i in range(2)]
IMAGES = "".join(f"{i} {path}\n" for i, path in enumerate(IMAGE_PATHS, start=1))
RANGES = {"train_classes": (1, 2), "test_classes": (3, 4)}


def write(folder: Path, **lists: str) -> Path:
    """A small copy of the data set, two images a class, with some of the lists replaced."""
    contents = {
        "classes": CLASSES,
        "images": IMAGES,
        "image_class_labels": "".join(f"{i + 1} {i // 2 + 1}\n" for i in range(len(IMAGE_PATHS))),
    }
    for path in IMAGE_PATHS:
        (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / path).touch()
    for name, content in (contents | lists).items():
        (folder / f"{name}.txt").write_bytes(content.encode())
    return folder


@pytest.mark.parametrize("below", ["", "CUB_200_2011", "CUB_200_2011/CUB_200_2011"])
def test_the_classes_of_the_ranges_are_read_from_the_folder_or_the_one_above(tmp_path: Path, below: str) -> None:
    write(tmp_path / below)
    splits = cub200.read(tmp_path, **RANGES)
    assert splits["train"].class_names == ("001.Albatross", "002.Auklet")
    assert splits["test"].class_names == ("003.Bunting", "004.Cardinal")
    assert splits["test"].labels.tolist() == [0, 0, 1, 1]
    assert splits["test"].paths[0] == "images/003.Bunting/003.Bunting_0.jpg"
    assert all((images.root / path).is_file() for images in splits.values() for path in images.paths)


def test_byte_order_marks_windows_line_ends_and_blank_lines_are_tolerated(tmp_path: Path) -> None:
    plain = cub200.read(write(tmp_path / "plain"), **RANGES)
    folder = write(tmp_path / "windows")
    for path in folder.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    windows = cub200.read(folder, **RANGES)
    assert {split: images.fingerprint() for split, images in plain.items()} == {
        split: images.fingerprint() for split, images in windows.items()
    }


def test_the_closed_set_split_of_the_archive_is_never_read(tmp_path: Path) -> None:
    write(tmp_path, train_test_split="this is no list")
    assert len(cub200.read(tmp_path, **RANGES)["train"]) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "images",
            IMAGES.replace("001.Albatross/", "/etc/", 1),
            r"images.txt, line 1: '/etc/001.* does not stay below",
        ),
        ("images", IMAGES.replace("002.Auklet/", "../../", 1), r"images.txt, line 3: '../../002.* does not stay below"),
        ("images", "1 a.jpg\n\n2\n", r"images.txt, line 3: '2' is not '<image id> <image>'"),
        ("images", "one a.jpg\n", r"images.txt, line 1: image id 'one' is not an integer"),
        ("images", "-1 a.jpg\n", r"images.txt, line 1"),
        ("images", "9999999999 a.jpg\n", r"images.txt, line 1"),
        ("images", "1 a.jpg\n1 b.jpg\n", r"images.txt, line 2: image id '1' is listed twice"),
        ("images", "1 a.jpg\n2 a.jpg\n", r"images.txt, line 2: image 'a.jpg' is listed twice"),
        (
            "images",
            "1 001.Albatross/001.Albatross_0.jpg\n",
            r"image_class_labels.txt, line 2: image id 2 is not in images",
        ),
        ("classes", "1 a\n2 a\n", r"classes.txt, line 2: class 'a' is listed twice"),
        ("classes", "1 a\n2 b\n3 c\n", r"image_class_labels.txt, line 7: 4 is not a class id of classes.txt"),
        ("image_class_labels", "1 1\n2 one\n", r"image_class_labels.txt, line 2: class id 'one' is not an integer"),
        ("image_class_labels", "1 1\n2 1 1\n", r"image_class_labels.txt, line 2: class id '1 1' is not an integer"),
        ("image_class_labels", "1 1\n1 1\n", r"image_class_labels.txt, line 2: image id '1' is listed twice"),
        (
            "image_class_labels",
            "1 1\n",
            r"images.txt, line 2: image '001.Albatross/001.Albatross_1.jpg' has no line in image_class_labels.txt",
        ),
    ],
)
def test_a_malformed_list_is_named_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        cub200.read(write(tmp_path, **{name: content}), **RANGES)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    (write(tmp_path) / "images.txt").write_bytes(b"1 \xff\xfe.jpg\n")
    with pytest.raises(DatasetError, match=r"images.txt, line 1: is not UTF-8 text"):
        cub200.read(tmp_path, **RANGES)


def test_a_missing_list_is_named_with_what_root_must_be(tmp_path: Path) -> None:
    (write(tmp_path) / "images.txt").unlink()
    with pytest.raises(DatasetError, match=r"images.txt: cannot be read \(No such file.*root must be"):
        cub200.read(tmp_path, **RANGES)


def test_a_root_without_lists_is_refused_with_the_folders_that_were_looked_in(tmp_path: Path) -> None:
    looked_in = f"{tmp_path}/CUB_200_2011, {tmp_path}/CUB_200_2011/CUB_200_2011, {tmp_path}"
    with pytest.raises(
        DatasetError, match=rf"classes.txt is missing \(looked in {looked_in}\); root must be the unpacked"
    ):
        cub200.read(tmp_path, **RANGES)


def test_a_doubled_folder_of_images_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "images").rename(tmp_path / "moved")
    (tmp_path / "images").mkdir()
    (tmp_path / "moved").rename(tmp_path / "images" / "images")
    assert cub200.read(tmp_path, **RANGES)["test"].paths[0] == "images/images/003.Bunting/003.Bunting_0.jpg"


def test_missing_images_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("003.Bunting_1", "004.Cardinal_0"):
        (tmp_path / "images" / name[:-2] / f"{name}.jpg").unlink()
    with pytest.raises(DatasetError, match=r"003.Bunting_1.jpg: this and 1 more of the 4 test images do not exist"):
        cub200.read(tmp_path, **RANGES)
    assert len(cub200.read(tmp_path, train_classes=(1, 1), test_classes=(2, 2))["test"]) == 2


def test_a_range_without_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path, classes=CLASSES + "5 005.Catbird\n")
    with pytest.raises(
        DatasetError, match=r"no image of the test set; .* or choose other train_classes and test_classes"
    ):
        cub200.read(tmp_path, train_classes=(1, 4), test_classes=(5, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_classes": 3}, r"train_classes is 3; give the first and the last"),
        ({"train_classes": (0, 2)}, r"train_classes is \(0, 2\); give the first and the last"),
        ({"train_classes": (2, 1)}, "train_classes is"),
        ({"test_classes": (3, 4, 4)}, "test_classes is"),
        ({"test_classes": ("3", "4")}, "test_classes is"),
        ({"test_classes": "34"}, "test_classes is '34'"),
        ({"test_classes": (2, 4)}, "overlap"),
        ({"train_classes": (3, 4), "test_classes": (1, 3)}, "overlap"),
    ],
)
def test_a_wrong_range_is_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cub200.read(write(tmp_path), **(RANGES | options))


def test_a_range_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="test_classes ends at 5, the classes of the lists at 4; choose"):
        cub200.read(write(tmp_path), train_classes=(1, 2), test_classes=(3, 5))


def test_the_published_counts_are_asserted_for_the_default_classes(tmp_path: Path) -> None:
    lists = {
        "classes": "".join(f"{i} {i:03}\n" for i in range(1, 201)),
        "images": "".join(f"{i} {i:05}.jpg\n" for i in range(1, 5_865)),
        "image_class_labels": "".join(f"{i} {i % 100 + 1}\n" for i in range(1, 5_865)),
    }
    write(tmp_path, **lists)
    for i in range(1, 5_865):
        (tmp_path / "images" / f"{i:05}.jpg").touch()
    with pytest.raises(DatasetError, match="no image of the test set"):
        cub200.read(tmp_path)
    short = {"images": "1 a\n2 b\n3 c\n4 d\n", "image_class_labels": "1 1\n2 2\n3 3\n4 4\n"}
    with pytest.raises(DatasetError, match=r"train set has 4 images of 4 classes .* protocol has 5864 of 100"):
        cub200.read(write(tmp_path, classes=lists["classes"], **short))


@pytest.mark.slow
def test_the_official_lists_have_the_published_counts(cub200_root: Path) -> None:
    splits = cub200.read(cub200_root, train_classes=(1, 25), test_classes=(26, 50))
    assert {split: images.num_classes for split, images in splits.items()} == {"train": 25, "test": 25}
    assert len(splits["train"]) + len(splits["test"]) == 2_889
    with pytest.raises(DatasetError, match=r"of the 5864 train images do not exist"):
        cub200.read(cub200_root)
    listed = cub200.read(cub200_root, check_images=False)
    assert {split: (len(images), images.num_classes) for split, images in listed.items()} == {
        "train": (5_864, 100),
        "test": (5_924, 100),
    }
