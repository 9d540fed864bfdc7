"""The card of a model: what it is, how it is used, what was measured, and its limits.

The card has no figure that was not measured: without a training run there is none. It is Markdown with the metadata of the Hugging
Face Hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from huggingface_hub import CardData, EvalResult, ModelCard, ModelCardData

from retrieval.data import Preprocessing
from retrieval.errors import plural
from retrieval.networks import Embedder

if TYPE_CHECKING:
    from retrieval.model.model import Model

GALLERY = "gallery.png"

_TASK = "image-feature-extraction"
_KEPT = ("license", "license_name", "license_link", "datasets", "language", "base_model")  # fields that people fill in
_TO_FILL_IN = {"license": "the licence, e.g. mit", "datasets": "the data set on the hub, if it is there"}
_ENDS = (" low", " high")
_COUNTS = ("queries", "left_out", "not_in_gallery", "ties")


@dataclass(frozen=True)
class Training:
    """What the card says of a training run.

    Args:
        dataset: The name of the data set.
        measured_on: What the figures are of, such as "test classes"; "" if nothing was measured.
        figures: The figures by name, as fractions; "recall@1 low" and "recall@1 high" are the bounds of a 95 % interval.
        baseline: The same figures of the pretrained backbone without training; empty where they were not measured.
        caution: Why the figures may be too good; "" where no reason is known.
        splits: What each split was used for, by its name: number of images, number of classes, role.
        base: The weights that the training started from; "" for random ones.
        command: The command that made the run.
        config: Its configuration, as YAML.
        gallery: A PNG picture of queries and their neighbours.
        threshold: What is known of the score of `min_score="auto"`, as a sentence; "" if it was not calibrated.
    """

    dataset: str
    measured_on: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    caution: str = ""
    splits: Mapping[str, tuple[int, int, str]] = field(default_factory=dict)
    base: str = ""
    command: str = ""
    config: str = ""
    gallery: bytes | None = None
    threshold: str = ""

    @property
    def measures(self) -> dict[str, float]:
        """The figures without their intervals and counts."""
        return {name: value for name, value in self.figures.items() if _is_measure(name)}


def write_card(
    name: str,
    model: Model,
    *,
    loads_with_timm: bool,
    training: Training | None = None,
    fields: Mapping[str, Any] | None = None,
) -> str:
    """The text of README.md.

    Args:
        name: The repository, "user/name".
        model: The model.
        loads_with_timm: Whether timm alone makes the same vectors, up to their length.
        training: What is known of the training run.
        fields: Fields of the metadata that were filled in before.
    """
    fields = dict(fields or {})
    sections = [
        f"# {name}",
        _summary(model, training),
        *_usage(name, model, loads_with_timm),
        *(_figures(training) if training else ["## Figures", "None: this model was pushed without a training run."]),
        *_limits(model, training),
        *_rights(fields, training),
        *(_making(training) if training else ()),
    ]
    return card_with_fields(_metadata(name, model, training, fields), fields, sections)


def card_with_fields(
    data: CardData, fields: Mapping[str, Any], sections: Sequence[str], to_fill_in: Iterable[str] = tuple(_TO_FILL_IN)
) -> str:
    """The text of a card: its metadata, with a comment for each field that is to be filled in, and its sections.

    Args:
        data: The metadata.
        fields: The fields that were filled in before.
        sections: The paragraphs.
        to_fill_in: Names of fields.
    """
    comments = [f"# {key}: fill in {_TO_FILL_IN[key]}" for key in to_fill_in if key not in fields]
    metadata = "\n".join([data.to_yaml(), *comments])
    return "\n\n".join([f"---\n{metadata}\n---", *sections]) + "\n"


def kept_fields(card: str) -> dict[str, Any]:
    """The fields of an earlier card that people fill in; empty where its metadata cannot be read."""
    try:
        data = ModelCard(card, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # noqa: BLE001 - any text may be there, and the parser raises errors of several libraries
        return {}
    return {key: data[key] for key in _KEPT if data.get(key)}


def _metadata(name: str, model: Model, training: Training | None, fields: dict[str, Any]) -> ModelCardData:
    results = [] if training is None else _results(training)
    options: dict[str, Any] = {"eval_results": results, "model_name": name} if results else {}
    library = "timm" if model.is_described else None
    tags = ["image-retrieval", "metric-learning", "retrieval"]
    return ModelCardData(library_name=library, pipeline_tag=_TASK, tags=tags, **options, **fields)


def _results(training: Training) -> list[EvalResult]:
    """The figures as the metadata holds them."""
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type=training.dataset,
            dataset_name=training.dataset,
            dataset_split=training.measured_on,
            metric_type=measure,
            metric_name=measure,
            metric_value=round(value, 6),
            metric_args=_interval_args(training.figures, measure),
        )
        for measure, value in training.measures.items()
    ]


def _summary(model: Model, training: Training | None) -> str:
    backbone = (
        model.network.describe()["backbone"] if isinstance(model.network, Embedder) and model.is_described else ""
    )
    network = f"the backbone {backbone} of timm" if backbone else "a network in the ONNX format"
    made = f" It was trained on {training.dataset}." if training else ""
    return (
        f"An image-retrieval model: it maps an image to a unit vector of {model.embedding_dim} numbers, so that images of the same "
        f"class have a large inner product. It is {network}.{made}"
    )


def _usage(name: str, model: Model, loads_with_timm: bool) -> Iterator[str]:
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


def _figures(training: Training) -> Iterator[str]:
    yield "## Figures"
    if not training.measures:
        yield "None: nothing was measured in the training run."
        return
    intervals = any(f"{name}{_ENDS[0]}" in training.figures for name in training.measures)
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
            low, high = (training.figures.get(f"{name}{end}") for end in _ENDS)
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


def _limits(model: Model, training: Training | None) -> Iterator[str]:
    yield "## Limits"
    lines = []
    for name, (images, classes, role) in (training.splits if training else {}).items():
        if name in ("train", "validation"):
            lines.append(
                f"{role[0].upper()}{role[1:]}: {plural(images, 'image')} of {plural(classes, 'class', 'classes')}."
            )
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


def _rights(fields: Mapping[str, Any], training: Training | None) -> Iterator[str]:
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


def _making(training: Training) -> Iterator[str]:
    yield "## How it was made"
    if training.command:
        yield f"```bash\n{training.command}\n```"
    yield f"<details><summary>Configuration</summary>\n\n```yaml\n{training.config.strip()}\n```\n\n</details>"


def _interval_args(figures: Mapping[str, float], name: str) -> dict[str, float] | None:
    """The bounds of the interval of a figure."""
    found = {f"interval{end}": round(figures[f"{name}{end}"], 6) for end in _ENDS if f"{name}{end}" in figures}
    return found or None


def _is_measure(name: str) -> bool:
    return name not in _COUNTS and not name.endswith(_ENDS) and not name.startswith("macro ")
