"""A number outside its range is one line that begins with its full key, for every number of the schema."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
import pytest
from annotated_types import Ge, Gt, Le, Lt

from retrieval.config import load
from retrieval.config.check import check
from retrieval.config.schema import Config, LossTerm, Section
from retrieval.config.splits import build_sampler, read_splits
from retrieval.data import ImageSet
from retrieval.errors import ConfigError

LIMITS = (Ge, Gt, Le, Lt)


def numbers(section: type[Section], prefix: str = "") -> Iterator[tuple[str, type, list[Any], bool]]:
    """Key, type and limits of every number of a section, and whether it is in a list."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from numbers(field.annotation, f"{prefix}{name}.")
        else:
            yield from ((f"{prefix}{name}", *found) for found in number_types(field.annotation, field.metadata, False))


def number_types(kind: Any, limits: list[Any], in_list: bool) -> Iterator[tuple[type, list[Any], bool]]:
    """The numbers among the members of a type."""
    origin = get_origin(kind)
    if kind in (int, float):
        found = [limit for entry in limits for limit in getattr(entry, "metadata", [entry])]
        yield kind, [limit for limit in found if isinstance(limit, LIMITS)], in_list
    elif origin in (UnionType, Union):
        for member in get_args(kind):
            yield from number_types(member, limits, in_list)
    elif hasattr(kind, "__metadata__"):
        yield from number_types(get_args(kind)[0], [*limits, *kind.__metadata__], in_list)
    elif origin is list and get_args(kind)[0] is not LossTerm:
        yield from number_types(get_args(kind)[0], [], True)


def outside(kind: type, limits: list[Any]) -> list[float]:
    """Numbers below and above a range; where it has no limit, infinity, which a finite number cannot be."""
    step = 1 if kind is int else 1e-9
    found: list[Any] = [] if kind is int else [-math.inf, math.inf]
    for limit in limits:
        match limit:
            case Ge(least):
                found.append(least - step)
            case Gt(least):
                found.append(least)
            case Le(most):
                found.append(most + step)
            case Lt(most):
                found.append(most)
    return found


NUMBERS = list(numbers(Config)) + [(f"loss.terms.1.{key}", *rest) for key, *rest in numbers(LossTerm)]
CASES = [(key, in_list, value) for key, kind, limits, in_list in NUMBERS for value in outside(kind, limits)]


def test_every_number_of_the_schema_is_tried_below_its_range():
    keys = {key for key, _, _ in CASES}
    assert keys == {key for key, *_ in NUMBERS}
    assert len(keys) > 50
    assert keys >= {
        "seed",
        "data.validation_share",
        "training.epochs",
        "evaluation.ks",
        "loss.terms.1.tau",
        "image.mean",
    }


@pytest.mark.parametrize(("key", "in_list", "value"), CASES)
def test_a_number_outside_its_range_is_one_line_with_its_key_and_where_it_was_set(key, in_list, value, tmp_path):
    given = [value] * 3 if in_list else value
    *sections, name = key.split(".")
    text = f"{name}: {str(given).replace('inf', '.inf')}"
    if "terms" in sections:
        values, text = {"loss.terms": [{}, {name: given}]}, f"loss: {{terms: [{{}}, {{{text}}}]}}"
    else:
        values, text = {key: given}, f"{sections[0]}: {{{text}}}" if sections else text
    (tmp_path / "c.yaml").write_text(text)
    for where, arguments in (("arguments", ("glyphs", values)), (tmp_path / "c.yaml", (tmp_path / "c.yaml",))):
        with pytest.raises(ConfigError) as caught:
            load(*arguments)
        found = [
            line
            for line in caught.value.mistakes
            if line.startswith(f"{where}: {key}{'.0' * in_list}: input should be ")
        ]
        assert len(found) == 1, caught.value.mistakes
        assert repr(value)[:4] in found[0]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["image.size=64"], "image.size is 64, expected at most resize, which is 32"),
        (
            ["training.epochs=2", "training.warmup_epochs=5"],
            "training.warmup_epochs is 5, expected fewer than the 2 epochs",
        ),
        (["data.folds=3", "data.fold=3"], "data.fold is 3, expected a number below folds, which is 3"),
        (["training.decay_epochs=[4]"], "training.decay_epochs is [4], expected none for the schedule cosine"),
        (
            ["training.schedule=multistep", "training.decay_epochs=[4,2]"],
            "training.decay_epochs is [4, 2], expected increasing",
        ),
    ],
)
def test_a_number_that_does_not_fit_another_one_is_named_by_its_full_key(overrides, line):
    with pytest.raises(ConfigError) as caught:
        load("glyphs", overrides)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"command line: {line}")


def test_a_memory_that_is_smaller_than_a_batch_is_named_by_the_key_of_its_term():
    for overrides, key in ((["loss.memory=4"], "loss"), (["loss={terms: [{}, {memory: 4}]}"], "loss.terms.1")):
        with pytest.raises(ConfigError, match=rf"{key}\.memory is 4, but 128 embeddings enter it with every batch"):
            load("glyphs", overrides)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("loss={name: smooth_ap, options: {tau: -1}}", "loss.options.tau is -1, expected above 0"),
        ("loss={options: {margin: -1}}", "loss.options.margin is -1, expected at least 0"),
        (
            "loss={terms: [{}, {name: rambo, options: {margin: -1}}]}",
            "loss.terms.1.options.margin is -1, expected at least 0",
        ),
        (
            "loss={name: recall_surrogate, options: {ks: [0]}}",
            "loss.options.ks is [0], expected cut-offs of at least 1",
        ),
        (
            "loss={projection: local, gradient: blackbox}",
            "loss.projection 'local' is a projection for the gradient 'identity'",
        ),
        ("loss={name: arcface, options: {margin: much}}", "loss: arcface refuses {'margin': 'much'} ("),
        (
            "image={augmentation: photo, augmentation_options: {area: [3, 1]}}",
            "image.augmentation_options.area is [3, 1]; give",
        ),
        ("image={augmentation: photo, augmentation_options: {flip: 3}}", "image.augmentation_options.flip is 3; give"),
        (
            "training={optimizer: sgd, optimizer_options: {momentum: -1}}",
            "training.optimizer_options: sgd refuses them (Invalid momentum",
        ),
    ],
)
def test_a_number_among_options_is_found_before_training_and_named_by_its_full_key(override, line):
    with pytest.raises(ConfigError) as caught:
        check(load("glyphs", [override]), ("loss", "optimizer"))
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(line), mistake


def images() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 40, 3), dtype=np.uint8)
    return ImageSet.from_dataset(pixels, labels=[index // 4 for index in range(24)])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "batch.size=128",
            "batch.size: a batch of 128 cannot be filled: 6 classes with at least 2 images provide 24 at 4 each",
        ),
        (
            "batch.sampler=hierarchical",
            "batch.sampler is hierarchical, but glyphs has no super-classes; use m_per_class",
        ),
    ],
)
def test_a_batch_that_the_classes_cannot_fill_is_named_by_its_key(override, line):
    with pytest.raises(ConfigError) as caught:
        build_sampler(load("glyphs", [override]), images())
    assert caught.value.mistakes[0].startswith(line)


def test_an_option_of_the_data_set_is_named_by_its_full_key(tmp_path):
    config = load("cub200_small", {"data": {"root": tmp_path, "options": {"train_classes": 3}}})
    with pytest.raises(ConfigError, match=r"^data\.options\.train_classes is 3; give the first and the last class id"):
        read_splits(config)
