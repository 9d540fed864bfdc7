"""Batches of images, read by worker processes, the same for any number of them."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retrieval.data.image_set import ImageSet
from retrieval.data.images import load_image
from retrieval.data.reading import Reading
from retrieval.data.transforms import Preprocessing, prepare
from retrieval.errors import DatasetError, RetrievalError

View = Callable[[Image.Image, Sequence[int]], np.ndarray]


def training_loader(
    images: ImageSet,
    batches: Iterable[tuple[int, np.ndarray]],
    augment: View,
    *,
    seed: int,
    workers: int,
    timeout: float = 120.0,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Augmented training batches, in the order of `batches`.

    What a batch holds depends on the seed, its number and its indices alone: not on the workers, nor on the batches before it,
    so a run that begins at a later batch goes on exactly.

    Args:
        images: where the indices point to.
        batches: of every batch a number, e.g. that of its step, and the indices of its images. An image that comes again under
            the same number is augmented the same way again.
        augment: the view (3, size, size) of an image that belongs to a seed; see `make_augmentation`.
        seed: not negative.
        workers: processes that read; with 0 this process reads.
        timeout: seconds to wait for a batch of the workers; 0 waits for ever.

    Returns:
        A loader of (images (batch, 3, size, size) float32, labels (batch,) int64). It leaves torch's random state alone.

    Raises:
        DatasetError: while it is read: an image cannot be read. Raised in this process, whoever read the image.
        RetrievalError: while it is read: a worker was killed or hangs.
    """
    return _Loader(_TrainingBatches(images, Reading(images, workers), augment, seed), batches, workers, timeout)


def evaluation_loader(
    images: ImageSet, preprocessing: Preprocessing, *, batch_size: int, workers: int, timeout: float = 120.0
) -> DataLoader[Tensor]:
    """All images in order, prepared without chance, the last batch as short as it comes.

    Args:
        images: what to read.
        preprocessing: how to prepare it.
        batch_size: images of a batch.
        workers: see `training_loader`, as for the errors.
        timeout: see `training_loader`.

    Returns:
        A loader of images (batch, 3, size, size) float32.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1")
    indices = np.arange(len(images))
    batches = [indices[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return _Loader(_EvaluationBatches(images, Reading(images, workers), preprocessing), batches, workers, timeout)


@dataclass(frozen=True)
class _Batches(Dataset[Any]):
    """What both kinds of batches read from."""

    images: ImageSet
    reading: Reading

    def load(self, index: int) -> Image.Image:
        self.reading.note(int(index))
        return load_image(self.images.root / self.images.paths[index])


@dataclass(frozen=True)
class _TrainingBatches(_Batches):
    augment: View
    seed: int

    def __getitem__(self, batch: tuple[int, np.ndarray]) -> tuple[Tensor, Tensor] | DatasetError:
        number, indices = batch
        try:
            with self.reading.batch():
                views = [self.augment(self.load(i), (self.seed, number, int(i))) for i in indices]
        except DatasetError as error:
            return error
        return torch.from_numpy(np.stack(views)), torch.from_numpy(self.images.labels[indices])


@dataclass(frozen=True)
class _EvaluationBatches(_Batches):
    preprocessing: Preprocessing

    def __getitem__(self, indices: np.ndarray) -> Tensor | DatasetError:
        try:
            with self.reading.batch():
                return torch.from_numpy(np.stack([prepare(self.load(i), self.preprocessing) for i in indices]))
        except DatasetError as error:
            return error


class _Loader(DataLoader[Any]):
    """A `DataLoader` over whole batches whose errors are one line.

    An exception that leaves a worker comes back with the worker's traceback for a message. The data sets therefore return a
    `DatasetError` in place of the batch, and it is raised here.
    """

    dataset: _Batches

    def __init__(self, dataset: _Batches, batches: Iterable[Any], workers: int, timeout: float) -> None:
        super().__init__(
            dataset,
            sampler=batches,
            batch_size=None,  # a data set here makes a whole batch at once
            num_workers=workers,
            collate_fn=_as_it_is,
            timeout=timeout if workers else 0,
            worker_init_fn=_prepare_worker,
            generator=torch.Generator(),  # or each pass would draw a number from the global one
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        with _interrupts_held():
            batches = super().__iter__()
        try:
            while (batch := self._next(batches)) is not None:
                if isinstance(batch, DatasetError):
                    raise batch
                yield batch
        finally:
            # Now, not when the frames that an error holds are collected; and a worker that a signal has ended meanwhile is no news.
            with contextlib.suppress(RuntimeError):
                getattr(batches, "_shutdown_workers", lambda: None)()

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except RuntimeError as error:
            explanation = self.dataset.reading.explain(error, self.timeout)
            if explanation is None:
                raise
            raise RetrievalError(explanation) from error


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keeps Ctrl-C until the block has ended, and for good from the processes that are forked in it.

    While a process forks, Python swallows a KeyboardInterrupt, and a worker that gets one dies and is waited for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals, and only it may say who handles them
        return
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if held:
        signal.raise_signal(signal.SIGINT)  # to whoever handles it


def _as_it_is(batch: Any) -> Any:
    return batch


def _prepare_worker(worker: int) -> None:
    """Keeps OpenCV from starting a thread a core in every worker, as torch already does, and its last words off the screen."""
    import cv2

    # Errors of data come back as values; what is left is a thread of torch's that finds, at the end of a run, its peer gone.
    sys.excepthook = lambda *_: None
    cv2.setNumThreads(0)  # 1 would first end the threads of the process forked from, and wait for them for ever
