"""The log of a training run, from its first message on and whatever the screen shows."""

from __future__ import annotations

import contextlib
import logging
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Self

from retrieval.errors import CheckpointError, RetrievalError
from retrieval.files import open_file
from retrieval.files.control import LineFormatter

log = logging.getLogger("retrieval")


class RunLog(logging.Filter):
    """A context that writes all messages from INFO on to a file, and changes nothing about what the screen shows.

    The messages before `open` are kept until then. An exception that ends the context is written too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.screen_level = logging.WARNING
        self._level = logging.NOTSET
        self._file: _LogFile | None = None
        self._buffer = MemoryHandler(1)  # without a target it keeps every record

    def __enter__(self) -> Self:
        self._level, self.screen_level = log.level, log.getEffectiveLevel()
        log.setLevel(min(logging.INFO, self.screen_level))
        log.addFilter(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        log.removeFilter(self)
        log.setLevel(self._level)
        if isinstance(error, Exception):  # not a signal, which has its own message
            for line in error.lines if isinstance(error, RetrievalError) else [str(error)]:
                self._buffer.handle(log.makeRecord(log.name, logging.ERROR, "", 0, "%s", (line,), None))
        self._buffer.close()
        if self._file is not None:
            self._file.close()

    def filter(self, record: logging.LogRecord) -> bool:
        """Writes a message to the file. Returns whether the screen shows it."""
        if record.levelno >= logging.INFO:
            self._buffer.handle(record)
        return record.levelno >= self.screen_level

    def open(self, path: Path) -> None:
        """Appends the messages so far and all later ones to a file.

        Raises:
            CheckpointError: The file cannot be opened.
        """
        try:
            with contextlib.suppress(FileNotFoundError), open_file(path):
                pass  # a pipe would be waited for
            self._file = _LogFile(path, encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from error
        self._file.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
        self._buffer.setTarget(self._file)
        self._buffer.flush()


class _LogFile(logging.FileHandler):
    """A log file whose errors are ignored: a full disk ends a run only where it loses data."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def screen_level() -> int:
    """The lowest level of messages that the screen shows; `--quiet` raises it."""
    return next((found.screen_level for found in log.filters if isinstance(found, RunLog)), log.getEffectiveLevel())
