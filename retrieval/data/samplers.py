"""Which images make a training batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np


class MPerClassSampler:
    """Batches of a few images from each of many classes.

    Classes come in rounds, each round in a new order: every class once before any comes again, so that an epoch shows all
    classes equally often, whatever their sizes. A class gives `samples_per_class` images, or all it has if those are fewer.
    It goes through its images in a new order every epoch, and none returns within the epoch before the others were shown.

    No batch has a class, and so an image, twice. The last class of a batch may have to give fewer; it gives one image only
    where no other class of the batch can do with one fewer instead. Classes of a single image have no pair to learn from
    and are left out.

    Args:
        labels: (num_images,) whole numbers, one per image.
        batch_size: images of a batch.
        samples_per_class: images that a class gives to a batch, at least 2.
        seed: of the lot, not negative.

    Raises:
        ValueError: a batch cannot be filled from distinct images, or `samples_per_class` gives no pairs.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, samples_per_class: int, seed: int = 0) -> None:
        labels = np.asarray(labels)
        _, self._class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        if samples_per_class < 2:
            raise ValueError(f"samples_per_class is {samples_per_class}; a pair needs at least 2 images of a class")
        if batch_size < 2:
            raise ValueError(f"batch_size is {batch_size}; a pair needs at least 2 images")
        self._sizes = sizes
        self._given = np.where(sizes > 1, np.minimum(sizes, samples_per_class), 0)
        if batch_size > self._given.sum():
            raise ValueError(
                f"a batch of {batch_size} cannot be filled: {np.count_nonzero(self._given)} classes with at least 2 images give "
                f"{self._given.sum()} at {samples_per_class} each; lower the batch size, raise the samples per class or add classes"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = max(1, len(labels) // batch_size)

    def epoch(self, epoch: int) -> np.ndarray:
        """The batches of an epoch, a pure function of the seed and its number.

        Args:
            epoch: its number, from 0.

        Returns:
            Positions in `labels`: (steps_per_epoch, batch_size) int64.
        """
        generator = np.random.default_rng((self.seed, epoch))
        # All images, those of a class side by side in an order drawn anew.
        order = np.lexsort((generator.random(len(self._class_of)), self._class_of))
        first = np.cumsum(self._sizes) - self._sizes
        shown = np.zeros_like(self._sizes)
        batches = np.empty((self.steps_per_epoch, self.batch_size), dtype=np.int64)
        for batch, visits in zip(batches, self._visits(generator), strict=False):
            classes, counts = np.array(visits).T
            each = np.repeat(classes, counts)
            within = np.arange(self.batch_size) - np.repeat(np.cumsum(counts) - counts, counts)
            batch[:] = order[first[each] + (shown[each] + within) % self._sizes[each]]
            shown[classes] += counts
        return batches

    def _visits(self, generator: np.random.Generator) -> Iterator[list[list[int]]]:
        """Batch after batch, without end: [class, number of images] for each of its classes."""
        usable = np.flatnonzero(self._given)
        given = self._given.tolist()
        waiting: deque[int] = deque()
        while True:
            visits: list[list[int]] = []
            present: set[int] = set()
            postponed: list[int] = []
            room = self.batch_size
            while room:
                if not waiting:
                    waiting.extend(generator.permutation(usable).tolist())
                class_ = waiting.popleft()
                if class_ in present:  # the next round brings it again: it opens the next batch instead
                    postponed.append(class_)
                    continue
                present.add(class_)
                visits.append([class_, min(given[class_], room)])
                room -= visits[-1][1]
                if room == 1:
                    room += _give_back_one(visits)
            waiting.extendleft(reversed(postponed))
            yield visits


def _give_back_one(visits: list[list[int]]) -> int:
    """Takes an image from the last class that keeps a pair without it; returns how many were taken, 1 or 0."""
    for visit in reversed(visits):
        if visit[1] > 2:
            visit[1] -= 1
            return 1
    return 0
