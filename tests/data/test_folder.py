"""Promises of `retrieval.data.folder`."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.data import ImageSet, folder
from retrieval.errors import DatasetError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def read_splits(root: Path) -> dict[str, ImageSet]:
    found = folder.read(root)
    assert isinstance(found, dict)
    return found


def classes(*names: str) -> list[str]:
    return [f"{name}/{i}.jpg" for name in names for i in range(2)]


def test_class_folders_are_one_set(tmp_path: Path) -> None:
    images = folder.read(touch(tmp_path, *classes("c1", "c10", "c9")))
    assert isinstance(images, ImageSet)
    assert images.class_names == ("c1", "c9", "c10")
    assert [path.split("/")[0] for path in images.paths] == [images.class_names[label] for label in images.labels]
    assert all((images.root / path).is_file() for path in images.paths)


def test_train_and_test_folders_are_used_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path, "train/b/1.png", "train/b/2.png", "train/a/1.png", "test/c/1.png", "other/d/1.png")
    splits = read_splits(tmp_path)
    assert splits["train"].paths == ("train/a/1.png", "train/b/1.png", "train/b/2.png")
    assert splits["train"].class_names == ("a", "b")
    assert splits["test"].paths == ("test/c/1.png",)
    assert splits["train"].root == splits["test"].root == tmp_path


@pytest.mark.parametrize("name", ["valid", "val", "validation"])
def test_a_folder_may_bring_validation_images_and_queries_with_a_gallery(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "train/a/1.png", f"{name}/b/1.png", "query/c/1.png", "gallery/c/2.png")
    found = read_splits(tmp_path)
    assert {split: images.paths for split, images in found.items()} == {
        "train": ("train/a/1.png",),
        "validation": (f"{name}/b/1.png",),
        "query": ("query/c/1.png",),
        "gallery": ("gallery/c/2.png",),
    }


def test_a_class_may_be_in_train_and_in_test(tmp_path: Path) -> None:
    found = read_splits(touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/b/2.png", "test/c/1.png"))
    assert (found["train"].class_names, found["test"].class_names) == (("a", "b"), ("b", "c"))


@pytest.mark.parametrize(
    "names", ["train", "test", "query", "query gallery", "train query", "train gallery", "train test query"]
)
def test_splits_that_do_not_go_together_are_one_line(tmp_path: Path, names: str) -> None:
    touch(tmp_path, *(f"{name}/a/1.png" for name in names.split()))
    with pytest.raises(
        DatasetError, match=r"its splits are .*; expected train and test, or train, query and gallery"
    ) as caught:
        folder.read(tmp_path)
    assert "put all class folders directly below root" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_may_be_called_valid(tmp_path: Path) -> None:
    images = folder.read(touch(tmp_path, *classes("valid", "void")))
    assert isinstance(images, ImageSet)
    assert images.class_names == ("valid", "void")


@pytest.mark.parametrize("name", ["train", "test", "query", "gallery"])
def test_a_class_may_have_the_name_of_a_split(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "boat/0.png", "bus/0.png", f"{name}/0.png", f"{name}/side/1.png")
    images = folder.read(tmp_path)
    assert isinstance(images, ImageSet)
    assert images.class_names == tuple(sorted(["boat", "bus", name]))
    assert len(images) == 4


def test_nothing_is_passed_over_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="retrieval")
    touch(
        tmp_path,
        "train/a/1.png",
        "train/b/1.heic",
        "train/cover.png",
        "test/c/1.png",
        "test/c/notes.txt",
        "test/c/x.HEIC",
    )
    touch(tmp_path, "extra/d/1.png", "more/d/1.png", "readme.md", ".git/1.png", "train/a/.DS_Store")
    folder.read(tmp_path)
    assert caplog.messages == [
        f"{tmp_path}: folders next to train, test: 2 left out, the first is extra",
        f"{tmp_path}: files next to train, test: 1 left out, the first is readme.md",
        f"{tmp_path}/train: images next to the class folders: 1 left out, the first is cover.png",
        f"{tmp_path}/train: folders without images: 1 left out, the first is b",
        f"{tmp_path}/train: files of other types are left out: 1 .heic",
        f"{tmp_path}/test: files of other types are left out: 1 .txt, 1 .heic",
    ]


def test_images_at_any_depth_belong_to_the_folder_below_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/a/day/2.png", "train/a/day/dusk/3.png", "test/b/1.png")
    train = read_splits(tmp_path)["train"]
    assert train.paths == ("train/a/1.png", "train/a/day/2.png", "train/a/day/dusk/3.png")
    assert train.class_names == ("a",)


def test_hidden_files_other_files_and_folders_without_images_are_left_out(tmp_path: Path) -> None:
    wanted = ["train/a/1.JPG", "train/a/2.jpeg", "train/a/3.Png", "train/a/4.webp", "train/a/5.tif"]
    touch(tmp_path, *wanted, "train/a/._1.JPG", "train/a/.hidden.png", "train/a/.thumbs/1.png", "train/.git/1.png")
    touch(tmp_path, "train/a/notes.txt", "train/a/png", "train/cover.png", "train/empty/notes.txt", "test/b/1.png")
    train = read_splits(tmp_path)["train"]
    assert list(train.paths) == wanted
    assert train.class_names == ("a",)


def test_a_linked_class_folder_is_read_and_a_loop_inside_it_is_not_followed(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "train/a/1.png", "test/b/1.png")
    touch(tmp_path, "elsewhere/1.png")
    (root / "train" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "a" / "loop").symlink_to(root / "train" / "a")
    assert read_splits(root)["train"].paths == ("train/a/1.png", "train/linked/1.png")


def test_the_same_tree_gives_the_same_list_in_whatever_order_it_was_written(tmp_path: Path) -> None:
    paths = classes("c1", "c2", "c3", "c9", "c10")
    first = folder.read(touch(tmp_path / "first", *paths))
    second = folder.read(touch(tmp_path / "second", *reversed(paths)))
    assert isinstance(first, ImageSet)
    assert isinstance(second, ImageSet)
    assert first.fingerprint() == second.fingerprint()


def test_a_missing_root_is_named_with_what_is_expected_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: cannot be read \(No such file.*one folder of images per class"):
        folder.read(tmp_path / "nowhere")


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images in class folders; expected"):
        folder.read(touch(tmp_path, "1.png", "2.png"))


def test_a_backslash_in_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="rename the file"):
        folder.read(touch(tmp_path, *classes(*"abcd"), "a/x\\y.png"))
