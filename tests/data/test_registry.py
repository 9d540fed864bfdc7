"""Promises of `retrieval.data.registry`."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.data.registry import DATASETS, read_dataset
from retrieval.errors import DatasetError


def make_folder(root: Path) -> Path:
    for name in "abcdef":
        (root / name).mkdir(parents=True)
        (root / name / "1.png").touch()
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
