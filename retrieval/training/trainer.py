"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from retrieval.errors import DivergedError, RetrievalError
from retrieval.training import distributed
from retrieval.training.checkpoint import not_finite
from retrieval.training.diagnosis import diagnose, diverged, shorten
from retrieval.training.large_batch import embed_in_chunks, require_frozen_batchnorm
from retrieval.training.randomness import seeded

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Trainer:
    """The training loop of a model, with all state that changes from step to step.

    In distributed training (see `retrieval.training.distributed`), every process has a trainer with equal arguments.

    Args:
        model: A module from images (batch, 3, height, width) to embeddings (batch, dim), on the device that trains it.
        loss_function: A loss with the signature of pytorch-metric-learning: (embeddings, labels) to a scalar. It gets the whole
            batch of all processes, in float32 (float64 if the embeddings are float64).
        optimizer: Optimizer of the parameters of the model, and of the loss if it has any.
        scheduler: A scheduler of timm, stepped by `step_update(num_updates)`.
        training_mode: A function of the model and the number of finished epochs. It is called at the start of training and after
            each epoch. It puts the model into training mode and freezes the parts that are frozen in the next epoch.
        precision: Precision of the model's forward pass: "float32", or "bfloat16" or "float16" by autocast.
        clip_norm: Largest norm of the gradient. With None, gradients are not clipped.
        chunk_size: Images that pass through the model at a time, see `retrieval.training.large_batch`. With None, all do.
        piece_size: Images of a batch that pass through the model one piece after another, with all activations kept: on a CPU,
            those of a piece stay in the cache. For models without a layer that looks at the whole batch. With None, there is one.
        average: timm's `ModelEmaV3` of the model, updated after every step. With None, there is no average.
        seed: Seed of random numbers in the model and the loss. Every step has its own random state and does not change torch's.
        gauge: A `retrieval.losses.Gauge`, which measures the whole batch of every step. With None, nothing is measured.
        name_images: A function from a step to the names of its images in this process, for the message of a failed step.
        step: Number of steps taken.

    Raises:
        ValueError: The precision is unknown.
    """

    model: nn.Module
    loss_function: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    _: KW_ONLY
    training_mode: Callable[[nn.Module, int], object] = lambda model, epoch: model.train()
    precision: str = "float32"
    clip_norm: float | None = None
    chunk_size: int | None = None
    piece_size: int | None = None
    average: Any = None
    seed: int = 0
    gauge: Any = None
    name_images: Callable[[int], Sequence[Any]] | None = None
    step: int = 0
    _losses: list[float] = field(default_factory=list, init=False)  # of the current epoch

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        self.device = next(self.model.parameters()).device
        # bfloat16 has the range of float32. float16 gradients must be scaled so that they do not underflow.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        self._epoch = 1
        self._infinite = frozenset(not_finite(self.state_dict()))  # buffers such as masks of -inf

    @property
    def evaluated(self) -> nn.Module:
        """The model to evaluate and to save: the average if there is one, else the model itself."""
        return self.model if self.average is None else self.average.module

    def epochs(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        steps_per_epoch: int,
        *,
        max_steps: int | None = None,
        after_step: Callable[[float], None] = lambda loss: None,
    ) -> Iterator[tuple[int, float]]:
        """Trains one step per batch, and yields at the end of every epoch.

        An epoch is finished when the caller continues the iteration. If the state is saved at the yield, before an evaluation that
        may fail, the resumed run starts with the same yield.

        Args:
            batches: Images (batch, 3, height, width) and labels (batch,), starting with the batch of step `self.step`.
            steps_per_epoch: Number of steps of an epoch.
            max_steps: Training and its last epoch end after this number of steps. With None, training uses all batches.
            after_step: Called with the loss of every step.

        Yields:
            The number of the epoch, from 1, and its mean loss. The caller may put the model into evaluation mode.

        Raises:
            DivergedError: The loss or the gradient is not finite, or all embeddings are zero; the weights stay as before the step.
            RetrievalError: A BatchNorm layer is not frozen, although the batch passes through the model in chunks or in several
                processes.
        """
        for module in filter(None, (self.model, self.loss_function, self.average)):
            distributed.synchronize(module)
        self._enter_training(self.step // steps_per_epoch)
        batches = iter(batches)
        while True:
            is_last = max_steps is not None and self.step >= max_steps
            if self._losses and (is_last or self.step % steps_per_epoch == 0):
                yield math.ceil(self.step / steps_per_epoch), sum(self._losses) / len(self._losses)
                self._losses.clear()
                if self.gauge is not None:
                    self.gauge.clear()
                self._enter_training(self.step // steps_per_epoch)
            if is_last or (batch := next(batches, None)) is None:
                return
            self._losses.append(self._take_step(*batch))
            after_step(self._losses[-1])

    def _enter_training(self, epoch: int) -> None:
        self._epoch = epoch + 1
        self.training_mode(self.model, epoch)
        self.loss_function.train()
        if self.chunk_size or distributed.world_size() > 1:
            require_frozen_batchnorm(self.model, "training in chunks, or in several processes,")

    def _take_step(self, images: Tensor, labels: Tensor) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with seeded(self.device, self.seed, self.step, 1 + distributed.rank()):
            embeddings = self._embed(images)
        # The graph of the loss ends here: the loss gets the whole batch, and each process backpropagates its own part.
        whole, all_labels = distributed.gather(embeddings.detach(), labels.to(self.device))
        whole.requires_grad_()
        with seeded(self.device, self.seed, self.step, 0):
            loss = self.loss_function(whole, all_labels)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            made = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise RetrievalError(
                f"the loss {type(self.loss_function).__name__} returns {made}, expected a scalar tensor"
            )
        self.scaler.scale(loss).backward()
        assert whole.grad is not None
        if embeddings.requires_grad:  # False if only the loss has trainable parameters
            embeddings.backward(distributed.own_part(whole.grad))
        distributed.sum_gradients(self.model.parameters())
        distributed.average_gradients(self.loss_function.parameters())

        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        total = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        value, norm = torch.stack([loss.detach(), total.to(loss)]).tolist()
        # If a float16 gradient overflows, the scaler skips the step and lowers the scale for the next one.
        scaled_too_far = not math.isfinite(norm) and self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if not (math.isfinite(value) and (math.isfinite(norm) or scaled_too_far)):
            self._fail(value, norm, embeddings)
        if norm == 0 and not whole.any():
            what = f"all {len(whole)} embeddings of the batch are zero and have no gradient"
            raise DivergedError(diverged(self._epoch, self.step, what, self._learning_rate))
        if self.gauge is not None:
            self.gauge.add(whole.detach(), all_labels)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, total)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.scheduler.step_update(self.step)
        if self.average is not None:
            self.average.update(self.model, self.step)
        return value

    def _embed(self, images: Tensor) -> Tensor:
        dtype = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            if self.chunk_size and len(images) > self.chunk_size:
                embeddings = embed_in_chunks(self.model, images, self.chunk_size)
            else:
                pieces = images.to(self.device, non_blocking=True).split(self.piece_size or len(images))
                embeddings = torch.cat([self.model(piece) for piece in pieces])
        return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))

    def _fail(self, loss: float, norm: float, embeddings: Tensor) -> NoReturn:
        message = diagnose(
            *(self._epoch, self.step, loss, norm),
            learning_rate=self._learning_rate,
            embeddings=embeddings.detach(),
            parameters=(*self.model.named_parameters(), *self.loss_function.named_parameters("loss")),
            images=self.name_images and self.name_images(self.step),
        )
        raise DivergedError(*message.splitlines())

    @property
    def _learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def find_fault(self, state: dict[str, Any]) -> str | None:
        """Why a state of `state_dict` must not be saved or loaded: its tensors that are not finite. None if all are."""
        names = [name for name in not_finite(state) if name not in self._infinite]
        return f"NaN or infinity in {shorten(names)}" if names else None

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs to continue bit for bit as if it had not stopped."""
        return {
            "model": self.model.state_dict(),
            "loss": self.loss_function.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "step": self.step,  # determines the schedule and, with the seed, all random numbers
            "seed": self.seed,
            "losses": list(self._losses),
            "gauge": None if self.gauge is None else self.gauge.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.loss_function.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.seed, self._losses = state["step"], state["seed"], list(state["losses"])
        if self.gauge is not None and state.get("gauge"):  # runs of earlier versions have none
            self.gauge.load_state_dict(state["gauge"])
        self.scheduler.step_update(self.step)
