"""Promises of `retrieval.data.unreadable`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.data import ImageSet, readable, readable_files
from retrieval.data.registry import read_data
from retrieval.data.unreadable import Unreadable
from retrieval.errors import DatasetError

BROKEN = ("a/1.png", "c/0.png", "d/0.png", "d/1.png", "d/2.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six classes of three images, five of which are broken."""
    for name in "abcdef":
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("L", (4, 4), 40 * i).save(tmp_path / name / f"{i}.png")
    for path in BROKEN:
        (tmp_path / path).write_bytes((tmp_path / path).read_bytes()[:30])
    return tmp_path


@pytest.mark.parametrize("processes", [0, 2])
def test_unreadable_images_are_left_out_before_a_set_is_divided(root: Path, processes: int, caplog) -> None:
    unreadable = Unreadable(processes)
    splits = read_data("folder", root, {}, unreadable)
    assert tuple(unreadable.faults) == BROKEN
    found = sorted(path for images in splits.values() for path in images.paths)
    assert found == sorted(f"{name}/{i}.png" for name in "abcdef" for i in range(3) if f"{name}/{i}.png" not in BROKEN)
    assert f"{root}: 5 of 18 images cannot be read and are skipped" in caplog.messages
    assert sum(message.startswith(f"skipped: {root}/") for message in caplog.messages) == 5


def test_what_an_earlier_reading_has_found_is_left_out_whatever_has_become_of_it(root: Path) -> None:
    before = Unreadable()
    splits = read_data("folder", root, {}, before)
    Image.new("L", (4, 4)).save(root / "a" / "1.png")  # mended
    (root / "b" / "0.png").write_bytes(b"")  # broken since
    again = read_data("folder", root, {}, Unreadable(known=before.faults))
    assert {name: images.fingerprint() for name, images in again.items()} == {
        name: images.fingerprint() for name, images in splits.items()
    }


def test_images_without_files_are_known_by_their_split_and_position(caplog: pytest.LogCaptureFixture) -> None:
    good, bad = np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((4, 4, 7))
    train = ImageSet.from_dataset([good, bad, good, good, good], labels=list("aaabb"))
    test = ImageSet.from_dataset([good, good, bad], labels=list("ccc"))
    unreadable = Unreadable()
    splits = read_data({"train": train, "test": test}, None, {}, unreadable)
    assert list(unreadable.faults) == ["train/000001", "test/000002"]
    assert (splits["train"].paths, splits["test"].paths) == (
        ("000000", "000002", "000003", "000004"),
        ("000000", "000001"),
    )
    assert "the data set list: 1 of 5 images cannot be read and are skipped" in caplog.messages


def test_nothing_is_opened_or_left_out_by_default(root: Path) -> None:
    assert sum(map(len, read_data("folder", root, {}).values())) == 18


def test_files_and_sets_keep_their_order_and_none_that_can_be_read_is_an_error(root: Path) -> None:
    files = [root / path for path in ("c/2.png", "c/0.png", "a/0.png")]
    assert readable_files(files) == [files[0], files[2]]
    images = ImageSet.from_pairs(root, [("c/2.png", "c"), ("c/0.png", "c"), ("a/0.png", "a"), ("d/0.png", "d")])
    assert (readable(images).paths, readable(images).class_names) == (("c/2.png", "a/0.png"), ("a", "c"))
    with pytest.raises(DatasetError, match=r"no image can be read; the first: .*0\.png: cannot be read as an image"):
        readable_files(files[1:2])
    with pytest.raises(DatasetError, match=r"no image can be read; the first: .*0\.png: cannot be read as an image"):
        readable(images.select([1, 3]))


def test_the_limit_on_pixels_is_that_of_the_model(root: Path) -> None:
    images = ImageSet.from_pairs(root, [("a/0.png", "a"), ("b/0.png", "b")])
    Image.new("L", (8, 8)).save(root / "b" / "0.png")
    assert readable(images, max_pixels=16).paths == ("a/0.png",)
    assert readable_files([root / "b/0.png", root / "a/0.png"], max_pixels=16) == [root / "a/0.png"]
    assert readable(images, max_pixels=64).paths == images.paths
