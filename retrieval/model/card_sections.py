"""The sections of the card of a model, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from retrieval.data import Preprocessing
from retrieval.errors import plural
from retrieval.networks import Embedder

if TYPE_CHECKING:
    from retrieval.model.model import Model

GALLERY = "gallery.png"
ENDS = (" low", " high")  # of the names of the bounds of an interval

_COUNTS = ("queries", "left_out", "not_in_gallery", "ties")
_SEEN = {"train": "Trained on", "validation": "The best epoch was chosen on"}


@dataclass(frozen=True)
class Training:
    """What the card says of a training run.

    Args:
        dataset: The name of the data set.
        measured_on: What the figures are of, such as "test classes"; "" if nothing was measured.
        figures: The figures by name, as fractions; "recall@1 low" and "recall@1 high" are the bounds of a 95 % interval.
        baseline: The same figures of the pretrained backbone without training; empty where they were not measured.
        caution: Why the figures may be too good; "" where no reason is known.
        splits: The number of images and of classes of each split, by its name.
        base: The weights that the training started from; "" for random ones.
        command: The command that made the run.
        config: Its configuration, as YAML.
        gallery: A PNG picture of queries and their neighbours.
        versions: The versions of the packages that it was made with, as a text.
        threshold: What is known of the score of `min_score="auto"`, as a sentence; "" if it was not calibrated.
    """

    dataset: str
    measured_on: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    caution: str = ""
    splits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    base: str = ""
    command: str = ""
    config: str = ""
    gallery: bytes | None = None
    versions: str = ""
    threshold: str = ""

    @property
    def measures(self) -> dict[str, float]:
        """The figures without their intervals and counts."""
        return {name: value for name, value in self.figures.items() if _is_measure(name)}


def last_part(value: Any) -> Any:
    """The last part of an absolute path, which says nothing of the computer; any other value as it is."""
    if not isinstance(value, str) or not (PurePath(value).is_absolute() or value.startswith("~")):
        return value
    return PurePath(value).name or value


def summary(model: Model, training: Training | None) -> str:
    """What the model is."""
    backbone = (
        model.network.describe()["backbone"] if isinstance(model.network, Embedder) and model.is_described else ""
    )
    network = f"the backbone {backbone} of timm" if backbone else "a network in the ONNX format"
    made = f" It was trained on {training.dataset}." if training else ""
    source = model.source
    weights = (
        f" Its weights are of the {source['checkpoint']} checkpoint, step {source['step']:,}."
        if "checkpoint" in source
        else ""
    )
    return (
        f"An image-retrieval model: it maps an image to a unit vector of {model.embedding_dim} numbers, so that images of the same "
        f"class have a large inner product. It is {network}.{made}{weights}"
    )


def usage(name: str, model: Model, loads_with_timm: bool) -> Iterator[str]:
    """How it is used, with ours and with timm alone."""
    yield "## Use"
    yield "\n".join(
        [
            "```python",
            "import retrieval",
            "",
            f'model = retrieval.Model.load("hf-hub:{name}")',
            f'vectors = model.encode(["a.jpg", "b.jpg"])  # (2, {model.embedding_dim}) unit vectors',
            "similarity = vectors[0] @ vectors[1]",
            "```",
        ]
    )
    if loads_with_timm:
        yield "timm alone gives the same vectors, bit for bit:"
        yield "\n".join(
            [
                "```python",
                "import timm, torch",
                "from PIL import Image",
                "",
                f'network = timm.create_model("hf-hub:{name}", pretrained=True).eval()',
                "prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network))",
                'images = prepare(Image.open("a.jpg").convert("RGB"))[None]',
                "with torch.inference_mode():",
                "    vector = torch.nn.functional.normalize(network(images), dim=1)",
                "```",
            ]
        )
    elif model.is_described:
        yield (
            "timm alone loads the backbone of this repository, without the pooling, norm and head that make its features a vector "
            "of this model: load it as above."
        )


def figures(training: Training) -> Iterator[str]:
    """What was measured, and how."""
    yield "## Figures"
    if not training.measures:
        yield "None: nothing was measured in the training run."
        return
    intervals = any(f"{name}{ENDS[0]}" in training.figures for name in training.measures)
    columns = [
        "figure",
        "percent",
        *(["95 % interval"] if intervals else []),
        *(["untrained"] if training.baseline else []),
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    for name, value in training.measures.items():
        cells = [name, f"{100 * value:.2f}"]
        if intervals:
            low, high = (training.figures.get(f"{name}{end}") for end in ENDS)
            cells.append("" if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f}")
        if training.baseline:
            cells.append(f"{100 * training.baseline[name]:.2f}" if name in training.baseline else "")
        lines.append(f"| {' | '.join(cells)} |")
    yield "\n".join(lines)
    yield _protocol(training, intervals)
    if training.gallery is not None:
        yield f"![Queries and their nearest neighbours]({GALLERY})"


def _protocol(training: Training, intervals: bool) -> str:
    queries = training.figures.get("queries")
    parts = [
        f"Measured on the {training.measured_on} of {training.dataset}" + (f", {queries:,.0f} queries" * bool(queries))
    ]
    gallery = training.splits.get("gallery")
    parts[0] += f" in a gallery of {plural(gallery[0], 'image')}." if gallery else ", each against all other images."
    parts.append("A neighbour is right if it is of the class of the query.")
    if intervals:
        parts.append("The intervals are bootstrap percentiles over the queries.")
    if training.baseline:
        parts.append("Untrained: the features of the pretrained backbone.")
    if training.caution:
        parts.append(f"These figures may be too good: {training.caution}.")
    return " ".join(parts)


def limits(model: Model, training: Training | None) -> Iterator[str]:
    """What the model has seen, and what it cannot do."""
    yield "## Limits"
    lines = []
    for name, (images, classes) in (training.splits if training else {}).items():
        if name in _SEEN:
            lines.append(f"{_SEEN[name]} {plural(images, 'image')} of {plural(classes, 'class', 'classes')}.")
    if training:
        lines.append("Nothing is known of images of other kinds, and of classes unlike these.")
    image = model.preprocessing
    if isinstance(image, Preprocessing):
        size = f"{image.size} x {image.size}"
        lines.append(
            f"The network sees {size} pixels: the shorter side becomes {image.resize} pixels, then the centre is cut out."
        )
    no_threshold = "No threshold was calibrated: which score means the same class is not known."
    lines.append((training.threshold if training else "") or no_threshold)
    yield "\n".join(f"- {line}" for line in lines)


def rights(fields: Mapping[str, Any], training: Training | None) -> Iterator[str]:
    """Data set and licences, which people fill in."""
    yield "## Data set and licence"
    lines = [f"- Licence of the weights: {fields.get('license') or 'fill in'}."]
    if training:
        lines.append(f"- Data set: {training.dataset}. Its origin and licence: {fields.get('datasets') or 'fill in'}.")
        lines += (
            [f"- The training started from the weights {training.base}, whose licence holds too."]
            if training.base
            else []
        )
    yield "\n".join(lines)


def making(training: Training) -> Iterator[str]:
    """The command and the configuration of the run."""
    yield "## How it was made"
    if training.versions:
        yield f"With {training.versions}."
    if training.command:
        yield f"```bash\n{training.command}\n```"
    yield f"<details><summary>Configuration</summary>\n\n```yaml\n{training.config.strip()}\n```\n\n</details>"


def _is_measure(name: str) -> bool:
    return name not in _COUNTS and not name.endswith(ENDS) and not name.startswith("macro ")
