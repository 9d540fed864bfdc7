"""Embedded drawings with hostile names, and a report on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.report import Facts, GalleryRow, Images, Neighbour, Report, analyse, make_report, write_search_page

NAMES = (
    '<script>alert("x")</script>',
    "<img src=https://example.com/x.png onerror=alert(1)>",
    "{{ 7 * 7 }} & \"quotes' </style></svg>",
    "日本語 العربية \U0001f600",
    "W" * 300,
    "$\\frac$",
)
ROWS = [
    {"epoch": epoch, "loss": 5 / epoch, "validation recall@1": 0.1 * epoch, "validation map@r": 0.05 * epoch}
    for epoch in (1, 2, 3)
]


def hostile_images(root: Path, *, of_each: int = 5) -> Images:
    """Images of six classes, confusable; one file is missing, one is damaged, two are copies under different labels."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(NAMES)), of_each)
    vectors = 0.9 * generator.normal(size=(len(NAMES), 12))[labels] + generator.normal(size=(len(labels), 12))
    vectors[of_each] = vectors[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    paths = [f"{i} \"<b>&'.png" for i in range(len(labels))]
    for i, path in enumerate(paths):
        Image.new("RGB", (30 + i, 30), tuple(generator.integers(0, 255, 3).tolist())).save(root / path)
    (root / paths[of_each]).write_bytes((root / paths[0]).read_bytes())
    (root / paths[1]).write_bytes(b"\x89PNG no more")
    (root / paths[2]).unlink()
    return Images(vectors.astype(np.float32), labels, [NAMES[label] for label in labels], paths, root)


def vectors_alone(*, of_each: int = 5) -> Images:
    """Vectors of six classes, confusable, without any picture."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), of_each)
    vectors = generator.normal(size=(6, 12))[labels] + generator.normal(size=(len(labels), 12))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"class {label}" for label in labels]
    ids = list(map(str, range(len(labels))))
    return Images(vectors.astype(np.float32), labels, names, ids, Path("gone"), has_pictures=False)


def hostile_search_page(root: Path) -> Path:
    """The page of a search: a query with two neighbours, one of which is missing, and a query without any."""
    Image.new("RGB", (300, 200), (200, 30, 30)).save(root / "red.png")
    found = (
        Neighbour(root / "red.png", NAMES[0], 0.875, None, name="a/b.png"),
        Neighbour(root / "gone", NAMES[1], 0.5, None),
    )
    rows = [GalleryRow(root / "red.png", f"{root}/{NAMES[2]}", found), GalleryRow(root / "red.png", "other.png", ())]
    write_search_page(rows, root / "found.html", title="Neighbours <of> all", lines={"images": 12345})
    return root / "found.html"


def hostile_report(root: Path) -> Report:
    """The report on these."""
    facts = Facts(
        "A <title> & more",
        {"data <set>": "</dd><script>alert(2)</script>", "images": 30},
        {"untrained": {"recall@1": 0.1, "map@r": 0.01}, "<last>": {"recall@1": 0.5, "map@r": 0.25, "mrr": 0.4}},
        ROWS,
    )
    return make_report(analyse(hostile_images(root), ks=(1, 2)), facts)
