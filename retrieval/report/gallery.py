"""Queries and their nearest neighbours, in one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageColor
from PIL.PngImagePlugin import PngInfo

from retrieval.files import write_bytes
from retrieval.report.colors import RIGHT, UNKNOWN, WRONG
from retrieval.report.thumbnail import read_thumbnail

PICTURE_MARK = b"Software\0retrieval"  # in the beginning of every picture
# Lengths are hundredths of an inch.
_TILE, _SPACE, _GAP, _MARGIN = 96, 12, 34, 16
_HEADER, _CAPTION = 26, 40
_DPI = 150
_MOST_ROWS = 100  # a picture has at most 2^16 pixels a side
_MOST_BYTES = 120_000  # of a row: less than 1 MB for 8 rows
_COLORS = (256, 128, 64, 16)  # numbers of colours of a smaller file; 16 keep 8 neighbours of noise below the limit

_FAMILY = "DejaVu Sans"  # comes with matplotlib: the same picture on every machine
_FRAMES = {True: (RIGHT, "solid", "✓ "), False: (WRONG, (0, (2.5, 1.2)), "✗ "), None: (UNKNOWN, "solid", "")}


@dataclass(frozen=True)
class Neighbour:
    """A neighbour of a query.

    Args:
        path: The image file, or its content.
        label: The name of its class.
        score: Its score; higher is closer.
        correct: Whether it is of the query's class; None if that is not known.
        name: The path to show on a page.
    """

    path: Path | bytes
    label: str
    score: float
    correct: bool | None
    name: str = ""


@dataclass(frozen=True)
class GalleryRow:
    """A query image, as a file or its content, and its neighbours, best first."""

    query: Path | bytes
    query_label: str
    neighbours: tuple[Neighbour, ...]


def plot_gallery(rows: Sequence[GalleryRow], path: str | Path, *, title: str = "", columns: int = 10) -> None:
    """Draws queries and their neighbours into a PNG file; see `draw_gallery`.

    Raises:
        RetrievalError: the file cannot be written.
    """
    write_bytes(path, draw_gallery(rows, title=title, columns=columns))


def draw_gallery(rows: Sequence[GalleryRow], *, title: str = "", columns: int = 10) -> bytes:
    """Draws each query, and to the right of it its neighbours with their scores, as a PNG.

    Neighbours of the query's class have a green frame and a tick, others a dashed red one and a cross; where it is not known the
    frame is grey. An image that cannot be read is a grey tile with the word "missing"; a query without neighbours has the words "no
    similar image" beside it. Labels are shortened to fit, and characters that the font lacks become "\N{REPLACEMENT CHARACTER}".
    A picture of up to 8 rows of 8 neighbours has less than 1 MB: it is drawn in fewer colours where it needs to be.

    Args:
        rows: one per query; after the first 100 the picture ends, and says so.
        title: a line above the picture.
        columns: neighbours drawn of each row, at most.

    Raises:
        ValueError: there is no row, or `columns` is below 1.
    """
    if not rows:
        raise ValueError("no rows to draw; give at least one query")
    if columns < 1:
        raise ValueError(f"columns is {columns}; give at least 1")
    shown = rows[:_MOST_ROWS]
    columns = max(1, min(columns, max(len(row.neighbours) for row in shown)))
    footer = _footer(len(rows), {neighbour.correct for row in shown for neighbour in row.neighbours[:columns]})
    title_height = 30 if title else 0
    width = 2 * _MARGIN + _left_of(columns) - _SPACE
    height = 2 * _MARGIN + title_height + _HEADER + len(shown) * (_TILE + _CAPTION) + (14 if footer else 0)
    figure, axes = _canvas(width, height)
    if title:
        _write(axes, _MARGIN, _MARGIN, title, size=11, limit=width - 2 * _MARGIN, weight="bold")
    top = _MARGIN + title_height
    for column, heading in enumerate(["query", *map(str, range(1, columns + 1))], start=-1):
        left = _MARGIN + (_left_of(column) if column >= 0 else 0)
        _write(axes, left + _TILE / 2, top + 2, heading, size=8, limit=_TILE, ha="center", color="0.35")
    top += _HEADER
    for row in shown:
        _draw_row(axes, top, row, columns)
        top += _TILE + _CAPTION
    _write(axes, _MARGIN, top, footer, size=7.5, limit=width - 2 * _MARGIN, color="0.35")
    return _encode(figure, len(shown) * _MOST_BYTES)


def _encode(figure: Figure, most_bytes: int) -> bytes:
    """The figure as a PNG: in all its colours, or in as many as `most_bytes` have room for."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    content = _to_png(picture)
    for colors in _COLORS:
        if len(content) <= most_bytes:
            break
        content = _to_png(_in_colors(picture, colors))
    return content


def _in_colors(picture: Image.Image, count: int) -> Image.Image:
    """The picture in `count` colours; those of the ground, the frames and the text stay as they are."""
    kept = [ImageColor.getrgb(color) for color in ("white", "black", RIGHT, WRONG, UNKNOWN)]
    found = picture.quantize(count - len(kept))
    pixels = np.asarray(picture.convert("RGBA")).view(np.uint32)[..., 0]  # a number for each pixel
    indices = np.asarray(found) + np.uint8(len(kept))
    for index, color in enumerate(kept):
        indices[pixels == np.array([*color, 255], dtype=np.uint8).view(np.uint32)] = index
    result = Image.fromarray(indices, "P")
    result.putpalette([value for color in kept for value in color] + (found.getpalette() or []))
    return result


def _to_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    mark = PngInfo()
    mark.add_text("Software", "retrieval")  # see `PICTURE_MARK`
    picture.save(buffer, "PNG", optimize=True, dpi=(_DPI, _DPI), pnginfo=mark)
    return buffer.getvalue()


def _footer(num_rows: int, verdicts: set[bool | None]) -> str:
    parts = ["✓ of the query's class, ✗ of another"] if verdicts - {None} else []
    if num_rows > _MOST_ROWS:
        parts.append(f"the first {_MOST_ROWS} of {num_rows} queries")
    return "; ".join(parts)


def _canvas(width: int, height: int) -> tuple[Figure, Axes]:
    """A figure and axes that fill it, with the origin at its upper left and hundredths of an inch as unit."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    return figure, axes


def _left_of(column: int) -> int:
    """Where the tile of a neighbour begins, from the left of the query."""
    return _TILE + _GAP + column * (_TILE + _SPACE)


def _draw_row(axes: Axes, top: int, row: GalleryRow, columns: int) -> None:
    _draw_tile(axes, _MARGIN, top, row.query)
    axes.add_artist(Rectangle((_MARGIN, top), _TILE, _TILE, fill=False, edgecolor="0.75", linewidth=0.8))
    _write(
        axes, _MARGIN + _TILE / 2, top + _TILE + 8, row.query_label, size=6.5, limit=_TILE, ha="center", weight="bold"
    )
    if not row.neighbours:
        left, middle = _MARGIN + _left_of(0), top + _TILE / 2 - 6
        _write(axes, left, middle, "no similar image", size=8, limit=_TILE + _GAP, color="0.25")
    for column, neighbour in enumerate(row.neighbours[:columns]):
        left = _MARGIN + _left_of(column)
        color, line, mark = _FRAMES[neighbour.correct]
        _draw_tile(axes, left, top, neighbour.path)
        axes.add_artist(
            Rectangle((left, top), _TILE, _TILE, fill=False, edgecolor=color, linestyle=line, linewidth=2.6)
        )
        score = f"{mark}{neighbour.score:.3f}"
        _write(
            axes,
            left + _TILE / 2,
            top + _TILE + 7,
            score,
            size=7.5,
            limit=_TILE,
            ha="center",
            color="0.25" if neighbour.correct is None else color,
            weight="bold",
        )
        _write(
            axes, left + _TILE / 2, top + _TILE + 19, neighbour.label, size=6.5, limit=_TILE, ha="center", color="0.25"
        )


def _draw_tile(axes: Axes, left: int, top: int, path: Path | bytes) -> None:
    extent = (left, left + _TILE, top + _TILE, top)
    thumbnail = read_thumbnail(path, _TILE * _DPI // 100)
    if thumbnail is None:
        axes.add_artist(Rectangle((left, top), _TILE, _TILE, facecolor="0.85", linewidth=0))
        _write(axes, left + _TILE / 2, top + _TILE / 2 - 6, "missing", size=8, limit=_TILE, ha="center", color="0.35")
        return
    axes.imshow(np.asarray(thumbnail), extent=extent, aspect="auto", interpolation="none")


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    limit: float,
    color: str = "black",
    ha: str = "left",
    weight: str = "normal",
) -> None:
    font = font_manager.FontProperties(family=_FAMILY, size=size, weight=weight)
    axes.text(x, y, _fit(text, font, limit), color=color, ha=ha, va="top", fontproperties=font, parse_math=False)


def _fit(text: str, font: font_manager.FontProperties, limit: float) -> str:
    """The text on one line and no wider than `limit`, its middle left out if need be, in characters that the font has."""
    face = font_manager.get_font(font_manager.findfont(font))
    face.set_size(font.get_size_in_points(), 100)

    def width(text: str) -> float:
        face.set_text(text)
        return face.get_width_height()[0] / 64

    text = "".join(
        character if face.get_char_index(ord(character)) else "\N{REPLACEMENT CHARACTER}"
        for character in " ".join(text.split())
    )
    if width(text) <= limit:
        return text
    shortest, longest = (
        2,
        len(text) - 1,
    )  # characters kept: halved between one that may be too few and one that may be too many
    while shortest < longest:
        kept = (shortest + longest + 1) // 2
        if width(_without_middle(text, kept)) <= limit:
            shortest = kept
        else:
            longest = kept - 1
    return _without_middle(text, shortest)


def _without_middle(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}"
