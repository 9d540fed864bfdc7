"""YAML of any kind is read, or refused in one line and in bounded time."""

from __future__ import annotations

import os

import pytest

from retrieval.config import load
from retrieval.config.reading import to_yaml
from retrieval.config.yaml_text import LARGEST, missing_space, parse
from retrieval.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("training:\n  epochs:5\n", "`epochs: 5`"),
        ("training:\n  epochs:5  # few\n  learning_rate: 0.1\n", "`epochs: 5`"),
        ("training: {epochs:5}\n", "`epochs: 5`"),
        ("seed:5\n", "`seed: 5`"),
        ("seed:5\ndata:\n  name: glyphs\n", "`seed: 5`"),
        ("seed: 1\nepochs:5\nbatch: {size: 8}\n", "`epochs: 5`"),
        ("data:\n  name:my_data.py:read\n  root: x\n", "`name: my_data.py:read`"),
    ],
)
def test_a_missing_space_after_a_colon_is_pointed_out(tmp_path, text, hint):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.yaml")
    assert str(caught.value).endswith(f"; put a space after the colon: {hint}")


@pytest.mark.parametrize(
    "text", ["a: [1, 2", "- own.py:Log", "http://host", "time: 12:30", "a:\n  b: 1", "x: my_nets:build"]
)
def test_other_colons_are_not(text):
    assert missing_space(text) == ""


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))

HOSTILE = [
    (LAUGHS, r"line 2: .*the alias \*a0; write the value out"),
    ("a: &a [*a]", "line 1: .*the alias"),
    ("seed: !!bool x", "line 1: .*the tag '!!bool'; leave it out"),
    ("a: 1\nseed: !!timestamp x", "line 2: .*the tag '!!timestamp'"),
    ("data: !!set {a, b}", "the tag '!!set'"),
    ("seed: !!python/object/apply:os.system [ls]", "the tag '!!python/object/apply:os.system'"),
    ("%TAG ! tag:x,2000:\n---\nseed: !int 1", "the tag 'tag:x,2000:int'"),
    ("seed: !" + "x" * 10_000, "the tag '!xx"),
    ("a: 1\nseed: 1\0", "line 2: .*the control character U\\+0000"),
    ("seed: \x1b[31m", "the control character U\\+001B"),
    ('data: {root: "a\\0b"}', r"data\.root: holds the character U\+0000; remove it"),
    ('data: {options: {a: [{b: "\\ud800"}]}}', r"data\.options\.a\.0\.b: holds the character U\+D800"),
    ('"\\0": 1', r"\?: holds the character U\+0000"),
    ('data: {root: "\\UFFFFFFFF"}', "not valid YAML"),
    ("[" * 100_000, "more than 20 lists or mappings inside one another"),
    ("{a: " * 30_000, "more than 20 lists or mappings"),
    ("- " * 60_000, "more than 20 lists or mappings"),
    ("? " * 60_000, "more than 20 lists or mappings"),
    ("seed: " + "1" * 100_000, "not valid YAML"),
    ("x" * 100_000 + ": 1", "not valid YAML"),
    ("a: 1\n---\nb: 2", "but found another document"),
    ("x" * 200 + ": 1\n" + "x" * 200 + ": 1", "key 'x+…' stands twice"),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_one_short_line_with_the_place(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path / "c.yaml")
    assert all("\n" not in line and len(line) < 300 + len(str(tmp_path)) for line in caught.value.mistakes)
    with pytest.raises(ConfigError) as caught:
        load("glyphs", [f"training.callbacks={text}"] if not text.startswith("x") else [text])
    assert all("\n" not in line and len(line) < 300 for line in caught.value.mistakes)


@pytest.mark.timeout(20)
def test_a_file_too_large_for_a_configuration_is_not_read(tmp_path):
    with (tmp_path / "c.yaml").open("wb") as file:
        file.truncate(2**40)  # a hole: takes no space, and does not fit into memory
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read \(it is larger than .* bytes\)"):
        load(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"has .* characters, more than"):
        parse(" " * (LARGEST + 1), "c.yaml")


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_configuration_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read \(it is a pipe\)"):
        load(tmp_path / "c.yaml")


def test_values_that_are_one_object_are_written_without_aliases(tmp_path):
    shared = ["a", "b"]
    options = {"loss.name": "x:Y", "loss.options": {"one": shared, "other": shared}}
    config = load("glyphs", options)
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert load(tmp_path / "c.yaml") == config


@pytest.mark.parametrize("key", ["image.size", "image.resize", "model.embedding_dim"])
def test_sizes_that_no_stored_model_may_have_are_not_trained_either(key):
    with pytest.raises(ConfigError, match=f"{key}.*less than or equal to"):
        load("glyphs", {key: 10**9})
