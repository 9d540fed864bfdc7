"""Embeds many images in parts, so that a killed process loses little: finished parts are kept in a folder beside the index."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from retrieval.data import ImageSet
from retrieval.errors import RetrievalError
from retrieval.files import write_bytes, write_text
from retrieval.files.arrays import read_array
from retrieval.index.thumbnails import thumbnail
from retrieval.model import Model
from retrieval.model.description import StoredModel
from retrieval.model.encoding import encode_shared
from retrieval.training import distributed
from retrieval.training.progress import ProgressBar

log = logging.getLogger("retrieval")

PART = 2048  # images of a part, about: minutes of work without a GPU


@contextmanager
def parts_folder(out: Path, model: Model, stored: StoredModel, images: ImageSet) -> Iterator[Path]:
    """A hidden folder beside `out` for finished parts. It is removed when the block ends without an error.

    The parts of an earlier call are kept if they were made of the same images by the same model, and removed otherwise.
    """
    folder = out.parent / f".{out.name}.embedded"
    distributed.on_main(lambda: _prepare(folder, _key(model, stored, images)))
    yield folder
    distributed.on_main(lambda: shutil.rmtree(folder, ignore_errors=True))


def embed_in_parts(model: Model, images: ImageSet, folder: Path) -> np.ndarray:
    """The network's output (len(images), dim) for all images, in order, in every process.

    Args:
        model: A model of a network that takes tensors.
        images: The images.
        folder: The folder of finished parts; see `parts_folder`.
    """
    size = model.batch_size
    step = max(1, PART // size) * size  # whole batches, so that a resumed call makes the same vectors to the last bit
    parts = []
    with ProgressBar(-(-len(images) // size), "embedding") as bar:
        for start in range(0, len(images), step):
            part = np.arange(start, min(start + step, len(images)))
            file = folder / f"{start:09d}.npy"
            vectors = distributed.on_main(lambda file=file, part=part: _read_part(file, len(part)))  # type: ignore[misc]
            if vectors is None:
                vectors = encode_shared(model, images.select(part), bar=bar)
                distributed.on_main(lambda file=file, vectors=vectors: _write_part(file, vectors))  # type: ignore[misc]
            else:
                bar.update(-(-len(part) // size))
            parts.append(vectors)
    return np.concatenate(parts)


def thumbnails_of(images: ImageSet) -> list[bytes]:
    """A small JPEG of every image."""
    with ProgressBar(len(images), "thumbnails") as bar:
        return [thumbnail(images.load(i)) for i in bar.each(range(len(images)))]


def _prepare(folder: Path, key: str) -> None:
    file = folder / "key.json"
    try:
        if file.is_file() and file.read_text() == key:
            log.info("continuing with the images that an earlier call has embedded (%s)", folder)
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise RetrievalError(f"{folder}: cannot be created ({error.strerror}); choose another --out") from error
    write_text(file, key)


def _key(model: Model, stored: StoredModel, images: ImageSet) -> str:
    """Everything that decides the vectors: the model, and the images with their sizes and modification times."""
    stats = [
        (path.stat().st_size, path.stat().st_mtime_ns)
        for path in map(images.root.joinpath, images.paths)
        if path.is_file()
    ]
    values = {
        "images": images.fingerprint(),
        "root": str(images.root.resolve()),
        "files": hashlib.sha256(json.dumps(stats).encode()).hexdigest(),
        "model": stored.fingerprint(),
        "batch_size": model.batch_size,
        "precision": model.precision,
    }
    return json.dumps(values)


def _read_part(file: Path, count: int) -> np.ndarray | None:
    try:
        vectors = read_array(file)
    except (OSError, ValueError):
        return None
    return vectors if vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == count else None


def _write_part(file: Path, vectors: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, vectors)
    write_bytes(file, content.getbuffer())
