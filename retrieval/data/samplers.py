"""Which images form a training batch: pure functions of (seed, epoch, rank), so that resumed and distributed runs are exact."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from retrieval.errors import plural


class MPerClassSampler(Sampler[list[int]]):
    """Batches of a few images from each of many classes.

    The sampler is a `batch_sampler` of a `DataLoader`: each pass over it yields the batches of the next epoch, as lists of
    positions. `epoch` returns the batches of any epoch at once.

    Classes are sampled in rounds, each in a new random order. A round contains every class once, so an epoch shows all classes
    equally often, whatever their sizes. A class contributes `samples_per_class` images to a batch, or all its images if it
    has fewer. Its images are shuffled every epoch, and none is repeated before all the others were used.

    No batch contains a class, and hence an image, twice. The last class of a batch may have to contribute fewer images. It
    contributes a single one only if no other class of the batch can give up one of its own. Classes with a single image
    are left out, since they form no pair.

    With several processes, each rank gets a part of every batch. The images of a class are distributed over the ranks in turn, so
    every rank sees all classes. The parts together are the batch of a single process, so a loss over the gathered batch is
    the same.

    Args:
        labels: (num_images,) one label per image, as a list, an array or a tensor.
        batch_size: The number of images in a batch, over all ranks.
        samples_per_class: The number of images of a class in a batch, at least 2.
        seed: The seed of the random orders, not negative.
        rank: The process whose part of the batches is returned, from 0 to world_size - 1.
        world_size: The number of processes.

    Raises:
        ValueError: A batch cannot be filled with distinct images or divided evenly, `samples_per_class` gives no pairs, or
            `labels` is not one-dimensional.

    Examples:
        >>> sampler = MPerClassSampler([0, 0, 0, 1, 1, 1, 2, 2, 2], batch_size=4, samples_per_class=2)
        >>> [len(batch) for batch in sampler]
        [4, 4]
    """

    def __init__(
        self,
        labels: Any,
        batch_size: int,
        samples_per_class: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        labels = _as_array(labels)
        if labels.ndim != 1:
            raise ValueError(f"labels are {labels.shape}; give one per image, (num_images,)")
        _, self._class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        if samples_per_class < 2:
            raise ValueError(f"samples_per_class is {samples_per_class}; a pair needs at least 2 images of a class")
        if batch_size < 2:
            raise ValueError(f"batch_size is {batch_size}; a pair needs at least 2 images")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of {world_size} processes; give a rank from 0 to world_size - 1")
        if batch_size % world_size:
            raise ValueError(f"a batch of {batch_size} cannot be divided evenly among {world_size} processes")
        self._sizes = sizes
        self._given = np.where(sizes > 1, np.minimum(sizes, samples_per_class), 0)
        if batch_size > self._given.sum():
            most, classes = self._given.sum(), plural(int(np.count_nonzero(self._given)), "class", "classes")
            raise ValueError(
                f"a batch of {batch_size} cannot be filled: {classes} with at least 2 images provide {most} at "
                f"{samples_per_class} each; lower the batch size to {most} or less, raise the samples per class or add classes"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.steps_per_epoch = max(1, len(labels) // batch_size)
        self._next_epoch = 0

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yields this rank's batches of the next epoch; the first pass is epoch 0 unless `set_epoch` was called."""
        # A generator, because a DataLoader with workers calls `iter` twice per pass and uses the second result only.
        batches = self.epoch(self._next_epoch)
        self._next_epoch += 1
        yield from batches.tolist()

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next pass, as `torch.utils.data.DistributedSampler` does; for resumed training."""
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; give 0 or more")
        self._next_epoch = epoch

    def epoch(self, epoch: int) -> np.ndarray:
        """This rank's batches of an epoch, a pure function of the seed, the epoch and the rank.

        Args:
            epoch: The number of the epoch, from 0.

        Returns:
            Positions in `labels`: (steps_per_epoch, batch_size // world_size) int64.
        """
        generator = np.random.default_rng((self.seed, epoch))
        # All images, grouped by class, in random order within a class.
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
        """An endless sequence of batches: the number of images from each class."""
        rounds = _Rounds(np.flatnonzero(self._given), self._given, generator)
        while True:
            visits: dict[int, int] = {}
            rounds.fill(visits, self.batch_size, 0)
            yield visits


class HierarchicalSampler(MPerClassSampler):
    """Batches whose classes come from few super-classes and are therefore hard to tell apart.

    A batch is divided into `super_classes` equal shares, each filled with classes of one super-class. If a super-class is too
    small for its share, all its classes are used, and another super-class fills the rest. Super-classes are used in proportion
    to their sizes, so the classes of all of them are shown about equally often. A super-class that would fall behind by a whole
    round gets two shares of a batch. Within a super-class, the batches have all properties of `MPerClassSampler`.

    Args:
        labels: See `MPerClassSampler`, which also describes the arguments that are missing here.
        super_labels: (num_images,) the super-class of each image, equal for all images of a class.
        super_classes: The number of shares of a batch.

    Raises:
        ValueError: As for `MPerClassSampler`, or `super_labels` do not fit `labels`, there are too few super-classes, or a
            share has no room for a pair.
    """

    def __init__(
        self,
        labels: Any,
        super_labels: Any,
        batch_size: int,
        samples_per_class: int,
        super_classes: int = 2,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(labels, batch_size, samples_per_class, seed, rank=rank, world_size=world_size)
        super_labels = _as_array(super_labels)
        if super_labels.shape != self._class_of.shape:
            raise ValueError(f"super_labels are {super_labels.shape}; give one per label {self._class_of.shape}")
        of_class = super_labels[np.unique(self._class_of, return_index=True)[1]]
        strays = np.flatnonzero(super_labels != of_class[self._class_of])
        if len(strays):
            raise ValueError(f"class {_as_array(labels)[strays[0]]} has images in two super-classes; give it one")
        usable = np.flatnonzero(self._given)
        self._groups = [usable[of_class[usable] == name] for name in np.unique(of_class[usable])]
        if not 1 <= super_classes <= len(self._groups):
            raise ValueError(
                f"super_classes is {super_classes}; the classes with at least 2 images belong to {len(self._groups)} super-classes"
            )
        if batch_size < 2 * super_classes:
            raise ValueError(
                f"a batch of {batch_size} has no room for a pair of each of {super_classes} super-classes; "
                "raise the batch size or lower the number of super-classes"
            )
        self.super_classes = super_classes

    def _visits(self, generator: np.random.Generator) -> Iterator[dict[int, int]]:
        groups = [_Rounds(classes, self._given, generator) for classes in self._groups]
        # The fraction of the classes of a group that a share uses. The group with the earliest due time, plus noise, is next.
        steps = {group: min(1.0, self.batch_size / self.super_classes / group.images) for group in groups}
        due = {group: generator.random() * steps[group] for group in groups}
        while True:
            visits: dict[int, int] = {}
            present: set[_Rounds] = set()
            room = self.batch_size
            for shares in range(self.super_classes, 0, -1):
                until = room - math.ceil(room / shares)
                while room > until:
                    # A group that is already in the batch is used again only if it is a whole round behind.
                    open_groups = (group for group in groups if group.count_missing(visits))
                    group = min(open_groups, key=lambda group: due[group] + (group in present))
                    room = group.fill(visits, room, until)
                    present.add(group)
                    due[group] = group.rounds_done + generator.random() * steps[group]
            yield visits


class _Rounds:
    """Endless rounds over classes. Every round contains each class once, in a new random order.

    Args:
        classes: The classes, at least one.
        given: The number of images that each class contributes to a batch, indexed by class.
        generator: Draws the orders.
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
        """How often its classes were shown, on average."""
        return self._shown / self.size

    def count_missing(self, visits: dict[int, int]) -> int:
        """The number of its classes that are not in the batch yet."""
        return self.size - sum(class_ in self._members for class_ in visits)

    def fill(self, visits: dict[int, int], room: int, until: int) -> int:
        """Adds classes to a batch until at most `until` images are missing, or all classes are in it.

        Args:
            visits: The number of images of each class of the batch; extended in place.
            room: The number of images that are missing from the batch.
            until: The number of missing images at which to stop.

        Returns:
            The number of images that are still missing.
        """
        postponed: list[int] = []
        missing = self.count_missing(visits)
        while room > until and missing:
            if not self._waiting:
                self._waiting.extend(self._generator.permutation(self._classes).tolist())
            class_ = self._waiting.popleft()
            if class_ in visits:  # a class of the next round; it is moved to the next batch
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
    """Removes an image from the last class that keeps a pair without it; returns the number of removed images, 1 or 0."""
    for class_ in reversed(visits):
        if visits[class_] > 2:
            visits[class_] -= 1
            return 1
    return 0


def _as_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
