"""Stops training on SIGTERM or Ctrl-C between two steps, so that no work is lost."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NoReturn, Self, TypeVar

from retrieval.training import distributed

log = logging.getLogger("retrieval")

Batch = TypeVar("Batch")


class Stopped(SystemExit):
    """A signal has stopped the run. The exit code is 128 + the signal number: 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        number: The signal number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class StopSignals:
    """A context in which SIGTERM and Ctrl-C (SIGINT) stop the run only after the current step.

    The training loop iterates over `each(batches)`, which raises `Stopped` instead of returning the next batch. A second Ctrl-C
    stops the process at once. The exit from the context restores the previous signal handlers, and raises `Stopped` if a signal
    arrived after the last batch. In a thread other than the main thread, the context does nothing, because Python handles signals
    in the main thread only.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._waiting = False
        self._raised = False
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Self:
        # Only the main thread receives signals, and only it may set signal handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._set(number, self._handle)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
        self._before.clear()
        if kind is None and self.requested and not self._raised:
            raise Stopped(self.requested)

    def each(self, batches: Iterable[Batch], *, together: bool = False) -> Iterator[Batch]:
        """Iterates over batches until a signal arrives.

        Args:
            batches: The batches of a training epoch or of an evaluation.
            together: Whether all processes of a distributed run stop after the same batch if one of them receives a signal. Every
                process must then iterate over the same number of batches.

        Raises:
            Stopped: A signal arrived while a batch was processed, or arrives while the next batch is loaded.
        """
        iterator = iter(batches)
        while True:
            try:
                # Other processes may be waiting for this one, so it must stop after the same batch as they do.
                self._waiting = not together or distributed.world_size() == 1
                self.check(together=together)
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._waiting = False
            yield batch

    def check(self, *, together: bool = False) -> None:
        """Raises `Stopped` if a signal has arrived.

        Args:
            together: See `each`.

        Raises:
            Stopped: A signal has arrived.
        """
        number = distributed.largest(self.requested) if together else self.requested
        if number:
            self._stop(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked data worker ignores Ctrl-C. The main process ends it with SIGTERM.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.requested = number
        self._set(signal.SIGINT, signal.SIG_DFL)
        self._set(signal.SIGTERM, signal.SIG_IGN)  # the run is already stopping
        # The data workers may have received the signal too. When they exit, torch's SIGCHLD handler would raise an error in the
        # middle of the step. SIG_DFL does not work, because Python would report a SIGCHLD that is already pending. Windows has no
        # SIGCHLD, and torch has no such handler there.
        if hasattr(signal, "SIGCHLD"):
            self._set(signal.SIGCHLD, lambda *_: None)
        log.warning("%s: stopping after this step; press Ctrl-C to stop at once", signal.Signals(number).name)
        if self._waiting:
            self._stop(number)

    def _stop(self, number: int) -> NoReturn:
        self._raised = True
        raise Stopped(number)

    def _set(self, number: int, handler: Any) -> None:
        before = signal.signal(number, handler)
        self._before.setdefault(number, before)
