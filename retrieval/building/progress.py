"""How far the work has come, on the screen."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from retrieval.training import distributed

log = logging.getLogger("retrieval")

Item = TypeVar("Item")


class ProgressBar(tqdm):
    """A progress bar on stderr that shows on a terminal only, of the first of several processes, and vanishes when done.

    Where the log lets nothing but errors through, there is none.
    """

    def __init__(self, total: int, what: str, *, initial: int = 0) -> None:
        shows = distributed.is_main() and log.isEnabledFor(logging.WARNING)
        disable = None if shows else True  # None: unless stderr is a terminal
        super().__init__(total=total, desc=what, initial=initial, leave=False, disable=disable, dynamic_ncols=True)

    def each(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Counts what passes through."""
        for batch in batches:
            yield batch
            self.update()
