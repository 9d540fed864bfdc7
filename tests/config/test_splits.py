from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from retrieval.config import Config, load
from retrieval.config.check import check
from retrieval.config.splits import build_sampler, gallery_of, measured_splits, name_images, read_splits
from retrieval.data import HierarchicalSampler, ImageSet
from retrieval.errors import ConfigError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight training classes of four images in four super-classes; four test classes with a query and three gallery images each."""
    folder = tmp_path_factory.mktemp("data")
    lines = ["path,label,split,super_class"]
    for class_ in range(12):
        for i in range(4):
            Image.new("RGB", (4, 4)).save(folder / f"{class_}-{i}.png")
            split = "train" if class_ < 8 else ("gallery" if i else "query")
            lines.append(f"{class_}-{i}.png,{class_},{split},{class_ // 2}")
    (folder / "images.csv").write_text("\n".join(lines))
    return folder


def configure(root, *words: str) -> Config:
    return load("glyphs", ["data.name=csv", f"data.root={root}", "evaluation.ks=[1]", "batch.size=8", *words])


def test_folds_hold_out_every_class_once_for_any_seed_of_the_run(root):
    held_out = []
    for fold in range(4):
        splits = read_splits(configure(root, "data.folds=4", f"data.fold={fold}", f"seed={fold}"))
        assert not set(splits["train"].class_names) & set(splits["validation"].class_names)
        held_out += splits["validation"].class_names
    assert sorted(held_out) == [str(class_) for class_ in range(8)]


def test_a_share_is_held_out_by_a_seed_of_its_own(root):
    def validation(*words: str) -> tuple[str, ...]:
        return read_splits(configure(root, "data.validation_share=0.25", *words))["validation"].class_names

    assert validation() == validation("seed=5")
    assert len({validation(f"data.split_seed={seed}") for seed in range(5)}) > 1
    assert "validation" not in read_splits(configure(root, "data.validation_share=0"))


def image_set(sizes: list[int]) -> ImageSet:
    return ImageSet.from_pairs("data", [(f"{c}/{i}.png", str(c)) for c, size in enumerate(sizes) for i in range(size)])


def own(*words: str) -> Config:
    """A configuration as a run with an object for images has it."""
    return load(load("photos", {"data.name": "<tests.Images>"}), words)


def messages(caplog) -> str:
    return "\n".join(caplog.messages)


def test_where_other_classes_are_tested_classes_are_held_out():
    splits = read_splits(own("data.validation_share=0.1"), image_set([6] * 40))
    assert {name: images.num_classes for name, images in splits.items()} == {"train": 18, "test": 20, "validation": 2}
    assert not set(splits["train"].class_names) & set(splits["validation"].class_names)


@pytest.mark.parametrize("split", ["all", "images"])
def test_where_every_class_trains_images_are_held_out(split):
    splits = read_splits(own(f"data.split={split}"), image_set([10] * 20))
    assert list(splits) == (["train", "validation"] if split == "all" else ["train", "query", "gallery", "validation"])
    assert splits["train"].num_classes == 20
    assert len(splits["validation"]) == (30 if split == "all" else 20)
    assert not set(splits["train"].paths) & set(splits["validation"].paths)
    if split == "images":
        assert set(splits["gallery"].paths) == {*splits["train"].paths, *splits["validation"].paths}


def test_the_splits_are_a_pure_function_of_the_configuration():
    for split in ("classes", "all", "images"):
        found = [read_splits(own(f"data.split={split}", f"seed={seed}"), image_set([10] * 20)) for seed in (0, 1)]
        assert [images.paths for images in found[0].values()] == [images.paths for images in found[1].values()]


def test_brought_validation_images_take_the_place_of_a_held_out_share():
    images = image_set([4] * 12)
    given = {
        "train": images.select(range(24)),
        "val": images.select(range(24, 32)),
        "test": images.select(range(32, 48)),
    }
    splits = read_splits(own(), given)
    assert {name: len(part) for name, part in splits.items()} == {"train": 24, "validation": 8, "test": 16}
    with pytest.raises(ConfigError, match=r"data\.folds: the images bring validation images of their own"):
        read_splits(own("data.folds=2"), given)


def test_brought_test_images_of_training_classes_hold_out_images_and_refuse_folds():
    images = image_set([8] * 6)
    is_test = np.arange(48) % 8 < 2
    given = {"train": images.select(np.flatnonzero(~is_test)), "test": images.select(np.flatnonzero(is_test))}
    splits = read_splits(own(), given)
    assert splits["train"].num_classes == 6
    assert set(splits["validation"].class_names) <= set(splits["train"].class_names)
    with pytest.raises(
        ConfigError, match=r"data\.folds: folds are of classes, but the tested classes are training classes"
    ):
        read_splits(own("data.folds=2"), given)


def test_folds_go_with_classes_only():
    with pytest.raises(ConfigError, match=r"data\.folds are of classes, but split is 'all'"):
        load("photos", ["data.folds=3", "data.split=all"])


def test_few_images_are_no_error_but_a_line(caplog):
    caplog.set_level("INFO", logger="retrieval")
    assert "validation" not in read_splits(own(), image_set([4] * 6))
    assert "no validation: it needs four training classes of two or more images, there are 3" in messages(caplog)
    assert "validation" not in read_splits(own("data.split=all"), image_set([2] * 6))
    assert "no validation: it needs a class with three or more images" in messages(caplog)
    assert read_splits(own(), image_set([4] * 12))["validation"].num_classes == 2
    assert "validation: 2 of 6 training classes are held out" in messages(caplog)


def test_classes_of_one_image_are_counted(caplog):
    caplog.set_level("INFO", logger="retrieval")
    read_splits(own("data.split=all"), image_set([1, 1, 8, 8]))
    assert "train: 2 of 4 classes have a single image, which is left out" in messages(caplog)


@pytest.mark.parametrize("split", ["all", "images"])
def test_a_published_data_set_is_not_divided_otherwise(split):
    config = load("cub200", ["data.root=CUB_200_2011", f"data.split={split}"])
    message = f"data.split is '{split}', but cub200 has published splits; leave it at classes"
    with pytest.raises(ConfigError, match=message):
        read_splits(config)
    with pytest.raises(ConfigError, match=message):
        check(config, ("data",))


def test_what_is_measured_is_the_test_or_else_the_validation():
    images, others = image_set([2, 2]), image_set([2, 2, 2, 2]).select(range(4, 8))
    assert measured_splits({"train": images, "validation": images, "test": others}) == ("test", "test")
    assert measured_splits({"train": images, "query": images, "gallery": images}) == ("query", "gallery")
    assert measured_splits({"train": images, "validation": others}) == ("validation", "validation")
    assert measured_splits({"train": images}) is None


def test_validation_images_of_training_classes_are_searched_in_the_training_images():
    splits = read_splits(own("data.split=all"), image_set([10] * 20))
    assert measured_splits(splits) == ("validation", "train")
    splits = read_splits(own("data.validation_share=0.1"), image_set([6] * 40))
    assert gallery_of("validation", splits) == "validation"
    mostly_known = image_set([4, 4, 4])
    train = mostly_known.select(range(8))
    assert gallery_of("validation", {"train": train, "validation": mostly_known}) == "train"
    assert gallery_of("validation", {"train": train.select(range(4)), "validation": mostly_known}) == "validation"


def test_the_sampler_is_that_of_the_option(root):
    config = configure(root, "batch.sampler=hierarchical", "batch.samples_per_class=2", "data.validation_share=0")
    images = read_splits(config)["train"]
    sampler = build_sampler(config, images)
    assert isinstance(sampler, HierarchicalSampler)
    for batch in sampler.epoch(0):
        assert len(np.unique(images.super_labels[batch])) == 2


def test_the_images_of_a_step_are_named(root):
    config = configure(root, "data.validation_share=0")
    images = read_splits(config)["train"]
    sampler = build_sampler(config, images)
    step = 2 * sampler.steps_per_epoch + 1
    assert name_images(images, sampler)(step) == [images.paths[i] for i in sampler.epoch(2)[1]]


def test_classes_of_a_single_image_are_not_held_out():
    test = ImageSet.from_pairs("data", [(f"{name}/{i}.png", name) for name in "xy" for i in range(3)])
    for seed in range(20):
        words = (f"data.split_seed={seed}", "data.lone_classes=leave_out", "data.validation_share=0.15")
        splits = read_splits(own(*words), {"train": image_set([1] * 6 + [5] * 6), "test": test})
        assert splits["validation"].class_sizes().min() > 1
        assert len(splits["train"]) + len(splits["validation"]) == 36
