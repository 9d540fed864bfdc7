"""`retrieval search`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import neighbours_table, print_json, print_places
from .parameters import FILE, FOLDER, PLACE, Count, Place, Score, device_option, json_option, overwrite_option
from .recall import ranking_options, refuse_with_at, require_weighted

if TYPE_CHECKING:
    from retrieval.index import Hit, Index

log = logging.getLogger("retrieval")


@click.command(
    "search",
    epilog="""\b
Examples:
  retrieval search runs/glyphs photo.png
  retrieval search runs/glyphs/index-test a.png folder --k 5 --html found.html
  retrieval search photos-index photo.jpg --min-score auto
  retrieval search runs/glyphs/index-test a.png --qe 5 --rerank 20 --json
  retrieval search photo.jpg --model photos-index \\
    --at milvus://localhost:19530/photos --class cats""",
)
@click.argument("index", required=False, type=PLACE, metavar="INDEX|RUN")  # an image with --at
@click.argument("images", nargs=-1, type=PLACE, metavar="IMAGE|FOLDER...")
@click.option("--k", default=10, show_default=True, type=Count(1), metavar="N", help="Number of neighbours.")
@click.option("--min-score", type=Score(), metavar="X|auto", help="Only neighbours with this score or more.")
@click.option("--at", metavar="URL", help="Search the server that the index of --model was pushed to.")
@click.option("--model", type=FOLDER, metavar="INDEX|RUN", help="Index in place of the argument, with --at.")
@click.option("--class", "class_name", help="Only neighbours of this class, with --at.")
@click.option("--exact", is_flag=True, help="Score every vector, whatever the type of the index.")
@ranking_options
@device_option()
@click.option(
    "--picture",
    type=Place(".png", dir_okay=False),
    metavar="FILE.png",
    help="Draw queries and neighbours as a picture.",
)
@click.option("--html", type=FILE, help="Write queries and neighbours as one HTML file.")
@overwrite_option("the files of --picture and --html")
@json_option("Print the neighbours as JSON.")
def command(
    index: str | None,
    images: tuple[str, ...],
    k: int,
    min_score: float | str | None,
    at: str | None,
    model: str | None,
    class_name: str | None,
    exact: bool,
    qe: int,
    alpha: float,
    dba: int,
    rerank: int,
    device: str,
    picture: str | None,
    html: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Find the nearest neighbours of IMAGES in INDEX.

    A RUN stands for its index. With --min-score, the answer can be that no image is similar. auto is the threshold that was
    calibrated when the index was made: at most 1 % of the queries whose class is not in the index reach it. `retrieval recall`
    measures the gain of --qe, --dba and --rerank on this index. With --at and --model, all arguments are images, and a server
    finds the neighbours.
    """
    require_weighted(qe, dba)
    folder, images = _places(index, images, model, at)
    from retrieval.data import image_files
    from retrieval.index import Index
    from retrieval.index.bundle import index_to_search

    files = _drawable(picture, html, overwrite)
    opened, queries = Index.open(index_to_search(folder), device=device), image_files(images)
    ranking: dict[str, Any] = {"exact": exact, "qe": qe, "alpha": alpha, "dba": dba, "rerank": rerank}
    hits = _search(opened, at, queries, k, min_score, class_name, ranking)
    for name, file in files.items():
        write = opened.draw if name == "picture" else opened.write_page
        write(queries, hits, file, min_score=min_score, overwrite=overwrite)
    more = _limit(opened, min_score)
    results = [_to_dict(query, row, more) for query, row in zip(queries, hits, strict=True)]
    if as_json:
        print_json(results)
        return
    click.echo("\n".join(map(neighbours_table, results)))
    print_places(**files)


def _places(
    index: str | None, images: tuple[str, ...], model: str | None, at: str | None
) -> tuple[str, tuple[str, ...]]:
    """The folder of the index, and the images; with --at, the first argument is an image, too."""
    context = click.get_current_context()
    first, rest = context.command.params[:2]
    if (model is None) != (at is None):
        raise click.UsageError("--at and --model belong together")
    if at is None and context.params["class_name"] is not None:
        raise click.UsageError("--class goes with --at only")
    if at is not None:
        refuse_with_at("exact", "qe", "alpha", "dba", "rerank")
        index, images = model, ((index,) if index else ()) + images
    if index is None or not images:
        raise click.MissingParameter(ctx=context, param=rest if index else first)
    return FOLDER.convert(index, first, context), images


def _search(
    index: Index,
    at: str | None,
    queries: Sequence[Path],
    k: int,
    min_score: float | str | None,
    class_name: str | None,
    ranking: dict[str, Any],
) -> list[list[Hit]]:
    """The neighbours that the index finds, or the server that it was pushed to."""
    if at is None:
        return index.search(queries, k, min_score=min_score, **ranking)
    from retrieval.index import engines

    with engines.open(at) as engine:
        return engines.search(engine, index, queries, k, class_name=class_name, min_score=min_score)


def _limit(index: Index, min_score: float | str | None) -> dict[str, Any]:
    """The score that neighbours must have, if any, with the cautions of a calibrated one, which are also logged."""
    if min_score is None:
        return {}
    if min_score != "auto" or index.calibration is None:
        return {"min_score": min_score}
    for caution in index.calibration.cautions:
        log.warning("%s", caution)
    return {"min_score": index.calibration.threshold, "cautions": index.calibration.cautions}


def _to_dict(query: Path, hits: Sequence[Hit], limit: dict[str, Any]) -> dict[str, Any]:
    """The result of a query."""
    return {"query": str(query), **limit, "neighbours": [hit.to_dict() for hit in hits]}


def _drawable(picture: str | None, html: str | None, overwrite: bool) -> dict[str, Path]:
    """The files to write, after a check that they can be."""
    if picture and html and Path(picture).resolve() == Path(html).resolve():
        raise click.UsageError("--picture and --html are the same file; give two")
    from retrieval.index import Index

    files = {name: Path(file) for name, file in (("picture", picture), ("page", html)) if file}
    for file in files.values():
        Index.require_drawable(file, overwrite=overwrite)
    return files
