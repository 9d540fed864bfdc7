"""The folder of a training run: its files, and who may write into it."""

from __future__ import annotations

import csv
import io
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from retrieval.errors import CheckpointError
from retrieval.files import write_json, write_text

FILES = (
    *("config.yaml", "environment.json", "metrics.csv", "results.json"),
    *("last.safetensors", "best.safetensors", "curves.png", "gallery.png"),
)


class RunFolder:
    """Names of the files of a run.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config, self.environment, self.metrics, self.results, *rest = (self.path / name for name in FILES)
        self.last, self.best, self.curves, self.gallery = rest

    def check_free(self, *, overwrite: bool = False) -> None:
        """Checks, before the work begins, that `create` will do.

        Raises:
            CheckpointError: the folder is in use and `overwrite` is off, or it holds something else than a run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"{self.path}: is a file; a run needs a folder")
        if self.path.is_dir() and any(self.path.iterdir()):
            if not overwrite:
                raise CheckpointError(
                    f"{self.path}: holds a run or other files; pass --resume, --overwrite, or another --out"
                )
            if not self.config.is_file():
                raise CheckpointError(
                    f"{self.path}: holds no run, so --overwrite leaves it alone; choose another --out"
                )

    def create(self, config: str, environment: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Makes the folder with the resolved configuration and the environment; of a run that was there, its own files go.

        Raises:
            CheckpointError: see `check_free`, or the folder cannot be made.
        """
        self.check_free(overwrite=overwrite)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be created ({error.strerror})") from error
        write_text(self.config, config)
        write_json(self.environment, environment)

    def require(self) -> None:
        """Checks that this is the folder of a run.

        Raises:
            CheckpointError: it is not.
        """
        if not self.config.is_file():
            raise CheckpointError(f"{self.path}: not the folder of a training run (it has no {self.config.name})")


def write_metrics(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes rows of figures as CSV; a figure that a row does not have stays empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def describe_environment(**more: Any) -> dict[str, Any]:
    """What decides a run besides its configuration: versions, machine, command."""
    packages = (
        "retrieval",
        "torch",
        "torchvision",
        "timm",
        "faiss-cpu",
        "pytorch-metric-learning",
        "albumentations",
        "numpy",
    )
    return {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {name: metadata.version(name) for name in packages},
        **more,
    }
