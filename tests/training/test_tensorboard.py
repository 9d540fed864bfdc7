from __future__ import annotations

import importlib.util
import sys
import types

import pytest

from retrieval.training import RunFolder
from retrieval.training.tensorboard import EVENT_FILES

ROWS = [{"epoch": 1, "step": 5, "loss": 0.5}, {"epoch": 2, "step": 10, "loss": 0.25, "validation recall@1": 0.75}]


class Writer:
    """What `SummaryWriter` is asked for."""

    def __init__(self, folder) -> None:
        self.seen, self.folder = [], folder
        WRITERS.append(self)

    def add_scalar(self, *arguments) -> None:
        self.seen.append(arguments)

    def flush(self) -> None:
        self.seen.append("flushed")

    def close(self) -> None:
        self.seen.append("closed")


WRITERS: list[Writer] = []


def test_the_newest_row_goes_to_one_event_file_which_ends_with_the_run(tmp_path, monkeypatch):
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run = RunFolder(tmp_path)
    with run.hold():
        run.write_rows(ROWS[:1])
        run.write_rows(ROWS)
    assert [writer.folder for writer in WRITERS] == [tmp_path]
    assert WRITERS[0].seen == [
        *(("loss", 0.5, 5), "flushed"),
        *(("loss", 0.25, 10), ("validation/recall@1", 0.75, 10), "flushed", "closed"),
    ]


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = RunFolder(tmp_path)
    with run.hold():
        run.write_rows(ROWS)
    assert not list(tmp_path.glob(EVENT_FILES))


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunFolder(tmp_path)
    with run.hold():
        run.write_rows(ROWS[:1])
        run.write_rows(ROWS)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(5, 0.5), (10, 0.25)]
