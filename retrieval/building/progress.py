"""How far the work has come, on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from retrieval.training import distributed

Item = TypeVar("Item")


class ProgressBar(tqdm):
    """A progress bar on stderr that shows on a terminal only, of the first of several processes, and vanishes when done."""

    def __init__(self, total: int, what: str, *, initial: int = 0) -> None:
        disable = None if distributed.is_main() else True
        super().__init__(total=total, desc=what, initial=initial, leave=False, disable=disable, dynamic_ncols=True)

    def each(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Counts what passes through."""
        for batch in batches:
            yield batch
            self.update()
