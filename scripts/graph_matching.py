"""Graph matching through the solver layer: which key-point of one image is which of another?

    python scripts/graph_matching.py --quick --out OUT                                     half a minute, glyphs
    python scripts/graph_matching.py --out OUT                                             10 minutes on one core
    python scripts/graph_matching.py --data folder --root CUB_200_2011/images --out OUT    the same on photographs

After Sahoo et al., ICLR 2023, section 4.2, in the linear form. A pair is an image and a copy that is turned, scaled, sheared,
shifted and bent at random, both with light and noise of their own. 16 key-points of the image are to be found among 24 of the
copy. A small network describes key-points, `match` assigns those that are most alike, the loss is the number of wrong matches. All
methods see the same pairs, first weights, learning rate and number of steps; what differs is how the gradient passes `match`, the
projection of the costs, and the margin against their collapse. Cross-entropy on the Sinkhorn output trains without the solver.
Prints a table of pairs of test images, whose classes are not trained on, and writes to OUT the curves, as CSV and as a picture,
and pictures of matches. `--validation` measures on held-out training classes instead, to choose `--lambda` and `--rate`.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from math import inf, nan, pi
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from interval import half_width
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats
from torch import Generator, Tensor, nn
from torch.nn import functional

from retrieval import ImageSet, Preprocessing, RetrievalError
from retrieval.data import prepare, read_dataset, split_classes
from retrieval.solvers import Blackbox, Identity, match, normalize, solve, standardize, two_point, whole

SIZE = 48  # pixels of a side of an image
INLIERS, OUTLIERS = 16, 8  # key-points to find, and those that only the copy has
CANDIDATES = 32  # key-points of an image, of which a pair takes some
BATCH, NOISE = 8, 0.3  # pairs of a step, and the standard deviation of their pixels' noise
PREPROCESSING = Preprocessing(resize=SIZE, size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# Where the pixels lie: places go from -1 to 1, x before y, as `grid_sample` counts them.
PIXELS = torch.cartesian_prod(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE)).flip(-1)


class Pairs(NamedTuple):
    """Images and copies (n, 1, SIZE, SIZE), key-points of both (n, points, 2), and which are the same (n, INLIERS, points)."""

    images: Tensor
    copies: Tensor
    points: Tensor
    copied_points: Tensor
    truth: Tensor


def load(images: ImageSet, count: int = 1000) -> Tensor:
    """Some of the images, grey: (count, 1, SIZE, SIZE) in -1 .. 1."""
    chosen = np.random.default_rng(0).permutation(len(images))[:count]
    pixels = [prepare(images.load(index), PREPROCESSING).mean(axis=0) for index in chosen]
    return torch.from_numpy(np.stack(pixels))[:, None]


def find_keypoints(images: Tensor) -> Tensor:
    """The places (n, CANDIDATES, 2) where an image varies most, three pixels apart and not too far out."""
    mean, mean_square = (functional.avg_pool2d(values, 5, 1, 2).flatten(1) for values in (images, images**2))
    variation = (mean_square - mean**2).masked_fill(PIXELS.norm(dim=-1) > 0.75, -1)
    found = list[Tensor]()
    for _ in range(CANDIDATES):
        found.append(PIXELS[variation.argmax(dim=1)])
        near = (PIXELS - found[-1][:, None]).abs().amax(dim=-1) < 5 / (SIZE - 1)  # 2.5 pixels
        variation = variation.masked_fill(near, -2)
    return torch.stack(found, dim=1)


def draw_warps(count: int, generator: Generator) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Random maps of places (count, points, 2), copy to image and image to copy: affine ones, and waves on top."""

    def between(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high, generator=generator)

    angle, shear, scale = between(-0.5, 0.5), between(-0.2, 0.2), between(-0.15, 0.15).exp()
    cos, sin = angle.cos() / scale, angle.sin() / scale
    matrix = torch.stack([cos, cos * shear - sin, sin, sin * shear + cos], dim=-1).view(count, 2, 2)
    shift, height, phase = between(-0.1, 0.1, 1, 2), between(-0.06, 0.06, 1, 2), between(0, 2 * pi, 1, 2)

    def offset(places: Tensor) -> Tensor:
        return shift + height * torch.sin(4 * places.flip(-1) + phase)

    def to_copy(places: Tensor) -> Tensor:
        found = places
        for _ in range(20):  # converges, since the waves are flat
            found = (places - offset(found)) @ matrix.inverse().mT
        return found

    return lambda places: places @ matrix.mT + offset(places), to_copy


def draw_pairs(images: Tensor, keypoints: Tensor, count: int, generator: Generator) -> Pairs:
    """Random pairs of images and copies; the copies' key-points are in random order, so that equal costs tell nothing."""

    def shuffle(points: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.rand(points.shape[:2], generator=generator).argsort(dim=1)
        return points.gather(1, order[..., None].expand_as(points)), order

    def disturb(pixels: Tensor) -> Tensor:
        contrast, light = (torch.rand(2, count, 1, 1, 1, generator=generator) * 0.6).unbind()
        return (0.6 + contrast) * pixels + light - 0.3 + NOISE * torch.randn(pixels.shape, generator=generator)

    chosen = torch.randint(len(images), (count,), generator=generator)
    points = shuffle(keypoints[chosen])[0][:, : INLIERS + OUTLIERS]
    to_image, to_copy = draw_warps(count, generator)
    grid = to_image(PIXELS[None]).view(count, SIZE, SIZE, 2)
    copies = functional.grid_sample(images[chosen], grid, padding_mode="border", align_corners=True)
    copied_points, order = shuffle(to_copy(points))
    truth = (order[:, None] == torch.arange(INLIERS)[:, None]).float()
    return Pairs(disturb(images[chosen]), disturb(copies), points[:, :INLIERS], copied_points, truth)


class Describer(nn.Module):
    """Descriptions (n, points, 32) of key-points (n, points, 2) of images (n, 1, SIZE, SIZE)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=2, dilation=2), nn.ReLU()),
            nn.Conv2d(32, 32, 1),
        )

    def forward(self, images: Tensor, points: Tensor) -> Tensor:
        return functional.grid_sample(self.layers(images), points[:, None], align_corners=True)[:, :, 0].mT


def costs_of(network: nn.Module, pairs: Pairs) -> Tensor:
    """(n, INLIERS, INLIERS + OUTLIERS): the less alike, the higher."""
    return -network(pairs.images, pairs.points) @ network(pairs.copies, pairs.copied_points).mT


PROJECTIONS = {"none": lambda costs: costs, "norm": whole(normalize), "std": whole(standardize)}
# Added to the projected costs in training. The informed margin makes right matches dear and wrong ones cheap.
MARGINS: dict[str, Callable[[Tensor, Tensor, Generator], Tensor | float]] = {
    "no margin": lambda costs, truth, generator: 0.0,
    "noise 0.1": lambda costs, truth, generator: two_point(costs, 0.1, generator=generator),
    "noise 1.0": lambda costs, truth, generator: two_point(costs, 1.0, generator=generator),
    "informed 0.1": lambda costs, truth, generator: 0.1 * (truth - 0.5),
}
SINKHORN = "cross-entropy, Sinkhorn"
# Gradient, projection and margin. Taking the mean off does nothing to the gradient of `hamming`, which sums to zero.
METHODS = [
    *(f"identity, {projection}, {margin}" for projection in PROJECTIONS for margin in MARGINS),
    *(f"blackbox, none, {margin}" for margin in MARGINS),
    SINKHORN,
]
SHOWN = ["identity, none, no margin", "identity, std, no margin", "identity, none, noise 0.1"]  # in a picture


def loss_of(method: str, costs: Tensor, truth: Tensor, lambda_: float, generator: Generator) -> Tensor:
    """What training minimises: wrong matches, or the cross-entropy, summed over the pairs."""
    if method == SINKHORN:
        return -(log_sinkhorn(-costs)[:, :INLIERS] * truth).sum()
    gradient, projection, margin = method.split(", ")
    costs = PROJECTIONS[projection](costs)
    costs = costs + MARGINS[margin](costs, truth, generator)
    solution = solve(costs, match, gradient=Identity() if gradient == "identity" else Blackbox(lambda_))
    return hamming(solution, truth).sum()


def hamming(solution: Tensor, truth: Tensor) -> Tensor:
    """The number of wrong matches of each problem; its gradient is 0 wherever the solution is right."""
    return (solution - truth).abs().sum(dim=(-2, -1)) / 2


def log_sinkhorn(scores: Tensor, rounds: int = 20) -> Tensor:
    """Logarithms of a square matrix whose rows and columns sum to one; rows of score 0 are added, which take the outliers."""
    rows, columns = scores.shape[-2:]
    table = functional.pad(scores, (0, 0, 0, columns - rows))
    for _ in range(rounds):
        table = table - table.logsumexp(dim=-2, keepdim=True)
        table = table - table.logsumexp(dim=-1, keepdim=True)
    return table


@torch.no_grad()
def measure(network: nn.Module, pairs: Pairs) -> tuple[float, float]:
    """The share of right matches, and the standard deviation of the costs of a pair, the mean of all pairs."""
    costs = costs_of(network, pairs)
    wrong = hamming(match(costs), pairs.truth)
    return 1 - wrong.mean().item() / INLIERS, costs.flatten(1).std(dim=1).mean().item()


def train(
    method: str, seed: int, batches: list[Pairs], test: Pairs, rate: float, lambda_: float
) -> tuple[Describer, dict[int, tuple[float, float, float]]]:
    """Trains a network; returns it, and over the steps what `measure` finds on test pairs, and processor seconds."""
    torch.manual_seed(seed)
    network, generator, seconds = Describer(), Generator().manual_seed(seed), 0.0
    optimizer = torch.optim.Adam(network.parameters(), rate)
    curve = {0: (*measure(network, test), seconds)}
    for step, pairs in enumerate(batches, start=1):
        start = time.process_time()
        optimizer.zero_grad()
        loss_of(method, costs_of(network, pairs), pairs.truth, lambda_, generator).backward()
        optimizer.step()
        seconds += time.process_time() - start
        if step % max(1, len(batches) // 10) == 0 or step == len(batches):
            curve[step] = (*measure(network, test), seconds)
    return network, curve


def show(curves: dict[str, np.ndarray]) -> None:
    """Prints where curves (seeds, points, 3) start and end as a table in Markdown, with 95 % intervals (Student's t)."""
    print("| method | accuracy, % | spread of the costs | processor seconds |\n|---|---:|---:|---:|")
    ends = {"untrained": next(iter(curves.values()))[:, 0]} | {method: curve[:, -1] for method, curve in curves.items()}
    for method, end in ends.items():
        accuracy, spread, seconds = 100 * end[:, 0], stats.gmean(end[:, 1]), end[:, 2].mean()
        print(f"| {method} | {accuracy.mean():.1f} ± {half_width(accuracy):.1f} | {spread:.2g} | {seconds:.1f} |")


def write(curves: dict[str, np.ndarray], steps: list[int], path: Path) -> None:
    """Writes every point of every curve as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "seed", "step", "accuracy", "spread", "seconds"])
        for method, curve in curves.items():
            for seed, index in np.ndindex(curve.shape[:2]):
                writer.writerow([method, seed, steps[index], *(f"{number:.5g}" for number in curve[seed, index])])


COLORS, DASHES = ("#000000", "#0072b2", "#56b4e9", "#d55e00", "#8a8a8a"), (":", "-", "--", "-.", "-")
STYLES = dict(zip([*MARGINS, "Sinkhorn"], zip(COLORS, DASHES, strict=True), strict=True))


def plot_curves(curves: dict[str, np.ndarray], steps: list[int], path: Path) -> None:
    """Accuracy, the mean of the seeds and their range, above the spread; a column for each gradient and projection."""
    groups = list(dict.fromkeys(method.rpartition(", ")[0] for method in curves if method != SINKHORN))
    figure = Figure(figsize=(2.6 * max(2, len(groups)), 5), dpi=100, layout="constrained")
    axes = figure.subplots(2, len(groups), sharex=True, sharey="row", squeeze=False)
    for (above, below), group in zip(axes.T, groups, strict=True):
        for method, curve in curves.items():
            own, _, label = method.rpartition(", ")
            if own == group or method == SINKHORN:
                (color, line), accuracy = STYLES[label], 100 * curve[..., 0]
                above.plot(steps, accuracy.mean(axis=0), line, color=color, label=label)
                above.fill_between(steps, accuracy.min(0), accuracy.max(0), color=color, alpha=0.2, linewidth=0)
                below.plot(steps, stats.gmean(curve[..., 1]), line, color=color)
        above.set(title=group, ylim=(0, 100))
        below.set(xlabel="step", yscale="log")
    axes[0, 0].set_ylabel("accuracy on test pairs, %")
    axes[1, 0].set_ylabel("spread of the costs")
    for each in axes.flat:
        each.grid(axis="y", color="#e6e6e6")
        each.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=axes[0, 0].lines, loc="outside lower center", ncols=5, frameon=False)
    save(figure, path)


@torch.no_grad()
def plot_matches(networks: dict[str, Describer], pairs: Pairs, path: Path) -> None:
    """A row per method: right matches green and solid, wrong ones red and dashed, key-points left over blue."""
    figure = Figure(figsize=(2.6 * len(pairs.images) + 1.1, 1.5 * len(networks)), dpi=100, layout="constrained")
    axes = figure.subplots(len(networks), len(pairs.images), squeeze=False)
    starts, ends = ((places + 1) / 2 * (SIZE - 1) for places in (pairs.points, pairs.copied_points))
    ends = ends + torch.tensor([SIZE, 0])
    pictures = torch.cat([pairs.images, pairs.copies], dim=-1)[:, 0]
    for row, (method, network) in zip(axes, networks.items(), strict=True):
        row[0].set_ylabel(method.replace(", ", "\n"), rotation=0, ha="right", va="center")
        solutions = match(costs_of(network, pairs))
        for index, each in enumerate(row):
            each.imshow(pictures[index].numpy(), cmap="gray", vmin=-1.6, vmax=1.6, interpolation="nearest")
            each.plot(*ends[index].T, "o", color="#0072b2", markersize=2)
            chosen = solutions[index].argmax(dim=1)
            right = pairs.truth[index, range(INLIERS), chosen].bool()
            for start, end, good in zip(starts[index], ends[index, chosen], right, strict=True):
                style = {"color": "#00b000"} if good else {"color": "#f00000", "linestyle": "--"}
                each.plot(*torch.stack([start, end]).T, marker="o", markersize=2, linewidth=1, **style)
            each.set(xticks=[], yticks=[], xlim=(-0.5, 2 * SIZE - 0.5), ylim=(SIZE - 0.5, -0.5))
            each.set_title(f"{int(right.sum())} of {INLIERS}", fontsize=9)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """A PNG of 64 colours, since noise makes large files."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64, Image.Quantize.FASTOCTREE).save(path)


def positive(text: str) -> float:
    """The number of an argument; not above 0 it is refused."""
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not 0 < number < inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="glyphs", help="a name of `retrieval data list`; glyphs if left out")
    parser.add_argument("--root", type=Path, help="the folder of the data; glyphs need none")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table, the curves and the pictures")
    parser.add_argument("--quick", action="store_true", help="32 test pairs; 3 seeds of 24 steps if left out")
    parser.add_argument("--seeds", type=int, help="5 if left out, 2 at least")
    parser.add_argument("--steps", type=int, help="of each method and seed; 300 if left out")
    parser.add_argument("--rate", type=positive, default=1e-3, help="of learning")
    parser.add_argument("--lambda", type=positive, default=10.0, dest="lambda_", help="of blackbox, in units of costs")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of methods")
    parser.add_argument("--validation", action="store_true", help="measure on a fifth of the training classes")
    options = parser.parse_args()
    seeds, steps = (3, 24) if options.quick else (5, 300)
    options.seeds = seeds if options.seeds is None else options.seeds
    options.steps = steps if options.steps is None else options.steps
    options.methods = [method for method in METHODS if any(part in method for part in options.only)]
    if options.seeds < 2 or options.steps < 1 or not options.methods:
        parser.error("an interval needs 2 seeds, a curve 1 step, a table 1 method")
    try:
        images = read_dataset(options.data, options.root)
        parts = split_classes(images["train"], 0.2, seed=0) if options.validation else (images["train"], images["test"])
        options.images = [load(part) for part in parts]
    except (RetrievalError, ValueError) as error:
        parser.error(str(error))
    try:
        options.out.mkdir(parents=True, exist_ok=True)  # now: training takes minutes
    except OSError as error:
        parser.error(f"--out: {options.out}: {error.strerror}")
    return options


def main() -> None:
    torch.set_num_threads(1)  # more are no faster on work this small
    options = parse()
    (images, test_images), (keypoints, test_keypoints) = options.images, map(find_keypoints, options.images)
    test = draw_pairs(test_images, test_keypoints, 32 if options.quick else 256, Generator().manual_seed(2**31))
    networks, found = dict[str, Describer](), {method: [] for method in options.methods}
    for seed in range(options.seeds):
        generator = Generator().manual_seed(seed)
        batches = [draw_pairs(images, keypoints, BATCH, generator) for _ in range(options.steps)]
        for method in options.methods:
            networks[method], curve = train(method, seed, batches, test, options.rate, options.lambda_)
            found[method].append(list(curve.values()))
    steps, curves = list(curve), {method: np.array(curve) for method, curve in found.items()}
    show(curves)
    write(curves, steps, options.out / "graph_matching.csv")
    plot_curves(curves, steps, options.out / "graph_matching_curves.png")
    shown = {method: networks[method] for method in SHOWN if method in networks} or networks
    plot_matches(shown, Pairs(*(part[:3] for part in test)), options.out / "graph_matching_matches.png")


if __name__ == "__main__":
    main()
