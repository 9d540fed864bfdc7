"""Pictures of queries and what was found for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import evaluation
from retrieval.data import ImageSet
from retrieval.index import read_bundle
from retrieval.report import GalleryRow, Neighbour, plot_gallery


def draw_search(index: str | Path, found: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draws what `search` returned; the images are looked for where the bundle was made."""
    root = Path(read_bundle(index).manifest["images_root"])
    rows = [
        GalleryRow(
            Path(result["query"]),
            Path(result["query"]).name,
            tuple(Neighbour(root / n["path"], n["class"], n["score"], None) for n in result["neighbours"]),
        )
        for result in found
    ]
    plot_gallery(rows, path, title=f"Nearest neighbours in {index}", columns=max(len(row.neighbours) for row in rows))


def draw_neighbours(
    query_vectors: np.ndarray,
    gallery_vectors: np.ndarray,
    queries: ImageSet,
    gallery: ImageSet,
    path: str | Path,
    *,
    seed: int,
    num_queries: int = 8,
    k: int = 8,
) -> None:
    """Draws some queries, drawn by lot, with their nearest neighbours.

    Args:
        query_vectors: unit vectors (len(queries), dim).
        gallery_vectors: unit vectors (len(gallery), dim).
        queries: what is searched for.
        gallery: what is searched in; the same set, and no image finds itself.
        path: the PNG file.
        seed: of the lot.
        num_queries: rows of the picture.
        k: neighbours of each.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(queries))[:num_queries])
    own = chosen if queries is gallery else None
    found = evaluation.search(query_vectors[chosen], gallery_vectors, min(k, len(gallery)), query_ids=own)
    rows = [
        GalleryRow(
            queries.root / queries.paths[query],
            name := queries.class_names[queries.labels[query]],
            tuple(_neighbour(gallery, id_, score, name) for id_, score in zip(ids, scores, strict=True) if id_ >= 0),
        )
        for query, ids, scores in zip(chosen, found.ids, found.scores, strict=True)
    ]
    plot_gallery(rows, path, title="Queries drawn by lot, and their nearest neighbours among the test images")


def _neighbour(gallery: ImageSet, id_: int, score: float, name: str) -> Neighbour:
    own_name = gallery.class_names[gallery.labels[id_]]
    return Neighbour(gallery.root / gallery.paths[id_], own_name, float(score), own_name == name)
