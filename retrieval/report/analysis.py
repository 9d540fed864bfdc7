"""What a report says about a set of embeddings, as numbers and positions; pictures and words come later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from retrieval import evaluation
from retrieval.evaluation import ClassFigures, Ranking

# Neighbours looked at of every query.
_NEIGHBOURS = 10
# Query-gallery pairs scored, at most: all of Stanford Online Products, minutes on two cores.
_MOST_PAIRS = 5 * 10**9
# Pairs drawn for a histogram of scores.
_DRAWN_PAIRS = 50_000


@dataclass(frozen=True, eq=False)
class Images:
    """Embedded images, whose files need not be there.

    Args:
        vectors: (count, dim) float32 unit vectors.
        labels: (count,) whole numbers.
        class_names: of every image.
        paths: of every image, relative to `root`.
        root: folder of the images.
        pictures: a small JPEG of every image, where there are any; otherwise the files are read.
        has_pictures: whether there is a picture of any image; vectors alone have none.
    """

    vectors: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    paths: Sequence[str]
    root: Path
    pictures: Sequence[bytes] | None = None
    has_pictures: bool = True

    def source(self, position: int) -> Path | bytes:
        """The small JPEG of an image, or its file; no bytes where there are no pictures."""
        if not self.has_pictures:
            return b""
        return self.root / self.paths[position] if self.pictures is None else self.pictures[position]


@dataclass(frozen=True)
class Mistakes:
    """How often queries of one class have an image of another as first neighbour; the surest of these as an example.

    Args:
        query: position of a query of the class.
        neighbour: position of its first neighbour, which is of the other class.
        score: of the two.
        count: how many queries of the class are taken for the other.
        of: how many queries the class has.
    """

    query: int
    neighbour: int
    score: float
    count: int
    of: int


@dataclass(frozen=True)
class Pair:
    """A query and an image of another class, and their score."""

    query: int
    neighbour: int
    score: float


@dataclass(frozen=True, eq=False)
class Analysis:
    """What `analyse` finds; queries and neighbours are positions in the images they were given as.

    Args:
        queries: what was asked.
        gallery: what was searched; the same object where the images were searched among themselves.
        asked: (num_asked,) the queries whose neighbours were looked at: all, or a random sample.
        neighbours: (num_asked, k) the nearest gallery images, best first; -1 where there are no more.
        scores: (num_asked, k) their scores.
        ranking: of the queries asked that have something to find; its positions are in `asked`.
        classes: the figures by class.
    """

    queries: Images
    gallery: Images
    asked: np.ndarray
    neighbours: np.ndarray
    scores: np.ndarray
    ranking: Ranking
    classes: ClassFigures

    @property
    def own(self) -> bool:
        """Whether the images were searched among themselves."""
        return self.queries is self.gallery

    @property
    def is_sample(self) -> bool:
        """Whether only some of the queries were asked."""
        return len(self.asked) < len(self.queries.labels)

    @cached_property
    def right(self) -> np.ndarray:
        """(num_asked, k) whether the neighbours are of the query's class."""
        labels = self.queries.labels[self.asked]
        return (self.neighbours >= 0) & (self.gallery.labels[self.neighbours] == labels[:, None])

    def drawn(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Rows of `asked`, sampled at random from the queries that have something to find."""
        rows = self.ranking.queries
        return np.sort(generator.permutation(rows)[:count])

    def worst(self, count: int) -> np.ndarray:
        """Rows of `asked` whose nearest image of their own class comes last."""
        order = np.lexsort((self.ranking.queries, -self.ranking.first_rank))
        order = order[self.ranking.first_rank[order] > 1]
        return self.ranking.queries[order[:count]]

    def most_confused(self, count: int) -> np.ndarray:
        """Rows of `asked` whose neighbours show one other class most: by how many, then by the first one's score.

        One row for each two classes.
        """
        rows = self.ranking.queries[self.ranking.first_rank > 1]
        labels = np.where(self.neighbours[rows] >= 0, self.gallery.labels[self.neighbours[rows]], -1)
        first = labels[:, :1]  # the nearest is wrong
        alike = (labels == first).sum(axis=1)
        order = np.lexsort((rows, -self.scores[rows, 0], -alike))
        pairs = np.stack([self.queries.labels[self.asked[rows]], first[:, 0]], axis=1)[order]
        once = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
        return rows[order[once[:count]]]

    def mistakes(self, count: int) -> list[Mistakes]:
        """Which class is taken for which: those most often first."""
        rows = self.ranking.queries
        rows = rows[(self.neighbours[rows, 0] >= 0) & ~self.right[rows, 0]]
        rows = rows[np.argsort(-self.scores[rows, 0], kind="stable")]  # so that the first of each pair is the surest
        pairs = np.stack([self.queries.labels[self.asked[rows]], self.gallery.labels[self.neighbours[rows, 0]]], axis=1)
        found, first, counts = np.unique(pairs, axis=0, return_index=True, return_counts=True)
        sizes = dict(zip(self.classes.labels.tolist(), self.classes.queries.tolist(), strict=True))
        order = np.lexsort((first, -counts))[:count]
        return [
            Mistakes(
                int(self.asked[row := rows[first[i]]]),
                int(self.neighbours[row, 0]),
                float(self.scores[row, 0]),
                int(counts[i]),
                sizes[int(found[i, 0])],
            )
            for i in order
        ]

    def near_duplicates(self, count: int) -> list[Pair]:
        """The pairs of images of different classes with the highest scores among the neighbours looked at, no image twice."""
        rows, columns = np.nonzero((self.neighbours >= 0) & ~self.right)
        queries, neighbours, scores = self.asked[rows], self.neighbours[rows, columns], self.scores[rows, columns]
        found: list[Pair] = []
        seen: set[tuple[bool, int]] = set()
        for i in np.argsort(-scores, kind="stable").tolist():
            pair = Pair(int(queries[i]), int(neighbours[i]), float(scores[i]))
            both = {(True, pair.query), (self.own, pair.neighbour)}
            if not both & seen:
                found.append(pair)
                seen |= both
            if len(found) == count:
                break
        return found


def analyse(queries: Images, gallery: Images | None = None, *, ks: Sequence[int], seed: int = 0) -> Analysis:
    """Ranks a gallery for each query, exactly.

    Args:
        queries: what is searched for.
        gallery: what is searched in; without it each query is searched among the others. Labels of one number are the same class.
        ks: cut-offs of recall@k; those that the gallery is too small for are left out.
        seed: of the random sample of queries, where all would take hours.

    Raises:
        ValueError: there is nothing to find for any query, or the arrays are none that `retrieval.evaluation` takes.
    """
    own = gallery is None
    searched = queries if gallery is None else gallery
    count, others = len(queries.labels), len(searched.labels) - own
    parts = -(-count * len(searched.labels) // _MOST_PAIRS)
    order = np.arange(count) if parts == 1 else np.random.default_rng(seed).permutation(count)
    ranking = evaluation.rank_queries(
        queries.vectors[order],
        queries.labels[order],
        ks=[k for k in ks if k <= others] or [1],
        ids=order if own else None,
        gallery=None if own else searched.vectors,
        gallery_labels=None if own else searched.labels,
        metrics=("recall", "map@r", "r_precision", "mrr"),
        shard=(0, parts),
    )
    asked = order
    if parts > 1:
        asked = order[ranking.queries]
        ranking = replace(ranking, queries=np.arange(len(asked)))
    found = evaluation.search(
        queries.vectors[asked], searched.vectors, min(_NEIGHBOURS, others), query_ids=asked if own else None
    )
    return Analysis(queries, searched, asked, found.ids, found.scores, ranking, evaluation.class_figures(ranking))


def draw_scores(queries: Images, gallery: Images, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The scores of pairs of one class, and of pairs of two classes: of each kind as many pairs as the random sample holds.

    Every query is as likely as any other, and of its class every other image; a query without another is not drawn.
    """
    order = np.argsort(gallery.labels, kind="stable")
    in_order = gallery.labels[order]
    first, last = (np.searchsorted(in_order, queries.labels, side=side) for side in ("left", "right"))
    drawn = generator.choice(np.arange(len(queries.labels)), _DRAWN_PAIRS)
    of_class = first[drawn] + (generator.random(_DRAWN_PAIRS) * (last - first)[drawn]).astype(np.int64)
    same = order[np.minimum(of_class, len(order) - 1)]
    any_other = generator.choice(len(gallery.labels), _DRAWN_PAIRS)
    positive = (queries.labels[drawn] == gallery.labels[same]) & ~((queries is gallery) & (drawn == same))
    negative = queries.labels[drawn] != gallery.labels[any_other]
    return (
        _scores(queries, gallery, drawn[positive], same[positive]),
        _scores(queries, gallery, drawn[negative], any_other[negative]),
    )


def _scores(queries: Images, gallery: Images, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The scores of pairs, some at a time."""
    parts = [slice(start, start + 4096) for start in range(0, len(rows), 4096)]
    products = [np.einsum("ij,ij->i", queries.vectors[rows[part]], gallery.vectors[positions[part]]) for part in parts]
    return np.concatenate(products) if products else np.zeros(0, dtype=np.float32)
