"""The gallery of a run: some queries with their neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval import evaluation
from retrieval.data import ImageSet
from retrieval.report import GalleryRow, Neighbour, plot_gallery

_QUERIES, _NEIGHBOURS = 8, 8


def draw_neighbours(
    query_vectors: np.ndarray,
    gallery_vectors: np.ndarray,
    queries: ImageSet,
    gallery: ImageSet,
    path: str | Path,
    *,
    split: str,
    seed: int,
) -> None:
    """Draws random queries with their nearest neighbours.

    Args:
        query_vectors: (len(queries), dim) Unit vectors.
        gallery_vectors: (len(gallery), dim) Unit vectors.
        queries: The queries.
        gallery: The images that are searched. If it is the same set, no image finds itself.
        path: The PNG file.
        split: The split that they are of.
        seed: Seed of the choice of queries.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(queries))[:_QUERIES])
    own = chosen if queries is gallery else None
    nearest = evaluation.search(query_vectors[chosen], gallery_vectors, min(_NEIGHBOURS, len(gallery)), query_ids=own)
    rows = [
        GalleryRow(
            queries.picture(query),
            name := queries.class_names[queries.labels[query]],
            tuple(_neighbour(gallery, id_, score, name) for id_, score in zip(ids, scores, strict=True) if id_ >= 0),
        )
        for query, ids, scores in zip(chosen, nearest.ids, nearest.scores, strict=True)
    ]
    plot_gallery(rows, path, title=f"Random queries and their nearest neighbours among the {split} images")


def _neighbour(gallery: ImageSet, id_: int, score: float, name: str) -> Neighbour:
    own_name = gallery.class_names[gallery.labels[id_]]
    return Neighbour(gallery.picture(id_), own_name, float(score), own_name == name)
