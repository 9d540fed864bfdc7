"""Embeds one of several parts of many images into a file, and makes an index of all parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.data.names import natural_key, refuse_alike
from retrieval.errors import ConfigError, IndexFormatError
from retrieval.files import make_place
from retrieval.index.bundle import Bundle
from retrieval.index.part_files import (
    PartFile,
    class_labels,
    digest_of,
    part_name,
    read_model,
    read_part,
    read_parts,
    require_one_count,
    write_model,
    write_part,
)
from retrieval.index.parts import embed_in_parts, parts_folder
from retrieval.index.shares import Part, Share, share_of
from retrieval.index.writing import make_bundle
from retrieval.model import Model, precision
from retrieval.model.description import DESCRIPTION, StoredModel

log = logging.getLogger("retrieval")


def embed_part(
    model: Model,
    images: Sequence[str | Path],
    folder: str | Path,
    part: tuple[int, int],
    *,
    skip_unreadable: bool = False,
    overwrite: bool = False,
) -> tuple[Path, int]:
    """Embeds one part of some images into a file, which `Index.from_parts` reads.

    The parts can be made in any order, by any number of processes on any machines that share the folders. A part that is finished
    is not made again. A process that is killed leaves no part behind, and the same call continues its work.

    Args:
        model: The model; one that a file can hold.
        images: A folder of images, a CSV list, image files and folders, or tar shards; the same for every part.
        folder: The folder of the parts.
        part: (number, count): part `number`, from 1, of `count`.
        skip_unreadable: Leave out the images that cannot be read, which are logged.
        overwrite: Make the part again if it is finished.

    Returns:
        The file, and the number of its images.

    Raises:
        RetrievalError: The images cannot be read, the folder holds parts of other images or by another model, or it cannot be
            written.
    """
    own, folder, stored = Part(*part), Path(folder), model.stored()
    share = share_of(images, own, model.preprocessing)
    how: dict[str, Any] = {"model": stored.fingerprint(), "batch_size": model.batch_size, "precision": model.precision}
    whole = digest_of({**how, "images": share.whole, "count": own.count})
    key = digest_of({**how, "files": share.files, "skip": skip_unreadable})
    make_place(folder / DESCRIPTION)
    write_model(folder, stored)
    if require_one_count(folder) not in (0, own.count):
        raise ConfigError(f"{folder}: holds parts of another number than {own.count}; choose another folder")
    file = folder / part_name(own)
    with parts_folder(file) as unfinished:
        if file.exists() and not overwrite:
            return file, _finished(file, key)
        if skip_unreadable:
            share = share.without_unreadable(model)
        vectors = _embed(model, stored, share, unfinished)
        source = model.source | model.ran | precision.measure(model, share.images, vectors)
        classes = tuple(share.images.class_names[label] for label in share.images.labels)
        content = PartFile(own, vectors, share.paths, classes, str(share.root), how["model"], whole, key, source)
        return write_part(folder, content), len(vectors)


def from_parts(folder: Path, *, kind: str, where: str | Path) -> Bundle:
    """Makes a bundle of the parts in a folder; see `retrieval.Index.from_parts`."""
    if not folder.is_dir():
        raise IndexFormatError(f"{folder}: does not exist; give the folder of the parts")
    parts = read_parts(folder)
    stored = read_model(folder)
    if stored.fingerprint() != parts[0].model:
        raise IndexFormatError(f"{folder}: its parts were made by another model than that in it; embed them again")
    classes = [name for part in parts for name in part.classes]
    order = sorted(set(classes), key=natural_key)
    refuse_alike(order, folder)
    return make_bundle(
        vectors=np.concatenate([part.vectors for part in parts]),
        ids=np.arange(len(classes)),
        labels=class_labels(classes, order),
        class_names=order,
        paths=[path for part in parts for path in part.paths],
        model=stored,
        images_root=parts[0].root,
        split="images",
        source=dict(parts[0].source) | precision.pooled(part.source for part in parts),
        kind=kind,
        where=where,
    )


def _finished(file: Path, key: str) -> int:
    """The number of images of a finished part.

    Raises:
        ConfigError: It was made of other images, or in another way.
    """
    content = read_part(file)
    if content.key != key:
        raise ConfigError(
            f"{file}: was made of other images, or in another way; choose another folder, or set overwrite=True"
        )
    log.info("%s: is finished already", file)
    return len(content.vectors)


def _embed(model: Model, stored: StoredModel, share: Share, folder: Any) -> np.ndarray:
    if share.images.is_on_disk and model.takes_tensors:
        return model.unit(embed_in_parts(model, stored, share.images, folder))
    return model.encode(share.images)
