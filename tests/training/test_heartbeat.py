from __future__ import annotations

import logging
import threading
import time

import pytest
from torch.distributed import HashStore

from retrieval.training import heartbeat
from retrieval.training.heartbeat import Heartbeat

INTERVAL = 0.005
PATIENCE = 60  # seconds, for a slow machine


@pytest.fixture
def ended(monkeypatch) -> threading.Event:
    """Set where this process would have ended."""
    event = threading.Event()
    monkeypatch.setattr(heartbeat.os, "_exit", lambda code: event.set())
    return event


def lost(monkeypatch, beats: int) -> None:
    monkeypatch.setattr(heartbeat, "LOST", beats)


def test_a_process_that_no_longer_beats_ends_this_one_with_a_line_that_names_it(ended, monkeypatch, caplog):
    lost(monkeypatch, 20)
    store = HashStore()
    with Heartbeat(store, 0, 3, INTERVAL), Heartbeat(store, 2, 3, INTERVAL):
        assert ended.wait(PATIENCE)
    (line, *_) = caplog.records
    assert line.levelno == logging.CRITICAL
    assert line.message == "rank 1 ended, or does not respond; see its error message, and resume the run to go on"


@pytest.mark.slow
def test_processes_that_beat_or_have_left_are_not_missed(ended, monkeypatch):
    lost(monkeypatch, 1_000)
    store = HashStore()
    with Heartbeat(store, 0, 3, INTERVAL) as own, Heartbeat(store, 1, 3, INTERVAL):
        with Heartbeat(store, 2, 3, INTERVAL):
            pass  # leaves without an error
        lost(monkeypatch, 200)
        beats = own._beats[1]
        deadline = time.monotonic() + PATIENCE
        while own._beats[1] < beats + 300:
            assert time.monotonic() < deadline
            time.sleep(INTERVAL)
    assert not ended.is_set()


def test_a_process_that_leaves_with_an_error_has_not_left(ended, monkeypatch):
    lost(monkeypatch, 20)
    store = HashStore()
    with Heartbeat(store, 0, 2, INTERVAL):
        with pytest.raises(ValueError, match="broken"), Heartbeat(store, 1, 2, INTERVAL):
            raise ValueError("broken")
        assert ended.wait(PATIENCE)


def test_a_store_that_does_not_respond_is_a_process_that_does_not(ended, monkeypatch):
    lost(monkeypatch, 20)
    free = threading.Event()

    class Stuck:
        def add(self, key, number):
            free.wait(PATIENCE)
            raise RuntimeError("the connection was closed")

    with Heartbeat(Stuck(), 1, 2, INTERVAL):
        assert ended.wait(PATIENCE)
        free.set()


def test_a_connection_that_was_lost_is_explained_by_the_process_that_no_longer_beats(ended):
    store = HashStore()
    with Heartbeat(store, 0, 3, INTERVAL) as own, Heartbeat(store, 1, 3, INTERVAL):
        assert own.explain_lost().startswith("rank 2 ended, or does not respond; ")
    alone = HashStore()
    with Heartbeat(alone, 0, 3, INTERVAL) as own:
        assert own.explain_lost().startswith("rank 1 and rank 2 ended, or does not respond")


def test_a_connection_that_was_lost_between_processes_that_beat(ended):
    store = HashStore()
    with Heartbeat(store, 0, 2, 10 * INTERVAL) as own, Heartbeat(store, 1, 2, INTERVAL):
        assert own.explain_lost() == "the connection between the processes was lost; resume the run to go on"
