"""Index bundles from images or vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from retrieval.building import measured_splits, read_splits
from retrieval.data import ImageSet
from retrieval.errors import ConfigError, RetrievalError
from retrieval.index import approximate, write_bundle
from retrieval.index.manifest import MANIFEST
from retrieval.index.writing import require_replaceable
from retrieval.recipes import arrays
from retrieval.recipes.embedding import embed_in_parts, side_folder, thumbnails_of
from retrieval.recipes.outputs import require_free_folder
from retrieval.recipes.sources import Source, device_of, images_in, listed_images, read_source
from retrieval.training import distributed


def build_index(
    run: str | Path,
    out: str | Path | None = None,
    *,
    split: str | None = None,
    images: str | Path | None = None,
    listed: str | Path | None = None,
    root: str | Path | None = None,
    checkpoint: str = "last",
    kind: str = approximate.EXACT,
    thumbnails: bool = False,
    device: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Embeds a split, a folder or a list with a trained model and writes an index bundle.

    A call that was killed is taken up by the next one of the same images and model. Processes of torchrun share the work.

    Args:
        run: folder of a training run, or of an index whose model is to be used again.
        out: folder of the bundle; `index-<split>` in the run if left out.
        split: "train", "validation", "test", "query" or "gallery", whichever the run has; if left out the one that is searched:
            "test" or "gallery".
        images: a folder of images in place of a split; see `images_in`.
        listed: a list of images in place of a split; see `listed_images`.
        root: where the paths of the list start from.
        checkpoint: "last" or "best", by the validation classes.
        kind: "exact", "ivf", "hnsw", "pq" or an allowed faiss factory string; see `retrieval.index.approximate`.
        thumbnails: keep a small picture of every image.
        device: where to compute; as the run's configuration says if left out.
        overwrite: replace a bundle that is there.

    Returns:
        The bundle's folder.
    """
    source = read_source(run, checkpoint=checkpoint)
    name, found = _choose(source, run, split, images, listed, root)
    out = Path(out) if out else Path(run) / f"index-{name}"
    require_free_folder(out, overwrite, require_replaceable)
    factory = _factory(kind, len(found), source)
    with distributed.joined(device_of(source, device)) as place, side_folder(out, source, found) as side:
        vectors = embed_in_parts(source, found, place, side)
        distributed.on_main(
            lambda: write_bundle(
                out,
                vectors=vectors,
                ids=np.arange(len(found)),
                labels=found.labels,
                class_names=found.class_names,
                paths=found.paths,
                model=source.description,
                weights=source.weights,
                images_root=str(found.root.resolve()),
                split=name,
                source=source.facts,
                kind=factory,
                pictures=thumbnails_of(found) if thumbnails else None,
                overwrite=overwrite,
            )
        )
    return out


def index_vectors(
    vectors: str | Path,
    labels: str | Path,
    out: str | Path,
    *,
    kind: str = approximate.EXACT,
    overwrite: bool = False,
) -> Path:
    """Writes an index of embeddings from elsewhere; they are brought to unit length.

    Args:
        vectors: a .npy file (count, dim).
        labels: a .csv file with a line for each: the column "label", and perhaps "id" and "path".
        out: folder of the bundle.
        kind: see `build_index`.
        overwrite: replace a bundle that is there.

    Raises:
        RetrievalError: a file cannot be read, or the two do not fit together.
    """
    require_free_folder(out, overwrite, require_replaceable)
    rows = arrays.read_vectors(Path(vectors))
    items = arrays.read_labels(Path(labels), len(rows), vectors)
    with type_mistakes():
        write_bundle(
            out,
            vectors=rows,
            **items,
            model=None,
            weights=None,
            images_root=str(Path(labels).resolve().parent),
            split="vectors",
            source={"vectors": str(vectors), "labels": str(labels)},
            kind=kind,
            overwrite=overwrite,
        )
    return Path(out)


def _choose(
    source: Source,
    run: str | Path,
    split: str | None,
    images: str | Path | None,
    listed: str | Path | None,
    root: str | Path | None,
) -> tuple[str, ImageSet]:
    """The name and the images of what is to be embedded."""
    if sum(word is not None for word in (split, images, listed)) > 1:
        raise ConfigError("a split, a folder of images and a list exclude each other; give one of them")
    if root is not None and listed is None:
        raise ConfigError("--root belongs to --list, whose paths start from there")
    if images is not None:
        return "images", images_in(images)
    if listed is not None:
        return "list", listed_images(listed, root)
    if (Path(run) / MANIFEST).exists():
        raise ConfigError(
            f"{run}: is an index, which has no splits; say with --images or --list what its model is to embed"
        )
    splits = read_splits(source.config)
    split = split or measured_splits(splits)[1]
    if split not in splits:
        raise RetrievalError(f"{run}: has no split {split!r}; it has {', '.join(splits)}")
    return split, splits[split]


def _factory(kind: str, count: int, source: Source) -> str:
    """The type, checked before the work begins."""
    if kind == approximate.EXACT:
        return kind
    with type_mistakes():
        return approximate.factory_string(kind, count, source.model.embedding_dim)


@contextlib.contextmanager
def type_mistakes() -> Iterator[None]:
    """A ValueError in this block is about what a user has asked for."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error
