"""The options of the closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """What the engine is asked for; the words of `retrieval.losses.recall` in numbers.

    Args:
        centered: the projection takes the mean off.
        scaled: the projection divides by the norm.
        weight: w(r) for a tensor of intruders r.
        noise: alpha of the two-point noise, in standard deviations of the row.
        margin: by how much a relevant item must be above an irrelevant one, in units of the projected scores.
        local_margin: reach of the local projection below a relevant item, in standard deviations of the row; None: not local.
        temperature: of the projection "softmax", in standard deviations of the row; None: not this projection.
        relevant_temperature: of the softmax by which relevant references share in a query, in the same units; None: all alike.
        spreading: the share that is kept of the gradient along the scores, where the projection is scaled.
        slope: of a score by the inner product; only the gradients of "local" and "softmax" depend on it.
        generator: source of the noise.
        unit: divides embeddings by their norms first.
    """

    centered: bool
    scaled: bool
    weight: Callable[[Tensor], Tensor]
    noise: float = 0.0
    margin: float = 0.0
    local_margin: float | None = None
    temperature: float | None = None
    relevant_temperature: float | None = None
    spreading: float = 0.0
    slope: float = 1.0
    generator: torch.Generator | None = None
    unit: bool = False
