"""SIGTERM and Ctrl-C between two steps, where nothing is lost."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Self, TypeVar

from retrieval.training import distributed

log = logging.getLogger("retrieval")

Batch = TypeVar("Batch")


class Stopped(SystemExit):
    """A signal has ended the run; the process exits with 128 + its number: 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class StopSignals:
    """While it is entered, SIGTERM and Ctrl-C (SIGINT) let the step under way end before they stop the run.

    The loop takes its batches through `each`, which raises `Stopped` in place of the next one. A second Ctrl-C leaves at once.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._waiting = False
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Self:
        # Only the main thread receives signals, and only it may say who handles them.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._set(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was none of Python's
        self._before.clear()

    def each(self, batches: Iterable[Batch], *, together: bool = False) -> Iterator[Batch]:
        """Passes batches on.

        Args:
            batches: of training or of an evaluation.
            together: all processes come here equally often, and stop after the same batch if a signal has reached one of them.

        Raises:
            Stopped: a signal came while a batch was used, or comes while the next one is waited for.
        """
        iterator = iter(batches)
        while True:
            try:
                # Others may be waiting for this process; then it stops in step with them only.
                self._waiting = not together or distributed.world_size() == 1
                self.check(together=together)
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._waiting = False
            yield batch

    def check(self, *, together: bool = False) -> None:
        """Raises `Stopped` if a signal came; see `each`."""
        number = distributed.largest(self.requested) if together else self.requested
        if number:
            raise Stopped(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # forked from it: Ctrl-C is for the one that will end the others by SIGTERM
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.requested = number
        self._set(signal.SIGINT, signal.SIG_DFL)
        self._set(signal.SIGTERM, signal.SIG_IGN)  # whoever sends it again wants what is already under way
        # Data workers may have got the signal too. torch reports their end from the handler of SIGCHLD: in the midst of a step.
        self._set(signal.SIGCHLD, lambda *_: None)  # not SIG_DFL: Python complains of one that is on its way already
        log.warning("%s: stopping after this step; Ctrl-C leaves at once", signal.Signals(number).name)
        if self._waiting:
            raise Stopped(number)

    def _set(self, number: int, handler: Any) -> None:
        before = signal.signal(number, handler)
        self._before.setdefault(number, before)
