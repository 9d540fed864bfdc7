"""The runs below a folder, side by side."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import RetrievalError
from retrieval.files import is_locked
from retrieval.training import RunFolder


@dataclass(frozen=True)
class RunSummary:
    """What a run has reached.

    Args:
        path: Its folder.
        state: "running", "finished", "stopped", or "damaged" if its files cannot be read.
        epochs: The number of epochs that were measured.
        best: The best value of every figure over the epochs: the smallest loss, the largest of all others.
        results: The final figures by what was measured ("untrained", "last", ...).
    """

    path: Path
    state: str
    epochs: int
    best: dict[str, float]
    results: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""
        return {**asdict(self), "path": str(self.path)}


def list_runs(folder: str | Path) -> list[RunSummary]:
    """All runs in a folder and its folders, by name.

    Raises:
        RetrievalError: There is no such folder.

    Example:
        >>> import tempfile, retrieval
        >>> retrieval.list_runs(tempfile.mkdtemp())
        []
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RetrievalError(f"{folder}: no such folder; give the one that holds the runs")
    runs = (RunFolder(config.parent) for config in sorted(folder.rglob("config.yaml")))
    return [summarize(run) for run in runs if run.environment.is_file()]


def summarize(run: RunFolder) -> RunSummary:
    """The summary of a run."""
    try:
        rows = [json.loads(line) for line in _read(run.metrics_lines).splitlines()]
        results = json.loads(_read(run.results) or "{}")
        best: dict[str, float] = {}
        for name, value in (item for row in rows for item in row.items()):
            if name not in ("epoch", "step"):
                best[name] = (min if name == "loss" else max)(best.get(name, value), value)
        results = {name: dict(figures) for name, figures in results.items()}
        epochs = len({row["epoch"] for row in rows})  # an epoch may have several rows, see `Record`
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return RunSummary(run.path, "damaged", 0, {}, {})
    state = "running" if is_locked(run.path) else "finished" if results else "stopped"
    return RunSummary(run.path, state, epochs, best, results)


def _read(path: Path) -> str:
    """The text of a file, "" where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""
