"""What the trackers share: the import of an optional package, and the names of figures."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from retrieval.errors import RetrievalError, reason_of


def import_package(module: str, *, extra: str) -> Any:
    """Imports a module of an optional package.

    Raises:
        RetrievalError: it cannot be imported; names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RetrievalError(
            f"the callback {extra} cannot be imported ({reason_of(error)}); install it with "
            f"`python -m pip install 'image-retrieval-toolkit[{extra}]'`"
        ) from error


def step_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures of a step: {"step/loss": 0.5}."""
    return {f"step/{name}": value for name, value in figures.items()}


def epoch_figures(row: Mapping[str, float]) -> dict[str, float]:
    """The figures of an epoch: {"loss": 0.5, "validation/recall@1": 0.75}."""
    return {name.replace(" ", "/"): value for name, value in row.items() if name not in ("epoch", "step")}


def result_figures(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The results of a run: {"results/last/recall@1": 0.75}."""
    return {f"results/{what}/{name}": value for what, figures in results.items() for name, value in figures.items()}


def flatten_options(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted names: {"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= flatten_options(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
