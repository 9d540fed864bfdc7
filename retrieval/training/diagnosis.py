"""What to say about a step that cannot be taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def diagnose(
    step: int,
    loss: float,
    norm: float,
    *,
    learning_rate: float,
    embeddings: Tensor,
    parameters: Iterable[tuple[str, nn.Parameter]],
    images: Sequence[Any] | None = None,
) -> str:
    """Describes a loss or gradient that is not finite: what it is, where it begins, and what may help.

    Args:
        step: the number of the step.
        loss: its loss.
        norm: norm of the whole gradient.
        learning_rate: of the step.
        embeddings: (batch, dim), of this process.
        parameters: names and parameters, with their gradients.
        images: names of the images, in the order of the embeddings.

    Returns:
        Some lines.
    """
    return "\n".join(
        (
            f"step {step}: the loss is {loss:.6g} and the gradient's norm {norm:.6g}; "
            "the step was not taken, and the weights are those before it",
            f"step {step}: {_about_embeddings(embeddings, images)}",
            f"step {step}: {_about_gradients(parameters)}",
            f"step {step}: lower training.learning_rate (now {learning_rate:.3g}), set training.clip_norm, "
            "or train without training.amp",
        )
    )


def _about_embeddings(embeddings: Tensor, images: Sequence[Any] | None) -> str:
    finite = embeddings.isfinite()
    rows = (~finite.all(dim=1)).nonzero()[:, 0].tolist()
    seen = embeddings[finite]
    extremes = f"from {seen.min():.4g} to {seen.max():.4g}" if len(seen) else "without a finite number"
    if not rows:
        batch = f" of the images {_some(images)}" if images is not None else ""
        return f"all {len(embeddings)} embeddings{batch} are finite, {extremes}"
    names = rows if images is None else [images[row] for row in rows]
    kind = "rows" if images is None else "images"
    return (
        f"{len(rows)} of {len(embeddings)} embeddings are not finite ({kind} {_some(names)}); the others lie {extremes}"
    )


def _about_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> str:
    norms = {name: parameter.grad.norm().item() for name, parameter in parameters if parameter.grad is not None}
    wrong = [name for name, norm in norms.items() if not torch.tensor(norm).isfinite()]
    right = {name: norm for name, norm in norms.items() if name not in wrong}
    about = [f"the gradient is not finite in {len(wrong)} of {len(norms)} parameters ({_some(wrong)})"] if wrong else []
    if right:
        largest = max(right, key=right.__getitem__)
        about.append(f"its largest finite part is that of {largest}, of norm {right[largest]:.4g}")
    return "; ".join(about) or "there is no gradient"


def _some(items: Sequence[Any], most: int = 5) -> str:
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
