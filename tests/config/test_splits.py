from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from retrieval.config import Config, load
from retrieval.config.splits import build_sampler, name_images, read_splits
from retrieval.data import HierarchicalSampler
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


def test_k_is_bounded_by_the_gallery_and_by_the_validation_classes(root):
    read_splits(configure(root, "data.validation_share=0", "evaluation.ks=[12]"))
    with pytest.raises(ConfigError, match="k is 13, but a query of the query split has 12 others"):
        read_splits(configure(root, "data.validation_share=0", "evaluation.ks=[13]"))
    with pytest.raises(ConfigError, match="k is 8, but a query of the validation split has 7 others"):
        read_splits(configure(root, "data.validation_share=0.25", "evaluation.ks=[8]"))


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
