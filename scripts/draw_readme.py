"""Draws the pictures of the README and of the documentation that need no data.

    python scripts/draw_readme.py runs/quickstart/index-test --out docs/assets

- map.png: the test images of some classes on a plane, near ones near one another.
- gallery.png: four random queries of an index, each with its neighbours. The query itself is left out.
- projections.png: what each projection makes of the gradient of one query's scores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image

from retrieval import Index, recall_loss
from retrieval.losses.recall import PROJECTIONS
from retrieval.report.embedding_map import PICTURE, draw_map, project
from retrieval.report.gallery import GalleryRow, Neighbour, plot_gallery

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = 8
CLASSES, SIDE = 40, 800  # of the map; pixels


def draw_queries(index: Index, path: Path, *, queries: int = 4, seed: int = 1) -> None:
    """Draws some items of an index and their neighbours."""
    rows = []
    for item in np.random.default_rng(seed).choice(len(index), queries, replace=False):
        hits = [hit for hit in index.search(index.vectors[item], k=COLUMNS + 1) if hit.id != index.ids[item]][:COLUMNS]
        name = index.classes[item]
        found = [Neighbour(index.root / hit.path, hit.class_name, hit.score, hit.class_name == name) for hit in hits]
        rows.append(GalleryRow(index.root / index.paths[item], name, tuple(found)))
    plot_gallery(rows, path, columns=COLUMNS)


def draw_embeddings(index: Index, path: Path, *, seed: int = 1) -> None:
    """Draws a map of the images of random classes, each with a frame that tells whether its nearest neighbour is of its class."""
    chosen = np.random.default_rng(seed).choice(np.unique(index.labels), CLASSES, replace=False)
    items = np.flatnonzero(np.isin(index.labels, chosen))
    vectors, labels = index.vectors[items], index.labels[items]
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    right = labels[scores.argmax(axis=1)] == labels
    places, _ = project(vectors, seed=seed)

    def read(position: int) -> Image.Image:
        return Image.open(index.root / index.paths[items[position]]).convert("RGB").resize((PICTURE, PICTURE))

    picture = draw_map(places, right, np.ones(len(items), dtype=bool), read)
    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    flat.resize((SIDE, SIDE), Image.Resampling.LANCZOS).quantize(256).save(path, optimize=True)


def draw_projections(path: Path) -> None:
    """Draws the change of the scores of one query in a step of descent, by projection."""
    scores = torch.randn(40, generator=torch.Generator().manual_seed(3)).sort(descending=True).values * 0.1 + 0.2
    relevant = torch.zeros(1, 40, dtype=torch.bool)
    relevant[0, [6, 19]] = True
    figure, axes = plt.subplots(2, 3, figsize=(9, 4.5), sharex=True, layout="constrained")
    for axis, name in zip(axes.flat, PROJECTIONS, strict=True):
        leaf = scores[None].clone().requires_grad_()
        recall_loss(leaf, relevant, projection=name, weighting="linear", noise=0).backward()
        assert leaf.grad is not None
        change = -leaf.grad[0] / leaf.grad.abs().max()
        colors = ["#0f9d73" if it else "#9aa0a6" for it in relevant[0].tolist()]
        axis.bar(range(1, 41), change.numpy(), color=colors)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_title(name)
        axis.set_ylim(-1.1, 1.1)
    for axis in axes[1]:
        axis.set_xlabel("candidates, best first")
    axes[0, 0].set_ylabel("change of the score")
    axes[1, 0].set_ylabel("change of the score")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, help="an index whose images are there")
    parser.add_argument("--out", type=Path, default=Path("docs/assets"), help="folder of the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    index = Index.open(options.index)
    draw_embeddings(index, options.out / "map.png")
    draw_queries(index, options.out / "gallery.png")
    draw_projections(options.out / "projections.png")


if __name__ == "__main__":
    main()
