"""The report on an index: one HTML page, and its pictures as PNGs in a folder beside it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import ConfigError, RetrievalError, plural
from retrieval.files import claimed, require_mark, require_place, write_bytes, write_text
from retrieval.index.bundle import Bundle
from retrieval.report import MARK, Facts, Images, analyse, make_report

log = logging.getLogger("retrieval")


def report(
    page: Path,
    bundle: Bundle,
    queries: Bundle | None,
    *,
    title: str,
    images: str | Path | None,
    ks: Sequence[int],
    seed: int,
    lines: Mapping[str, Any] | None = None,
    **record: Any,
) -> tuple[Path, Path]:
    """Writes the report on a bundle; see `retrieval.Index.report`. An earlier report is replaced, other files are not.

    Args:
        page: The HTML file.
        bundle: The bundle.
        queries: A bundle whose items are the queries; by default every item is a query against all others.
        title: The heading.
        images: The folder of the images; by default that of the bundle, or its thumbnails.
        ks: Cut-offs of recall@k.
        seed: Seed of everything that is sampled at random.
        lines: Names and values to show besides those of the bundle.
        record: `results`, `rows` and `chosen` of a run; see `retrieval.report.Facts`.

    Returns:
        The page, and the folder of its pictures: its name with "-pictures" in place of ".html".

    Raises:
        RetrievalError: Nothing can be measured, or the page cannot be written.
    """
    if images is not None and not Path(images).is_dir():
        raise RetrievalError(f"{images}: does not exist; give the folder of the images")
    bundles = [bundle] if queries is None else [queries, bundle]
    if queries is not None:
        lines = {**(lines or {}), "queries": queries.manifest["count"]}
    facts = Facts(
        title,
        describe(bundle, lines),
        split=bundles[0].manifest["split"],
        threshold=None if bundle.calibration is None else bundle.calibration.threshold,
        **record,
    )
    names = dict.fromkeys(name for part in reversed(bundles) for name in part.class_names)
    number = {name: i for i, name in enumerate(names)}
    check_replaceable(page)
    try:
        with claimed(page):
            return _write(page, facts, *(_images(part, number, images) for part in bundles), ks=ks, seed=seed)
    except ValueError as error:
        raise ConfigError(f"{bundle}: cannot be measured: {error}") from error


def check_replaceable(page: Path) -> None:
    """Checks that a page and its pictures replace nothing but an earlier report.

    Raises:
        RetrievalError: Something else is there, or the page cannot be written.
    """
    require_place(page)
    if page.is_dir():
        inside = shlex.quote(str(page / "report.html"))
        raise RetrievalError(f"{page}: is a folder, expected the name of a page; give --out {inside}")
    if not page.exists():
        folder = _pictures_folder(page)
        if folder.is_dir() and any(folder.iterdir()):
            raise RetrievalError(
                f"{folder}: exists and is not part of a report, so it is not replaced; move it away, or choose another --out"
            )
        return
    require_mark(page, [MARK.encode()], "a report")


def _write(
    page: Path, facts: Facts, queries: Images, gallery: Images | None = None, *, ks: Sequence[int], seed: int
) -> tuple[Path, Path]:
    galleries = () if gallery is None else (gallery,)
    images, asked = plural(len((gallery or queries).labels), "image"), plural(len(queries.labels), "query", "queries")
    log.info("ranking %s for %s", images, asked)
    analysis = analyse(queries, *galleries, ks=ks, seed=seed)
    log.info("drawing")
    report = make_report(analysis, facts, seed=seed)
    if report.unreadable:
        log.warning(
            "%s cannot be read, the first: %s; give the folder of the images with --images",
            plural(len(report.unreadable), "image"),
            queries.root / report.unreadable[0],
        )
    folder = _pictures_folder(page)
    check_replaceable(page)  # again, since the work has taken a while
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RetrievalError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from error
    write_text(page, report.html)  # first, since it marks the pictures as part of a report
    for name, content in report.pictures.items():
        write_bytes(folder / name, content)
    return page, folder


def describe(bundle: Bundle, lines: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a page says about a bundle: names and values, `lines` among them."""
    manifest = bundle.manifest
    model = {} if bundle.model is None else bundle.model.description
    found = {"backbone": model.get("backbone"), "pixels": model.get("image_size"), **(lines or {})}
    found |= {"images": manifest["count"], "classes": manifest["num_classes"]}
    found |= {"dimension": manifest["dimension"], "split": manifest["split"]}
    found |= {key: value for key, value in manifest["source"].items() if isinstance(value, str | int | float)}
    found |= {"indexed": _time(manifest["created"])}
    return {name: value for name, value in found.items() if value is not None}


def _time(text: str) -> datetime | str:
    """The time of a manifest; its text where that is none."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


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
        has_pictures=root is not None or _has_pictures(bundle),
    )


def _has_pictures(bundle: Bundle) -> bool:
    """Whether a bundle has pictures: vectors without images have their ids as paths, and no thumbnails."""
    return bundle.has_thumbnails or bundle.items.have_paths


def _pictures_folder(page: Path) -> Path:
    return page.with_name(f"{page.stem}-pictures")
