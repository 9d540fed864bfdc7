"""Similarity mixup: more embeddings than images (Patel et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mix(embeddings: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Appends a virtual embedding for every pair of a class, a point drawn uniformly from the line between the two.

    Since scores are inner products, its score with anything is the same mixture of the two scores.

    Args:
        embeddings: (batch, dim).
        labels: (batch,).
        generator: source of the mixtures.

    Returns:
        Embeddings (batch + pairs, dim) and labels (batch + pairs,), the given ones first.
    """
    one, other = torch.triu(labels[:, None] == labels, diagonal=1).nonzero(as_tuple=True)
    share = torch.rand(len(one), 1, generator=generator, device=embeddings.device, dtype=embeddings.dtype)
    virtual = torch.lerp(embeddings[other], embeddings[one], share)
    return torch.cat([embeddings, virtual]), torch.cat([labels, labels[one]])


class SiMix(nn.Module):
    """A loss over the embeddings of a batch and, in training mode, the virtual ones of `mix`.

    Losses with cosine similarity bring virtual embeddings to unit length like all others. A cross-batch memory inside takes
    them up like all others.

    Args:
        loss: of pytorch-metric-learning's signature.
        generator: source of the mixtures.
    """

    def __init__(self, loss: nn.Module, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.generator = generator

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if self.training:
            embeddings, labels = mix(embeddings, labels, self.generator)
        loss: Tensor = self.loss(embeddings, labels)
        return loss
