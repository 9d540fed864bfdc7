"""Promises of `retrieval.data.folder`."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.data import folder
from retrieval.errors import DatasetError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def classes(*names: str) -> list[str]:
    return [f"{name}/{i}.jpg" for name in names for i in range(2)]


def test_class_folders_are_divided_into_train_and_test(tmp_path: Path) -> None:
    splits = folder.read(touch(tmp_path, *classes("c1", "c2", "c3", "c9", "c10")), test_share=0.4, seed=1)
    assert set(splits) == {"train", "test"}
    train, test = splits["train"], splits["test"]
    assert (train.num_classes, test.num_classes, len(train), len(test)) == (3, 2, 6, 4)
    assert set(train.class_names) | set(test.class_names) == {"c1", "c2", "c3", "c9", "c10"}
    for images in splits.values():
        assert [path.split("/")[0] for path in images.paths] == [images.class_names[label] for label in images.labels]
        assert all((images.root / path).is_file() for path in images.paths)


def test_the_division_depends_on_seed_and_share(tmp_path: Path) -> None:
    touch(tmp_path, *classes(*"abcdefghijkl"))
    assert len({folder.read(tmp_path, seed=seed)["test"].class_names for seed in range(5)}) > 1
    assert folder.read(tmp_path, test_share=0.25)["test"].num_classes == 3


def test_train_and_test_folders_are_used_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path, "train/b/1.png", "train/b/2.png", "train/a/1.png", "test/c/1.png", "other/d/1.png")
    splits = folder.read(tmp_path)
    assert splits["train"].paths == ("train/a/1.png", "train/b/1.png", "train/b/2.png")
    assert splits["train"].class_names == ("a", "b")
    assert splits["test"].paths == ("test/c/1.png",)
    assert splits["train"].root == splits["test"].root == tmp_path


def test_a_class_in_train_and_in_test_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/b/2.png", "test/c/1.png")
    with pytest.raises(DatasetError, match=r"1 classes are in train/ and in test/, the first is 'b'.*closed-set split"):
        folder.read(tmp_path)


def test_train_without_test_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has only train/"):
        folder.read(touch(tmp_path, *classes("train/a", "train/b", "val/c", "val/d")))


def test_images_at_any_depth_belong_to_the_folder_below_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/a/day/2.png", "train/a/day/dusk/3.png", "test/b/1.png")
    train = folder.read(tmp_path)["train"]
    assert train.paths == ("train/a/1.png", "train/a/day/2.png", "train/a/day/dusk/3.png")
    assert train.class_names == ("a",)


def test_hidden_files_other_files_and_folders_without_images_are_passed_over(tmp_path: Path) -> None:
    wanted = ["train/a/1.JPG", "train/a/2.jpeg", "train/a/3.Png", "train/a/4.webp", "train/a/5.tif"]
    touch(tmp_path, *wanted, "train/a/._1.JPG", "train/a/.hidden.png", "train/a/.thumbs/1.png", "train/.git/1.png")
    touch(tmp_path, "train/a/notes.txt", "train/a/png", "train/cover.png", "train/empty/notes.txt", "test/b/1.png")
    train = folder.read(tmp_path)["train"]
    assert list(train.paths) == wanted
    assert train.class_names == ("a",)


def test_a_linked_class_folder_is_read_and_a_loop_inside_it_is_not_followed(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "train/a/1.png", "test/b/1.png")
    touch(tmp_path, "elsewhere/1.png")
    (root / "train" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "a" / "loop").symlink_to(root / "train" / "a")
    assert folder.read(root)["train"].paths == ("train/a/1.png", "train/linked/1.png")


def test_the_same_tree_gives_the_same_list_in_whatever_order_it_was_written(tmp_path: Path) -> None:
    paths = classes("c1", "c2", "c3", "c9", "c10")
    first = folder.read(touch(tmp_path / "first", *paths))
    second = folder.read(touch(tmp_path / "second", *reversed(paths)))
    assert [first[split].fingerprint() for split in first] == [second[split].fingerprint() for split in second]


def test_a_missing_root_is_named_with_what_is_expected_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: cannot be read \(No such file.*one folder of images per class"):
        folder.read(tmp_path / "nowhere")


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images in class folders; expected"):
        folder.read(touch(tmp_path, "1.png", "2.png"))


def test_too_few_classes_are_refused_and_listed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has 1 classes with images \('images'\).*choose the folder that contains"):
        folder.read(touch(tmp_path, "images/a/1.png", "images/b/1.png"))


def test_a_backslash_in_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="rename the file"):
        folder.read(touch(tmp_path, *classes(*"abcd"), "a/x\\y.png"))
