"""Batches of any size in the memory of a small one (multistage backpropagation; Patel et al., CVPR 2022).

A loss over all pairs of a batch needs all its embeddings at once, but not all activations: first every chunk is embedded and its
activations are dropped; the loss is taken over all embeddings; then every chunk passes through the model once more and takes
its part of the gradient backward. It costs one more forward pass. Accumulating the gradients of small batches would not do: each
of them has only its own negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from retrieval.errors import RetrievalError
from retrieval.training.randomness import seeded


def embed_in_chunks(model: nn.Module, images: Tensor, chunk_size: int) -> Tensor:
    """Embeds a batch without keeping activations; differentiable like `model(images)`, and with the same gradient.

    Both passes draw the same random numbers, from a seed that is taken from torch's generator.

    Args:
        model: images (batch, ...) to embeddings (batch, dim).
        images: (batch, ...), on any device: chunks move to the model's one by one.
        chunk_size: images that pass through the model at a time.

    Returns:
        (batch, dim).

    Raises:
        RetrievalError: see `require_frozen_batchnorm`.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, expected at least 1")
    require_frozen_batchnorm(model, "a batch that is embedded in chunks")
    device = next(model.parameters()).device
    seed = int(torch.randint(2**62, ()))

    def forward(number: int, chunk: Tensor) -> Tensor:
        with seeded(device, seed, number):
            return model(chunk.to(device, non_blocking=True))

    # torch's checkpoints are just this, for a part of a batch in place of a part of a model. They would replay random numbers too,
    # but only those of the devices that their arguments are on.
    chunks = enumerate(images.split(chunk_size))
    return torch.cat([checkpoint(forward, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks])


def require_frozen_batchnorm(model: nn.Module, what: str) -> None:
    """Checks that no image's embedding depends on the other images of its batch.

    Args:
        model: in the mode in which it will be used.
        what: what needs it, to begin the message with.

    Raises:
        RetrievalError: a BatchNorm of the model normalises by the statistics of the batch.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise RetrievalError(
                f"{what} needs BatchNorm with frozen statistics, or the gradient would not be that of the whole batch, but "
                f"{name or 'the model'} takes those of what it sees; set model.freeze_batchnorm to statistics or affine"
            )
