"""Batches of images from worker processes. The batches do not depend on the number of workers."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import multiprocessing.queues
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from retrieval.data.image_set import ImageSet
from retrieval.data.images import decoding_of
from retrieval.data.reading import Reading
from retrieval.errors import DatasetError, RetrievalError

log = logging.getLogger("retrieval")

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
    """Returns a loader of augmented training batches, in the order of `batches`.

    A batch depends only on the seed, its number and its indices. It depends neither on the workers nor on earlier batches, so
    a run that is resumed at a later batch continues exactly.

    Args:
        images: The images that the indices refer to. Their transform is not used.
        batches: For every batch, a number (e.g. its step) and the indices of its images. An image that is repeated under the
            same number gets the same augmentation.
        augment: Returns the view (3, size, size) of an image for a seed; see `make_augmentation`.
        seed: The seed, not negative.
        workers: The number of worker processes. With 0, images are read in this process.
        timeout: Seconds to wait for a batch of the workers; 0 waits without limit.

    Returns:
        A loader of (images (batch, 3, size, size) float32, labels (batch,) int64). It does not change torch's random state.

    Raises:
        DatasetError: During iteration, if an image cannot be read, also if a worker reads it.
        RetrievalError: During iteration, if a worker was killed or hangs, cannot start, or too many files are open.
    """
    return _Loader(_TrainingBatches(images, Reading(images, workers), augment, seed), batches, workers, timeout)


def evaluation_loader(
    images: ImageSet,
    preprocessing: Callable[[Image.Image], Any],
    *,
    batch_size: int,
    workers: int,
    timeout: float = 120.0,
) -> DataLoader[Tensor]:
    """Returns a loader of all images in order, with deterministic preprocessing. The last batch can be smaller.

    Args:
        images: The images to read. Their transform is not used.
        preprocessing: A `Preprocessing`, or another function from an RGB image to an array or a tensor.
        batch_size: The number of images in a batch.
        workers: See `training_loader`, also for the errors.
        timeout: See `training_loader`.

    Returns:
        A loader of the stacked results: images (batch, 3, size, size) float32 with a `Preprocessing`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1")
    indices = np.arange(len(images))
    batches = [indices[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return _Loader(_EvaluationBatches(images, Reading(images, workers), preprocessing), batches, workers, timeout)


@dataclass(frozen=True)
class _Batches(Dataset[Any]):
    """The images of both kinds of batches."""

    images: ImageSet
    reading: Reading

    def load(self, index: int, prepare: Any) -> Image.Image:
        self.reading.note(int(index))
        try:
            return self.images.load(int(index), **decoding_of(prepare))
        except DatasetError as error:
            if explanation := _explain(error.__cause__):
                raise RetrievalError(f"{self.images.where(int(index))}: {explanation}") from error
            raise


@dataclass(frozen=True)
class _TrainingBatches(_Batches):
    augment: View
    seed: int

    def __getitem__(self, batch: tuple[int, np.ndarray]) -> tuple[Tensor, Tensor] | RetrievalError:
        number, indices = batch
        try:
            with self.reading.batch():
                views = [self.augment(self.load(i, self.augment), (self.seed, number, int(i))) for i in indices]
        except RetrievalError as error:
            return error
        return torch.from_numpy(np.stack(views)), torch.from_numpy(self.images.labels[indices])


@dataclass(frozen=True)
class _EvaluationBatches(_Batches):
    preprocessing: Callable[[Image.Image], Any]

    def __getitem__(self, indices: np.ndarray) -> Tensor | RetrievalError:
        try:
            with self.reading.batch():
                return self._stack(
                    [torch.as_tensor(self.preprocessing(self.load(i, self.preprocessing))) for i in indices], indices
                )
        except RetrievalError as error:
            return error

    def _stack(self, images: list[Tensor], indices: np.ndarray) -> Tensor:
        for image, index in zip(images, indices, strict=True):
            if image.shape != images[0].shape:
                raise DatasetError(
                    f"{self.images.where(index)}: the preprocessing makes {tuple(image.shape)} of it and "
                    f"{tuple(images[0].shape)} of others; make all images equally large"
                )
        return torch.stack(images)


class _Loader(DataLoader[Any]):
    """A `DataLoader` of whole batches whose errors are one line.

    `DataLoader` adds the traceback of a worker to the message of its exceptions. The data sets therefore return a `RetrievalError`
    in place of the batch, and it is raised here.
    """

    dataset: _Batches

    def __init__(self, dataset: _Batches, batches: Iterable[Any], workers: int, timeout: float) -> None:
        super().__init__(
            dataset,
            sampler=batches,
            batch_size=None,  # an item of the data set is a whole batch
            num_workers=workers,
            collate_fn=_pack,
            timeout=timeout if workers else 0,
            worker_init_fn=_prepare_worker,
            generator=torch.Generator(),  # otherwise each pass would advance the global generator
        )

    def check_worker_number_rationality(self) -> None:
        """Leaves out torch's warning about more workers than cores. Their number is an option of the user."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            with _interrupts_held():
                batches = super().__iter__()
        except OSError as error:
            explanation = _explain(error) or f"{error.strerror or error}; set data.workers=0"
            raise RetrievalError(f"the data workers cannot start: {explanation}") from error
        try:
            while (batch := self._next(batches)) is not None:
                if isinstance(batch, RetrievalError):
                    raise batch
                yield batch
        finally:
            # Ends the workers now, not when the frames of an exception are collected. A worker may have been ended by a signal.
            with contextlib.suppress(RuntimeError):
                getattr(batches, "_shutdown_workers", lambda: None)()

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            batch = next(batches, None)
            return batch.unpack() if isinstance(batch, _Packed) else batch
        except RuntimeError as error:
            explanation = _explain(error) or self.dataset.reading.explain(error, self.timeout)
            if explanation is None:
                raise
            raise RetrievalError(explanation) from error


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Delays Ctrl-C until the block has ended. Processes that are forked in the block ignore it.

    While a process forks, Python drops a KeyboardInterrupt. A worker that receives one dies, and the loader waits for it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals and can set their handlers
        return
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if held:
        signal.raise_signal(signal.SIGINT)  # for the previous handler


@dataclass(frozen=True)
class _Packed:
    """A batch on its way from a worker.

    Args:
        content: The pickled batch.
        shared: Whether its tensors are in shared memory. If not, `content` has a copy of them.
    """

    content: bytes
    shared: bool

    def unpack(self) -> Any:
        """The batch.

        Raises:
            RetrievalError: The worker was lost, or too many files are open.
        """
        if not self.shared:
            _warn_of_copies()
        try:
            return pickle.loads(self.content)
        except (OSError, EOFError, RuntimeError) as error:
            lost = f"a data worker was lost ({error}); if memory ran out, lower data.workers or batch.size"
            raise RetrievalError(_explain(error) or lost) from error


def _pack(batch: Any) -> Any:
    """Pickles a batch in a worker.

    By default the queue would do this, in a thread whose errors never reach the parent process: it would wait for the batch.
    """
    if get_worker_info() is None:
        return batch
    try:
        return _Packed(bytes(ForkingPickler.dumps(batch)), shared=True)
    except (OSError, RuntimeError):  # no space in shared memory, or too many open files
        return _Packed(pickle.dumps(batch), shared=False)


@functools.cache
def _warn_of_copies() -> None:
    """Logs once that batches are copied."""
    log.warning(
        "shared memory (/dev/shm) is full: batches are copied instead, which takes longer; enlarge it, in Docker with --shm-size"
    )


def _explain(error: BaseException | None) -> str | None:
    """The remedy for an error by the limits of the system; None for another error."""
    number = error.errno if isinstance(error, OSError) else None
    # "ancdata" is in the error of the process that receives an open file and cannot open one more.
    if number in (errno.EMFILE, errno.ENFILE) or any(text in str(error) for text in ("Too many open files", "ancdata")):
        return "too many files are open; raise the limit with `ulimit -n`, or lower data.workers"
    if number == errno.ENOSPC:
        return "shared memory (/dev/shm) is full; enlarge it, in Docker with --shm-size, or set data.workers=0"
    return None


def _prepare_worker(worker: int) -> None:
    """Turns off the threads of OpenCV in a worker, as torch does for its own, and the tracebacks of a worker's threads."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent process, which ends its workers
    # Data errors are returned as values. The hook only hides those of a torch thread whose peer has ended before it.
    sys.excepthook = lambda *_: None
    # The thread of the queue cannot report an error. The parent process notices that the worker has ended.
    multiprocessing.queues.Queue._on_queue_feeder_error = lambda *_: os._exit(1)  # type: ignore[attr-defined]
    cv2.setNumThreads(0)  # 1 would wait without end for threads of the parent process, which do not exist here
