"""Notices that another process of a distributed run was lost.

torch waits for a process that does not respond until the time limit of the process group, which must be longer than any evaluation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Self

from torch.distributed import Store  # type: ignore[attr-defined]

log = logging.getLogger("retrieval")

INTERVAL = 2.0  # seconds between two beats
LATE, LOST = 4, 45  # beats of this process without one of another process
_LEFT = 2**40  # beats of a process that has left


class Heartbeat:
    """A context in which this process ends if another one does not respond for `LOST` beats, that is 90 seconds.

    A thread of every process increments a number in a store. The beats of this process are counted, not seconds. A process that was
    stopped and continued, as whole jobs are on a cluster, therefore does not miss the others.

    Args:
        store: A store of all processes.
        rank: The rank of this process.
        world_size: The number of processes.
        interval: Seconds between two beats.
    """

    def __init__(self, store: Store, rank: int, world_size: int, interval: float = INTERVAL) -> None:
        self._store, self._rank, self._interval = store, rank, interval
        self._beats = {other: 0 for other in range(world_size) if other != rank}
        self._missed = dict.fromkeys(self._beats, 0)
        self._ended = threading.Event()
        # If the store does not respond, the first thread waits for it.
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._beat, self._watch)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(self._interval)
        if error is None or isinstance(error, SystemExit):  # other errors end the other processes too
            with contextlib.suppress(RuntimeError):
                self._store.add(str(self._rank), _LEFT)

    def explain_lost(self) -> str:
        """The message of a connection that was lost. It names the processes that have ended, which takes some beats."""
        for _ in range(2 * LATE):
            if late := self._find(LATE):
                return _describe(late)
            time.sleep(self._interval)
        return "the connection between the processes was lost; resume the run to go on"

    def _find(self, missed: int) -> list[int]:
        """The processes with so many missing beats."""
        return [other for other, number in self._missed.items() if number >= missed]

    def _beat(self) -> None:
        with contextlib.suppress(RuntimeError):  # the process that holds the store has ended
            while not self._ended.is_set():
                self._store.add(str(self._rank), 1)
                for other, before in self._beats.items():
                    self._beats[other] = self._store.add(str(other), 0)
                    if self._beats[other] != before:
                        self._missed[other] = 0
                self._ended.wait(self._interval)

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            for other, beats in self._beats.items():
                self._missed[other] += beats < _LEFT
            if lost := self._find(LOST):
                log.critical("%s", _describe(lost))
                os._exit(1)  # the main thread waits for the lost process


def _describe(ranks: list[int]) -> str:
    names = f"rank {' and rank '.join(map(str, ranks))}"
    return f"{names} ended, or does not respond; see its error message, and resume the run to go on"
