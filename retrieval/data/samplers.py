"""Which images make a training batch: pure functions of (seed, epoch, rank), so that resume and several processes are exact."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np


class MPerClassSampler:
    """Batches of a few images from each of many classes.

    Classes come in rounds, each round in a new order: every class once before any comes again, so that an epoch shows all
    classes equally often, whatever their sizes. A class gives `samples_per_class` images, or all it has if those are fewer.
    It goes through its images in a new order every epoch, and none returns within the epoch before the others were shown.

    No batch has a class, and so an image, twice. The last class of a batch may have to give fewer; it gives one image only
    where no other class of the batch can do with one fewer instead. Classes of a single image have no pair to learn from
    and are left out.

    Several processes share each batch. The images of a class are dealt out to the ranks in turn, so that all ranks see all
    classes (for statistics of their own), and the parts together are the batch that one process would have, so that a loss
    over the gathered batch is the same.

    Args:
        labels: (num_images,) whole numbers, one per image.
        batch_size: images of a batch, over all ranks.
        samples_per_class: images that a class gives to a batch, at least 2.
        seed: of the lot, not negative.
        rank: the process whose part of the batches is returned, 0 .. world_size - 1.
        world_size: the number of processes.

    Raises:
        ValueError: a batch cannot be filled from distinct images or not be shared out evenly, or `samples_per_class` gives
            no pairs.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        samples_per_class: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        labels = np.asarray(labels)
        _, self._class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        if samples_per_class < 2:
            raise ValueError(f"samples_per_class is {samples_per_class}; a pair needs at least 2 images of a class")
        if batch_size < 2:
            raise ValueError(f"batch_size is {batch_size}; a pair needs at least 2 images")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of {world_size} processes; they are numbered from 0")
        if batch_size % world_size:
            raise ValueError(f"a batch of {batch_size} cannot be shared out evenly over {world_size} processes")
        self._sizes = sizes
        self._given = np.where(sizes > 1, np.minimum(sizes, samples_per_class), 0)
        if batch_size > self._given.sum():
            raise ValueError(
                f"a batch of {batch_size} cannot be filled: {np.count_nonzero(self._given)} classes with at least 2 images give "
                f"{self._given.sum()} at {samples_per_class} each; lower the batch size, raise the samples per class or add classes"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.steps_per_epoch = max(1, len(labels) // batch_size)

    def epoch(self, epoch: int) -> np.ndarray:
        """This rank's part of the batches of an epoch, a pure function of the seed, the epoch's number and the rank.

        Args:
            epoch: its number, from 0.

        Returns:
            Positions in `labels`: (steps_per_epoch, batch_size // world_size) int64.
        """
        generator = np.random.default_rng((self.seed, epoch))
        # All images, those of a class side by side in an order drawn anew.
        order = np.lexsort((generator.random(len(self._class_of)), self._class_of))
        first = np.cumsum(self._sizes) - self._sizes
        shown = np.zeros_like(self._sizes)
        batches = np.empty((self.steps_per_epoch, self.batch_size), dtype=np.int64)
        for batch, visits in zip(batches, self._visits(generator), strict=False):
            classes, counts = np.array(list(visits.items())).T
            each = np.repeat(classes, counts)
            within = np.arange(self.batch_size) - np.repeat(np.cumsum(counts) - counts, counts)
            batch[:] = order[first[each] + (shown[each] + within) % self._sizes[each]]
            shown[classes] += counts
        return batches[:, self.rank :: self.world_size].copy()

    def _visits(self, generator: np.random.Generator) -> Iterator[dict[int, int]]:
        """Batch after batch, without end: the number of images that each of its classes gives."""
        rounds = _Rounds(np.flatnonzero(self._given), self._given, generator)
        while True:
            visits: dict[int, int] = {}
            rounds.fill(visits, self.batch_size, 0)
            yield visits


class HierarchicalSampler(MPerClassSampler):
    """Batches whose classes come from few super-classes, and so are hard to tell apart.

    A batch is divided into `super_classes` equal shares, each filled with classes of one super-class. A super-class too small
    for its share gives all its classes, and another takes the rest. Larger super-classes come more often, in proportion, so
    that the classes of all of them are shown about equally often; one so large that it would fall behind by a whole round
    takes two shares of a batch. Within a super-class all promises of `MPerClassSampler` hold.

    Args:
        labels: see `MPerClassSampler`, as for what is not named here.
        super_labels: (num_images,) whole numbers, one per image, the same for all images of a class.
        super_classes: shares of a batch.

    Raises:
        ValueError: as for `MPerClassSampler`; or `super_labels` do not fit `labels`, or there are too few super-classes, or
            a share has no room for a pair.
    """

    def __init__(
        self,
        labels: np.ndarray,
        super_labels: np.ndarray,
        batch_size: int,
        samples_per_class: int,
        super_classes: int = 2,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(labels, batch_size, samples_per_class, seed, rank=rank, world_size=world_size)
        super_labels = np.asarray(super_labels)
        if super_labels.shape != self._class_of.shape:
            raise ValueError(f"super_labels are {super_labels.shape}; give one per label {self._class_of.shape}")
        of_class = super_labels[np.unique(self._class_of, return_index=True)[1]]
        strays = np.flatnonzero(super_labels != of_class[self._class_of])
        if len(strays):
            raise ValueError(f"class {np.asarray(labels)[strays[0]]} has images in two super-classes; give it one")
        usable = np.flatnonzero(self._given)
        self._groups = [usable[of_class[usable] == name] for name in np.unique(of_class[usable])]
        if not 1 <= super_classes <= len(self._groups):
            raise ValueError(
                f"super_classes is {super_classes}; the classes with at least 2 images are of {len(self._groups)} super-classes"
            )
        if batch_size < 2 * super_classes:
            raise ValueError(
                f"a batch of {batch_size} has no room for a pair of each of {super_classes} super-classes; "
                "raise the batch size or lower the number of super-classes"
            )
        self.super_classes = super_classes

    def _visits(self, generator: np.random.Generator) -> Iterator[dict[int, int]]:
        groups = [_Rounds(classes, self._given, generator) for classes in self._groups]
        # The part of its classes that a share takes from each. A group is due when its next share is, give or take a lot.
        steps = {group: min(1.0, self.batch_size / self.super_classes / group.images) for group in groups}
        due = {group: generator.random() * steps[group] for group in groups}
        while True:
            visits: dict[int, int] = {}
            present: set[_Rounds] = set()
            room = self.batch_size
            for shares in range(self.super_classes, 0, -1):
                until = room - math.ceil(room / shares)
                while room > until:
                    # One that is in the batch already stands back, unless it is a whole round behind.
                    open_groups = (group for group in groups if group.count_missing(visits))
                    group = min(open_groups, key=lambda group: due[group] + (group in present))
                    room = group.fill(visits, room, until)
                    present.add(group)
                    due[group] = group.rounds_done + generator.random() * steps[group]
            yield visits


class _Rounds:
    """Classes in rounds without end: each once, in an order drawn anew, before any comes again.

    Args:
        classes: the classes, at least one.
        given: by class, how many images it gives to a batch.
        generator: draws the orders.
    """

    def __init__(self, classes: np.ndarray, given: np.ndarray, generator: np.random.Generator) -> None:
        self.size = len(classes)
        self.images = int(given[classes].sum())
        self._classes = classes
        self._members = set(classes.tolist())
        self._given: Sequence[int] = given.tolist()
        self._generator = generator
        self._waiting: deque[int] = deque()
        self._shown = 0

    @property
    def rounds_done(self) -> float:
        """How often its classes were shown, on the average."""
        return self._shown / self.size

    def count_missing(self, visits: dict[int, int]) -> int:
        """How many of its classes the batch does not have yet."""
        return self.size - sum(class_ in self._members for class_ in visits)

    def fill(self, visits: dict[int, int], room: int, until: int) -> int:
        """Adds classes to a batch until no more than `until` of its room is left, or all classes are in it.

        Args:
            visits: the number of images of each class of the batch; extended.
            room: images that the batch has room for.
            until: where to stop.

        Returns:
            The room left.
        """
        postponed: list[int] = []
        missing = self.count_missing(visits)
        while room > until and missing:
            if not self._waiting:
                self._waiting.extend(self._generator.permutation(self._classes).tolist())
            class_ = self._waiting.popleft()
            if class_ in visits:  # the next round brings it again: it opens the next batch instead
                postponed.append(class_)
                continue
            visits[class_] = min(self._given[class_], room)
            room -= visits[class_]
            missing -= 1
            self._shown += 1
            if room == 1:
                room += _give_back_one(visits)
        self._waiting.extendleft(reversed(postponed))
        return room


def _give_back_one(visits: dict[int, int]) -> int:
    """Takes an image from the last class that keeps a pair without it; returns how many were taken, 1 or 0."""
    for class_ in reversed(visits):
        if visits[class_] > 2:
            visits[class_] -= 1
            return 1
    return 0
