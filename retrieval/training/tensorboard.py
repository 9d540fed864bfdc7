"""The figures of a run for TensorBoard, where it is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path


def write_events(folder: Path, rows: Iterable[Mapping[str, float]]) -> None:
    """Adds rows of figures, each with its "step", to the event files of a folder; does nothing without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    with SummaryWriter(folder) as writer:
        for row in rows:
            for name in row.keys() - {"epoch", "step"}:
                writer.add_scalar(name.replace(" ", "/"), row[name], int(row["step"]))
