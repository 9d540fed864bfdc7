"""Promises of `retrieval.data.image_files`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retrieval.data import folder, given_images, image_files, images_in, listed_images
from retrieval.errors import ConfigError, DatasetError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def classes_of(root: Path) -> dict[str, str]:
    images = images_in(root)
    return {path: images.class_names[label] for path, label in zip(images.paths, images.labels, strict=True)}


def test_images_are_found_at_any_depth_with_the_first_folder_as_class(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.JPG", "b/deep/er/1.png", "a/1.webp", "0.png", "a/notes.txt", ".hidden/1.png", "a/._1.jpg")
    touch(tmp_path, "b/folder.png/3.png")
    assert classes_of(tmp_path) == {"0.png": tmp_path.name, "a/1.webp": "a", "b/2.JPG": "b", "b/deep/er/1.png": "b"} | {
        "b/folder.png/3.png": "b"
    }
    assert images_in(str(tmp_path)).root == tmp_path
    assert images_in(tmp_path).paths == ("0.png", "a/1.webp", "b/2.JPG", "b/deep/er/1.png", "b/folder.png/3.png")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none: is no folder; give the folder with the images"):
        images_in(tmp_path / "none")
    with pytest.raises(DatasetError, match=r"contains no images; found 1 of other types \(1 .txt\)"):
        images_in(touch(tmp_path, "notes.txt"))


def test_files_are_kept_and_folders_replaced_by_their_images(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/b/2.png", "c.data")
    files = image_files([tmp_path / "c.data", str(tmp_path / "a"), tmp_path / "a" / "1.png"])
    assert files == [tmp_path / name for name in ("c.data", "a/1.png", "a/b/2.png", "a/1.png")]
    with pytest.raises(DatasetError, match=r"d.png: does not exist; give an image, or a folder of images"):
        image_files([tmp_path / "d.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="contains no images"):
        image_files([tmp_path / "empty"])


def test_the_splits_of_a_folder_are_taken_together_and_their_folders_are_no_classes(tmp_path: Path, caplog) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "valid/b/2.png", "test/c/1.png", "test/2.png", "more/d/1.png")
    with caplog.at_level("INFO", "retrieval"):
        assert classes_of(tmp_path) == {
            "train/a/1.png": "a",
            "train/b/1.png": "b",
            "valid/b/2.png": "b",
            "test/c/1.png": "c",
            "test/2.png": tmp_path.name,
        }
    assert f"{tmp_path}: the images of its splits test, train, valid are taken together" in caplog.messages
    assert "1 next to test, train, valid ('more/d/1.png')" in caplog.text
    assert len(image_files([tmp_path])) == len(given_images([tmp_path])) == 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for read in (image_files, given_images):
        with pytest.raises(DatasetError, match=r"a.png: is a pipe, a socket or a device; give an image file"):
            read([tmp_path / "a.png"])
    os.mkfifo(tmp_path / "list.csv")
    with pytest.raises(DatasetError, match=r"list.csv: cannot be read \(it is a pipe\)"):
        listed_images(tmp_path / "list.csv")


def given_classes(*places: str | Path) -> dict[str, str]:
    images = given_images(places)
    names = [images.class_names[label] for label in images.labels]
    return {(images.root / path).as_posix(): name for path, name in zip(images.paths, names, strict=True)}


def test_the_class_of_an_image_is_the_folder_it_was_given_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "all/a/1.png", "all/b/deep/2.png", "one/3.png", "x/y/4.png")
    expected = {"all/a/1.png": "a", "all/b/deep/2.png": "b", "one/3.png": "one", "x/y/4.png": "y"}
    expected = {(tmp_path / path).as_posix(): name for path, name in expected.items()}
    assert given_classes(tmp_path / "all", str(tmp_path / "one"), tmp_path / "x" / "y" / "4.png") == expected
    monkeypatch.chdir(tmp_path / "x" / "y")
    assert given_classes("../../all", Path("..") / ".." / "one", "4.png") == expected
    assert set(given_classes(".").values()) == {"y"}


def test_images_beside_the_folders_of_a_given_folder_are_of_that_folder_and_counted(tmp_path: Path, caplog) -> None:
    touch(tmp_path, "all/a/1.png", "all/2.png", "all/3.png")
    with caplog.at_level("INFO", "retrieval"):
        assert sorted(given_classes(tmp_path / "all").values()) == ["a", "all", "all"]
    assert "all: 2 images beside its folders: the class is 'all'" in caplog.text


def test_an_image_that_is_given_twice_is_taken_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/b/2.png")
    assert len(given_images([tmp_path / "a" / "1.png", tmp_path / "a" / "." / "1.png"])) == 1
    with pytest.raises(ConfigError, match=r"2.png: is given twice, as class 'b' and as 'a'; give it once"):
        given_images([tmp_path / "a" / "b", tmp_path])
    with pytest.raises(ConfigError, match="there are no images; give folders or image files"):
        given_images([])


def test_a_listed_image_is_found_from_the_folder_of_the_list_or_from_a_root(tmp_path: Path) -> None:
    touch(tmp_path, "photos/x/1.png", "photos/x/2.png")
    (tmp_path / "photos" / "list.csv").write_text("label,path,split\nb,x/2.png,train\na,x/1.png,test\n")
    images = listed_images(tmp_path / "photos" / "list.csv")
    assert (images.root, images.paths) == (tmp_path / "photos", ("x/2.png", "x/1.png"))
    assert (images.class_names, images.labels.tolist()) == (("a", "b"), [1, 0])
    (tmp_path / "photos" / "list.csv").rename(tmp_path / "list.csv")
    assert listed_images(str(tmp_path / "list.csv"), tmp_path / "photos").fingerprint() == images.fingerprint()
    with pytest.raises(DatasetError, match=r"x/2.png: this and 1 more of the 2 listed images do not exist; .*--root"):
        listed_images(tmp_path / "list.csv")


def test_a_backslash_in_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="rename the file"):
        images_in(touch(tmp_path, "a/x\\y.png"))


@pytest.mark.parametrize("folders", [("train", "Train", "test"), ("train ", "test")])
def test_splits_that_training_refuses_are_refused_where_images_would_be_lost_or_mixed(folders, tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/{name}/1.png" for split in folders for name in "ab"))
    if len(list(tmp_path.iterdir())) < len(folders):
        pytest.skip("the file system takes these names for one")
    for read in (images_in, lambda root: given_images([root]), lambda root: image_files([root]), folder.read):
        with pytest.raises(
            DatasetError, match=r"its splits are test; expected|has Train and train|has train and Train"
        ):
            read(tmp_path)
