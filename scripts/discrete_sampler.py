"""A variational autoencoder with a discrete latent, and five ways for its gradient to pass the sampler.

    python scripts/discrete_sampler.py --data OMNIGLOT --out OUT     10 minutes on two cores
    python scripts/discrete_sampler.py --quick --out OUT             half a minute, scikit-learn's digits

After Sahoo et al., ICLR 2023, section 4.1, and Niepert et al., NeurIPS 2021. OMNIGLOT is the folder in which
`images_background.zip` and `images_evaluation.zip` were unpacked. The latent is 20 variables, each a 10-subset of 20, taken by the
solver `top_k` from the encoder's logits plus noise. All methods start from the same weights and see the same batches and noise;
what differs is how the gradient passes the solver. Prints a table of held-out images, and leaves it, the curves and two pictures
in OUT.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from functools import cache, partial
from math import comb, log
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from interval import half_width
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from retrieval import RetrievalError
from retrieval.data import read_dataset
from retrieval.solvers import Blackbox, gumbel, solve, standardize, sum_of_gamma, top_k

VARIABLES, SIZE, K = 20, 20, 10  # of the latent: so many subsets of so many, with so many ones
TAU = 10.0  # temperature of the noise, and lambda of blackbox, as in both papers
BATCH = 100

Row = dict[str, Any]


def soften(scores: Tensor, temperature: float) -> Tensor:
    """k softmax(scores / temperature): keeps the order of the scores, hence a projection for `top_k`.

    With it the identity is the straight-through estimator: the subset forward, the softmax backward.
    """
    return K * (scores / temperature).softmax(dim=-1)


NOISES: dict[str, Callable[..., Tensor]] = {"gamma": partial(sum_of_gamma, k=K, temperature=TAU), "gumbel": gumbel}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # the noise, and the arguments of `solve`
    "identity + std": ("gamma", {"projection": standardize}),
    "identity without projection": ("gamma", {}),
    "blackbox (I-MLE)": ("gamma", {"gradient": Blackbox(TAU)}),
    "straight-through softmax": ("gamma", {"projection": partial(soften, temperature=TAU)}),
    "straight-through Gumbel-softmax": ("gumbel", {"projection": partial(soften, temperature=1.0)}),
}
COLORS = dict(zip(METHODS, ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a8a8a"), strict=True))


class Autoencoder(nn.Module):
    """Binary images (n, pixels) to logits (n, VARIABLES, SIZE), and subsets of that shape to logits of the pixels."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        latent = VARIABLES * SIZE
        self.encode = nn.Sequential(
            *(nn.Linear(pixels, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, latent)),
            nn.Unflatten(1, (VARIABLES, SIZE)),
        )
        self.decode = nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(latent, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, pixels)),
        )

    def forward(self, images: Tensor, noise: Tensor, **passing: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The logits, a sample of subsets, and what they decode to."""
        logits = self.encode(images)
        subsets = sample(logits + noise, **passing)
        return logits, subsets, self.decode(subsets)


def sample(scores: Tensor, **passing: Any) -> Tensor:
    """Marks the K highest along the last dimension; the gradient passes as told."""
    return solve(scores, partial(top_k, k=K), maximize=True, **passing)


def cross_entropy(pixels: Tensor, images: Tensor) -> Tensor:
    """The nats of an image under the logits of its pixels: the mean of (n, pixels)."""
    return nn.functional.binary_cross_entropy_with_logits(pixels, images, reduction="sum") / len(images)


def softmax_divergence(logits: Tensor) -> Tensor:
    """KL of softmax(logits) to the uniform, summed over the variables: the mean of (n, VARIABLES, SIZE).

    What both papers' code trains with. It is that of a one-hot latent, and only a stand-in for that of a subset.
    """
    logs = logits.log_softmax(dim=-1)
    return (logs.exp() * (logs + log(logits.shape[-1]))).sum(dim=(-2, -1)).mean()


class Law:
    """The distribution of a noise, from a million draws, and with it the probability of every subset."""

    def __init__(self, noise: Callable[..., Tensor]) -> None:
        draws = noise(torch.empty(1_000_000), generator=torch.Generator().manual_seed(0))
        even = np.linspace(0, 1, 129)
        self.levels = np.union1d(even, even**0.1)  # finer near 1, where the highest of many draws lies
        self.quantiles = np.quantile(draws.numpy().astype(np.float64), self.levels)

    def log_probability(self, subsets: Tensor, logits: Tensor) -> Tensor:
        """log P(these entries are the highest of logits + noise): (rows,) of (rows, entries).

        P is the integral of P(all inside > t) over the distribution of t, the highest outside.
        """
        inside, logits = subsets.bool().unsqueeze(1), logits.double().unsqueeze(1)
        thresholds = logits.masked_fill(inside, -torch.inf).amax(dim=-1) + torch.from_numpy(self.quantiles)
        below = torch.from_numpy(np.interp(thresholds.unsqueeze(-1) - logits, self.quantiles, self.levels))
        outside_below = below.masked_fill(inside, 1).prod(dim=-1)
        inside_above = (1 - below).masked_fill(~inside, 1).prod(dim=-1)
        integral = ((inside_above[:, 1:] + inside_above[:, :-1]) / 2 * outside_below.diff(dim=1)).sum(dim=1)
        return integral.clamp(min=1e-9).log()  # a million draws tell no more

    def divergence(self, subsets: Tensor, logits: Tensor) -> float:
        """KL of the sampler to the uniform on all subsets, from one sample (n, VARIABLES, SIZE) of each image."""
        pairs = zip(subsets.flatten(0, 1).split(500), logits.flatten(0, 1).split(500), strict=True)
        total = sum(self.log_probability(*pair).sum().item() for pair in pairs)
        return total / len(subsets) + VARIABLES * log(comb(SIZE, K))


@cache
def law(noise: str) -> Law:
    return Law(NOISES[noise])


def draw_noises(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {name: noise(torch.empty(count, VARIABLES, SIZE), generator=generator) for name, noise in NOISES.items()}


def read_images(data: str) -> Tensor:
    """Binary images (n, pixels), 1 where at least half of a pixel is ink: "digits", or those of Omniglot's folder."""
    if data == "digits":
        from sklearn.datasets import load_digits

        return torch.from_numpy(load_digits().data >= 8).float()
    images = read_dataset("omniglot", data)["train"]
    drawings = (np.asarray(images.load(index))[..., 0] for index in range(len(images)))
    small = np.stack([cv2.resize(drawing, (28, 28), interpolation=cv2.INTER_AREA) for drawing in drawings])
    return torch.from_numpy(small < 128).float().flatten(1)


def train(images: Tensor, held_out: Tensor, seed: int, steps: int) -> tuple[dict[str, Autoencoder], list[Row]]:
    """Trains a model by each method, side by side; returns them, and their figures on held-out images over the steps."""
    models, optimizers, rows = {}, {}, list[Row]()
    for name in METHODS:
        torch.manual_seed(seed)
        models[name] = Autoencoder(images.shape[1])
        optimizers[name] = torch.optim.Adam(models[name].parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        batch = images[torch.randint(len(images), (BATCH,), generator=generator)]
        noises = draw_noises(BATCH, generator)
        for name, (noise, passing) in METHODS.items():
            logits, _, pixels = models[name](batch, noises[noise], **passing)
            optimizers[name].zero_grad()
            (cross_entropy(pixels, batch) + softmax_divergence(logits)).backward()
            optimizers[name].step()
        if step % max(1, steps // 15) == 0 or step == steps:
            rows += [{"seed": seed, "step": step} | row for row in evaluate(models, held_out, with_bound=step == steps)]
    return models, rows


@torch.no_grad()
def evaluate(models: dict[str, Autoencoder], images: Tensor, with_bound: bool) -> list[Row]:
    """The terms of the loss, each time under the same noise, and if asked the bound with the sampler's own KL."""
    noises, rows = draw_noises(len(images), torch.Generator().manual_seed(0)), []
    for name, (noise, passing) in METHODS.items():
        logits, subsets, pixels = models[name](images, noises[noise], **passing)
        rebuilt, kl = cross_entropy(pixels, images).item(), softmax_divergence(logits).item()
        rows.append({"method": name, "reconstruction": rebuilt, "softmax KL": kl, "negative ELBO": rebuilt + kl})
        if with_bound:
            kl = law(noise).divergence(subsets, logits)
            rows[-1] |= {"sampler KL": kl, "bound": rebuilt + kl}
    return rows


def summarize(rows: list[Row]) -> list[Row]:
    """Mean over seeds of the rows that have a bound, and half the width of its 95 % interval (Student's t)."""
    table = []
    for name in METHODS:
        own = [row for row in rows if row["method"] == name and "bound" in row]
        table.append({"method": name})
        for key in ("reconstruction", "softmax KL", "negative ELBO", "sampler KL", "bound"):
            values = [row[key] for row in own]
            table[-1] |= {key: round(np.mean(values), 2), f"{key} ±": round(half_width(values), 2)}
    return table


def show(table: list[Row], pixel_means: float) -> None:
    """Prints the table as Markdown."""
    keys = [key for key in table[0] if f"{key} ±" in table[0]]
    print(f"| method | {' | '.join(keys)} |\n|---|{'---:|' * len(keys)}")
    for row in table:
        print(f"| {row['method']} | " + " | ".join(f"{row[key]:.1f} ± {row[f'{key} ±']:.1f}" for key in keys) + " |")
    print(f"\nWithout a latent, the means of the pixels: {pixel_means:.1f}")


def write_csv(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[-1])
        writer.writeheader()
        writer.writerows(rows)


def plot_curves(rows: list[Row], path: Path) -> None:
    """Draws the negative ELBO over the steps: the mean of the seeds, and their range."""
    figure = Figure(figsize=(7, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes, steps = figure.subplots(), sorted({row["step"] for row in rows})
    for name in METHODS:
        own = [row for row in rows if row["method"] == name]
        curves = np.array([[row["negative ELBO"] for row in own if row["step"] == step] for step in steps])
        axes.plot(steps, curves.mean(axis=1), color=COLORS[name], label=name)
        axes.fill_between(steps, curves.min(axis=1), curves.max(axis=1), color=COLORS[name], alpha=0.2, linewidth=0)
    axes.set(xlabel="step", ylabel="nats", title="Negative ELBO of held-out images")
    axes.grid(axis="y", color="#e6e6e6")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)


@torch.no_grad()
def plot_images(models: dict[str, Autoencoder], images: Tensor, path: Path) -> None:
    """Draws a row per model: half of the images rebuilt, and beside them as many samples from the uniform latent."""
    side, noises = round(images.shape[1] ** 0.5), draw_noises(len(images) // 2, torch.Generator().manual_seed(0))
    figure = Figure(figsize=(9.5, 2.6), dpi=110)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.27, right=0.99, bottom=0.01, top=0.91, hspace=0.05, wspace=0.04)
    panels = figure.subplots(1 + len(models), 2)
    images, others = images.chunk(2)
    shown = [("held-out images", images, others)]
    for name, (noise, passing) in METHODS.items():
        rebuilt = models[name](images, noises[noise], **passing)[2]
        shown.append((name, rebuilt.sigmoid(), models[name].decode(sample(noises[noise])).sigmoid()))
    for (left, right), (name, *pair) in zip(panels, shown, strict=True):
        for axes, pixels in zip((left, right), pair, strict=True):
            framed = nn.functional.pad(pixels.view(-1, side, side), (1, 1), value=0.3)
            axes.imshow(torch.cat(list(framed), dim=1).numpy(), cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        left.set_ylabel(name, rotation=0, ha="right", va="center")
    panels[0, 0].set_title("reconstructions")
    panels[0, 1].set_title("samples")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="Omniglot's folder; scikit-learn's digits if left out")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table, the curves and the pictures")
    parser.add_argument("--quick", action="store_true", help="2 seeds of 120 steps if left out")
    parser.add_argument("--seeds", type=int, help="3 if left out, 2 at least")
    parser.add_argument("--steps", type=int, help="of each method and seed; 1300 if left out")
    options = parser.parse_args()
    seeds, steps = (2, 120) if options.quick else (3, 1300)
    seeds = seeds if options.seeds is None else options.seeds
    steps = steps if options.steps is None else options.steps
    if seeds < 2 or steps < 1:
        parser.error(f"{seeds} seeds of {steps} steps; an interval needs 2 seeds, a model 1 step")
    try:
        images = read_images(options.data)
    except RetrievalError as error:
        parser.error(f"--data: {error}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {options.out}: {error.strerror}")
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    held_out, images = images.tensor_split([min(500, len(images) // 10)])
    rows = list[Row]()
    for seed in range(seeds):
        models, found = train(images, held_out, seed, steps)
        rows += found
    means = (images.sum(0) + 1) / (len(images) + 2)
    table = summarize(rows)
    show(table, cross_entropy(means.logit().expand_as(held_out), held_out).item())
    write_csv(table, options.out / "discrete_sampler.csv")
    write_csv(rows, options.out / "discrete_sampler_curves.csv")
    plot_curves(rows, options.out / "discrete_sampler_curves.png")
    plot_images(models, held_out[:20], options.out / "discrete_sampler_images.png")


if __name__ == "__main__":
    main()
