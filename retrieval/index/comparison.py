"""Compares indices of the same images, query by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from retrieval import evaluation
from retrieval.errors import ConfigError, IndexFormatError
from retrieval.index.bundle import Bundle

_DRAWS = 4000
_NUMBERS = 2**22  # random numbers at a time


@dataclass(frozen=True)
class Difference:
    """A figure of one index compared with that of another, over the queries of both.

    Args:
        value: The figure.
        difference: The figure less that of the first index.
        low: The lower end of the 95 % interval of the difference, by the paired bootstrap.
        high: The upper end.
        p: The probability of a difference at least as large by chance, by the paired permutation test, which swaps the two values
            of a query at random.
    """

    value: float
    difference: float
    low: float
    high: float
    p: float


def compare(bundles: Sequence[Bundle], ks: Sequence[int] = (1,), *, seed: int = 0) -> dict[str, Any]:
    """Compares each bundle with the first, over the queries that all have. Queries are the same if their paths are.

    Args:
        bundles: Two bundles or more.
        ks: Cut-offs of recall@k.
        seed: Seed of the bootstrap and the permutations.

    Returns:
        {"queries": number of common queries, "first": {"index", figure: value}, "others": [{"index", figure: `Difference`, as a
        dict}]}.

    Raises:
        IndexFormatError: The bundles have no query in common.
    """
    if len(bundles) < 2:
        raise ConfigError(f"{len(bundles)} index to compare; give two or more")
    values = [_values(bundle, ks) for bundle in bundles]
    common = sorted(set.intersection(*(set(paths) for paths, _ in values)))
    if not common:
        raise IndexFormatError(
            f"{', '.join(map(str, bundles))}: have no query in common, by path; compare indices of the same images"
        )
    matched = []
    for paths, figures in values:
        rows = np.array([paths[path] for path in common])
        matched.append({name: per_query[rows] for name, per_query in figures.items()})
    first, *others = matched
    return {
        "queries": len(common),
        "first": {"index": str(bundles[0]), **{name: float(value.mean()) for name, value in first.items()}},
        "others": [
            {
                "index": str(bundle),
                **{name: asdict(paired(value, first[name], seed=seed)) for name, value in other.items()},
            }
            for bundle, other in zip(bundles[1:], others, strict=True)
        ],
    }


def paired(values: np.ndarray, base: np.ndarray, *, seed: int = 0) -> Difference:
    """The difference of two figures that are means over the same queries.

    Args:
        values: (num_queries,) Values of one index.
        base: (num_queries,) Values of the other, in the same order.
        seed: Seed of the bootstrap and the permutations.
    """
    generator = np.random.default_rng(seed)
    difference = values - base
    mean = float(difference.mean())
    changed = difference[difference != 0]
    step = max(1, _NUMBERS // len(values))
    means, as_large = [], 0
    for start in range(0, _DRAWS, step):
        draws = min(step, _DRAWS - start)
        # Only queries that changed are sampled: the others add nothing to the sum.
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
        raise ConfigError(f"{bundle}: cannot be measured: {error}") from error
    paths: dict[str, int] = {}
    for row, position in enumerate(ranked.queries):
        path = bundle.paths[position]
        if path in paths:
            raise IndexFormatError(f"{bundle}: holds {path!r} twice, so queries cannot be told apart by path")
        paths[path] = row
    return paths, ranked.values
