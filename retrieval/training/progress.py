"""Progress bars."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
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

    def show(self, loss: float, images_per_second: float, gauge: Mapping[str, float] | None = None) -> None:
        """Shows the figures of a training step behind the bar, and the memory of this process on the GPU if there is one.

        Args:
            loss: Loss of the step.
            images_per_second: Images of the batch by the seconds of the step.
            gauge: Figures of `retrieval.losses.measure_batch`.
        """
        figures = {"loss": f"{loss:.3f}"}
        if gauge:
            figures["spread"] = f"{gauge['score_spread']:.3f}"
            figures |= {"intruders": f"{gauge['mean_intruders']:.1f}", "perfect": f"{gauge['perfect_queries']:.0%}"}
        figures["images/s"] = f"{images_per_second:.0f}"
        if torch.cuda.is_initialized():
            figures["GPU"] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        self.set_postfix(figures, refresh=False)

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """Iterates over items and counts them."""
        for item in items:
            yield item
            self.update()
