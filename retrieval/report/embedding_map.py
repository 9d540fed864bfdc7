"""A map of embeddings in two dimensions, with small pictures on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from retrieval.report.colors import RIGHT, UNKNOWN, WRONG

# Pixels; the pictures lie on a grid of cells, one in each at most.
SIDE, _CELL, PICTURE, _MARGIN = 1400, 50, 44, 30
_FRAME = 3
_DOT = 4
# t-SNE of so many takes some 20 seconds on two cores.
MOST_IMAGES, _STEPS = 2_000, 750
_DIMENSIONS = 50
_FEWEST_FOR_TSNE = 10


def choose_for_map(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Positions of all images, or of whole classes sampled at random, as many as a map holds."""
    if len(labels) <= MOST_IMAGES:
        return np.arange(len(labels))
    classes = np.unique(labels)
    place = np.empty(len(classes), dtype=np.int64)
    place[generator.permutation(len(classes))] = np.arange(len(classes))
    order = generator.permutation(len(labels))  # some images of a class that is too large
    order = order[np.argsort(place[np.searchsorted(classes, labels[order])], kind="stable")]
    return np.sort(order[:MOST_IMAGES])


def project(vectors: np.ndarray, *, seed: int) -> tuple[np.ndarray, str]:
    """Places vectors on a plane, near ones near one another where possible.

    t-SNE (van der Maaten and Hinton, 2008) of the 50 main directions, which starts from the first two; these themselves (PCA) for
    less than ten vectors.

    Args:
        vectors: (count, dim) float32, at least one.
        seed: of the random numbers that t-SNE takes.

    Returns:
        (count, 2) float64, from 0 to 1, and the name of the method.
    """
    main = _main_directions(vectors.astype(np.float64))
    if len(vectors) < _FEWEST_FOR_TSNE or not main[:, 0].any():
        return _to_unit_square(main[:, :2]), "PCA"
    from sklearn.manifold import TSNE

    tsne = TSNE(
        init=main[:, :2] / main[:, 0].std() * 1e-4,
        perplexity=min(30.0, (len(vectors) - 1) / 3),
        learning_rate="auto",
        max_iter=_STEPS,
        random_state=seed % 2**32,
    )
    return _to_unit_square(tsne.fit_transform(main)), "t-SNE"


def draw_map(
    places: np.ndarray, right: np.ndarray, asked: np.ndarray, read: Callable[[int], Image.Image | None]
) -> Image.Image:
    """Draws in each cell of a grid the image nearest to its middle; where its file cannot be read, a mark for each of the cell.

    A green frame or disc: the first neighbour is of the image's class; an orange dashed frame or cross: it is not; grey: unknown.

    Args:
        places: (count, 2) from 0 to 1.
        right: (count,) whether the first neighbour is of the image's class.
        asked: (count,) whether that is known.
        read: the picture of an image, `PICTURE` pixels a side; None where there is none.

    Returns:
        An image of `SIDE` pixels a side, transparent where nothing is drawn.
    """
    canvas = Image.new("RGBA", (SIDE, SIDE))
    pixels = (_MARGIN + places * (SIDE - 2 * _MARGIN)).round().astype(int)
    order = np.argsort(((pixels % _CELL - _CELL // 2) ** 2).sum(axis=1), kind="stable")
    shown: dict[tuple[int, ...], bool] = {}
    for position in order.tolist():
        mark = (RIGHT if right[position] else WRONG) if asked[position] else UNKNOWN
        cell = tuple((pixels[position] // _CELL).tolist())
        if cell not in shown:
            picture = read(position)
            shown[cell] = picture is not None
            if picture is not None:
                _draw_picture(canvas, picture, cell, mark)
        if not shown[cell]:
            _draw_dot(canvas, pixels[position].tolist(), mark)
    return canvas


def _main_directions(vectors: np.ndarray) -> np.ndarray:
    """The coordinates (count, 2 to 50) along the directions of largest variance, the signs fixed."""
    vectors = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    axes = axes[:, ::-1][:, :_DIMENSIONS]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    found = vectors @ axes
    return np.pad(found, ((0, 0), (0, max(0, 2 - found.shape[1]))))


def _to_unit_square(places: np.ndarray) -> np.ndarray:
    places = places.astype(np.float64)
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - (low + high) / 2) / max(float((high - low).max()), 1e-12) + 0.5


def _draw_dot(canvas: Image.Image, place: list[int], color: str) -> None:
    x, y = place
    draw = ImageDraw.Draw(canvas)
    if color == WRONG:
        draw.line((x - _DOT, y - _DOT, x + _DOT, y + _DOT), color, 3)
        draw.line((x - _DOT, y + _DOT, x + _DOT, y - _DOT), color, 3)
    else:
        draw.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), color)


def _draw_picture(canvas: Image.Image, picture: Image.Image, cell: tuple[int, ...], color: str) -> None:
    left, top = (_CELL * number + (_CELL - PICTURE) // 2 for number in cell)
    right, bottom = left + PICTURE - 1, top + PICTURE - 1
    canvas.paste(picture, (left, top))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left, top, right, bottom), outline=color, width=_FRAME)
    if color == WRONG:  # gaps in the frame
        for start in range(9, PICTURE - 9, 12):
            for x, y in ((left, top + start), (right - _FRAME + 1, top + start)):
                draw.rectangle((x, y, x + _FRAME - 1, y + 4), fill="white")
            for x, y in ((left + start, top), (left + start, bottom - _FRAME + 1)):
                draw.rectangle((x, y, x + 4, y + _FRAME - 1), fill="white")
