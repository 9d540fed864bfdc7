"""The first lines of a report: the figures, of what they are, and how far they are above those before the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retrieval.report.curves import result_of

Results = Mapping[str, Mapping[str, float]]

# What a model is compared with, the first that was measured.
_BASELINES = {"frozen features": "the frozen features", "untrained": "the untrained network"}
_CAUTIONS = {
    "train": "The model was trained on these images: the figures are higher than those of new images.",
    "all": "Images that the model was trained on are among these: the figures are not those of new images.",
    "validation": "The best epoch was chosen on these images: the figures may be a little higher than those of new images.",
}
_NAMES = {"test": "test images", "query": "test images", "validation": "validation images", "train": "training images"}


def caution_of(split: str) -> str:
    """Why the figures of the images of a split may be too good; "" where no reason is known."""
    return _CAUTIONS.get(split, "")


@dataclass(frozen=True)
class Headline:
    """The first lines of a report.

    Args:
        recall: recall@1.
        precision: MAP@R.
        images: What the figures are of, such as "test images".
        caution: Why the figures may be too good; "" where they are not.
        baseline: What the figures are compared with; "" where nothing else was measured on these images.
        recall_gain: By how much recall@1 is above the baseline; negative if it is below.
        precision_gain: The same of MAP@R.
    """

    recall: float
    precision: float
    images: str
    caution: str
    baseline: str = ""
    recall_gain: float = 0.0
    precision_gain: float = 0.0


def headline(figures: Mapping[str, float], num_queries: int, split: str, results: Results) -> Headline:
    """The first lines of a report.

    Args:
        figures: Its figures, "recall@1" and "map@r" among them.
        num_queries: The number of its queries.
        split: The split of its queries.
        results: The figures that a run recorded. Those of another number of queries are of other images, and not compared with.
    """
    recall, precision = figures["recall@1"], figures["map@r"]
    words = (recall, precision, _NAMES.get(split, "images"), caution_of(split))
    measured_split = split if split == "validation" else "test"
    for what, name in _BASELINES.items():
        before = result_of(results, what, measured_split)
        if before.get("queries", num_queries) == num_queries and {"recall@1", "map@r"} <= before.keys():
            return Headline(*words, name, recall - before["recall@1"], precision - before["map@r"])
    return Headline(*words)
