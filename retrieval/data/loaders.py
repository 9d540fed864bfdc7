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
    return _Loader(_TrainingBatches(images, augment, seed), batches, workers, timeout)


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
    return _Loader(_EvaluationBatches(images, preprocessing), batches, workers, timeout)


@dataclass(frozen=True)
class _TrainingBatches(Dataset[tuple[Tensor, Tensor] | DatasetError]):
    images: ImageSet
    augment: View
    seed: int

    def __getitem__(self, batch: tuple[int, np.ndarray]) -> tuple[Tensor, Tensor] | DatasetError:
        number, indices = batch
        try:
            views = [self.augment(_load(self.images, i), (self.seed, number, int(i))) for i in indices]
        except DatasetError as error:
            return error
        return torch.from_numpy(np.stack(views)), torch.from_numpy(self.images.labels[indices])


@dataclass(frozen=True)
class _EvaluationBatches(Dataset[Tensor | DatasetError]):
    images: ImageSet
    preprocessing: Preprocessing

    def __getitem__(self, indices: np.ndarray) -> Tensor | DatasetError:
        try:
            return torch.from_numpy(np.stack([prepare(_load(self.images, i), self.preprocessing) for i in indices]))
        except DatasetError as error:
            return error


class _Loader(DataLoader[Any]):
    """A `DataLoader` over whole batches whose errors are one line.

    An exception that leaves a worker comes back with the worker's traceback for a message. The data sets therefore return a
    `DatasetError` in place of the batch, and it is raised here.
    """

    def __init__(self, dataset: Dataset[Any], batches: Iterable[Any], workers: int, timeout: float) -> None:
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
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                explanation = _explain_lost_worker(error, self.timeout)
                if explanation is None:
                    raise
                raise RetrievalError(explanation) from error
            if isinstance(batch, DatasetError):
                del batches  # ends the workers now, not when the frames that the error holds are collected
                raise batch
            yield batch


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
        raise KeyboardInterrupt


def _load(images: ImageSet, index: int) -> Image.Image:
    return load_image(images.root / images.paths[index])


def _as_it_is(batch: Any) -> Any:
    return batch


def _prepare_worker(worker: int) -> None:
    """Keeps OpenCV from starting a thread a core in every worker, as torch already does, and its last words off the screen."""
    import cv2

    # Errors of data come back as values; what is left is a thread of torch's that finds, at the end of a run, its peer gone.
    sys.excepthook = lambda *_: None
    cv2.setNumThreads(0)  # 1 would first end the threads of the process forked from, and wait for them for ever


def _explain_lost_worker(error: RuntimeError, timeout: float) -> str | None:
    """One line for a worker that hangs or was killed; None for any other error."""
    reason = " ".join(str(error).split())
    if reason.startswith("DataLoader timed out"):
        return f"no batch came from the data workers within {timeout:g} s; look at the disk, or raise data.timeout"
    if reason.startswith("DataLoader worker (pid"):
        return f"a data worker was lost ({reason}); if memory ran out, lower data.workers or batch.size"
    return None
