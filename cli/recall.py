"""`retrieval recall`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from .output import cautions_lines, class_table, one_table, print_csv, print_json, rankings_table, server_table
from .parameters import PLACE, Count, IndexOrVectors, Number, is_vectors, json_option, k_option, seed_option

METRICS = ("recall", "precision", "map@r", "r_precision", "mrr")


def parse_metrics(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Reads "recall,mrr"."""
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    for name in names:
        if name not in METRICS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(METRICS)}")
    return names


def ranking_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of query expansion, database augmentation and re-ranking."""

    def neighbours(name: str, what: str) -> Callable[[Any], Any]:
        return click.option(name, default=0, type=Count(0), metavar="N", help=what)

    for option in (
        neighbours("--rerank", "Re-rank by k-reciprocal neighbours among N."),
        neighbours("--dba", "Average each vector of the index with N."),
        click.option(
            "--alpha", default=3.0, show_default=True, type=Number(0), metavar="X", help="Weights: score ^ X."
        ),
        neighbours("--qe", "Average each query with its first N."),
    ):
        command = option(command)
    return command


def is_given(name: str) -> bool:
    """Whether an option of the running command was given, even if with its default value."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def require_weighted(qe: int, dba: int) -> None:
    """Refuses --alpha without --qe or --dba."""
    if is_given("alpha") and not (qe or dba):
        raise click.UsageError("--alpha goes with --qe and --dba only")


@click.command(
    "recall",
    short_help="Measure an index: recall@k and others.",
    epilog="""\b
Examples:
  retrieval recall runs/glyphs/index-test
  retrieval recall runs/glyphs/index-test --k 1,10,27 --json
  retrieval recall runs/glyphs/index-test --metrics mrr --macro --intervals
  retrieval recall runs/glyphs/index-test --per-class --csv
  retrieval recall huge-index --sample 1000 --seed 1
  retrieval recall runs/glyphs/index-test --qe 5 --dba 5 --rerank 20
  retrieval recall shop/index-gallery --queries shop/index-query
  retrieval recall vectors.npy --labels labels.csv
  retrieval recall photos-index --at milvus://localhost:19530/photos""",
)
@click.argument("index", type=IndexOrVectors(), metavar="INDEX|VECTORS.npy")
@k_option("1,2,4,8")
@click.option("--labels", type=PLACE, help="Labels of the vectors: .npy, .csv, .txt or .json.")
@click.option("--queries", type=IndexOrVectors(), help="Index, or vectors, that are the queries instead.")
@click.option("--query-labels", type=PLACE, help="Labels of these vectors.")
@click.option(
    "--metrics",
    default="recall,map@r,r_precision",
    show_default=True,
    callback=parse_metrics,
    metavar="NAME,...",
    help="Also precision (at k) and mrr.",
)
@click.option("--macro", is_flag=True, help="Also the means over classes.")
@click.option("--intervals", is_flag=True, help="Also 95 % intervals: bootstrap over queries.")
@click.option("--sample", type=Count(1), metavar="N", help="Only N of the queries, sampled at random.")
@seed_option("the bootstrap and the sample")
@click.option("--per-class", is_flag=True, help="Figures of each class, the worst first.")
@click.option("--at", metavar="URL", help="Measure recall@k of the server that it was pushed to.")
@ranking_options
@json_option("Print JSON: fractions of 1 under recall@1, ..., map@r.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: fractions of 1.")
def command(
    index: str,
    ks: tuple[int, ...],
    labels: str | None,
    queries: str | None,
    query_labels: str | None,
    metrics: tuple[str, ...],
    macro: bool,
    intervals: bool,
    sample: int | None,
    seed: int,
    per_class: bool,
    at: str | None,
    qe: int,
    alpha: float,
    dba: int,
    rerank: int,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Measure INDEX, or vectors of any model: each image against all others, or those of --queries against it.

    recall@k is the share of queries with at least one image of the same class among the first k. With --qe, --dba and --rerank the
    table shows the figures of each of them. A caution, in JSON and CSV a field, says if the model was trained on the queries. With
    --at, up to 1,000 images are queries of the server and of the exact search.
    """
    check_options(as_json, as_csv, per_class, macro, intervals, ranked := bool(qe or dba or rerank))
    require_weighted(qe, dba)
    require_labels(index, labels, "--labels")
    require_labels(queries, query_labels, "--query-labels")
    opened, against = _open(index, labels), queries and _open(queries, query_labels)
    cut_offs = ks if is_given("ks") else None
    more: dict[str, Any] = {"caution": caution} if (caution := (against or opened).caution) else {}
    if per_class:
        classes = [row | more for row in opened.evaluate_classes(cut_offs, queries=against, metrics=metrics)]
        _print(classes, classes, class_table, as_json, as_csv)
    elif ranked:
        rankings = opened.evaluate_rankings(cut_offs, queries=against, qe=qe, alpha=alpha, dba=dba, rerank=rerank)
        rows = [{"ranking": name, **figures, **more} for name, figures in rankings.items()]
        _print({name: figures | more for name, figures in rankings.items()}, rows, rankings_table, as_json, as_csv)
    else:
        options: dict[str, Any] = {"metrics": metrics, "macro": macro, "interval_seed": seed if intervals else None}
        figures = _figures(opened, at, cut_offs, queries=against, sample=sample, seed=seed, **options) | more
        table = one_table if at is None else server_table
        _print(figures, [figures], lambda rows: table(rows[0]), as_json, as_csv)


def _open(place: str, labels: str | None) -> Any:
    """The index in a folder, or of the vectors in a file."""
    from retrieval.index import Index

    return Index.open(place) if labels is None else Index.from_files(place, labels)


def _figures(index: Any, at: str | None, ks: tuple[int, ...] | None, **options: Any) -> dict[str, Any]:
    """The figures of an index, or of the server that it was pushed to."""
    if at is None:
        return index.evaluate(ks, **options)
    from retrieval.index import engines

    with engines.open(at) as engine:
        return engines.evaluate(engine, index, ks)


def refuse_with_at(*names: str) -> None:
    """Refuses options that do not go with --at."""
    for name in names:
        if is_given(name):
            raise click.UsageError(f"--{name.replace('_', '-')} does not go with --at")


def require_labels(place: str | None, labels: str | None, option: str) -> None:
    """Refuses vectors without labels, and labels without vectors."""
    if (place is not None and is_vectors(place)) != (labels is not None):
        raise click.UsageError(f"{option} goes with a .npy file of vectors, and such a file with {option}")


def check_options(as_json: bool, as_csv: bool, per_class: bool, macro: bool, intervals: bool, ranked: bool) -> None:
    """Refuses options that exclude each other."""
    if is_given("at"):
        others = "labels queries query_labels metrics macro intervals per_class sample qe dba rerank"
        refuse_with_at(*others.split())
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    if is_given("metrics") and ranked:
        raise click.UsageError("--metrics does not go with --qe, --dba and --rerank")
    if (per_class or macro or intervals) and ranked:
        raise click.UsageError("--qe, --dba and --rerank do not go with --per-class, --macro or --intervals")
    if per_class and (macro or intervals):
        raise click.UsageError("--per-class does not go with --macro or --intervals")
    if is_given("sample") and (per_class or ranked):
        raise click.UsageError("--sample does not go with --per-class, --qe, --dba and --rerank")
    if is_given("seed") and not (intervals or is_given("sample")):
        raise click.UsageError("--seed goes with --intervals and --sample only")


def _print(
    value: Any, rows: list[dict[str, Any]], table: Callable[[list[dict[str, Any]]], str], as_json: bool, as_csv: bool
) -> None:
    if as_json:
        print_json(value)
    elif as_csv:
        print_csv(rows)
    else:
        caution = rows[0].get("caution", "")
        figures = [{name: value for name, value in row.items() if name != "caution"} for row in rows]
        click.echo("\n".join([table(figures), *cautions_lines([caution])]))
