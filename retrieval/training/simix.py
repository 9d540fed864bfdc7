"""Similarity mixup: more embeddings than images (Patel et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mix(embeddings: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Appends a virtual embedding for every pair of embeddings of a class: a random point on the line between the two.

    Scores are inner products, so the scores of a virtual embedding are the same mixture of the scores of the pair.

    Args:
        embeddings: (batch, dim).
        labels: (batch,).
        generator: Random generator of the mixtures.

    Returns:
        Embeddings (batch + pairs, dim) and labels (batch + pairs,). The real embeddings come first.
    """
    one, other = torch.triu(labels[:, None] == labels, diagonal=1).nonzero(as_tuple=True)
    share = torch.rand(len(one), 1, generator=generator, device=embeddings.device, dtype=embeddings.dtype)
    virtual = torch.lerp(embeddings[other], embeddings[one], share)
    return torch.cat([embeddings, virtual]), torch.cat([labels, labels[one]])


class SiMix(nn.Module):
    """A loss on the embeddings of a batch and, in training mode, on the virtual embeddings of `mix`.

    Losses with cosine similarity normalise virtual embeddings like real ones. A cross-batch memory in the loss stores virtual
    embeddings like real ones.

    Args:
        loss: A loss with the signature of pytorch-metric-learning.
        generator: Random generator of the mixtures.
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
