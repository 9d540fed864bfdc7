from __future__ import annotations

import contextlib
import errno
import logging
from pathlib import Path

import pytest

from retrieval.errors import CheckpointError
from retrieval.files.control import LineFormatter
from retrieval.training import RunLog
from retrieval.training.run_log import screen_level

log = logging.getLogger("retrieval")


def messages(path: Path) -> list[str]:
    """The lines of a log without their times."""
    return [line.split(" ", 2)[2] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("level", ["INFO", "WARNING", "ERROR"])
def test_the_file_has_every_message_and_the_screen_those_of_its_level(tmp_path, caplog, level):
    caplog.set_level(level, logger="retrieval")
    with RunLog() as run_log:
        log.info("reading")
        run_log.open(tmp_path / "log.txt")
        log.debug("detail")
        log.info("epoch 1")
        log.warning("slow")
        assert screen_level() == getattr(logging, level)
    assert messages(tmp_path / "log.txt") == ["INFO reading", "INFO epoch 1", "WARNING slow"]
    assert caplog.messages == {"INFO": ["reading", "epoch 1", "slow"], "WARNING": ["slow"], "ERROR": []}[level]
    assert screen_level() == getattr(logging, level)


def test_a_screen_of_details_goes_on_to_show_them(tmp_path, caplog):
    caplog.set_level("DEBUG", logger="retrieval")
    with RunLog() as run_log:
        run_log.open(tmp_path / "log.txt")
        log.debug("detail")
    assert caplog.messages == ["detail"]
    assert messages(tmp_path / "log.txt") == []


def test_a_resumed_run_appends_to_the_log(tmp_path):
    for message in ("epoch 1", "epoch 2"):
        with RunLog() as run_log:
            run_log.open(tmp_path / "log.txt")
            log.info(message)
    log.info("after")
    assert messages(tmp_path / "log.txt") == ["INFO epoch 1", "INFO epoch 2"]


def test_the_error_that_ends_a_run_is_in_its_log_only(tmp_path, caplog):
    with contextlib.suppress(ValueError), RunLog() as run_log:
        run_log.open(tmp_path / "log.txt")
        raise ValueError("broken")
    assert messages(tmp_path / "log.txt") == ["ERROR broken"]
    assert caplog.messages == []


def test_a_log_on_a_full_disk_raises_no_error(tmp_path, monkeypatch, capsys):
    def no_space(formatter, record):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunLog() as run_log:
        run_log.open(tmp_path / "log.txt")
        monkeypatch.setattr(LineFormatter, "format", no_space)  # that of the file
        log.info("lost")
        monkeypatch.undo()
    assert "No space" not in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"log\.txt: cannot be written \(No such file"), RunLog() as run_log:
        run_log.open(tmp_path / "nowhere" / "log.txt")
