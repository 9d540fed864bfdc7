"""Two processes do what one does. This file is also the program that they run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import two_processes
from pytorch_metric_learning import losses, miners
from timm.utils import ModelEmaV3
from torch import nn

from retrieval.errors import RetrievalError
from retrieval.losses import Gauge, RecallLoss
from retrieval.losses.memory import CrossBatchMemory
from retrieval.training import SiMix, Stopped, StopSignals, Trainer, distributed

BATCH, DIM = 24, 5
COUNTS, UNIT = (1, 3, 4, 9, 17, 32), 4

LOSSES = {
    "std": lambda: RecallLoss("std", noise=0),
    "local, with noise": lambda: RecallLoss("local", noise=0.2),
    "softmax": lambda: RecallLoss("softmax", noise=0),
    "memory": lambda: CrossBatchMemory(RecallLoss(noise=0), DIM, 60).double(),
    "mixed, into a memory": lambda: SiMix(CrossBatchMemory(RecallLoss(noise=0), DIM, 200).double()),
    "contrastive, memory and miner": lambda: CrossBatchMemory(
        losses.ContrastiveLoss(), DIM, 60, miner=miners.MultiSimilarityMiner()
    ).double(),
    "proxies": lambda: losses.ProxyAnchorLoss(7, DIM).double(),
    "class proxies": lambda: RecallLoss(num_classes=9, embedding_size=DIM).double(),
    "class proxies, mixed, and a memory": lambda: SiMix(
        CrossBatchMemory(RecallLoss("softmax", num_classes=9, embedding_size=DIM), DIM, 200).double()
    ),
}


class Schedule:
    """A schedule that changes nothing."""

    def step_update(self, num_updates: int) -> None:
        pass


def make_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.BatchNorm1d(12), nn.Linear(12, DIM)).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    return model


def make_trainer(loss: nn.Module, **options) -> Trainer:
    model = make_model()
    for parameter in loss.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(9))
    # Other than Adam's, its steps tell a gradient from a multiple of it.
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.02, momentum=0.9)
    options = {"training_mode": lambda model, epoch: model.eval()} | options
    return Trainer(model, loss, optimizer, Schedule(), average=ModelEmaV3(model, decay=0.5), gauge=Gauge(), **options)


def batches(rows: slice) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Parts of batches; the relevant items of most queries are in the other process."""
    inputs = [torch.randn(BATCH, 8, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(4)]
    return [(images[rows], (torch.arange(BATCH) % 7)[rows]) for images in inputs]


def train(rows: slice) -> dict[str, dict[str, torch.Tensor]]:
    """Four steps with every loss: the weights, their average and the state of the loss, and the losses' values."""
    found = {}
    for name, loss in LOSSES.items():
        for chunk_size, clip_norm in ((None, None), (5, 0.1)):
            trainer, values = make_trainer(loss(), chunk_size=chunk_size, clip_norm=clip_norm), []
            list(trainer.epochs(batches(rows), 2, after_step=values.append))
            state = trainer.state_dict()
            tensors = {f"{part} {key}": v for part in ("model", "average", "loss") for key, v in state[part].items()}
            tensors = {key: value for key, value in tensors.items() if isinstance(value, torch.Tensor)}
            gauge = torch.tensor([*trainer.gauge.figures.values(), state["gauge"]["spread"]], dtype=torch.float64)
            found[f"{name}, chunks of {chunk_size}"] = tensors | {"values": torch.tensor(values), "gauge": gauge}
    return found


def vectors(part: slice) -> np.ndarray:
    """Values in place of an evaluation of some images."""
    assert part.start < part.stop
    assert part.start % UNIT == 0
    return np.random.default_rng(0).random((100, 3), dtype=np.float32)[part]


def message(function) -> str:
    try:
        function()
    except (ValueError, RetrievalError) as error:
        return str(error)
    return ""


def fail() -> None:
    raise ValueError("failed as meant")


def stop_together() -> int:
    """Steps taken until a signal to process 1 in its third step has stopped both."""
    trainer = make_trainer(RecallLoss(noise=0))
    rows = slice(12 * distributed.rank(), 12 * distributed.rank() + 12)

    def after_step(loss: float) -> None:
        if trainer.step == 3 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with StopSignals() as signals, pytest.raises(Stopped):
        list(trainer.epochs(signals.each(batches(rows) * 5, together=True), 5, after_step=after_step))
    return trainer.step


def work(folder: Path) -> None:
    """The program of each process."""
    torch.set_num_threads(1)
    with distributed.joined("cpu") as device:
        rank = distributed.rank()
        assert (device.type, distributed.world_size(), distributed.is_main()) == ("cpu", 2, rank == 0)
        begins_differently = make_trainer(RecallLoss(noise=0))
        if rank == 1:
            nn.init.zeros_(begins_differently.model[0].weight)
        list(begins_differently.epochs([], 1))
        odd = torch.zeros(3 + rank, DIM)
        found = {
            "trained": train(slice(12 * rank, 12 * rank + 12)),
            "vectors": {str(count): torch.from_numpy(distributed.share_out(vectors, count, UNIT)) for count in COUNTS},
            "start": begins_differently.model[0].weight.detach(),
            "largest": distributed.largest(rank),
            "on main": distributed.on_main(lambda: {"rank": distributed.rank()}),
            "failed on main": message(lambda: distributed.on_main(fail)),
            "unequal": message(lambda: distributed.gather(odd, odd[:, 0])),
            "batchnorm": message(
                lambda: list(
                    make_trainer(RecallLoss(noise=0), training_mode=lambda model, epoch: model.train()).epochs([], 1)
                )
            ),
            "steps until the signal": stop_together(),
        }
        torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict]:
    """The results of the two processes."""
    folder = tmp_path_factory.mktemp("two")
    with two_processes(folder, Path(__file__).read_text(), folder) as processes:
        assert [process.wait() for process in processes] == [0, 0], processes[0].stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
class TestTwoProcesses:
    def test_take_the_steps_of_one_process_with_the_whole_batch(self, both):
        expected = train(slice(None))
        for found in both:
            assert found["trained"].keys() == expected.keys()
            for name, tensors in expected.items():
                for key, value in tensors.items():
                    torch.testing.assert_close(
                        found["trained"][name][key], value, rtol=1e-9, atol=1e-12, msg=f"{name}: {key}"
                    )

    def test_have_the_same_weights_to_the_last_bit(self, both):
        for name, tensors in both[0]["trained"].items():
            assert all(torch.equal(value, both[1]["trained"][name][key]) for key, value in tensors.items())

    def test_begin_with_the_weights_of_the_first(self, both):
        for found in both:
            assert torch.equal(found["start"], make_model()[0].weight)

    @pytest.mark.parametrize("count", COUNTS)
    def test_share_out_an_evaluation_and_both_have_all_of_it_in_order(self, both, count):
        for found in both:
            assert np.array_equal(found["vectors"][str(count)].numpy(), vectors(slice(0, count)))

    def test_let_only_the_first_do_the_work_of_one(self, both):
        assert [found["on main"] for found in both] == [{"rank": 0}] * 2
        assert [found["failed on main"] for found in both] == [
            "failed as meant",
            "rank 0 failed; see its error message",
        ]

    def test_stop_after_the_same_step_when_one_gets_a_signal(self, both):
        assert [found["steps until the signal"] for found in both] == [3, 3]
        assert [found["largest"] for found in both] == [1, 1]

    def test_refuse_unequal_parts_and_batchnorm_that_sees_only_its_part(self, both):
        for found in both:
            assert "[3, 4] images of a batch" in found["unequal"]
            assert "in several processes, needs BatchNorm with frozen statistics" in found["batchnorm"]


def test_a_single_process_needs_no_group():
    with distributed.joined("cpu") as device:
        assert device == torch.device("cpu")
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.largest(3) == 3
    assert distributed.on_main(lambda: 5) == 5
    embeddings, labels = torch.rand(4, 2), torch.arange(4)
    assert distributed.gather(embeddings, labels) == (embeddings, labels)
    assert torch.equal(distributed.own_part(embeddings), embeddings)
    assert np.array_equal(distributed.share_out(vectors, 9, UNIT), vectors(slice(0, 9)))


def test_a_group_that_cannot_be_joined_is_an_error(monkeypatch):
    def join(device: str) -> None:
        with distributed.joined(device):
            raise AssertionError("not reached")

    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RetrievalError, match="the 2 processes cannot connect to each other"):
        join("cpu")
    with pytest.raises(RetrievalError, match="not meta"):
        join("meta")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RetrievalError, match="process 1 of this machine finds 1 GPU; lower --nproc_per_node"):
        join("cuda")


if __name__ == "__main__":
    work(Path(sys.argv[1]))
