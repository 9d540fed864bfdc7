"""What the noise of the recall loss does against the collapse of the scores: spread and recall over the steps, with and without.

    python scripts/collapse.py --out docs      # collapse.png; a minute or two on two cores, no data needed

A linear layer from pixels of `glyphs` to 64 dimensions is trained by identity, in each of the `CASES` without noise, with the
default noise and with that of a whole standard deviation of a query's scores; and with the projection "std" without noise, to
compare with. All runs start from the same weights, and those of a batch size see the same batches. The spread is the mean standard
deviation of the scores of a query in its batch; recall@1 is of classes that are not trained on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from retrieval.data import MPerClassSampler, read_dataset
from retrieval.defaults import NOISE
from retrieval.evaluation import evaluate
from retrieval.losses import measure_batch, recall_loss
from retrieval.losses.score_matrix import relevance_masks

PER_CLASS, RATE = 4, 3e-3
NOISES = (0.0, NOISE, 1.0)
COLORS = {0.0: "#D55E00", NOISE: "#0072B2", 1.0: "#009E73"}
STYLES = {0.0: "-", NOISE: "--", 1.0: ":"}


@dataclass(frozen=True)
class Case:
    """A way to train.

    Args:
        projection: of the loss.
        margin: of the loss, in units of projected scores.
        batch: images of a step.
        dtype: of the scores.
    """

    projection: str
    margin: float = 0.0
    batch: int = 128
    dtype: torch.dtype = torch.float32


CASES = {
    "none": Case("none"),
    "mean": Case("mean"),
    "none, margin 0.1": Case("none", margin=0.1),
    "mean, margin 0.1": Case("mean", margin=0.1),
    "mean, batch of 16": Case("mean", batch=16),
    "mean, float16 scores": Case("mean", dtype=torch.float16),
}


def features(classes: int) -> dict[str, tuple[Tensor, np.ndarray]]:
    """Pixels (count, 400) less their mean over the training images, of norm 1 in the mean, and labels of both splits."""
    found = {}
    for split, images in read_dataset("glyphs").items():
        chosen = np.flatnonzero(images.labels < classes)
        pixels = np.stack([np.asarray(images.load(i).convert("L"), np.float32) for i in chosen]) / 255
        found[split] = (
            torch.from_numpy(pixels.reshape(-1, 20, 2, 20, 2).mean((2, 4)).reshape(-1, 400)),
            images.labels[chosen],
        )
    middle = found["train"][0].mean(0)
    scale = (found["train"][0] - middle).norm(dim=1).mean()
    return {split: ((rows - middle) / scale, labels) for split, (rows, labels) in found.items()}


def train(case: Case, noise: float, data: dict[str, tuple[Tensor, np.ndarray]], steps: int) -> list[dict[str, float]]:
    """What was measured, every few steps."""
    torch.manual_seed(0)
    rows, labels = data["train"]
    head, points = nn.Linear(rows.shape[1], 64), []
    optimizer = torch.optim.Adam(head.parameters(), lr=RATE)
    sampler = MPerClassSampler(labels, case.batch, PER_CLASS, seed=0)
    batches = (batch for epoch in range(steps) for batch in sampler.epoch(epoch))
    for step, batch in zip(range(steps + 1), batches, strict=False):
        embeddings, targets = normalize(head(rows[batch]), dim=1), torch.from_numpy(labels[batch])
        if step % max(1, steps // 25) == 0:
            points.append({"step": step, **measure_batch(embeddings, targets), "recall": recall(head, *data["test"])})
        half = embeddings.to(case.dtype)
        relevant, irrelevant = relevance_masks(embeddings, targets, None, embeddings, targets)
        options = {"projection": case.projection, "weighting": "loglog", "margin": case.margin, "noise": noise}
        loss = recall_loss(half @ half.T, relevant, irrelevant, **options)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return points


def recall(head: nn.Module, rows: Tensor, labels: np.ndarray) -> float:
    with torch.inference_mode():
        return evaluate(normalize(head(rows), dim=1), labels, ks=(1,), metrics=("recall",))["recall@1"]


def draw(curves: dict[str, dict[float, list[dict[str, float]]]], best: list[dict[str, float]], path: Path) -> None:
    """A column for each case: the spread above, recall@1 below."""
    figure, axes = plt.subplots(
        2, len(curves), figsize=(2.6 * len(curves), 5.4), sharex=True, sharey="row", layout="constrained"
    )
    for column, (name, runs) in zip(axes.T, curves.items(), strict=True):
        column[0].set_title(name, fontsize=10)
        for panel, figure_name, factor in ((column[0], "score_spread", 1), (column[1], "recall", 100)):
            lines = [("std, no noise", best, "#999999", "-")]
            lines += [
                (f"noise {noise:g}" if noise else "no noise", runs[noise], COLORS[noise], STYLES[noise])
                for noise in runs
            ]
            for label, points, color, style in lines:
                heights = [factor * point[figure_name] for point in points]
                panel.plot([point["step"] for point in points], heights, style, color=color, label=label, linewidth=1.8)
            panel.grid(axis="y", color="#DDDDDD")
        column[1].set_xlabel("step")
    axes[0][0].set_yscale("log")
    axes[0][0].set_ylabel("spread of a query's scores")
    axes[1][0].set_ylabel("recall@1 of other classes, %")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the picture")
    parser.add_argument("--steps", type=int, default=200, help="of each run, 200 if left out")
    parser.add_argument("--classes", type=int, default=100, help="of training and of the test, 100 if left out")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are too small for more
    data = features(options.classes)
    best = train(Case("std"), 0.0, data, options.steps)
    curves = {
        name: {noise: train(case, noise, data, options.steps) for noise in NOISES} for name, case in CASES.items()
    }
    print(f"{'after ' + str(options.steps) + ' steps':24}{'noise':>8}{'spread':>10}{'intruders':>11}{'recall@1':>10}")
    for name, runs in ({"std": {0.0: best}} | curves).items():
        for noise, points in runs.items():
            last = points[-1]
            cells = f"{last['score_spread']:>10.4f}{last['mean_intruders']:>11.2f}{100 * last['recall']:>10.2f}"
            print(f"{name:24}{noise:>8g}{cells}")
    options.out.mkdir(parents=True, exist_ok=True)
    draw(curves, best, options.out / "collapse.png")


if __name__ == "__main__":
    main()
