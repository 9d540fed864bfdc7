"""The error messages of a training that has diverged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.errors import plural


def diverged(epoch: int, step: int, what: str, learning_rate: float) -> str:
    """The message of a training that has diverged.

    Args:
        epoch: Number of the epoch, from 1.
        step: Number of the step.
        what: What is wrong, e.g. "8 of 8 embeddings are zero".
        learning_rate: The learning rate that was too high.
    """
    advice = f"lower training.learning_rate ({learning_rate:.3g}), or set training.clip_norm or training.warmup_epochs"
    return f"epoch {epoch}, step {step}: training has diverged: {what}; {advice}"


def collapsed(step: int, spread: float, largest: float, advice: str) -> str:
    """The message of a training whose scores have collapsed.

    Args:
        step: Number of the step.
        spread: Mean standard deviation of the scores of a query.
        largest: The largest value that it had.
        advice: What to do about it.
    """
    what = f"their spread is {spread:.2g}, after {largest:.2g} at most: all embeddings become alike"
    return f"step {step}: the scores of the batches have collapsed ({what}); {advice}"


def describe_fault(vectors: np.ndarray) -> str | None:
    """What makes vectors (n, dim) unusable: that some are not finite or are zero. None if none is."""
    for rows, kind in ((~np.isfinite(vectors).all(axis=1), "not finite"), (~vectors.any(axis=1), "zero")):
        if rows.any():
            return f"{rows.sum():,} of {plural(len(vectors), 'embedding')} {'is' if rows.sum() == 1 else 'are'} {kind}"
    return None


def diagnose(
    epoch: int,
    step: int,
    loss: float,
    norm: float,
    *,
    learning_rate: float,
    embeddings: Tensor,
    parameters: Iterable[tuple[str, nn.Parameter]],
    images: Sequence[Any] | None = None,
) -> str:
    """Describes a loss or gradient that is not finite: the values, where they occur first, and what may help.

    Args:
        epoch: Number of the epoch, from 1.
        step: Number of the step.
        loss: Loss of the step.
        norm: Norm of the whole gradient.
        learning_rate: Learning rate of the step.
        embeddings: (batch, dim) Embeddings of this process.
        parameters: Names and parameters, with their gradients.
        images: Names of the images, in the order of the embeddings.

    Returns:
        A message of several lines.
    """
    where = f"epoch {epoch}, step {step}"
    return "\n".join(
        (
            f"{where}: training has diverged: the loss is {loss:.6g} and the gradient's norm {norm:.6g}; "
            "the step was skipped and the weights are unchanged",
            f"{where}: {_about_embeddings(embeddings, images)}",
            f"{where}: {_about_gradients(parameters)}",
            f"{where}: lower training.learning_rate (now {learning_rate:.3g}), set training.clip_norm, "
            "or train without training.amp",
        )
    )


def _about_embeddings(embeddings: Tensor, images: Sequence[Any] | None) -> str:
    finite = embeddings.isfinite()
    rows = (~finite.all(dim=1)).nonzero()[:, 0].tolist()
    seen = embeddings[finite]
    extremes = f"from {seen.min():.4g} to {seen.max():.4g}" if len(seen) else "none"
    if not rows:
        batch = f" of the images {shorten(images)}" if images is not None else ""
        return f"all {len(embeddings)} embeddings{batch} are finite, {extremes}"
    names = rows if images is None else [images[row] for row in rows]
    what = "row" if images is None else "image"
    one, many = f"is not finite ({what}", f"are not finite ({what}s"
    kind = one if len(rows) == 1 else many
    return f"{len(rows)} of {len(embeddings)} embeddings {kind} {shorten(names)}); finite values: {extremes}"


def _about_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> str:
    norms = {name: parameter.grad.norm().item() for name, parameter in parameters if parameter.grad is not None}
    wrong = [name for name, norm in norms.items() if not torch.tensor(norm).isfinite()]
    right = {name: norm for name, norm in norms.items() if name not in wrong}
    about = (
        [f"the gradient is not finite in {len(wrong)} of {len(norms)} parameters ({shorten(wrong)})"] if wrong else []
    )
    if right:
        largest = max(right, key=right.__getitem__)
        about.append(f"the largest finite gradient is that of {largest}, with norm {right[largest]:.4g}")
    return "; ".join(about) or "there is no gradient"


def shorten(items: Sequence[Any], most: int = 5) -> str:
    """The first items, and the number of the others."""
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
