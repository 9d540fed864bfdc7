"""Messages act on no terminal, whatever the names of files hold."""

from __future__ import annotations

import pickle

from retrieval.errors import CheckpointError, brief


def test_control_characters_of_a_message_are_written_out():
    error = CheckpointError("a\x1b[31m\r\x85\u2028b: no such file\nsecond line")
    assert str(error) == "a\\x1b[31m\\r\\x85\\u2028b: no such file\nsecond line"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_long_values_are_cut():
    assert brief("x") == "'x'"
    assert brief("x" * 100) == f"'{'x' * 58}…"
