"""Promises of `retrieval.data.folder`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from retrieval.data import ImageSet, folder, images_in
from retrieval.errors import DatasetError
from retrieval.files import image_formats
from retrieval.files.outputs import REPORT_MARK


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
    caplog.set_level("DEBUG", logger="retrieval")
    touch(tmp_path, "train/a/1.png", "train/a/.DS_Store", "train/b/1.xyz", "train/cover.png", "test/c/1.png")
    touch(
        tmp_path,
        "test/c/notes.txt",
        "test/c/x.XYZ",
        "test/c/x.nef",
        "extra/d/1.png",
        "more/2.png",
        "readme.md",
        ".git/1.png",
    )
    (tmp_path / "test" / "c" / "2.png").symlink_to("nothing")
    (tmp_path / "test" / "c" / "3.png").symlink_to("3.png")
    folder.read(tmp_path)
    expected = {
        "hidden": [".git/", "train/a/.DS_Store"],
        "of other types": ["readme.md", "test/c/notes.txt", "test/c/x.XYZ", "train/b/1.xyz"],
        "behind broken links": ["test/c/2.png", "test/c/3.png"],
        "camera raw": ["test/c/x.nef"],
        "next to test, train": ["extra/d/1.png", "more/2.png"],
        "next to the class folders": ["train/cover.png"],
        "without images": ["train/b/"],
    }
    line, *named = caplog.messages
    assert line.startswith(f"{tmp_path}: not read: ")
    for words in (
        "2 hidden (the first is '.git/')",
        "4 of other types (2 .xyz, 1 .md, 1 .txt)",
        "2 behind broken links",
        "1 camera raw (1 .nef)",
        "2 next to test, train (the first is 'extra/d/1.png')",
        "1 next to the class folders ('train/cover.png')",
    ):
        assert words in line
    assert sorted(named) == sorted(
        f"{tmp_path / path}: not read: {reason}" for reason, paths in expected.items() for path in paths
    )


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


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="retrieval")
    root = touch(tmp_path / "root", "train/a/1.png", "test/b/1.png")
    touch(tmp_path, "elsewhere/1.png", "elsewhere/deep/2.png")
    (root / "train" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "test" / "again").symlink_to(tmp_path / "elsewhere" / "deep")  # the first in order is read
    (root / "train" / "a" / "loop").symlink_to(root / "train" / "a")
    (root / "train" / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    splits = read_splits(root)
    assert splits["test"].paths == ("test/again/2.png", "test/b/1.png")
    assert splits["train"].paths == ("train/a/1.png", "train/a/up/elsewhere/1.png")
    assert "links to folders that are read already" in caplog.text
    assert images_in(root).paths == splits["test"].paths + splits["train"].paths


@pytest.mark.parametrize(("link", "to"), [("val", "test"), ("test", "train"), ("gallery", "train")])
def test_the_folder_of_a_split_that_is_a_link_to_another_one_is_refused(tmp_path: Path, link: str, to: str) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "query/a/2.png" if link == "gallery" else "val/a/1.png")
    if link == "val":
        (tmp_path / "val").rename(tmp_path / "test")
    (tmp_path / link).symlink_to(to)
    for read in (folder.read, images_in):
        with pytest.raises(DatasetError, match=rf"{link}: is a link to a folder that is read already, so its images"):
            read(tmp_path)


def test_folders_of_the_system_and_outputs_of_this_program_are_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="retrieval")
    wanted = classes("a", "b")
    touch(tmp_path, *wanted, "a/@eaDir/0.jpg/thumb.jpg", "#recycle/0.jpg", "$RECYCLE.BIN/0.jpg", "__MACOSX/a/._0.jpg")
    touch(tmp_path, "a/Thumbs.db", "b/System Volume Information/0.jpg")
    touch(
        tmp_path,
        "runs/1/config.yaml",
        "runs/1/environment.json",
        "runs/1/gallery.png",
        "runs/1/report-pictures/map.png",
    )
    touch(tmp_path, "photos-index/0.png", "a/index-report-pictures/0.png", "b/my-pictures/1.jpg", "b/my-pictures.html")
    (tmp_path / "photos-index" / "manifest.json").write_text('{\n  "format": "retrieval index",')
    (tmp_path / "a" / "index-report.html").write_text(f"<html>{REPORT_MARK}</html>")
    images = folder.read(tmp_path)
    assert isinstance(images, ImageSet)
    assert images.paths == (*wanted, "b/my-pictures/1.jpg")
    assert images_in(tmp_path).fingerprint() == images.fingerprint()
    assert "6 of the system (the first is '#recycle/')" in caplog.text
    assert "3 written by this program (the first is 'photos-index/')" in caplog.text


def test_what_can_be_opened_is_an_image_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jfif", "a/2.JPE", "a/3.jp2", "a/4.mpo", "a/5.pbm", "b/notes")
    picture = Image.new("RGB", (3, 3))
    for name, kind in (("jpeg", "JPEG"), ("photo.jpg.1", "JPEG"), ("photo.data", "PNG")):
        picture.save(tmp_path / "b" / name, kind)
    Image.new("F", (3, 3)).save(tmp_path / "b" / "depth.data", "TIFF")
    picture.save(tmp_path / "b" / "raw.dng", "TIFF")
    images = folder.read(tmp_path)
    assert isinstance(images, ImageSet)
    assert " ".join(images.paths) == "a/1.jfif a/2.JPE a/3.jp2 a/4.mpo a/5.pbm b/jpeg b/photo.data b/photo.jpg.1"


@pytest.mark.parametrize(
    ("head", "package"), [(b"\0\0\0\x18ftypheic", "pillow-heif"), (b"\xff\x0a\x00", "pillow-jxl-plugin")]
)
def test_a_format_whose_package_is_missing_is_named_with_the_package(
    head: bytes, package: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_formats, "formats", lambda: ("JPEG", "PNG"))
    caplog.set_level("INFO", logger="retrieval")
    touch(tmp_path, *classes("a", "b"))
    (tmp_path / "a" / "1.xyz").write_bytes(head + bytes(20))
    folder.read(tmp_path)
    assert f"1 in need of the package {package} ('a/1.xyz')" in caplog.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_are_counted_and_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="retrieval")
    touch(tmp_path, *classes("a", "b"))
    os.mkfifo(tmp_path / "a" / "7.jpg")
    os.mkfifo(tmp_path / "a" / "manifest.json")
    images = folder.read(tmp_path)
    assert list(images.paths if isinstance(images, ImageSet) else ()) == classes("a", "b")
    assert "2 of pipes, sockets and devices" in caplog.text


def test_the_same_tree_gives_the_same_list_in_whatever_order_it_was_written(tmp_path: Path) -> None:
    paths = classes("c1", "c2", "c3", "c9", "c10")
    first = folder.read(touch(tmp_path / "first", *paths))
    second = folder.read(touch(tmp_path / "second", *reversed(paths)))
    assert isinstance(first, ImageSet)
    assert isinstance(second, ImageSet)
    assert first.fingerprint() == second.fingerprint()


def test_a_missing_root_is_named_with_what_is_expected_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: cannot be read \(No such file.*one folder per class"):
        folder.read(tmp_path / "nowhere")


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"no images in class folders; expected .* searched no folder, and found 2 next to"
    ):
        folder.read(touch(tmp_path, "1.png", "2.png"))


def test_without_images_the_folders_that_were_searched_are_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}/notes.txt" for i in range(7)))
    message = (
        r"searched the folders '0', '1', '2', '3', '4' and 2 more, and found 7 of other types \(7 .txt\); 7 without"
    )
    with pytest.raises(DatasetError, match=message):
        folder.read(tmp_path)
    touch(tmp_path, "train/a/1.png", "test/x/1.txt")
    with pytest.raises(
        DatasetError, match=r"test: no images .* the folders 'test', and found 1 of other types \(1 .txt\)"
    ):
        folder.read(tmp_path)


def test_a_split_may_be_written_in_any_case(tmp_path: Path) -> None:
    splits = read_splits(touch(tmp_path, "Train/a/1.png", "TEST/b/1.png", "Val/c/1.png"))
    assert {name: images.paths for name, images in splits.items()} == {
        "train": ("Train/a/1.png",),
        "validation": ("Val/c/1.png",),
        "test": ("TEST/b/1.png",),
    }
    with pytest.raises(DatasetError, match="has Train and train; the train images need one name: merge them"):
        folder.read(touch(tmp_path, "train/a/1.png"))


@pytest.mark.parametrize("name", ["a\tb", "line\nbreak", "a\x7f", "\x85"])
def test_a_control_character_in_a_name_is_refused_when_the_folder_is_read(name: str, tmp_path: Path) -> None:
    for path in (f"{name}/1.png", f"a/{name}.png"):
        root = touch(tmp_path / str(len(path)), *classes("a", "b"), path)
        for read in (folder.read, images_in):
            with pytest.raises(
                DatasetError, match=r"a name with a control character.*rename the file or folder"
            ) as caught:
                read(root)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "other",
    ["cafe\u0301", "ca\u200bfé", "ca\u00adfé", "café\u00a0", "\uff43afé", "café "]
    + [f"c{blank}afé" for blank in "\ufe0f\U000e0100\u180b\u034f\u115f\u3164"]
    + ["café\u2800"],
    ids=ascii,
)
def test_classes_that_look_alike_are_refused_also_in_two_splits(other: str, tmp_path: Path) -> None:
    for root in (
        touch(tmp_path / "one", "café/1.png", f"{other}/1.png"),
        touch(tmp_path / "two", "train/café/1.png", "train/b/1.png", f"test/{other}/1.png"),
    ):
        if len(list((root / "train" if root.name == "two" else root).iterdir())) < 2:
            pytest.skip("the file system takes these names for one")
        for read in (folder.read, images_in):
            with pytest.raises(DatasetError, match=r"look alike but are written .*caf\\xe9.*; give them one name"):
                read(root)


def test_a_backslash_in_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="rename the file"):
        folder.read(touch(tmp_path, *classes(*"abcd"), "a/x\\y.png"))
