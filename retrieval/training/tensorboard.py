"""The figures of a run for TensorBoard, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

EVENT_FILES = "events.out.tfevents.*"


class Events:
    """An event file; without TensorBoard, nothing.

    Args:
        folder: gets the file.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._writer = None
        else:
            self._writer = SummaryWriter(folder)

    def add(self, row: Mapping[str, float]) -> None:
        """Adds the figures of a row at its "step"."""
        if self._writer is not None:
            for name in sorted(row.keys() - {"epoch", "step"}):
                self._writer.add_scalar(name.replace(" ", "/"), row[name], int(row["step"]))
            self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()
