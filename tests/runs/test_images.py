"""The splits of a run are read again only if its images are those that it was started with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.config import load, to_yaml
from retrieval.config.splits import read_splits
from retrieval.data import ImageSet
from retrieval.errors import CheckpointError
from retrieval.runs import Run
from retrieval.runs.images import require_same_images, write_images
from retrieval.training import RunFolder

PATHS = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "owl/0.png", "owl/1.png"]


def split(paths: list[str], super_labels: list[int] | None = None) -> ImageSet:
    labels = None if super_labels is None else np.array(super_labels)
    return ImageSet.from_pairs("photos", [(path, path.split("/")[0]) for path in paths], labels)


def make_run(path: Path, splits: dict[str, ImageSet], config: str = "seed: 1\n") -> RunFolder:
    folder = RunFolder(path)
    folder.create(config, {"data": {name: images.fingerprint() for name, images in splits.items()}})
    write_images(folder, splits)
    return folder


def message(folder: RunFolder, splits: dict[str, ImageSet]) -> str:
    with pytest.raises(CheckpointError) as error:
        require_same_images(splits, folder, "or train again")
    return str(error.value)


@pytest.mark.parametrize(
    ("train", "test", "changed", "differences"),
    [
        (PATHS[:4], [*PATHS[4:], "ant/0.png"], "test", "1 new class ('ant')"),
        (PATHS[:2], PATHS[4:], "train", "1 missing class ('dog')"),
        (PATHS[:4], [*PATHS[4:], "owl/2.png"], "test", "1 new image ('owl/2.png')"),
        (PATHS[1:4], PATHS[4:], "train", "1 missing image ('cat/0.png')"),
        (
            [*PATHS[:3], "dog/x.png"],
            PATHS[4:],
            "train",
            "1 new image ('dog/x.png'), 1 missing image ('dog/1.png')",
        ),
        (
            [*PATHS[:2], *PATHS[4:]],
            PATHS[2:4],
            "test, train",
            "4 images in another split ('dog/0.png', 'dog/1.png', 'owl/0.png', ...)",
        ),
        (PATHS[3::-1], PATHS[4:], "train", "another order, or other super-classes"),
    ],
)
def test_what_has_changed_is_named_with_some_examples(tmp_path, train, test, changed, differences):
    folder = make_run(tmp_path / "run", {"train": split(PATHS[:4]), "test": split(PATHS[4:])})
    assert message(folder, {"train": split(train), "test": split(test)}) == (
        f"{tmp_path / 'run'}: was started with other images or classes ({changed}): {differences}; "
        "restore the data, or train again"
    )


def test_an_image_of_another_class_a_lost_split_and_other_super_classes_are_named(tmp_path):
    folder = make_run(tmp_path / "run", {"train": split(PATHS[:4], [0, 0, 1, 1]), "test": split(PATHS[4:])})
    pairs = [(path, path.split("/")[0]) for path in PATHS[:4]]
    other = ImageSet.from_pairs("photos", [*pairs[:3], (pairs[3][0], "cat")], np.array([0, 0, 1, 0]))
    assert "(train): 1 image of another class ('dog/1.png');" in message(
        folder, {"train": other, "test": split(PATHS[4:])}
    )
    assert "(test): 1 missing class ('owl');" in message(folder, {"train": split(PATHS[:4], [0, 0, 1, 1])})
    splits = {"train": split(PATHS[:4], [0, 0, 0, 0]), "test": split(PATHS[4:])}
    assert "(train): another order, or other super-classes;" in message(folder, splits)


def test_the_same_images_in_another_folder_and_a_run_without_a_record_are_accepted(tmp_path):
    splits = {"train": split(PATHS[:4]), "test": split(PATHS[4:])}
    folder = make_run(tmp_path / "run", splits)
    moved = {
        name: ImageSet(Path("elsewhere"), images.paths, images.labels, images.class_names)
        for name, images in splits.items()
    }
    require_same_images(moved, folder, "or train again")
    for text in ("", "[]", "{}", '{"data": 3}'):
        folder.environment.write_text(text)
        require_same_images({"train": split(PATHS[:1])}, folder, "or train again")


@pytest.mark.parametrize("content", [None, "", "split,class\n", "split,class,path\ntrain,cat\n", '"', "\0"])
def test_without_a_list_of_images_the_splits_are_named(tmp_path, content):
    folder = make_run(tmp_path / "run", {"train": split(PATHS)})
    if content is None:
        folder.images.unlink()
    else:
        folder.images.write_text(content)
    assert "or classes (train); restore" in message(folder, {"train": split(PATHS[:4])})


def draw(root: Path, classes: range) -> Path:
    for class_ in classes:
        for i in range(3):
            file = root / f"class {class_:02}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (20 * class_, 80 * i, 0)).save(file)
    return root


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_a_run_does_not_read_splits_that_have_changed_after_the_training(tmp_path, change):
    photos = draw(tmp_path / "my photos", range(1, 9))
    config = load("glyphs", {"data.name": "folder", "data.root": str(photos), "data.validation_share": 0})
    make_run(tmp_path / "run", read_splits(config), to_yaml(config))
    assert Run.open(tmp_path / "run").splits["train"].num_classes == 4
    if change == "added":
        draw(photos, range(1))
    elif change == "renamed":
        (photos / "class 01").rename(photos / "class 10")
    else:
        (photos / "class 01" / "0.png").unlink()
    run = Run.open(tmp_path / "run")
    for read in (lambda: run.splits, lambda: run.measured_on, run.report, lambda: run.build_index("test")):
        with pytest.raises(CheckpointError) as error:
            read()
        hint = f"index the images as they are now with `retrieval index {run.path} --images '{photos}'`"
        assert hint in str(error.value)


def test_images_that_are_given_again_are_compared_too(tmp_path):
    sets = {"train": split(PATHS[:4]), "test": split(PATHS[4:])}
    config = load("glyphs", {"data.name": "folder", "data.validation_share": 0})
    make_run(tmp_path / "run", sets, to_yaml(config))
    assert Run.open(tmp_path / "run", data=sets).splits == sets
    sets["test"] = split([PATHS[4], "owl/9.png"])
    with pytest.raises(CheckpointError, match=r"1 missing image .*; restore the data, or train again"):
        Run.open(tmp_path / "run", data=sets)
