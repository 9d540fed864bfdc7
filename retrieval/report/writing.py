"""Writes a report: one HTML page, and its pictures as PNGs in a folder beside it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from retrieval.errors import RetrievalError
from retrieval.files import require_place, write_bytes, write_text
from retrieval.report.analysis import Images, analyse
from retrieval.report.page import MARK, Facts, make_report

log = logging.getLogger("retrieval")


def write_report(
    page: Path, facts: Facts, queries: Images, gallery: Images | None = None, *, ks: Sequence[int], seed: int
) -> tuple[Path, Path]:
    """Writes the report on a set of embeddings.

    Args:
        page: The HTML file. An earlier report is replaced; other files and folders are left alone.
        facts: What the report says besides what it computes.
        queries: The queries.
        gallery: The images that are searched; by default every query against all others.
        ks: Cut-offs of recall@k; those beyond the gallery are left out.
        seed: Seed of everything that is sampled at random.

    Returns:
        The page, and the folder of its pictures: its name with "-pictures" in place of ".html".

    Raises:
        ValueError: The embeddings cannot be evaluated.
        RetrievalError: The page cannot be written.
    """
    check_replaceable(page)
    galleries = () if gallery is None else (gallery,)
    log.info("ranking %d images for %d queries", len((gallery or queries).labels), len(queries.labels))
    analysis = analyse(queries, *galleries, ks=ks, seed=seed)
    log.info("drawing")
    report = make_report(analysis, facts, seed=seed)
    if report.unreadable:
        log.warning(
            "%d images cannot be read, the first: %s; give the folder they are in now with --images",
            len(report.unreadable),
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
                f"{folder}: exists and is of no report, so it is left alone; move it away, or choose another --out"
            )
        return
    try:
        with page.open("rb") as file:
            if MARK.encode() in file.read(1000):
                return
    except OSError as error:
        raise RetrievalError(f"{page}: cannot be read ({error.strerror}); choose another --out") from error
    raise RetrievalError(f"{page}: exists and is no report, so it is left alone; choose another --out")


def _pictures_folder(page: Path) -> Path:
    return page.with_name(f"{page.stem}-pictures")
