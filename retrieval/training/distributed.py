"""Distributed training in the processes that `torchrun` starts.

Every process embeds its part of a batch. The embeddings are gathered, so all processes compute the same loss on the whole batch. In
a single process, every function of this module does nothing or returns its argument.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed import DistError, PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from retrieval.errors import RetrievalError, plural
from retrieval.training.heartbeat import Heartbeat

Result = TypeVar("Result")


@contextlib.contextmanager
def joined(device: torch.device | str, timeout: timedelta = timedelta(hours=1)) -> Iterator[torch.device]:
    """Joins the process group of torchrun, and leaves it at the end. Does nothing in a single process.

    Args:
        device: The type of device. With CUDA, each process of a machine uses its own GPU.
        timeout: The longest time to wait for processes that respond, for example while one of them evaluates.

    Yields:
        The device of this process.

    Raises:
        RetrievalError: There are more processes than GPUs, the device does not support distributed training, or the processes
            cannot connect. Or another process has ended; if it no longer responds, this process ends without an exception.
    """
    device = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        own = int(os.environ.get("LOCAL_RANK", "0"))
        found = torch.cuda.device_count()
        if own >= found:
            raise RetrievalError(f"process {own} of this machine finds {plural(found, 'GPU')}; lower --nproc_per_node")
        device = torch.device("cuda", own)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise RetrievalError(
            f"several processes can train on cpu or cuda, not {device.type}; set device to one of them"
        )
    if device.type == "cuda" and not distributed.is_nccl_available():
        raise RetrievalError("several GPUs need NCCL, which this build of torch lacks; train with one process")
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        group: dict[str, Any] = {"store": PrefixStore("group", store), "rank": rank, "world_size": size}
        if device.type == "cuda":
            distributed.init_process_group("nccl", timeout=timeout, device_id=device, **group)
        else:
            distributed.init_process_group("gloo", timeout=timeout, **group)
    except (ValueError, RuntimeError) as error:
        raise RetrievalError(
            f"the {os.environ['WORLD_SIZE']} processes cannot connect to each other ({error})"
        ) from error
    try:
        with Heartbeat(PrefixStore("heartbeat", store), rank, size) as heartbeat:
            try:
                yield device
            except RuntimeError as error:
                if not isinstance(error, DistError) and "gloo" not in str(error):
                    raise
                raise RetrievalError(heartbeat.explain_lost()) from error
    finally:
        distributed.destroy_process_group()


def world_size() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The rank of this process, from 0."""
    return distributed.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is rank 0. Only rank 0 writes files."""
    return rank() == 0


def gather(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gathers the whole batch from the parts of all processes, in the order of their ranks. It has no gradient.

    Args:
        embeddings: (part, dim).
        labels: (part,).

    Returns:
        Embeddings (batch, dim) and labels (batch,), the same in every process.

    Raises:
        ValueError: The parts have different sizes.
    """
    if world_size() == 1:
        return embeddings, labels
    sizes = _all(torch.tensor([len(embeddings)], device=_device()))
    if len(sizes.unique()) > 1:
        raise ValueError(f"the processes have {sizes.tolist()} images of a batch; give each the same number")
    return _all(embeddings), _all(labels)


def own_part(whole: Tensor) -> Tensor:
    """This process's part of a whole batch (batch, ...)."""
    return whole.tensor_split(world_size())[rank()]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its sum over the processes, which is the gradient of the whole batch."""
    _reduce_gradients(parameters, divisor=1)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over the processes. Equal gradients then stay equal in spite of rounding."""
    _reduce_gradients(parameters, divisor=world_size())


def synchronize(module: nn.Module) -> None:
    """Copies the parameters and buffers of rank 0 to all processes."""
    if world_size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            value = tensor.detach().to(_device()).contiguous()
            distributed.broadcast(value, 0)
            tensor.detach().copy_(value)


def largest(number: int) -> int:
    """The maximum of a number over the processes."""
    if world_size() == 1:
        return number
    numbers = torch.tensor([number], device=_device())
    distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
    return int(numbers)


def on_main(function: Callable[[], Result]) -> Result:
    """Calls a function on rank 0 only, and returns its result in all processes.

    Raises:
        RetrievalError: The function failed. This error is raised on the other ranks; rank 0 raises the original error.
    """
    if world_size() == 1:
        return function()
    outcome: list[Any] = [False, None]
    try:
        if is_main():
            outcome = [True, function()]
    finally:
        distributed.broadcast_object_list(outcome, 0, device=_device())
    if not outcome[0]:
        raise RetrievalError("rank 0 failed; see its error message")
    return outcome[1]


def share_out(work: Callable[[slice], np.ndarray], count: int, unit: int) -> np.ndarray:
    """Distributes the embedding of images over the processes, and gathers all vectors in order.

    Args:
        work: Embeds the images of a slice as (number, dim) float32.
        count: Number of all images.
        unit: Images of a batch. Each process embeds whole batches, so the vectors are bit-for-bit those of a single process.

    Returns:
        (count, dim) float32, in every process.
    """
    batches = -(-count // unit)
    first, last = (batches * end // world_size() for end in (rank(), rank() + 1))
    mine = slice(first * unit, min(last * unit, count))
    if world_size() == 1:
        return work(mine)
    rows = torch.from_numpy(work(mine)) if mine.start < mine.stop else torch.empty(0, 0)
    shapes = _all(torch.tensor([list(rows.shape)], device=_device()))
    padded = torch.zeros(int(shapes[:, 0].max()), int(shapes[:, 1].max()), device=_device())
    padded[: len(rows), : rows.shape[1]] = rows
    parts = _all(padded[None]).cpu()
    return torch.cat([part[:number] for part, number in zip(parts, shapes[:, 0].tolist(), strict=True)]).numpy()


def _reduce_gradients(parameters: Iterable[nn.Parameter], divisor: int) -> None:
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        same = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in same])  # one transfer instead of hundreds
        distributed.all_reduce(flat)
        for gradient, total in zip(same, flat.div_(divisor).split([g.numel() for g in same]), strict=True):
            gradient.copy_(total.view(gradient.shape))


def _all(tensor: Tensor) -> Tensor:
    """Concatenates the tensors (n, ...) of all processes, which have equal shapes, to (world_size * n, ...)."""
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _device() -> torch.device:
    """The device of the tensors that the backend exchanges."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
