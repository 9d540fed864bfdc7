"""The card of a model: what it is, how it is used, what was measured, and its limits.

The card has no figure that was not measured: without a training run there is none. It is Markdown with the metadata of the Hugging
Face Hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from huggingface_hub import CardData, EvalResult, ModelCard, ModelCardData

from retrieval.model import card_sections
from retrieval.model.card_sections import ENDS, Training

if TYPE_CHECKING:
    from retrieval.model.model import Model

_TASK = "image-feature-extraction"
_KEPT = ("license", "license_name", "license_link", "datasets", "language", "base_model")  # fields that people fill in
_TO_FILL_IN = {"license": "the licence, e.g. mit", "datasets": "the data set on the hub, if it is there"}


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
        card_sections.summary(model, training),
        *card_sections.usage(name, model, loads_with_timm),
        *(
            card_sections.figures(training)
            if training
            else ["## Figures", "None: this model was pushed without a training run."]
        ),
        *card_sections.limits(model, training),
        *card_sections.rights(fields, training),
        *(card_sections.making(training) if training else ()),
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


def _interval_args(figures: Mapping[str, float], name: str) -> dict[str, float] | None:
    """The bounds of the interval of a figure."""
    found = {f"interval{end}": round(figures[f"{name}{end}"], 6) for end in ENDS if f"{name}{end}" in figures}
    return found or None
