"""The report on an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import ConfigError, RetrievalError
from retrieval.index.bundle import Bundle
from retrieval.report import Facts, Images, write_report


def report(
    page: Path,
    bundle: Bundle,
    queries: Bundle | None,
    *,
    title: str,
    images: str | Path | None,
    ks: Sequence[int],
    seed: int,
    **record: Any,
) -> tuple[Path, Path]:
    """Writes the report on a bundle; see `retrieval.Index.report`.

    Args:
        page: The HTML file.
        bundle: The bundle.
        queries: A bundle whose items are the queries; by default every item is a query against all others.
        title: The heading.
        images: The folder of the images; by default that of the bundle, or its thumbnails.
        ks: Cut-offs of recall@k.
        seed: Seed of everything that is sampled at random.
        record: `results` and `rows` of a run; see `retrieval.report.Facts`.
    """
    if images is not None and not Path(images).is_dir():
        raise RetrievalError(f"{images}: does not exist; give the folder of the images")
    bundles = [bundle] if queries is None else [queries, bundle]
    names = dict.fromkeys(name for part in reversed(bundles) for name in part.class_names)
    number = {name: i for i, name in enumerate(names)}
    try:
        return write_report(
            page,
            Facts(title, _lines(bundle, queries), **record),
            *(_images(part, number, images) for part in bundles),
            ks=ks,
            seed=seed,
        )
    except ValueError as error:
        raise ConfigError(f"{bundle}: cannot be measured: {error}") from error


def _lines(gallery: Bundle, queries: Bundle | None) -> dict[str, Any]:
    """What the page says about the bundle."""
    manifest = gallery.manifest
    lines = {"images": f"{manifest['count']:,}", "classes": f"{manifest['num_classes']:,}"}
    if queries is not None:
        lines |= {"queries": f"{queries.manifest['count']:,}"}
    lines |= {"dimension": manifest["dimension"], "split": manifest["split"]}
    lines |= {key: value for key, value in manifest["source"].items() if isinstance(value, str | int | float)}
    return lines | {"index of": manifest["created"]}


def _images(bundle: Bundle, number: dict[str, int], root: str | Path | None) -> Images:
    """The bundle in the order of its ids, which orders ties."""
    order = np.argsort(bundle.ids)
    pictures = bundle.thumbnails if root is None else None
    names = [bundle.class_names[i] for i in order]
    return Images(
        vectors=bundle.vectors[order],
        labels=np.array([number[name] for name in names]),
        class_names=names,
        paths=[bundle.paths[i] for i in order],
        root=bundle.root if root is None else Path(root),
        pictures=pictures and [pictures[i] for i in order],
    )
