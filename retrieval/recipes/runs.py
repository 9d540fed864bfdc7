"""The runs of a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrieval import training


def list_runs(folder: str | Path) -> list[dict[str, Any]]:
    """The runs in a folder and its folders: of each its path, state, epochs, best figures and results, as plain values."""
    return [{**asdict(run), "path": str(run.path)} for run in training.list_runs(folder)]
