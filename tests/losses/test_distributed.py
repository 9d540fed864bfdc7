"""Two processes that share a batch get the gradient of one process that has it whole.

The host's wrapper multiplies the loss by the number of processes, since each has the graph of its own part only. The parameters
of a loss have their whole gradient in each, which is divided by that number again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import distributed

from retrieval.losses import CrossBatchMemory, RamboLoss, RecallLoss
from retrieval.solvers import Blackbox

PROJECTIONS = ("std", "local", "softmax")
TIMEOUT = timedelta(minutes=8)  # a busy machine imports torch for minutes


def inputs(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels of the whole batch; relevant items of most queries are in the other process."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(24, 8, generator=generator, dtype=torch.float64), torch.arange(24) % 7


def model() -> torch.nn.Linear:
    layer = torch.nn.Linear(8, 5, dtype=torch.float64)
    torch.nn.init.orthogonal_(layer.weight, generator=torch.Generator().manual_seed(9))
    torch.nn.init.zeros_(layer.bias)
    return layer


def gradients(rows: slice, wrap: Callable[[torch.nn.Module], torch.nn.Module]) -> dict[str, torch.Tensor]:
    """The gradient of the weights: with blackbox, and for projections without and (over three batches) with a memory."""
    losses = {"rambo": RamboLoss(), "blackbox": RecallLoss(gradient=Blackbox(20.0), noise=0)}
    for projection in PROJECTIONS:
        losses[projection] = RecallLoss(projection, noise=0)
        losses[f"{projection} with a memory"] = CrossBatchMemory(RecallLoss(projection, noise=0), 5, 48)
        losses[f"{projection} and proxies"] = with_proxies(projection)
        losses[f"{projection} and proxies with a memory"] = CrossBatchMemory(with_proxies(projection), 5, 48)
    found = {}
    for name, loss in losses.items():
        network, wrapped = model(), wrap(loss)
        for step in range(3 if isinstance(loss, CrossBatchMemory) else 1):
            images, labels = inputs(step)
            network.zero_grad()
            loss.zero_grad()
            wrapped(network(images[rows]), labels[rows]).backward()
        found[name] = network.weight.grad
        size = distributed.get_world_size() if distributed.is_initialized() else 1
        found |= {f"{name}, {key}": parameter.grad / size for key, parameter in loss.named_parameters()}
    assert len(found) == 8 + 6 + 6
    return found


def with_proxies(projection: str) -> RecallLoss:
    loss = RecallLoss(projection, noise=0, num_classes=9, embedding_size=5).double()
    torch.nn.init.normal_(loss.proxies, generator=torch.Generator().manual_seed(9))
    return loss


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group("gloo", store=store, timeout=TIMEOUT, world_size=2, rank=rank)
    found = gradients(slice(12 * rank, 12 * rank + 12), DistributedLossWrapper)
    for gradient in found.values():  # DistributedDataParallel takes the mean too
        distributed.all_reduce(gradient)
        gradient /= 2
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow  # the processes import torch, one beside the other
@pytest.mark.skipif(not distributed.is_available(), reason="torch without torch.distributed")
def test_two_processes_get_the_gradient_of_one(tmp_path):
    processes = torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2, join=False)
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    try:
        while not processes.join(timeout=1):
            assert time.monotonic() < deadline, "the processes wait for each other"
    finally:
        for process in processes.processes:
            process.kill()

    expected = gradients(slice(None), lambda loss: loss)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert gradient.any()
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
