"""From images of any form to the vectors of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from retrieval.data import ImageSet, decoding_of, evaluation_loader, to_image
from retrieval.training import distributed
from retrieval.training.progress import ProgressBar

PREPARED = "a float tensor (3, height, width) or (batch, 3, height, width), as the network takes it"
_DELAY = 2.0  # seconds before a progress bar appears


def is_single(images: Any) -> bool:
    """Whether a value is one image, not several."""
    if isinstance(images, (str, Path, Image.Image)):
        return True
    if isinstance(images, Tensor):
        return images.ndim == 3 or (images.ndim == 2 and not images.is_floating_point())
    return isinstance(images, np.ndarray) and images.ndim in (2, 3) and images.dtype != object


def batches_of(images: Iterable[Any], prepare: Callable[[Image.Image], Any], size: int) -> Iterator[Tensor]:
    """Batches (batch, 3, height, width) of the images that items stand for.

    Args:
        images: Paths, PIL images, uint8 arrays (height, width, 3), uint8 tensors (3, height, width), or prepared float tensors.
        prepare: From an RGB image to the network's input.
        size: Images of a batch.
    """
    iterator = iter(images)
    while items := list(islice(iterator, size)):
        yield _stack([_prepare(item, prepare) for item in items])


def batches_of_loader(loader: Iterable[Any], prepare: Callable[[Image.Image], Any]) -> Iterator[Tensor]:
    """The images of the batches of a DataLoader: prepared tensors, alone or first in a tuple such as (images, labels).

    Raises:
        ValueError: A batch holds something else.
    """
    for batch in loader:
        images = batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
        if isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point():
            yield images
        elif isinstance(batch, (tuple, list)) and isinstance(images, (str, Path, Image.Image)):
            yield _stack([_prepare(item, prepare) for item in batch])
        else:
            raise ValueError(f"a batch of the loader holds {_shape(images)}; give {PREPARED}")


def loader_of(images: ImageSet, prepare: Callable[[Image.Image], Any], settings: Any) -> DataLoader[Tensor]:
    """The batches of an image set, read by worker processes.

    Args:
        images: The images.
        prepare: From an RGB image to the network's input.
        settings: The model, with `batch_size`, `workers` and `timeout`.
    """
    return evaluation_loader(
        images, prepare, batch_size=settings.batch_size, workers=settings.workers, timeout=settings.timeout
    )


def encode_shared(
    model: Any,
    images: ImageSet,
    *,
    watch: Callable[[Iterable[Tensor]], Iterable[Tensor]] = lambda batches: batches,
    bar: ProgressBar | None = None,
) -> np.ndarray:
    """The network's output (len(images), dim) for an image set; several processes share the work, and all have the result.

    Args:
        model: A `retrieval.Model` of a network that takes tensors.
        images: The images.
        watch: A function that the batches pass through.
        bar: A progress bar to continue; by default there is one for these images.
    """

    def embed_part(part: slice) -> np.ndarray:
        share = images.select(np.arange(len(images))[part])
        loader = loader_of(share, model.preprocessing, model)
        own = ProgressBar(len(loader), "embedding") if bar is None else bar
        try:
            return model.embed(watch(own.each(loader)), fold=True)
        finally:
            if own is not bar:
                own.close()

    return distributed.share_out(embed_part, len(images), model.batch_size)


def with_progress(items: Iterable[Any], count: int | None, size: int) -> Iterable[Any]:
    """The items, with a progress bar that appears if they take long."""
    if count is None or count <= size:
        return items
    return ProgressBar(count, "embedding", delay=_DELAY).each(items)


def _prepare(item: Any, prepare: Callable[[Image.Image], Any]) -> Tensor:
    if isinstance(item, Tensor) and item.is_floating_point():
        if item.ndim != 3:
            raise ValueError(f"an image is a tensor {_shape(item)}; give {PREPARED}")
        return item.float()
    made = prepare(to_image(item, **decoding_of(prepare)))
    if not isinstance(made, (Tensor, np.ndarray)) or made.ndim != 3:
        raise ValueError(f"the preprocessing makes {_shape(made)}, expected a float tensor (3, height, width)")
    return torch.as_tensor(made)


def _stack(prepared: list[Tensor]) -> Tensor:
    shapes = {image.shape for image in prepared}
    if len(shapes) > 1:
        first, second, *_ = sorted(map(tuple, shapes))
        raise ValueError(f"prepared images have the shapes {first} and {second}; prepare all to one size, as by a crop")
    return torch.stack(prepared)


def _shape(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"
