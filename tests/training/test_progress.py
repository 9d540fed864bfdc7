from __future__ import annotations

import io
import logging

import pytest

from retrieval.training.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "level", "shows"),
    [(Terminal, logging.INFO, True), (Terminal, logging.ERROR, False), (io.StringIO, logging.INFO, False)],
)
def test_a_bar_is_shown_on_a_terminal_unless_the_log_level_hides_warnings(monkeypatch, stream, level, shows):
    monkeypatch.setattr("sys.stderr", stderr := stream())
    monkeypatch.setattr(logging.getLogger("retrieval"), "level", level)
    logging.getLogger("retrieval").manager._clear_cache()
    with ProgressBar(2, "embedding") as bar:
        assert list(bar.each("ab")) == ["a", "b"]
    assert ("embedding" in stderr.getvalue()) == shows
