"""Event files for TensorBoard."""

from __future__ import annotations

from typing import Any

from retrieval.training.callbacks.callback import Callback, TrackedRun
from retrieval.training.callbacks.tracker import epoch_figures, import_package, step_figures

EVENT_FILES = "events.out.tfevents.*"


class TensorBoard(Callback):
    """Writes event files into the run's folder.

    A resumed run adds a file. If the steps overlap, TensorBoard shows those of the new file.

    Raises:
        RetrievalError: the package is not installed.
    """

    def __init__(self) -> None:
        self._writer_type = import_package("torch.utils.tensorboard", extra="tensorboard").SummaryWriter
        self._writer: Any = None

    def step(self, run: TrackedRun, step: int, figures: dict[str, float]) -> None:
        self._add(run, step, step_figures(figures))

    def epoch(self, run: TrackedRun, epoch: int, figures: dict[str, float]) -> None:
        self._add(run, int(figures["step"]), epoch_figures(figures))
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, run: TrackedRun, step: int, figures: dict[str, float]) -> None:
        if self._writer is None:  # not in `begin`: only the first step tells where a resumed run continues
            self._writer = self._writer_type(run.path, purge_step=step)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
