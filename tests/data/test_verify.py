"""Promises of `retrieval.data.verify`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.data import unreadable as module
from retrieval.data.unreadable import open_images
from retrieval.data.verify import verify
from retrieval.errors import DatasetError, RetrievalError

CLASSES = ["a", "b", "c", "d"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four classes of three images, as folders and in a list."""
    paths = [f"{name}/{i}.png" for name in CLASSES for i in range(3)]
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(256, size=(9, 9), dtype=np.uint8)).save(tmp_path / path)
    (tmp_path / "images.csv").write_text(
        "path,label,split\n" + "".join(f"{path},{path[0]},{'train' if path < 'c' else 'test'}\n" for path in paths)
    )
    return tmp_path


@pytest.mark.parametrize("processes", [1, 2])
def test_a_data_set_without_faults_is_counted_and_every_image_opened(root: Path, processes: int) -> None:
    seen = []
    report = verify("folder", root, processes=processes, watch=lambda results, total: seen.append(total) or results)
    assert report.splits == {"train": (2, 6), "test": (2, 6)}
    assert report.faults == ()
    assert not report.as_published
    assert seen == [12]


@pytest.mark.parametrize("processes", [1, 3])
def test_all_faults_of_all_images_come_at_once_and_in_order(root: Path, processes: int) -> None:
    (root / "a" / "1.png").unlink()
    (root / "b" / "0.png").write_bytes(b"")
    (root / "b" / "2.png").write_text("<html>not found</html>")
    truncated = root / "d" / "2.png"
    truncated.write_bytes(truncated.read_bytes()[:80])
    report = verify("csv", root, processes=processes)
    assert [fault.split(":")[0] for fault in report.faults] == [
        str(root / path) for path in ("a/1.png", "b/0.png", "b/2.png", "d/2.png")
    ]
    for fault, words in zip(
        report.faults, ("No such file", "it is empty", "not an image of a known", "cannot"), strict=True
    ):
        assert words in fault
        assert "\n" not in fault
    assert report.splits == {"train": (2, 6), "test": (2, 6)}


def test_training_classes_of_one_image_are_faults(root: Path) -> None:
    kept = [
        line
        for line in (root / "images.csv").read_text().splitlines()
        if not line.startswith(("a/1", "a/2", "c/1", "c/2"))
    ]
    (root / "images.csv").write_text("\n".join(kept))
    report = verify("csv", root, processes=1)
    assert report.splits == {"train": (2, 4), "test": (2, 4)}
    (fault,) = report.faults
    assert fault.startswith(
        f"{root / 'a' / '0.png'}: is the single image of its class 'a', which training refuses; add a"
    )


def test_files_of_a_folder_that_are_not_read_are_counted_and_no_faults(root: Path) -> None:
    (root / "a" / "notes.xyz").touch()
    (root / "b" / "@eaDir").mkdir()
    report = verify("folder", root, processes=1)
    assert report.faults == ()
    assert report.left_out == ("2 of other types (1 .csv, 1 .xyz)", "1 of the system ('b/@eaDir/')")


def test_a_list_that_cannot_be_read_is_a_fault(root: Path) -> None:
    (root / "images.csv").write_text("path,label\na/0.png,a\n../b.png,b\n")
    (fault,) = verify("csv", root).faults
    assert "images.csv, line 3" in fault


def test_the_published_counts_are_compared_unless_options_ask_for_another_part(tmp_path: Path) -> None:
    for part, classes in (("images_background", 3), ("images_evaluation", 2)):
        for number in range(classes):
            folder = tmp_path / part / "Greek" / f"character{number:02}"
            folder.mkdir(parents=True)
            Image.new("1", (3, 3)).save(folder / "0.png")
    report = verify("omniglot", tmp_path, processes=1)
    assert report.as_published
    assert report.splits == {"train": (3, 3), "test": (2, 2)}
    assert [fault.partition(": ")[2] for fault in report.faults] == [
        "the train set has 3 classes and 3 images, the published protocol has 964 and 19,280; unpack the official archive again",
        "the test set has 2 classes and 2 images, the published protocol has 659 and 13,180; unpack the official archive again",
    ]


def test_wrong_counts_and_broken_images_come_together(tmp_path: Path) -> None:
    for split, rows in (("train", ("1 1 1 a/0.JPG", "2 1 1 a/1.JPG")), ("test", ("3 2 1 b/0.JPG", "4 2 1 b/1.JPG"))):
        (tmp_path / f"Ebay_{split}.txt").write_text("\n".join(["image_id class_id super_class_id path", *rows]))
    faults = verify("sop", tmp_path, processes=1).faults
    assert len(faults) == 6
    assert "the published protocol has 11,318 and 59,551" in faults[0]
    assert faults[2].startswith(f"{tmp_path / 'a' / '0.JPG'}: ")
    assert len(verify("sop", tmp_path, {"check_counts": False}, processes=1).faults) == 4
    assert "the published protocol" in verify("sop", tmp_path, {"check_counts": True}, processes=1).faults[0]


@pytest.mark.parametrize(
    ("name", "options", "below"),
    [
        ("csv", {"file": "lists/train_test_split.txt"}, ""),
        ("csv", {"file": "anno_train.csv"}, ""),
        ("cub200", {"split": "train_test_split.txt"}, ""),
    ],
)
def test_the_closed_set_splits_are_refused_with_an_explanation(root: Path, name, options, below) -> None:
    with pytest.raises(DatasetError, match="classes never trained on"):
        verify(name, root, options)


def test_the_root_may_not_be_a_closed_set_split_either(root: Path) -> None:
    assert "classes never trained on" in verify("cub200", root / "train_test_split.txt").faults[0]


@pytest.mark.parametrize(
    ("name", "options", "processes", "message"),
    [
        ("cub20", {}, None, "did you mean cub200"),
        ("folder", {"test_shar": 0.5}, None, "did you mean test_share"),
        ("folder", {"test_share": 2}, None, "share is 2"),
        ("folder", {}, 0, "processes is 0"),
    ],
)
def test_wrong_arguments_are_refused(root: Path, name, options, processes, message) -> None:
    with pytest.raises(ValueError, match=message):
        verify(name, root, options, processes=processes)


def test_a_fault_can_be_printed_and_written_whatever_the_name_of_the_file(root: Path) -> None:
    name = b"line\nbreak and \xff.png"
    try:
        (root / "a" / os.fsdecode(name)).write_bytes(b"")
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    (fault,) = verify("folder", root, processes=1).faults
    assert "\n" not in fault
    assert fault.encode()


def test_a_lost_process_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_image", lambda path, **_: os._exit(1))
    with pytest.raises(RetrievalError, match="a process that opens images was lost"):
        list(open_images([root / "a" / "0.png"] * 4, 2))


@pytest.mark.slow
def test_the_real_images_are_whole_and_the_missing_ones_are_all_named(cub200_root: Path) -> None:
    report = verify("cub200", cub200_root, {"train_classes": [1, 5], "test_classes": [6, 10]}, processes=2)
    assert report.faults == ()
    assert not report.as_published
    report = verify("cub200", cub200_root, processes=2)
    assert report.splits == {"train": (100, 5_864), "test": (100, 5_924)}
    assert len(report.faults) == 11_788 - 2_889
    assert all("No such file" in fault for fault in report.faults)


@pytest.mark.slow
def test_a_whole_real_data_set_has_the_published_counts(omniglot_root: Path) -> None:
    report = verify("omniglot", omniglot_root, processes=2)
    assert (report.faults, report.as_published) == ((), True)
    assert report.splits == {"train": (964, 19_280), "test": (659, 13_180)}
