from __future__ import annotations

import pytest

from retrieval.config import Config, load
from retrieval.config.fitting import IMAGES_SEEN, LEAST_EPOCHS, MOST_EPOCHS, choose_epochs, fit
from retrieval.data import ImageSet
from retrieval.errors import ConfigError


def image_set(sizes: list[int]) -> ImageSet:
    return ImageSet.from_pairs("data", [(f"{c}/{i}.png", str(c)) for c, size in enumerate(sizes) for i in range(size)])


def fitted(train: list[int], *words: str, source: str = "photos", **others: list[int]) -> Config:
    splits = {name: image_set(sizes) for name, sizes in {"train": train, **others}.items()}
    return fit(load(source, words), splits)


def test_epochs_auto_is_a_number_by_the_number_of_training_images():
    assert choose_epochs(1) == MOST_EPOCHS
    assert choose_epochs(10**9) == LEAST_EPOCHS
    assert choose_epochs(IMAGES_SEEN // 10) == 10
    assert fitted([IMAGES_SEEN // 40] * 4, "training.epochs=auto").training.epochs == 10
    assert fitted([10] * 4, "training.epochs=7").training.epochs == 7


@pytest.mark.parametrize(
    ("sizes", "words", "size"),
    [
        ([4] * 40, [], 128),
        ([9] * 31, [], 124),
        ([9] * 30 + [3], [], 120),  # whole classes
        ([9, 1, 1, 2], [], 4),
        ([2, 2], ["batch.samples_per_class=8"], 4),
        ([9] * 31, ["batch.size=64"], 64),
    ],
)
def test_a_batch_is_lowered_to_what_the_classes_fill_with_a_line_that_names_the_key(sizes, words, size, caplog):
    caplog.set_level("INFO", logger="retrieval")
    words = ["batch.size=128", *words]
    config = fitted(sizes, *words)
    assert config.batch.size == size
    lowered = load("photos", words).batch.size != size
    assert caplog.messages == [f"batch.size: {size} instead of 128, which the classes cannot fill"] * lowered


def test_a_fitted_configuration_fits_itself(caplog):
    caplog.set_level("INFO", logger="retrieval")
    config = fitted([5] * 7, "training.epochs=auto", test=[2, 2])
    assert config.evaluation.ks == [1, 2]
    caplog.clear()
    assert fit(config, {"train": image_set([5] * 7), "test": image_set([2, 2])}) == config
    assert caplog.messages == []


def test_cut_offs_beyond_the_images_to_find_are_left_out_with_a_line(caplog):
    caplog.set_level("INFO", logger="retrieval")
    assert fitted([4] * 40, query=[1, 1], gallery=[2, 3]).evaluation.ks == [1, 2, 4]
    assert "evaluation.ks: [1, 2, 4] instead of [1, 2, 4, 8], which exceeds the images to find" in caplog.messages


def test_a_published_data_set_refuses_what_does_not_fit():
    assert fitted([4] * 10, source="glyphs").batch.size == 128  # which the sampler refuses
    other_classes = image_set([1] * 40 + [4, 4]).select(range(40, 48))
    with pytest.raises(ConfigError, match="k is 8, but a query of the validation split has 7 others"):
        fit(load("glyphs"), {"train": image_set([4] * 40), "validation": other_classes})


def test_a_warm_up_is_shorter_than_the_epochs_that_auto_becomes():
    assert fitted([10] * 4, "training.epochs=auto", "training.warmup_epochs=2").training.warmup_epochs == 2
    config = fitted([10] * 4, "training.epochs=auto", f"training.warmup_epochs={MOST_EPOCHS}")
    assert config.training.epochs == MOST_EPOCHS + 1


def test_patience_without_validation_images_is_refused():
    assert fitted([10] * 4, "training.patience=2", validation=[4, 4]).training.patience == 2
    with pytest.raises(ConfigError, match=r"training\.patience: watches validation images, but there are none"):
        fitted([10] * 4, "training.patience=2")


@pytest.mark.parametrize("value", ["many", "0", "2.5"])
def test_epochs_are_a_number_or_auto(value):
    with pytest.raises(ConfigError) as caught:
        load("photos", [f"training.epochs={value}"])
    (line,) = caught.value.mistakes
    assert line.startswith("command line: training.epochs: ")
    assert "'auto'" in line
