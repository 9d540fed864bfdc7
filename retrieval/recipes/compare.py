"""Several indices of the same images compared, query by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import evaluation
from retrieval.errors import ConfigError, IndexFormatError
from retrieval.index import Bundle, read_bundle

_DRAWS = 4000
_NUMBERS = 2**22  # drawn at a time


@dataclass(frozen=True)
class Difference:
    """A figure of one index less that of another, over the queries of both.

    Args:
        value: of the figure.
        difference: from the first index.
        low: lower end of the 95 % interval of the difference, by the paired bootstrap.
        high: its upper end.
        p: how often chance alone would make a difference as large, by the paired permutation test: each query's two values swapped
            or not by lot.
    """

    value: float
    difference: float
    low: float
    high: float
    p: float


def compare(indices: Sequence[str | Path], ks: Sequence[int] = (1,), *, seed: int = 0) -> dict[str, Any]:
    """Compares each index with the first, over the queries that all have: those of one path.

    Args:
        indices: folders of two bundles or more.
        ks: cut-offs of recall@k.
        seed: of the lots.

    Returns:
        {"queries": how many all have, "first": {"index", figure: value}, "others": [{"index", figure: `Difference`, as a dict}]}.

    Raises:
        IndexFormatError: they have no query in common.
    """
    if len(indices) < 2:
        raise ConfigError(f"{len(indices)} index to compare; give two or more")
    values = [_values(read_bundle(index), ks) for index in indices]
    common = sorted(set.intersection(*(set(paths) for paths, _ in values)))
    if not common:
        raise IndexFormatError(
            f"{', '.join(map(str, indices))}: have no query in common, by path; compare indices of the same images"
        )
    matched = []
    for paths, figures in values:
        rows = np.array([paths[path] for path in common])
        matched.append({name: per_query[rows] for name, per_query in figures.items()})
    first, *others = matched
    return {
        "queries": len(common),
        "first": {"index": str(indices[0]), **{name: float(value.mean()) for name, value in first.items()}},
        "others": [
            {
                "index": str(index),
                **{name: asdict(paired(value, first[name], seed=seed)) for name, value in other.items()},
            }
            for index, other in zip(indices[1:], others, strict=True)
        ],
    }


def paired(values: np.ndarray, base: np.ndarray, *, seed: int = 0) -> Difference:
    """The difference of two figures that are means over the same queries.

    Args:
        values: (num_queries,) of one.
        base: (num_queries,) of the other, in the same order.
        seed: of the lots.
    """
    generator = np.random.default_rng(seed)
    difference = values - base
    mean = float(difference.mean())
    changed = difference[difference != 0]
    step = max(1, _NUMBERS // len(values))
    means, as_large = [], 0
    for start in range(0, _DRAWS, step):
        draws = min(step, _DRAWS - start)
        # How often each query is drawn, among those that changed: the others add nothing to the sum.
        share = len(changed) / len(values)
        number = generator.binomial(len(values), share, size=draws)
        sums = [changed[generator.integers(len(changed), size=n)].sum() if n else 0.0 for n in number]
        means += [total / len(values) for total in sums]
        signs = generator.integers(0, 2, size=(draws, len(changed)), dtype=np.int8) * 2 - 1
        sums = signs @ changed / len(values)
        as_large += int((np.abs(sums) >= abs(mean) - 1e-12).sum())
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(values.mean()), mean, float(low), float(high), (as_large + 1) / (_DRAWS + 1))


def _values(bundle: Bundle, ks: Sequence[int]) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """The row of every query by its path, and the values of all figures by row."""
    try:
        ranked = evaluation.rank_queries(
            bundle.vectors, bundle.labels, ids=bundle.ids, ks=ks, metrics=("recall", "map@r", "r_precision")
        )
    except ValueError as error:
        raise ConfigError(f"{bundle.folder}: cannot be measured: {error}") from error
    paths: dict[str, int] = {}
    for row, place in enumerate(ranked.queries):
        path = bundle.paths[place]
        if path in paths:
            raise IndexFormatError(f"{bundle.folder}: holds {path!r} twice, so queries cannot be told apart by path")
        paths[path] = row
    return paths, ranked.values
