"""Promises of `retrieval.data.omniglot`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.data import omniglot
from retrieval.errors import DatasetError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def test_the_two_archives_are_train_and_test_and_a_class_is_a_character_of_an_alphabet(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images_background/Greek/character{i:02}/000{i}_{j:02}.png" for i in (1, 2) for j in (1, 2)))
    touch(
        tmp_path, "images_background/Latin/character01/0003_01.png", "images_background/Latin/character01/._0003_01.png"
    )
    touch(tmp_path, "images_background/Latin/character01/notes.txt", "images_evaluation/ULOG/character01/0965_01.png")
    splits = omniglot.read(tmp_path)
    assert list(splits) == ["train", "test"]
    assert splits["train"].class_names == ("Greek/character01", "Greek/character02", "Latin/character01")
    assert splits["train"].labels.tolist() == [0, 0, 1, 1, 2]
    assert splits["train"].paths[-1] == "images_background/Latin/character01/0003_01.png"
    assert splits["train"].super_labels is not None
    assert splits["train"].super_labels.tolist() == [0, 0, 0, 0, 1]  # Greek, Latin
    assert splits["test"].class_names == ("ULOG/character01",)


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "images_background/Greek/character01/0001_01.png")
    with pytest.raises(DatasetError, match=r"images_evaluation: no images; .*unpack images_evaluation.zip"):
        omniglot.read(tmp_path)
    with pytest.raises(DatasetError, match=r"nowhere/images_background: no images"):
        omniglot.read(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_complete_data_set_has_the_published_counts(omniglot_root: Path) -> None:
    splits = omniglot.read(omniglot_root)
    assert (len(splits["train"]), splits["train"].num_classes) == (19_280, 964)
    assert (len(splits["test"]), splits["test"].num_classes) == (13_180, 659)
    for images in splits.values():
        assert set(images.class_sizes()) == {20}
    with Image.open(splits["test"].root / splits["test"].paths[0]) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (105, 105)
    assert set(np.unique(pixels)) == {0, 255}
    assert 0.8 < (pixels == 255).mean() < 1  # black ink on white
