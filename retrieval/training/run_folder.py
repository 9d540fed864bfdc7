"""The folder of a training run: the names of its files, and the lock that keeps other runs out."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.errors import CheckpointError
from retrieval.files import LOCK_NAME as LOCK
from retrieval.files import claimed, is_claimed, locked, read_text, require_place, write_json, write_text
from retrieval.training.callbacks import EVENT_FILES, RUN_ID_FILE
from retrieval.training.checkpoint import load_newest, save_checkpoint

Rows = Sequence[Mapping[str, float]]

FILES = (
    *("environment.json", "config.yaml", "metrics.csv", "metrics.jsonl", "results.json", "log.txt"),
    *("last.safetensors", "previous.safetensors", "best.safetensors", "curves.png", "gallery.png", "images.csv"),
)
_FORMAT = "retrieval run"  # in environment.json; runs of earlier versions have the version of the package there


class RunFolder:
    """The files of a run.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        files = [self.path / name for name in FILES]
        self.environment, self.config, self.metrics, self.metrics_lines, self.results, self.log = files[:6]
        self.last, self.previous, self.best, self.curves, self.gallery, self.images = files[6:]

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps other runs out of the folder during the block, and removes the temporary files of a killed run.

        Raises:
            CheckpointError: Another run is writing to the folder, or it cannot be made.
        """
        with locked(self.path):
            for name in FILES:
                for rest in self.path.glob(f".{name}.*.tmp"):
                    rest.unlink(missing_ok=True)
            yield

    def check_free(self, *, overwrite: bool = False) -> None:
        """Checks before the work begins that `create` can make the folder.

        Raises:
            CheckpointError: The folder is not empty and `overwrite` is off, or it holds something other than a run.
        """
        require_place(self.path)
        if is_claimed(self.path):
            with claimed(self.path):  # raises the error that names the other process
                pass
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"{self.path}: is a file; a run needs a folder")
        if self.path.is_dir() and any(path.name != LOCK for path in self.path.iterdir()):
            if not overwrite:
                raise CheckpointError(
                    f"{self.path}: holds a run or other files; pass resume=True or overwrite=True, or choose another folder"
                )
            if not self._is_marked():
                raise CheckpointError(
                    f"{self.path}: holds no run, so overwrite=True leaves it alone; choose another folder"
                )

    def create(self, config: str, environment: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Makes the folder with the configuration and the environment. The files of an earlier run are removed.

        Raises:
            CheckpointError: See `check_free`; or the folder cannot be made.
        """
        self.check_free(overwrite=overwrite)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # The environment is removed last: it marks the folder as that of a run as long as other files are left.
            trackers = (*self.path.glob(EVENT_FILES), self.path / RUN_ID_FILE)
            for path in (*trackers, *(self.path / name for name in reversed(FILES))):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be created ({error.strerror})") from error
        write_json(self.environment, {"format": _FORMAT, **environment})
        write_text(self.config, config)

    def require(self) -> None:
        """Checks that this is the folder of a run.

        Raises:
            CheckpointError: It is not.
        """
        if not self.config.exists():
            raise CheckpointError(f"{self.path}: not the folder of a training run (it has no {self.config.name})")

    def _is_marked(self) -> bool:
        """Whether environment.json says that the folder is that of a run. Other programs have a config.yaml, too."""
        try:
            environment = json.loads(read_text(self.environment))
            return environment.get("format") == _FORMAT or "retrieval" in environment["versions"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False

    def save_last(self, state: dict[str, Any]) -> None:
        """Writes the last checkpoint; the one before it becomes the previous one."""
        save_checkpoint(self.last, state, keep=self.previous)

    def load_last(
        self, needs: Iterable[str] = (), check: Callable[[dict[str, Any]], str | None] = lambda state: None
    ) -> dict[str, Any]:
        """Reads the last checkpoint, or the previous one, with a warning, if the last cannot be used.

        Args:
            needs: See `load_checkpoint`.
            check: See `load_newest`.

        Raises:
            CheckpointError: Neither can be used.
        """
        return load_newest(self.last, self.previous, needs=needs, check=check)

    def write_rows(self, rows: Rows) -> None:
        """Writes the figures of all epochs, as CSV and as one JSON object a line.

        Args:
            rows: For every epoch "epoch", "step" and figures by name.
        """
        write_metrics(self.metrics, rows)
        write_text(self.metrics_lines, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def write_metrics(path: Path, rows: Rows) -> None:
    """Writes rows of figures as CSV; a figure that a row lacks is left empty."""
    columns = list(dict.fromkeys(["epoch", "step", "loss", *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
