from __future__ import annotations

import pytest
import torch
from torch import nn

from retrieval.config import load
from retrieval.data import ImageSet
from retrieval.runs.summary import summarize_training


def image_set(sizes: list[int]) -> ImageSet:
    return ImageSet.from_pairs("data", [(f"{c}/{i}.png", str(c)) for c, size in enumerate(sizes) for i in range(size)])


def summarize(*words: str, sizes: tuple[int, ...] = (4, 5, 1200)):
    splits = {"train": image_set(list(sizes)), "query": image_set([1]), "gallery": image_set([2])}
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    network[1].requires_grad_(False)
    return summarize_training(
        load("photos", ["training.epochs=8", *words]), splits, network, torch.device("cpu"), steps_per_epoch=9
    )


def test_the_summary_has_images_classes_sizes_and_role_of_every_split():
    plan = summarize(sizes=(2, 3, 5, 1200))
    assert {name: (split.images, split.classes, split.class_size) for name, split in plan.splits.items()} == {
        "train": (1210, 4, (2, 4.0, 1200)),
        "query": (1, 1, (1, 1.0, 1)),
        "gallery": (2, 1, (2, 2.0, 2)),
    }
    heading, train, *_ = str(plan).splitlines()
    assert heading.split() == ["images", "classes", "images", "a", "class", "role"]
    assert train.split() == ["train", "1,210", "4", "2-4-1,200", "trained", "on"]


def test_the_summary_has_network_device_pixels_steps_batch_and_loss():
    facts = summarize("training.epochs=8", "image.size=160", "image.resize=182", "batch.size=128").facts
    assert facts == {
        "network": "mobilenetv2_100, 24 parameters",
        "device": "cpu",
        "pixels": "160 of 182, augmentation photo",
        "steps": "72 = 8 epochs x 9",
        "batch": "128 images = 32 classes x 4",
        "loss": facts["loss"],
    }
    assert facts["loss"].startswith("recall (")
    assert summarize("training.max_steps=5", "training.epochs=2").facts["steps"] == "18 = 2 epochs x 9, ends after 5"
    for sizes, size in (((4, 5, 12), 30), ((3, 4, 4), 12)):
        assert summarize(f"batch.size={size}", sizes=sizes).facts["batch"] == f"{size} images, up to 4 of a class"
    assert summarize("batch.size=8", sizes=(1, 4, 4)).facts["batch"] == "8 images = 2 classes x 4"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["loss.name=triplet"], "triplet"),
        (["loss.projection=std", "loss.weighting=linear"], "recall (std, linear)"),
        (["loss.terms=[{projection: std}, {name: triplet}]"], "recall (std, sqrt) + triplet"),
    ],
)
def test_the_loss_is_named_with_its_projection(words, expected):
    assert summarize(*words).facts["loss"] == expected
