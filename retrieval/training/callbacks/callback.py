"""The interface of a callback, and a list of callbacks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger("retrieval")

METHODS = ("begin", "step", "epoch", "evaluation", "end", "close")


class TrackedRun(Protocol):
    """The attributes of a `retrieval.Run` that the callbacks of this module use."""

    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> Any: ...
    @property
    def metrics(self) -> Sequence[Mapping[str, float]]: ...


class Callback:
    """A callback that does nothing; override the methods you need.

    A callback need not inherit from this class: a missing method is skipped. Only rank 0 calls callbacks.
    An error in a callback ends the training run.
    """

    def begin(self, run: TrackedRun) -> None:
        """Is called before the first step, also of a resumed run; `run.metrics` holds the rows so far."""

    def step(self, run: TrackedRun, step: int, figures: dict[str, float]) -> None:
        """Is called after every step, with figures such as "loss", "learning_rate" and "score_spread"."""

    def epoch(self, run: TrackedRun, epoch: int, figures: dict[str, float]) -> None:
        """Is called after every epoch, with its row.

        It has "epoch", "step", "loss", the figures of the training batches ("score_spread", "mean_intruders", "perfect_queries")
        and measured ones ("validation recall@1").
        """

    def evaluation(self, run: TrackedRun, split: str, figures: dict[str, float]) -> None:
        """Is called after a measurement.

        Args:
            run: the training run.
            split: "frozen features" or "untrained" before the first step; "validation" or "test" in an epoch; "last" or
                "best by validation" at the end.
            figures: by name, for example "recall@1".
        """

    def end(self, run: TrackedRun, results: dict[str, dict[str, float]]) -> None:
        """Is called after a finished run, with its results: figures by split. A run that stops early skips it."""

    def close(self) -> None:
        """Is always called last, after an error too."""


class Callbacks(Callback):
    """Calls several callbacks in order.

    Args:
        callbacks: objects with at least one method of `Callback`.

    Raises:
        ValueError: one of them is a class, or has no method of `Callback`.
    """

    def __init__(self, callbacks: Iterable[object] = ()) -> None:
        self._callbacks = list(callbacks)
        for callback in self._callbacks:
            if isinstance(callback, type):
                raise ValueError(f"{callback.__name__} is a class; pass an instance: {callback.__name__}()")
            if not any(hasattr(callback, method) for method in METHODS):
                raise ValueError(f"{callback!r} is not a callback; define at least one of {', '.join(METHODS)}")

    def begin(self, run: TrackedRun) -> None:
        self._call("begin", run)

    def step(self, run: TrackedRun, step: int, figures: dict[str, float]) -> None:
        self._call("step", run, step, figures)

    def epoch(self, run: TrackedRun, epoch: int, figures: dict[str, float]) -> None:
        self._call("epoch", run, epoch, figures)

    def evaluation(self, run: TrackedRun, split: str, figures: dict[str, float]) -> None:
        self._call("evaluation", run, split, figures)

    def end(self, run: TrackedRun, results: dict[str, dict[str, float]]) -> None:
        self._call("end", run, results)

    def close(self) -> None:
        """Closes all callbacks, then raises the first error; later errors are logged."""
        first: Exception | None = None
        for callback in self._callbacks:
            try:
                getattr(callback, "close", lambda: None)()
            except Exception as error:
                if first is not None:
                    log.warning("%s: close failed", type(callback).__name__, exc_info=error)
                first = first or error
        if first is not None:
            raise first

    def _call(self, method: str, *args: object) -> None:
        for callback in self._callbacks:
            if (function := getattr(callback, method, None)) is not None:
                function(*args)
