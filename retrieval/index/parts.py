"""Embeds many images in parts, so that a killed process loses little: finished parts are kept in a folder beside the index.

The name of a part is the key of what it was made of, so a part is only used for the same images and the same model.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.data import ImageSet
from retrieval.files import claimed, write_bytes
from retrieval.files.arrays import read_array
from retrieval.files.writing import not_written
from retrieval.index.thumbnails import thumbnail
from retrieval.model import Model
from retrieval.model.description import StoredModel
from retrieval.model.encoding import encode_shared
from retrieval.training import distributed
from retrieval.training.progress import ProgressBar

log = logging.getLogger("retrieval")

PART = 2048  # images of a part, about: minutes of work without a GPU


@contextmanager
def parts_folder(out: Path) -> Iterator[Path]:
    """A folder for finished parts of the work on `out`, which no other process writes during the block.

    It is removed when the block ends without an error. Those parts that an earlier call has left are in it.

    Raises:
        RetrievalError: Another process writes `out`.
    """
    with ExitStack() as stack:
        folder = distributed.on_main(lambda: stack.enter_context(claimed(out)) / "parts")
        yield folder
        distributed.on_main(lambda: shutil.rmtree(folder, ignore_errors=True))


def embed_in_parts(model: Model, stored: StoredModel, images: ImageSet, folder: Path) -> np.ndarray:
    """The network's output (len(images), dim) for all images, in order, in every process.

    Args:
        model: A model of a network that takes tensors.
        stored: The same model as files hold it.
        images: The images.
        folder: The folder of finished parts; see `parts_folder`.
    """
    size = model.batch_size
    step = max(1, PART // size) * size  # whole batches, so that a resumed call makes the same vectors to the last bit
    settings = {"model": stored.fingerprint(), "batch_size": size, "precision": model.precision}
    parts: list[np.ndarray] = []
    is_told = False
    with ProgressBar(-(-len(images) // size), "embedding") as bar:
        for start in range(0, len(images), step):
            part = images.select(np.arange(start, min(start + step, len(images))))
            file = distributed.on_main(lambda part=part: folder / f"{_key(settings, part)}.npy")  # type: ignore[misc]
            vectors = distributed.on_main(lambda file=file, part=part: _read_part(file, len(part)))  # type: ignore[misc]
            if vectors is None:
                vectors = encode_shared(model, part, bar=bar)
                distributed.on_main(lambda file=file, vectors=vectors: _write_part(file, vectors))  # type: ignore[misc]
            else:
                if not is_told:
                    log.info("continuing with the images that an earlier call has embedded (%s)", folder)
                is_told = True
                bar.update(-(-len(part) // size))
            parts.append(vectors)
    return np.concatenate(parts)


def thumbnails_of(images: ImageSet, max_pixels: int | None = None) -> list[bytes]:
    """A small JPEG of every image; `max_pixels` is the limit of an image file."""
    with ProgressBar(len(images), "thumbnails") as bar:
        return [thumbnail(images.load(i, max_pixels=max_pixels)) for i in bar.each(range(len(images)))]


def _key(settings: Mapping[str, Any], images: ImageSet) -> str:
    """A sha256 over everything that decides the vectors of some images: the model, and the files with their sizes and times."""
    root, files = images.root.resolve(), []
    for path in images.paths:
        file = root / path
        state = file.stat() if file.is_file() else None
        files.append((str(file), state and (state.st_size, state.st_mtime_ns)))
    return hashlib.sha256(json.dumps({**settings, "files": files}).encode()).hexdigest()


def _read_part(file: Path, count: int) -> np.ndarray | None:
    try:
        vectors = read_array(file)
    except (OSError, ValueError):
        return None
    return vectors if vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == count else None


def _write_part(file: Path, vectors: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, vectors)
    try:
        file.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise not_written(file, error) from error
    write_bytes(file, content.getbuffer())
