"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import RetrievalError


@dataclass
class Trainer:
    """A model in training: everything that changes from step to step.

    Args:
        model: images (batch, 3, height, width) to embeddings (batch, dim).
        loss_function: a loss of pytorch-metric-learning's signature: (embeddings, labels) to a scalar.
        optimizer: over the parameters of the model, and of the loss if it has any.
        scheduler: one of timm's, stepped by `step_update(num_updates)`.
        freeze_batchnorm: keep the running statistics of BatchNorm as they are.
        clip_norm: largest norm of the gradient; None leaves it alone.
    """

    model: nn.Module
    loss_function: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    freeze_batchnorm: bool = False
    clip_norm: float | None = None
    step: int = 0

    def epochs(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        steps_per_epoch: int,
        *,
        after_step: Callable[[float], None] = lambda loss: None,
    ) -> Iterator[tuple[int, float]]:
        """Takes one step a batch, and pauses at the end of every epoch.

        Args:
            batches: images (batch, 3, height, width) and labels (batch,), beginning with the batch of step `self.step`.
            steps_per_epoch: how many steps make an epoch.
            after_step: called with the loss of every step.

        Yields:
            The number of the epoch that has ended, from 1, and its mean loss. Meanwhile the model may be put into evaluation mode.

        Raises:
            RetrievalError: the loss or the gradient is not finite; the weights are still those before the step.
        """
        losses: list[float] = []
        self._training_mode()
        for images, labels in batches:
            losses.append(self._step(images, labels))
            after_step(losses[-1])
            if self.step % steps_per_epoch == 0:
                yield self.step // steps_per_epoch, sum(losses) / len(losses)
                losses = []
                self._training_mode()

    def _step(self, images: Tensor, labels: Tensor) -> float:
        device = next(self.model.parameters()).device
        embeddings = self.model(images.to(device, non_blocking=True))
        loss = self.loss_function(embeddings, labels.to(device, non_blocking=True))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.clip_norm or math.inf))
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise RetrievalError(
                f"step {self.step}: the loss is {value}, the gradient's norm {norm}; the weights are those before the step. "
                f"Lower training.learning_rate (now {self.optimizer.param_groups[0]['lr']:.3g}) or set training.clip_norm"
            )
        self.optimizer.step()
        self.step += 1
        self.scheduler.step_update(self.step)
        return value

    def _training_mode(self) -> None:
        self.model.train()
        if self.freeze_batchnorm:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if it had not stopped."""
        return {
            "model": self.model.state_dict(),
            "loss": self.loss_function.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.loss_function.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        torch.set_rng_state(state["random"])
        self.scheduler.step_update(self.step)
