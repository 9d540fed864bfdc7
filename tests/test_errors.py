"""Promises of `retrieval.errors`."""

from __future__ import annotations

import pickle

from retrieval.errors import CheckpointError, brief


def test_a_message_has_lines_and_survives_pickling():
    error = CheckpointError("a name\nof two lines", "second line")
    assert error.lines == ["a name\nof two lines", "second line"]
    assert str(error) == "a name\nof two lines\nsecond line"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_long_values_are_cut():
    assert brief("x") == "'x'"
    assert brief("x" * 100) == f"'{'x' * 58}…"
