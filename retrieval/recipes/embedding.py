"""Embedding many images so that a kill costs little: finished parts wait in a side folder."""

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
import torch

from retrieval.building import ProgressBar
from retrieval.config import Config
from retrieval.data import ImageSet, evaluation_loader, load_image
from retrieval.errors import RetrievalError
from retrieval.files import write_bytes, write_text
from retrieval.index.thumbnails import thumbnail
from retrieval.models import embed
from retrieval.recipes.sources import Source
from retrieval.training import distributed

log = logging.getLogger("retrieval")

PART = 2048  # images of a part, about: minutes of work without a GPU


@contextmanager
def side_folder(out: Path, source: Source, images: ImageSet) -> Iterator[Path]:
    """A hidden folder beside `out` for finished parts, gone when the block ends without an error.

    What an earlier call left there stays if it was made of the same images by the same model, and goes otherwise.
    """
    folder = out.parent / f".{out.name}.embedded"
    distributed.on_main(lambda: _prepare(folder, _key(source, images)))
    yield folder
    distributed.on_main(lambda: shutil.rmtree(folder, ignore_errors=True))


def embed_in_parts(source: Source, images: ImageSet, device: torch.device, side: Path) -> np.ndarray:
    """Unit vectors (len(images), dim) of all images, in order, in every process; finished parts come from the side folder.

    Args:
        source: the model.
        images: what to embed.
        device: where to.
        side: see `side_folder`.
    """
    source.model.to(device)
    size = source.config.evaluation.batch_size
    step = max(1, PART // size) * size  # whole batches, so that a resumed call has the same vectors to the last bit
    parts = []
    with ProgressBar(-(-len(images) // size), "embedding") as bar:
        for start in range(0, len(images), step):
            part = np.arange(start, min(start + step, len(images)))
            file = side / f"{start:09d}.npy"
            vectors = distributed.on_main(lambda file=file, part=part: _read_part(file, len(part)))  # type: ignore[misc]
            if vectors is None:
                vectors = _embed_part(source, images.select(part), bar)
                distributed.on_main(lambda file=file, vectors=vectors: _write_part(file, vectors))  # type: ignore[misc]
            else:
                bar.update(-(-len(part) // size))
            parts.append(vectors)
    return np.concatenate(parts)


def thumbnails_of(images: ImageSet) -> list[bytes]:
    """A small JPEG of every image."""
    with ProgressBar(len(images), "thumbnails") as bar:
        return [thumbnail(load_image(images.root / path)) for path in bar.each(images.paths)]


def _embed_part(source: Source, images: ImageSet, bar: ProgressBar) -> np.ndarray:
    config: Config = source.config

    def embed_share(share: slice) -> np.ndarray:
        loader = evaluation_loader(
            images.select(np.arange(len(images))[share]),
            source.preprocessing,
            batch_size=config.evaluation.batch_size,
            workers=config.data.workers,
            timeout=config.data.timeout,
        )
        return embed(source.model, bar.each(loader), autocast=config.evaluation.amp == "bfloat16")

    return distributed.share_out(embed_share, len(images), config.evaluation.batch_size)


def _prepare(folder: Path, key: str) -> None:
    file = folder / "key.json"
    try:
        if file.is_file() and file.read_text() == key:
            log.info("taking up what an earlier call has embedded (%s)", folder)
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise RetrievalError(f"{folder}: cannot be created ({error.strerror}); choose another --out") from error
    write_text(file, key)


def _key(source: Source, images: ImageSet) -> str:
    """What decides the vectors: the model, and the images with their sizes and times of change."""
    stats = [
        (path.stat().st_size, path.stat().st_mtime_ns)
        for path in map(images.root.joinpath, images.paths)
        if path.is_file()
    ]
    values = {
        "images": images.fingerprint(),
        "root": str(images.root.resolve()),
        "files": hashlib.sha256(json.dumps(stats).encode()).hexdigest(),
        "model": source.description,
        "weights": hashlib.sha256(source.weights).hexdigest(),
        "batch_size": source.config.evaluation.batch_size,
        "amp": source.config.evaluation.amp,
    }
    return json.dumps(values)


def _read_part(file: Path, count: int) -> np.ndarray | None:
    try:
        vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = (
        isinstance(vectors, np.ndarray) and vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == count
    )
    return vectors if fits else None


def _write_part(file: Path, vectors: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, vectors)
    write_bytes(file, content.getbuffer())
