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


def test_the_bar_of_a_training_shows_loss_and_images_a_second(monkeypatch):
    monkeypatch.setattr("sys.stderr", stderr := Terminal())
    with ProgressBar(2, "training") as bar:
        bar.show(loss=0.25, images_per_second=123.4)
        bar.refresh()
    assert "loss=0.250, images/s=123" in stderr.getvalue()
    assert "GPU" not in stderr.getvalue()


def test_the_bar_of_a_training_shows_how_the_batch_ranks_itself(monkeypatch):
    monkeypatch.setattr("sys.stderr", stderr := Terminal())
    with ProgressBar(2, "training") as bar:
        figures = {"score_spread": 0.1234, "mean_intruders": 3.21, "perfect_queries": 0.456}
        bar.show(loss=0.25, images_per_second=123.4, gauge=figures)
        bar.refresh()
    assert "loss=0.250, spread=0.123, intruders=3.2, perfect=46%, images/s=123" in stderr.getvalue()


def test_the_bar_shows_the_memory_on_a_gpu(monkeypatch):
    monkeypatch.setattr("sys.stderr", stderr := Terminal())
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 3 * 2**29)
    with ProgressBar(2, "training") as bar:
        bar.show(loss=0.25, images_per_second=123.4)
        bar.refresh()
    assert "GPU=1.5 GiB" in stderr.getvalue()
