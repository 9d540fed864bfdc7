"""The folder of a training run: its files, and who may write into it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.errors import CheckpointError
from retrieval.files import write_json, write_text
from retrieval.training.checkpoint import load_newest, save_checkpoint
from retrieval.training.folder_lock import NAME as LOCK
from retrieval.training.folder_lock import locked
from retrieval.training.tensorboard import EVENT_FILES, Events

log = logging.getLogger("retrieval")

Rows = Sequence[Mapping[str, float]]

FILES = (
    *("config.yaml", "environment.json", "metrics.csv", "metrics.jsonl", "results.json", "log.txt"),
    *("last.safetensors", "previous.safetensors", "best.safetensors", "curves.png", "gallery.png"),
)


class RunFolder:
    """Names of the files of a run.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        files = [self.path / name for name in FILES]
        self.config, self.environment, self.metrics, self.metrics_lines, self.results, self.log = files[:6]
        self.last, self.previous, self.best, self.curves, self.gallery = files[6:]
        self._events: Events | None = None

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps other runs out of the folder for the time of the block, and clears away what a killed one has left half written.

        Raises:
            CheckpointError: another run is in the folder, or it cannot be made.
        """
        with locked(self.path):
            for name in FILES:
                for rest in self.path.glob(f".{name}.*.tmp"):
                    rest.unlink(missing_ok=True)
            try:
                yield
            finally:
                if self._events is not None:
                    self._events.close()

    def check_free(self, *, overwrite: bool = False) -> None:
        """Checks, before the work begins, that `create` will do.

        Raises:
            CheckpointError: the folder is in use and `overwrite` is off, or it holds something else than a run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"{self.path}: is a file; a run needs a folder")
        if self.path.is_dir() and any(path.name != LOCK for path in self.path.iterdir()):
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
            # The configuration goes last: as long as anything of a run is left, the folder is seen to be that of a run.
            for path in (*self.path.glob(EVENT_FILES), *(self.path / name for name in reversed(FILES))):
                path.unlink(missing_ok=True)
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

    def save_last(self, state: dict[str, Any]) -> None:
        """Writes the checkpoint to go on from; the one that was there becomes the previous one."""
        save_checkpoint(self.last, state, keep=self.previous)

    def load_last(self) -> dict[str, Any]:
        """Reads the checkpoint to go on from: the previous one, with a warning, where the last is damaged.

        Raises:
            CheckpointError: none can be read.
        """
        return load_newest(self.last, self.previous)

    def write_rows(self, rows: Rows) -> None:
        """Writes the figures of all epochs, as CSV and as one JSON object a line, and those of the last for TensorBoard.

        Args:
            rows: of every epoch "epoch", "step" and figures by name.
        """
        write_metrics(self.metrics, rows)
        write_text(self.metrics_lines, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        self._events = self._events or Events(self.path)
        self._events.add(rows[-1])

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Appends what the program logs within the block to the folder's log.

        Raises:
            CheckpointError: the log cannot be opened.
        """
        try:
            handler = _LogFile(self.log, encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"{self.log}: cannot be written ({error.strerror})") from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()


class _LogFile(logging.FileHandler):
    """A full disk ends a run where it loses something: not here."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def write_metrics(path: Path, rows: Rows) -> None:
    """Writes rows of figures as CSV; a figure that a row does not have stays empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
