"""What a lower precision costs: the share of float32's nearest neighbours that it still finds, on a sample of the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from retrieval import evaluation
from retrieval.data import ImageSet
from retrieval.errors import brief
from retrieval.model.encoding import encode_shared

PRECISIONS = ("float32", "bfloat16")
_LEAST, _MOST, _SHARE = 100, 1000, 20  # images of a sample: one in `_SHARE`, from `_LEAST` to `_MOST`
_KS = (1, 10)


def check_precision(precision: str) -> str:
    """The precision.

    Raises:
        ValueError: It is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected {' or '.join(PRECISIONS)}")
    return precision


def measure(model: Any, images: ImageSet, vectors: np.ndarray) -> dict[str, Any]:
    """The cost of the precision of a model. Several processes share the work, and all have the result.

    A sample of the images is embedded in float32, too. Every image of the sample is searched among the others, in both precisions.

    Args:
        model: A `retrieval.Model` of a network of torch.
        images: The images.
        vectors: (len(images), dim) The unit vectors of the model in its own precision.

    Returns:
        {} for float32. Otherwise {"precision": ...} with "name", "images" of the sample, and "recall@1" and "recall@10": the share
        of the 1 and 10 nearest neighbours in float32 that are found. Without neighbours, the shares are missing.
    """
    if model.precision == "float32" or not model.takes_tensors:
        return {}
    size = min(len(images), max(_LEAST, min(_MOST, len(images) // _SHARE)))
    sample = np.sort(np.random.default_rng(0).permutation(len(images))[:size])
    exact = model.unit(encode_shared(model.at("float32"), images.select(sample)))
    ks, ids = [k for k in _KS if k < size], np.arange(size)
    shares = {}
    if ks:
        near, found = (evaluation.search(part, part, max(ks), query_ids=ids).ids for part in (exact, vectors[sample]))
        for k in ks:
            shares[f"recall@{k}"] = float(
                np.mean([np.isin(row[:k], other[:k]).mean() for row, other in zip(near, found, strict=True)])
            )
    return {"precision": {"name": model.precision, "images": size, **shares}}


def pooled(sources: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The cost of several parts that were embedded in the same precision: the means of their shares, by the images of the samples.

    Args:
        sources: The sources of the parts, with the "precision" of `measure`.
    """
    known = [source["precision"] for source in sources if "precision" in source]
    if not known:
        return {}
    count = sum(cost["images"] for cost in known)
    keys = [f"recall@{k}" for k in _KS if all(f"recall@{k}" in cost for cost in known)]
    means = {key: sum(cost["images"] * cost[key] for cost in known) / count for key in keys}
    return {"precision": {"name": known[0]["name"], "images": count, **means}}


def check_cost(cost: Any) -> None:
    """Checks the "precision" of a stored source.

    Raises:
        ValueError: It is not one that `measure` returns.
    """
    allowed = {"name", "images", *(f"recall@{k}" for k in _KS)}
    fits = isinstance(cost, dict) and cost.get("name") in PRECISIONS and type(cost.get("images")) is int
    if not fits or cost.keys() - allowed or cost["images"] < 1:
        raise ValueError(f"source.precision is {brief(cost)}, expected a name, a number of images and shares")
    for key in cost.keys() - {"name", "images"}:
        if type(cost[key]) not in (int, float) or not 0 <= cost[key] <= 1:
            raise ValueError(f"source.precision.{key} is {brief(cost[key])}, expected a share from 0 to 1")
