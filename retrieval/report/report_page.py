"""The report on a set of embeddings: one page that needs nothing else, and its pictures as PNGs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from retrieval import evaluation
from retrieval.files.outputs import REPORT_MARK
from retrieval.report.analysis import Analysis, Images, draw_scores
from retrieval.report.charts import chart_classes, chart_ranks, chart_recall, chart_scores
from retrieval.report.curves import charts_training
from retrieval.report.embedding_map import PICTURE, choose_for_map, draw_map, project
from retrieval.report.gallery import GalleryRow, Neighbour, draw_gallery
from retrieval.report.headline import headline
from retrieval.report.page import Tile, picture_uri, render
from retrieval.report.thumbnail import data_uri, read_thumbnail

_QUERIES, _NEIGHBOURS = 8, 8
_CLASSES, _EXAMPLES = 15, 3
_PAIRS = 15
_LARGEST_FILE = 2**26  # bytes, of those that are compared
_TITLES = {"random": "Random queries", "worst": "The worst queries", "confused": "The most confused queries"}


@dataclass(frozen=True)
class Facts:
    """What a report says besides what can be computed.

    Args:
        title: Its heading.
        lines: Names and values.
        results: Of a run: figures by what was measured; see `retrieval.report.plot_training`.
        rows: Of a run: "epoch", "loss" and figures of every epoch.
        split: The split of the queries: "test", "validation", ...
        threshold: The score below which `min_score="auto"` leaves out an image; None where the index has none.
        chosen: Of a run: the epoch that is best by validation; None where none was chosen.
    """

    title: str
    lines: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    rows: Sequence[Mapping[str, float]] = ()
    split: str = ""
    threshold: float | None = None
    chosen: float | None = None


@dataclass(frozen=True)
class Report:
    """A page, its pictures by file name, and the files that could not be read as images."""

    html: str
    pictures: dict[str, bytes]
    unreadable: list[str]


def make_report(analysis: Analysis, facts: Facts, *, seed: int = 0) -> Report:
    """Makes the page and the pictures.

    Args:
        analysis: What `analyse` found.
        facts: What else to say.
        seed: Of everything that is sampled at random.
    """
    generator = np.random.default_rng(seed)
    album = _Album(analysis)
    ranking = analysis.ranking
    positive, negative = draw_scores(analysis.queries, analysis.gallery, generator)
    both = len(positive) > 0 and len(negative) > 0
    charts = {
        "training": charts_training(facts.rows, facts.results, facts.chosen) if facts.rows else [],
        "ranks": [chart_recall(ranking.first_rank), chart_ranks(ranking.first_rank)],
        "classes": [chart_classes(analysis.classes.values["recall@1"])],
        "scores": [chart_scores(positive, negative, facts.threshold)] if both else [],
    }
    picked = {
        "random": analysis.drawn(_QUERIES, generator),
        "worst": analysis.worst(_QUERIES),
        "confused": analysis.most_confused(_QUERIES),
    }
    map_picture, map_facts = _map(analysis, album, generator, seed)
    figures = _figures(analysis, seed)
    values = {figure["name"]: figure["value"] for figure in figures}
    html = render(
        "report.html",
        mark=Markup(REPORT_MARK),
        facts=facts,
        created=datetime.now(UTC),
        headline=headline(values, len(ranking.queries), facts.split, facts.results),
        analysis=analysis,
        figures=figures,
        axis=_axis(figures),
        results=_results(facts.results),
        charts={name: [(Markup(chart.svg()), chart.description) for chart in group] for name, group in charts.items()},
        galleries={name: [album.row(row) for row in rows] for name, rows in picked.items()},
        classes=_worst_classes(analysis, album),
        recalls=analysis.classes.values["recall@1"],
        mistakes=[
            {
                "query": album.query(m.query),
                "neighbour": album.neighbour(m.neighbour, m.score),
                "count": m.count,
                "of": m.of,
            }
            for m in analysis.mistakes(_PAIRS)
        ],
        num_wrong=int((ranking.values["recall@1"] == 0).sum()),
        medians=[float(np.median(scores)) for scores in (positive, negative) if len(scores)],
        ordered=_ordered(positive, negative),
        map=map_facts | {"uri": data_uri(map_picture), "count": len(analysis.queries.labels)},
        duplicates=[
            {
                "query": album.query(pair.query),
                "neighbour": album.neighbour(pair.neighbour, pair.score),
                "same": _same_content(analysis, pair.query, pair.neighbour),
            }
            for pair in analysis.near_duplicates(_PAIRS)
        ],
        num_unreadable=len(album.unreadable),
        has_pictures=album.has_pictures,
    )
    pictures = {f"{chart.name}.png": chart.png() for group in charts.values() for chart in group}
    pictures["map.png"] = _png_on_white(map_picture)
    if album.has_pictures:
        pictures |= _gallery_pictures(analysis, picked)
    return Report(html, pictures, sorted(album.unreadable))


class _Album:
    """The tiles of the images; knows the files that cannot be read."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.unreadable: set[str] = set()
        self.uris: dict[tuple[int, int], str | None] = {}

    @property
    def has_pictures(self) -> bool:
        """Whether any of the tiles so far has a picture."""
        return any(uri is not None for uri in self.uris.values())

    def query(self, position: int) -> Tile:
        """The tile of a query."""
        return self._tile(self.analysis.queries, position, "query")

    def neighbour(self, position: int, score: float, *, right: bool = False) -> Tile:
        """The tile of an image of the gallery."""
        return self._tile(self.analysis.gallery, position, "right" if right else "wrong", score)

    def row(self, row: int) -> dict[str, Any]:
        """A query that was asked, and its neighbours."""
        analysis = self.analysis
        found = zip(analysis.neighbours[row], analysis.scores[row], analysis.right[row], strict=True)
        return {
            "query": self.query(int(analysis.asked[row])),
            "rank": int(analysis.ranking.first_rank[np.searchsorted(analysis.ranking.queries, row)]),
            "neighbours": [
                self.neighbour(int(position), float(score), right=bool(right))
                for position, score, right in list(found)[:_NEIGHBOURS]
                if position >= 0
            ],
        }

    def thumbnail(self, position: int) -> Image.Image | None:
        """The picture of a query on the map."""
        picture = read_thumbnail(self.analysis.queries.source(position), PICTURE)
        self._note(self.analysis.queries, position, picture)
        return picture

    def _tile(self, images: Images, position: int, kind: str, score: float | None = None) -> Tile:
        key = (id(images), position)
        if key not in self.uris:
            self.uris[key] = picture_uri(images.source(position))
            self._note(images, position, self.uris[key])
        return Tile(self.uris[key], kind, images.class_names[position], images.paths[position], score)

    def _note(self, images: Images, position: int, picture: object) -> None:
        if picture is None and images.has_pictures:
            self.unreadable.add(images.paths[position])


def _figures(analysis: Analysis, seed: int) -> list[dict[str, Any]]:
    """Name, value and ends of the interval of every figure, over queries and over classes."""
    figures = evaluation.figures(analysis.ranking, macro=True, interval_seed=seed)
    return [
        {
            "name": name,
            "value": figures[name],
            "low": low,
            "high": figures[f"{name} high"],
            "macro": figures[f"macro {name}"],
        }
        for name in figures
        if (low := figures.get(f"{name} low")) is not None
    ]


def _axis(figures: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """The ends of the axis of the figures in percent: tens around all intervals."""
    low, high = min(figure["low"] for figure in figures), max(figure["high"] for figure in figures)
    return 10 * int(min(10 * low, 9)), 10 * int(np.ceil(10 * high)) or 10


def _results(results: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The figures of a run as a table: those that every row has."""
    names = [
        name
        for name in next(iter(results.values()), {})
        if name.startswith("recall@") or name in ("map@r", "r_precision")
        if all(name in figures for figures in results.values())
    ]
    rows = {what: [figures[name] for name in names] for what, figures in results.items()}
    return {"names": names, "rows": rows, "tested": any(not what.endswith(" (validation)") for what in results)}


def _worst_classes(analysis: Analysis, album: _Album) -> list[dict[str, Any]]:
    """The classes of lowest recall@1, of equal ones those of lowest MAP@R."""
    classes, ranking = analysis.classes, analysis.ranking
    recall, precision = classes.values["recall@1"], classes.values["map@r"]
    taken_for = {
        int(analysis.queries.labels[m.query]): m for m in reversed(analysis.mistakes(len(ranking.queries)))
    }  # reversed: the most frequent stays
    found = []
    for i in np.lexsort((precision, recall))[:_CLASSES]:
        label = int(classes.labels[i])
        rows = ranking.queries[ranking.labels == label]
        mistake = taken_for.get(label)
        found.append(
            {
                "examples": [album.query(int(analysis.asked[row])) for row in rows[:_EXAMPLES]],
                "name": analysis.queries.class_names[analysis.asked[rows[0]]],
                "queries": int(classes.queries[i]),
                "recall": float(recall[i]),
                "map": float(precision[i]),
                "taken_for": mistake and analysis.gallery.class_names[mistake.neighbour],
                "count": mistake and mistake.count,
            }
        )
    return found


def _ordered(positive: np.ndarray, negative: np.ndarray) -> float | None:
    """How often a pair of one class scores above one of two classes."""
    if not len(positive) or not len(negative):
        return None
    return float(np.searchsorted(np.sort(negative), positive).mean() / len(negative))


def _map(
    analysis: Analysis, album: _Album, generator: np.random.Generator, seed: int
) -> tuple[Image.Image, dict[str, Any]]:
    """The picture of the map, and its method and number of images."""
    queries = analysis.queries
    chosen = choose_for_map(queries.labels, generator)
    places, method = project(queries.vectors[chosen], seed=seed)
    verdicts = np.full(len(queries.labels), -1)
    rows = analysis.ranking.queries
    verdicts[analysis.asked[rows]] = analysis.right[rows, 0]
    picture = draw_map(places, verdicts[chosen] == 1, verdicts[chosen] >= 0, lambda i: album.thumbnail(int(chosen[i])))
    return picture, {"method": method, "shown": len(chosen)}


def _same_content(analysis: Analysis, query: int, neighbour: int) -> bool:
    """Whether two images are one file's content."""
    contents = [_content(analysis.queries.source(query)), _content(analysis.gallery.source(neighbour))]
    return contents[0] is not None and contents[0] == contents[1]


def _content(source: Path | bytes) -> bytes | None:
    """What a file holds; None where it cannot be read, or is larger than images are."""
    if isinstance(source, bytes):
        return source or None
    try:
        return source.read_bytes() if source.is_file() and source.stat().st_size <= _LARGEST_FILE else None
    except (OSError, ValueError):
        return None


def _png_on_white(picture: Image.Image) -> bytes:
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    buffer = io.BytesIO()
    white.convert("RGB").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _gallery_pictures(analysis: Analysis, picked: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The galleries as PNGs, by file name."""
    queries, gallery = analysis.queries, analysis.gallery
    pictures = {}
    for name, rows in picked.items():
        drawn = [
            GalleryRow(
                queries.source(query := int(analysis.asked[row])),
                queries.class_names[query],
                tuple(
                    Neighbour(gallery.source(int(i)), gallery.class_names[i], float(score), bool(right))
                    for i, score, right in zip(
                        analysis.neighbours[row], analysis.scores[row], analysis.right[row], strict=True
                    )
                    if i >= 0
                ),
            )
            for row in rows
        ]
        if drawn:
            pictures[f"{name}.png"] = draw_gallery(drawn, title=_TITLES[name], columns=_NEIGHBOURS)
    return pictures
