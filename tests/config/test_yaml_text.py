"""A colon without a space behind it is pointed out."""

from __future__ import annotations

import pytest

from retrieval.config import load
from retrieval.config.yaml_text import missing_space
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
