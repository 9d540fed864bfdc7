"""Large batches in the memory of a small one (multistage backpropagation; Patel et al., CVPR 2022).

A loss over all pairs of a batch needs all embeddings at once, but not all activations. First, every chunk is embedded and its
activations are dropped. Then the loss is computed on all embeddings. Finally, every chunk passes through the model again and
backpropagates its part of the gradient. This costs one more forward pass. Gradient accumulation over small batches is no
substitute, because each small batch has only its own negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from retrieval.errors import RetrievalError
from retrieval.training.randomness import seeded


def embed_in_chunks(model: nn.Module, images: Tensor, chunk_size: int) -> Tensor:
    """Embeds a batch without storing activations. The result and its gradient are those of `model(images)`.

    Both passes use the same random numbers. Their seed is sampled from torch's generator.

    Args:
        model: A module from images (batch, ...) to embeddings (batch, dim).
        images: (batch, ...) on any device. The chunks are moved to the model's device one by one.
        chunk_size: Images that pass through the model at a time.

    Returns:
        (batch, dim).

    Raises:
        ValueError: `chunk_size` is less than 1.
        RetrievalError: A BatchNorm layer is not frozen; see `require_frozen_batchnorm`.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, expected at least 1")
    require_frozen_batchnorm(model, "a batch that is embedded in chunks")
    device = next(model.parameters()).device
    seed = int(torch.randint(2**62, ()))

    def forward(number: int, chunk: Tensor) -> Tensor:
        with seeded(device, seed, number):
            return model(chunk.to(device, non_blocking=True))

    # torch's checkpointing does this, here for parts of a batch instead of parts of a model. `seeded` replaces its handling of
    # random states, which only covers the devices of the arguments.
    chunks = enumerate(images.split(chunk_size))
    return torch.cat([checkpoint(forward, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks])


def require_frozen_batchnorm(model: nn.Module, what: str) -> None:
    """Checks that the embedding of an image does not depend on the other images of its batch.

    Args:
        model: The model, in the training or evaluation mode in which it will be used.
        what: Subject of the error message: the operation that needs this.

    Raises:
        RetrievalError: A BatchNorm layer of the model normalises by the statistics of the batch.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise RetrievalError(
                f"{what} needs BatchNorm with frozen statistics, because the gradient must be that of the whole batch, but "
                f"{name or 'the model'} uses the statistics of its input; set model.freeze_batchnorm to statistics or affine"
            )
