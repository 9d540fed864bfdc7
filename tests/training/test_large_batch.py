from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from retrieval.errors import RetrievalError
from retrieval.losses import RecallLoss
from retrieval.losses.memory import CrossBatchMemory
from retrieval.training import SiMix, Trainer
from retrieval.training.large_batch import embed_in_chunks, require_frozen_batchnorm

LABELS = torch.arange(22) // 3  # 7 classes of 3, and a lone label


class Small(nn.Module):
    """Convolution, BatchNorm, dropout and a head."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.normalization = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = functional.relu(self.normalization(self.convolution(images)))
        return self.head(self.dropout(self.dropout(features).mean(dim=(2, 3))))


def make_model(dropout: float = 0.0) -> Small:
    torch.manual_seed(0)
    model = Small(dropout).double()
    model.normalization.running_mean.normal_()
    return frozen(model)


def frozen(model: nn.Module) -> nn.Module:
    """Training mode, except for BatchNorm."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def images(count: int = len(LABELS), size: int = 6, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def gradient(model: nn.Module, embeddings: torch.Tensor, loss: nn.Module | None = None) -> torch.Tensor:
    value = (loss or RecallLoss(noise=0))(embeddings, LABELS)
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


@pytest.mark.parametrize("chunk_size", [1, 4, 5, 22, 100])
def test_the_gradient_is_that_of_one_pass(chunk_size):
    model = make_model()
    expected = gradient(model, model(images()))
    found = gradient(model, embed_in_chunks(model, images(), chunk_size))
    assert expected.any()
    assert (found - expected).norm() < 1e-12 * expected.norm()


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_the_gradient_of_a_real_backbone_is_that_of_one_pass(name):
    torch.manual_seed(0)
    size = {"img_size": 32} if name.startswith("vit") else {}
    model = frozen(timm.create_model(name, num_classes=5, **size)).double()
    expected = gradient(model, model(images(size=32)))
    found = gradient(model, embed_in_chunks(model, images(size=32), 8))
    assert expected.any()
    assert (found - expected).norm() < 1e-6 * expected.norm()


def test_no_activations_are_kept_and_no_more_than_a_chunk_passes_at_a_time():
    def kept(embed) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            embed()
        return sum(sizes)

    model, passed = make_model(), []
    model.register_forward_pre_hook(lambda module, inputs: passed.append(len(inputs[0])))
    assert kept(lambda: model(images())) > 5 * images().numel()
    passed.clear()
    embeddings = []
    assert kept(lambda: embeddings.append(embed_in_chunks(model, images(), 5))) == images().numel()
    assert passed == [5, 5, 5, 5, 2]
    gradient(model, embeddings[0])
    assert passed[5:] == [2, 5, 5, 5, 5]


def test_dropout_samples_the_same_numbers_in_both_passes():
    model = make_model(dropout=0.3)
    weights = torch.randn(22, 5, dtype=torch.float64)

    def value() -> torch.Tensor:
        torch.manual_seed(3)
        return (embed_in_chunks(model, images(), 5) * weights).sum()

    found = torch.autograd.grad(value(), model.head.weight)[0]
    with torch.no_grad():  # by small steps to both sides: with other numbers in the second pass this would be far off
        for place in ((0, 0), (2, 3), (4, 7)):
            around = []
            for step in (1e-6, -1e-6):
                model.head.weight[place] += step
                around.append(value())
                model.head.weight[place] -= step
            assert found[place].item() == pytest.approx((around[0] - around[1]).item() / 2e-6, rel=1e-6)


def test_chunks_sample_different_numbers_and_torchs_generator_advances():
    model = make_model(dropout=0.5)
    same = images(1).expand(8, -1, -1, -1)
    first, second = embed_in_chunks(model, same, 4), embed_in_chunks(model, same, 4)
    assert not torch.equal(first[:4], first[4:])
    assert not torch.equal(first, second)


def test_chunks_work_with_gradient_checkpointing_in_the_model():
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model(dropout=0.3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.inner, images, use_reentrant=False)

    gradients = []
    for model in (make_model(dropout=0.3), Nested()):
        torch.manual_seed(3)
        gradients.append(gradient(model, embed_in_chunks(model, images(), 5)))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)


def test_autocast_holds_in_both_passes():
    model = make_model().float()
    parts = images(dtype=torch.float32).split(8)
    with torch.autocast("cpu", torch.bfloat16):
        expected = torch.cat([model(part) for part in parts])
        found = embed_in_chunks(model, torch.cat(parts), 8)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradient(model, found), gradient(model, expected), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "loss",
    [lambda: RecallLoss("local", noise=0.1), lambda: SiMix(CrossBatchMemory(RecallLoss(noise=0), 5, 100).double())],
)
def test_a_trainer_takes_the_same_steps_in_chunks_and_calls_the_loss_once(loss):
    weights = []
    for chunk_size in (None, 5):
        model, function = make_model(), loss()
        calls = []
        function.register_forward_hook(lambda module, inputs, output, calls=calls: calls.append(len(inputs[0])))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        trainer = Trainer(
            model, function, optimizer, Constant(), training_mode=lambda m, epoch: frozen(m), chunk_size=chunk_size
        )
        list(trainer.epochs([(images() + step, LABELS) for step in range(4)], 2))
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        assert calls == [22] * 4
    assert (weights[0] - weights[1]).norm() < 1e-12 * weights[0].norm()


class Constant:
    """A schedule that changes nothing."""

    def step_update(self, num_updates: int) -> None:
        pass


def test_batchnorm_that_sees_the_batch_is_refused_by_name():
    model = make_model().train()
    with pytest.raises(RetrievalError, match=r"frozen statistics.* normalization uses .* model\.freeze_batchnorm"):
        embed_in_chunks(model, images(), 5)
    trainer = Trainer(model, RecallLoss(noise=0), torch.optim.SGD(model.parameters()), Constant(), chunk_size=100)
    with pytest.raises(RetrievalError, match=r"training in chunks.* normalization uses"):
        list(trainer.epochs([(images(), LABELS)], 1))
    require_frozen_batchnorm(model.eval(), "this")
    without_statistics = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).eval()
    with pytest.raises(RetrievalError, match="this needs BatchNorm"):
        require_frozen_batchnorm(without_statistics, "this")


def test_an_empty_chunk_is_refused():
    with pytest.raises(ValueError, match="chunk_size is 0"):
        embed_in_chunks(make_model(), images(), 0)
