"""Progress bars."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from tqdm import tqdm

from retrieval.training import distributed
from retrieval.training.run_log import screen_level

Item = TypeVar("Item")


class ProgressBar(tqdm):
    """A progress bar on stderr that disappears at the end.

    Only rank 0 shows it, and only if stderr is a terminal and the screen shows warnings (no `--quiet`).

    Args:
        total: Number of steps.
        description: Text in front of the bar.
        initial: Number of steps that are already done.
        delay: Seconds before the bar appears, so that short tasks show none.
    """

    def __init__(self, total: int, description: str, *, initial: int = 0, delay: float = 0.0) -> None:
        shows = distributed.is_main() and screen_level() <= logging.WARNING
        super().__init__(
            total=total,
            desc=description,
            initial=initial,
            leave=False,
            disable=None if shows else True,  # None: disabled unless stderr is a terminal
            dynamic_ncols=True,
            delay=delay,
        )

    def show(self, loss: float, images_per_second: float) -> None:
        """Shows the figures of a training step behind the bar, and the memory of this process on the GPU if there is one."""
        figures = {"loss": f"{loss:.3f}", "images/s": f"{images_per_second:.0f}"}
        if torch.cuda.is_initialized():
            figures["GPU"] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        self.set_postfix(figures, refresh=False)

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """Iterates over items and counts them."""
        for item in items:
            yield item
            self.update()
