"""Images searched for in an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retrieval import evaluation
from retrieval.building import ProgressBar, pick_device
from retrieval.data import load_image, prepare
from retrieval.errors import ConfigError
from retrieval.index import Bundle, read_bundle, reranking
from retrieval.models import embed
from retrieval.recipes.measure import Ranking
from retrieval.recipes.sources import Source, images_of, source_of

_BATCH = 64  # images that are embedded at a time


def search(
    index: str | Path,
    images: Sequence[str | Path],
    *,
    k: int = 10,
    device: str = "auto",
    exact: bool = False,
    ranking: Ranking | None = None,
) -> list[dict[str, Any]]:
    """Finds the nearest neighbours of images in an index bundle, with the bundle's own model.

    Args:
        index: folder of the bundle.
        images: image files, and folders of them.
        k: number of neighbours.
        device: see `pick_device`.
        exact: look at every vector, where the index knows a faster way, too.
        ranking: rank otherwise than by the vectors as they are; always exact.

    Returns:
        For every image {"query": its path, "neighbours": [{"rank", "score", "id", "class", "path"}, ...]}, best first.
    """
    if k < 1:
        raise ConfigError(f"k is {k}, expected at least 1")
    bundle = read_bundle(index)
    approximate = None if exact or ranking else bundle.approximate()
    source = source_of(bundle)
    source.model.to(pick_device(device))
    files = images_of(images)
    queries = embed_files(source, files)
    k = min(k, len(bundle.ids))
    if approximate is not None:
        positions, scores = approximate.search(queries, k)
    elif ranking:
        positions, scores = _ranked(queries, bundle, k, ranking)
    else:
        found = evaluation.search(queries, bundle.vectors, k, gallery_ids=bundle.ids)
        position = {int(id_): place for place, id_ in enumerate(bundle.ids)}
        positions, scores = np.vectorize(position.__getitem__, otypes=[np.int64])(found.ids), found.scores
    return [_result(bundle, *row) for row in zip(files, positions, scores, strict=True)]


def embed_files(source: Source, files: Sequence[Path]) -> np.ndarray:
    """Unit vectors (len(files), dim) of image files, by a model that is on its device."""
    with ProgressBar(len(files), "embedding") as bar:
        return embed(source.model, _batches(bar.each(files), source))


def _batches(files: Iterable[Path], source: Source) -> Iterator[torch.Tensor]:
    batch = []
    for file in files:
        batch.append(torch.from_numpy(prepare(load_image(file), source.preprocessing)))
        if len(batch) == _BATCH:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)


def _ranked(queries: np.ndarray, bundle: Bundle, k: int, ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(bundle.ids)
    positions, best = [], []
    for scores in ranking.scores(queries, bundle.vectors[order], None):
        nearest = reranking.nearest(scores, k)
        positions.append(order[nearest])
        best.append(np.take_along_axis(scores, nearest, axis=1))
    return np.concatenate(positions), np.concatenate(best)


def _result(bundle: Bundle, file: Path, positions: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    found = [(int(place), float(score)) for place, score in zip(positions, scores, strict=True) if place >= 0]
    return {
        "query": str(file),
        "neighbours": [
            {"rank": rank, "score": score, "id": int(bundle.ids[place]), **bundle.describe(place)}
            for rank, (place, score) in enumerate(found, start=1)
        ],
    }
