"""Promises of `retrieval.data.registry`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from retrieval.data import ImageSet, union
from retrieval.data.registry import DATASETS, check_options, find_reader, read_dataset
from retrieval.errors import DatasetError


def make_folder(root: Path) -> Path:
    for name in "abcdef":
        (root / name).mkdir(parents=True)
        for i in range(2):
            (root / name / f"{i}.png").touch()
    return root


def test_a_data_set_is_read_by_name_with_its_options(tmp_path: Path) -> None:
    splits = read_dataset("folder", str(make_folder(tmp_path)), test_share=0.34, seed=1)
    assert (splits["train"].num_classes, splits["test"].num_classes) == (4, 2)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make_folder(tmp_path / "birds")
    assert read_dataset("folder", "~/birds")["train"].root == tmp_path / "birds"


def test_an_unknown_data_set_is_refused_with_the_one_meant() -> None:
    with pytest.raises(ValueError, match=r"no data set 'cub20'; known are cars196, .*did you mean cub200\?"):
        read_dataset("cub20", "data")


def test_an_unknown_option_is_refused_with_the_one_meant() -> None:
    with pytest.raises(ValueError, match=r"folder has no option 'test_shar'; .*did you mean test_share\?"):
        read_dataset("folder", "data", test_shar=0.5)
    with pytest.raises(ValueError, match="omniglot has no option 'seed'; known are none"):
        read_dataset("omniglot", "data", seed=0)


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"glyphs"}))
def test_every_data_set_on_disk_needs_a_root(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs a root"):
        read_dataset(name)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("cub200", "CUB_200_2011/train_test_split.txt"),
        ("cars196", "devkit/cars_train_annos.mat"),
        ("csv", "anno_test.csv"),
        ("folder", "cars_test_annos_withlabels.mat"),
    ],
)
def test_closed_set_lists_are_refused_with_an_explanation(tmp_path: Path, name: str, path: str) -> None:
    with pytest.raises(
        DatasetError, match=r"closed-set split\) cannot be used; .*as the data set c\w+ does when its folder"
    ):
        read_dataset(name, tmp_path / path)


@pytest.mark.parametrize("name", sorted(DATASETS))
@pytest.mark.parametrize("exists", [True, False])
def test_every_data_set_names_a_missing_or_empty_root_in_one_line(name: str, exists: bool, tmp_path: Path) -> None:
    root = tmp_path / "data"
    if exists:
        root.mkdir()
    with pytest.raises(DatasetError, match=r"expected|root must be") as caught:
        read_dataset(name, root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


PIXELS = np.zeros((1, 8, 8, 3), dtype=np.uint8)


class Letters(Dataset[Any]):
    """Two images of every letter."""

    def __init__(self, letters: str) -> None:
        self.targets = [letter for letter in letters for _ in range(2)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        return PIXELS[0], self.targets[index]


def letters(names: str) -> ImageSet:
    return ImageSet.from_dataset(Letters(names))


def classes(splits: dict[str, ImageSet]) -> dict[str, str]:
    return {split: "".join(images.class_names) for split, images in splits.items()}


def read_splits(root: Path, *, swap: bool = False) -> dict[str, Any]:
    assert isinstance(root, Path)
    return (
        {"test": letters("cd"), "train": letters("ab")} if not swap else {"test": letters("ab"), "train": letters("cd")}
    )


def test_a_reader_of_ones_own_returns_image_sets_or_torch_data_sets(tmp_path: Path) -> None:
    assert find_reader(read_splits) is read_splits
    assert classes(read_dataset(read_splits, str(tmp_path))) == {"train": "ab", "test": "cd"}
    assert list(read_dataset(read_splits, tmp_path)) == ["train", "test"]
    assert classes(read_dataset(read_splits, tmp_path, swap=True)) == {"train": "cd", "test": "ab"}
    found = read_dataset(lambda: {"train": Letters("ab"), "query": Letters("cd"), "gallery": letters("cd")})
    assert classes(found) == {"train": "ab", "query": "cd", "gallery": "cd"}
    assert found["train"].load(0).size == (8, 8)


@pytest.mark.parametrize("make", [letters, Letters])
def test_the_classes_of_a_single_set_are_divided(make: Any) -> None:
    for data in (make("abcdef"), lambda: make("abcdef")):
        divided = read_dataset(data)
        assert sorted("".join(classes(divided).values())) == list("abcdef")
        assert [images.num_classes for images in divided.values()] == [3, 3]
        assert [images.num_classes for images in read_dataset(data, test_share=0.34).values()] == [4, 2]
        assert len({read_dataset(data, seed=seed)["test"].class_names for seed in range(6)}) > 1
        with pytest.raises(ValueError, match="share is 2"):
            read_dataset(data, test_share=2)


def test_a_reader_that_takes_the_options_of_the_division_gets_them() -> None:
    def read(seed: int, test_share: float = 0.25) -> ImageSet:
        assert (seed, test_share) == (7, 0.5)
        return letters("abcd")

    assert len(read_dataset(read, seed=7, test_share=0.5)) == 2


@pytest.mark.parametrize("make", [letters, Letters])
def test_a_single_set_is_divided_as_split_says(make: Any) -> None:
    for data in (make("abcdef"), lambda: make("abcdef")):
        assert classes(read_dataset(data, split="all")) == {"train": "abcdef"}
        with pytest.raises(DatasetError, match="no class has three images"):
            read_dataset(data, split="images")


def test_a_folder_is_divided_as_split_says(tmp_path: Path) -> None:
    assert list(read_dataset("folder", make_folder(tmp_path), split="all")) == ["train"]


@pytest.mark.parametrize("split", ["all", "images"])
def test_images_with_splits_of_their_own_are_not_divided(tmp_path: Path, split: str) -> None:
    for name in ("train/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").touch()
    with pytest.raises(ValueError, match=rf"split is '{split}', but {tmp_path} brings its own splits \(train, test\)"):
        read_dataset("folder", tmp_path, split=split)
    with pytest.raises(ValueError, match=rf"split is '{split}', but the data set brings its own splits"):
        read_dataset({"train": letters("ab"), "test": letters("cd")}, split=split)
    with pytest.raises(ValueError, match=rf"split is '{split}', but cub200 has published splits; leave it at classes"):
        read_dataset("cub200", tmp_path, split=split)


def test_own_sets_by_split_may_share_classes() -> None:
    found = read_dataset({"train": letters("abc"), "valid": letters("xy"), "test": letters("bc")})
    assert classes(found) == {"train": "abc", "validation": "xy", "query": "bc", "gallery": "abc"}


def test_a_reader_with_a_parameter_split_gets_it_itself() -> None:
    def read(split: str = "trainval") -> ImageSet:
        return letters("abcd" if split == "trainval" else "efgh")

    assert sorted("".join(classes(read_dataset(read)).values())) == list("abcd")


def test_a_class_of_a_library_is_a_reader_too() -> None:
    assert [images.num_classes for images in read_dataset(Letters, letters="abcd").values()] == [2, 2]


def test_sets_are_taken_as_they_are() -> None:
    splits = {"gallery": letters("xy"), "train": Letters("ab"), "query": letters("xy")}
    assert classes(read_dataset(splits)) == {"train": "ab", "query": "xy", "gallery": "xy"}
    for data in (splits, Letters("abcd"), letters("abcd")):
        with pytest.raises(ValueError, match=r"root is 'photos'; leave it out for a \w+, which needs no folder"):
            read_dataset(data, "photos")
        with pytest.raises(ValueError, match=r"the data set has no option 'sed'; .*did you mean seed\?"):
            read_dataset(data, sed=1)


def test_the_options_of_any_reader_can_be_checked_without_reading() -> None:
    def read(root: Path, required: int, optional: int = 0) -> None:
        pytest.fail("it is read")

    check_options("folder", {"test_share": 0.5, "seed": 1})
    check_options("glyphs", {})
    check_options(find_reader("cars196"), {"check_md5": False})
    check_options(read, {"required": 1, "seed": 2})
    check_options(lambda **options: None, {"anything": 1})
    with pytest.raises(ValueError, match=r"^folder has no option 'test_shar'; .*did you mean test_share\?"):
        check_options(find_reader("folder"), {"test_shar": 0.5})
    with pytest.raises(ValueError, match=r"^omniglot has no option 'seed'; known are none"):
        check_options("omniglot", {"seed": 0})
    with pytest.raises(
        ValueError, match=r":test_the.*read has no option 'x'; known are required, optional, test_share, seed"
    ):
        check_options(read, {"x": 1})
    with pytest.raises(ValueError, match="read needs the option 'required'"):
        check_options(read, {"optional": 1})
    with pytest.raises(ValueError, match=r"no data set 'foldr'.*did you mean folder"):
        check_options("foldr", {})


def test_the_root_of_a_reader_is_given_where_it_is_needed() -> None:
    with pytest.raises(ValueError, match="read_splits needs a root; give the folder with its images"):
        read_dataset(read_splits)
    with pytest.raises(ValueError, match=r"Letters takes no root; leave it out, or add a parameter root to the reader"):
        read_dataset(Letters, "photos", letters="abcd")
    with pytest.raises(ValueError, match="the data set is of type int; give a name, a reader, or image sets"):
        read_dataset(3)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            None,
            "is of type NoneType; expected one ImageSet or torch Dataset, or a dict of them: train and test, or train,",
        ),
        ([letters("ab")], "is of type list; expected one ImageSet"),
        ({}, r"is a dict with the keys \(none\); expected"),
        ({"train": letters("ab"), "dev": letters("cd")}, "is a dict with the keys 'train', 'dev'; expected"),
        ({"train": letters("ab")}, "its splits are train; expected train and test, or"),
        ({"train": letters("ab"), "test": [1]}, r"test: is of type list; expected"),
        (
            {"train": letters("ab"), "query": letters("cd"), "gallery": letters("ef")},
            "no class of query is in gallery",
        ),
        (letters("abc"), r"the data set Letters: has 3 classes with images \('a', 'b', 'c'\); train and test need two"),
        (TensorDataset(torch.zeros(0)), "an image set without images"),
    ],
)
def test_what_else_a_reader_returns_is_named_with_what_is_expected(returned: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read_dataset(lambda: returned)
    assert "\n" not in str(caught.value)


def test_a_division_without_a_pair_to_find_is_an_early_error() -> None:
    lone = ImageSet.from_pairs("data", [(f"{i}.png", f"class {i}") for i in range(8)])
    with pytest.raises(
        DatasetError, match="data: each of the 4 test classes has a single image, so no test image"
    ) as caught:
        read_dataset(lone)
    assert "data.split" in str(caught.value)
    train = ImageSet.from_pairs("data", [(f"t{i}.png", f"train {i // 2}") for i in range(8)])
    with pytest.raises(DatasetError, match="each of the 8 test classes has a single image"):
        read_dataset({"train": train, "test": lone})
    closed = ImageSet.from_pairs("data", [(f"q{i}.png", f"train {i}") for i in range(4)])
    assert list(read_dataset({"train": train, "test": closed})) == ["train", "query", "gallery"]
    assert list(read_dataset(lone, split="all")) == ["train"]


def test_classes_that_look_alike_are_refused_in_one_set_and_over_the_splits() -> None:
    one, other = (
        ImageSet.from_pairs("data", [(f"{i}.png", name) for i in range(2)]) for name in ("caf\u00e9", "cafe\u0301")
    )
    more = ImageSet.from_pairs("data", [(f"a{i}.png", f"{i // 2}") for i in range(4)])
    with pytest.raises(DatasetError, match="look alike but are written"):
        read_dataset({"train": union([one, more]), "test": other})
    with pytest.raises(DatasetError, match="look alike but are written"):
        read_dataset(ImageSet.from_dataset([0, 0, 0, 0], labels=["a b", "a\u00a0b", "c", "d"]))
    with pytest.raises(ValueError, match=r"class_names holds 'a\\tb', which has a control character"):
        ImageSet.from_dataset([0, 0], labels=["a\tb", "c"])
