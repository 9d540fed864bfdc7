"""Promises of `retrieval.config.space`."""

from __future__ import annotations

import pytest

from retrieval.config import load
from retrieval.config.space import Choices, Range, default_space, describe_space, own_values, read_space, with_values
from retrieval.errors import ConfigError

PRETRAINED = ["model.pretrained=true", "model.embedding_dim=64"]


def mistakes(space, *words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_space(space, load("glyphs", list(words)))
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ([], ["training.learning_rate", "loss.temperature"]),
        (["loss.projection=std"], ["training.learning_rate"]),
        (["loss.name=triplet"], ["training.learning_rate"]),
        (["loss.name=nt_xent"], ["training.learning_rate", "loss.options.temperature"]),
        (["loss.terms=[{name: recall}, {name: triplet}]"], ["training.learning_rate"]),
        (["loss.projection=std", *PRETRAINED], ["training.learning_rate", "model.head_init"]),
        (["loss.projection=std", "model.pretrained=true", "model.embedding_dim=null"], ["training.learning_rate"]),
    ],
)
def test_by_default_the_rate_the_temperature_and_the_head_are_searched_where_there_are_such(words, keys):
    config = load("glyphs", words)
    space = default_space(config)
    assert list(space) == keys
    start = own_values(space, config)
    assert all(start[key] in space[key] for key in keys)
    assert with_values(config, start).training == config.training


def test_the_default_ranges_are_around_the_values_of_the_configuration():
    space = default_space(load("glyphs", ["training.learning_rate=0.01", "loss.temperature=0.4"]))
    assert space["training.learning_rate"] == Range(0.001, 0.1, log=True)
    assert space["loss.temperature"] == Range(0.1, 1.6, log=True)
    nt_xent = load("glyphs", ["loss.name=nt_xent"])
    assert own_values(default_space(nt_xent), nt_xent)["loss.options.temperature"] == 0.07


def test_a_file_may_nest_sections_and_is_read_as_a_mapping_is(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(
        "training:\n  learning_rate: {low: 1e-4, high: 1e-2, log: true}\nbatch.size: {low: 8, high: 128}\n"
        "model.pooling: [null, gem]\nloss.tau: {low: 1, high: 3}\n"
    )
    space = read_space(file, load("glyphs"))
    assert space == {
        "training.learning_rate": Range(1e-4, 1e-2, log=True),
        "batch.size": Range(8, 128, whole=True),
        "model.pooling": Choices((None, "gem")),
        "loss.tau": Range(1, 3),
    }
    assert read_space(describe_space(space), load("glyphs")) == space


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optimizer.learning_rate": [1e-3, 1e-2]}, "unknown key 'optimizer.learning_rate'; did you mean training.learning_rate?"),
        ({"loss.temprature": [0.35, 1]}, "unknown key 'loss.temprature'; did you mean loss.temperature?"),
        ({"training.learning_rate": {"low": -1, "high": 1}}, "training.learning_rate: input should be greater than 0, found -1"),
        ({"training.learning_rate": {"low": 1, "high": 0.1}}, "training.learning_rate: low is 1, expected a number below high"),
        ({"training.learning_rate": {"low": 1e-4}}, "training.learning_rate.high: expected a number, found None"),
        ({"training.learning_rate": {"hihg": 1e-4, "low": 1}}, "unknown key 'hihg'; did you mean high?"),
        ({"training.weight_decay": {"low": 0, "high": 1, "log": True}}, "low is 0, expected a number above 0 for log: true"),
        ({"training.weight_decay": {"low": 0, "high": 1, "log": 1}}, "training.weight_decay.log: expected true or false, found 1"),
        ({"training.learning_rate": 0.1}, "expected a list of two or more values, or a range"),
        ({"model.pooling": [None]}, "expected a list of two or more values"),
        ({"model.pooling": [None, "gem", "gem"]}, "model.pooling: 'gem' is there twice"),
        ({"model.pooling": [None, "gme"]}, "model.pooling: input should be 'avg', 'max', 'avgmax', 'gem' or 'cls', found 'gme'"),
        ({"data.split_seed": [0, 1]}, "data.split_seed: cannot be searched"),
        ({"seed": [0, 1]}, "seed: cannot be searched"),
        ({"training.learning_rate": {"low": 1e-5, "high": 1e-4}}, "own value, 0.002, is not among 1e-05 .. 0.0001; add it, or set"),
        ({"training.epochs": {"low": 1.5, "high": 8}}, "training.epochs: "),
        ({}, "names no option"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_option_and_a_remedy(space, message):
    (line,) = mistakes(space)
    assert line.startswith("space: ")
    assert message in line


def test_all_mistakes_are_reported_at_once_with_the_name_of_the_file(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text("lr: [1, 2]\nloss.temperature: {low: 2, high: 1}\nseed: [0, 1]\nseed: [0, 2]\n")
    lines = mistakes(file)
    assert len(lines) == 4
    assert all(line.startswith(str(file)) for line in lines)
    (line,) = mistakes(tmp_path / "none.yaml")
    assert line.startswith(f"{tmp_path / 'none.yaml'}: cannot be read (No such file or directory)")


def test_the_edge_of_a_range_is_its_outer_tenth_by_the_logarithm_where_that_is_sampled():
    rate = Range(1e-5, 1e-3, log=True)
    assert [rate.edge(value) for value in (1e-5, 1.5e-5, 1e-4, 5e-4, 7e-4)] == [1e-5, 1e-5, None, None, 1e-3]
    assert Range(0, 1).edge(0.08) == 0
    assert Range(0, 1).edge(0.2) is None


def test_true_is_not_one():
    assert True not in Choices((1, 2))
    assert 1.0 in Choices((1, 2))
    assert True not in Range(0, 2)
