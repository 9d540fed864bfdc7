from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning import losses
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

from retrieval.errors import RetrievalError
from retrieval.losses import Gauge, RecallLoss, measure_batch
from retrieval.losses.memory import CrossBatchMemory
from retrieval.training import SiMix, Trainer, load_checkpoint, save_checkpoint

STEPS = 3  # of an epoch


def make_trainer(loss: nn.Module | None = None, *, average: bool = False, **options) -> Trainer:
    torch.manual_seed(0)
    if isinstance(loss, losses.ProxyAnchorLoss):
        nn.init.normal_(loss.proxies)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
    loss = RecallLoss(noise=0.1) if loss is None else loss
    optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=0.01)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=4, step_on_epochs=False, updates_per_epoch=STEPS)
    scheduler.step_update(0)
    if average:
        options["average"] = ModelEmaV3(model, decay=0.8)
    return Trainer(model, loss, optimizer, scheduler, **{"gauge": Gauge()} | options)


def batches(first: int, last: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    labels = torch.arange(8) // 2
    return [
        (torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(step)), labels) for step in range(first, last)
    ]


def train(trainer: Trainer, last: int, **options) -> list[tuple[int, float]]:
    """Trains from where the trainer is to a step; returns the epochs that ended."""
    return list(trainer.epochs(batches(trainer.step, last), STEPS, **options))


def same(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(*pair) if isinstance(pair[0], torch.Tensor) else pair[0] == pair[1] for pair in pairs)


class Computed(nn.Module):
    """A loss that a function computes."""

    def __init__(self, function) -> None:
        super().__init__()
        self.forward = function


class ScaledGradient(torch.autograd.Function):
    """Leaves values as they are, and multiplies their gradient."""

    @staticmethod
    def forward(ctx, values, factor):
        ctx.factor = factor
        return values.clone()

    @staticmethod
    def backward(ctx, incoming):
        return incoming * ctx.factor, None


def scale_gradients(trainer: Trainer, *factors: float) -> None:
    """Multiplies the gradient of the bias by the next of the factors in every step."""
    forward, rest = trainer.model.forward, iter(factors)
    trainer.model.forward = lambda images: forward(images) + 0 * ScaledGradient.apply(trainer.model[1].bias, next(rest))


def test_epochs_are_counted_and_the_model_trains_again_after_an_evaluation():
    trainer, seen = make_trainer(), []
    for epoch, loss in trainer.epochs(batches(0, 6), STEPS, after_step=seen.append):
        trainer.model.eval()
        assert loss == pytest.approx(sum(seen[-3:]) / 3)
        assert trainer.step == 3 * epoch
    assert len(seen) == 6
    assert trainer.model.training


def test_the_last_step_ends_the_current_epoch():
    trainer, seen = make_trainer(), []
    ended = [epoch for epoch, _ in trainer.epochs(batches(0, 12), STEPS, max_steps=4, after_step=seen.append)]
    assert (ended, trainer.step, len(seen)) == ([1, 2], 4, 4)
    assert train(trainer, 12, max_steps=4) == []
    exactly = make_trainer()
    assert [epoch for epoch, _ in train(exactly, 12, max_steps=6)] == [1, 2]


EVERYTHING = {
    "dropout and noise": lambda: make_trainer(),
    "all at once": lambda: make_trainer(
        SiMix(CrossBatchMemory(RecallLoss("local", noise=0.1), 8, 30)),
        average=True,
        clip_norm=0.1,
        precision="bfloat16",
        seed=5,
    ),
    "a loss with parameters": lambda: make_trainer(losses.ProxyAnchorLoss(4, 8), average=True),
    "class proxies and a memory": lambda: make_trainer(CrossBatchMemory(with_proxies(), 8, 30), average=True),
    "a scaler": lambda: make_trainer(precision="float16"),
    "chunks": lambda: make_trainer(chunk_size=3, training_mode=frozen_batchnorm),
}


def with_proxies() -> RecallLoss:
    torch.manual_seed(0)
    return RecallLoss("softmax", noise=0.1, num_classes=4, embedding_size=8)


def frozen_batchnorm(model: nn.Module, epoch: int) -> None:
    model.train()
    model[2].eval()


@pytest.mark.parametrize("stop", [4, 6], ids=["in the midst of an epoch", "at its end"])
@pytest.mark.parametrize("make", EVERYTHING.values(), ids=EVERYTHING.keys())
def test_a_resumed_run_equals_a_whole_run_bit_for_bit(tmp_path, make, stop):
    whole = make()
    epochs = train(whole, 12)

    first = make()
    before = train(first, stop)
    save_checkpoint(tmp_path / "last", first.state_dict())
    second = make()
    torch.manual_seed(99)
    second.load_state_dict(load_checkpoint(tmp_path / "last"))
    assert before + train(second, 12) == epochs

    assert second.step == whole.step
    assert same(second.model, whole.model)
    assert same(second.evaluated, whole.evaluated)
    assert same(second.loss_function, whole.loss_function)
    assert second.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]
    assert second.scaler.state_dict() == whole.scaler.state_dict()
    assert second.gauge.state_dict() == whole.gauge.state_dict()


def test_the_gauge_measures_every_batch_of_an_epoch_whatever_the_loss():
    for loss in (RecallLoss(), losses.TripletMarginLoss(), SiMix(CrossBatchMemory(RecallLoss(), 8, 30))):
        trainer, seen, means = make_trainer(loss), [], []
        trainer.model.register_forward_hook(lambda *given, seen=seen: seen.append(given[-1].detach()))
        for _ in trainer.epochs(batches(0, 6), STEPS):
            means.append(trainer.gauge.mean())
        figures = [measure_batch(embeddings, torch.arange(8) // 2) for embeddings in seen]
        expected = [
            {name: sum(row[name] for row in part) / STEPS for name in part[0]} for part in (figures[:3], figures[3:])
        ]
        assert means == [pytest.approx(row) for row in expected]
        assert trainer.gauge.figures == figures[-1]


def test_the_gauge_changes_no_step():
    measured, plain = make_trainer(), make_trainer(gauge=None)
    assert train(measured, 6) == train(plain, 6)
    assert same(measured.model, plain.model)
    old = plain.state_dict()  # of a run of an earlier version, too
    measured.load_state_dict(old)
    del old["gauge"]
    measured.load_state_dict(old)


def test_a_state_saved_before_the_epoch_was_measured_makes_the_resumed_run_measure_it():
    trainer = make_trainer()
    pauses = trainer.epochs(batches(0, 6), STEPS)
    epoch, loss = next(pauses)
    state = trainer.state_dict()
    pauses.close()  # the measurement failed

    resumed = make_trainer()
    resumed.load_state_dict(state)
    assert train(resumed, 3) == [(epoch, loss)]
    assert train(resumed, 3) == []  # now it is closed
    assert train(resumed, 6) == train(make_trainer(), 6)[1:]


def test_training_samples_from_its_own_random_state_and_leaves_that_of_torch_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    trainer, seeded = make_trainer(), make_trainer(seed=1)
    torch.manual_seed(7)
    train(trainer, 3)
    assert torch.equal(torch.rand(3), expected)
    train(seeded, 3)
    assert not same(trainer.model, seeded.model)


def test_the_training_mode_is_entered_with_the_number_of_finished_epochs():
    seen = []

    def mode(model, epoch):
        seen.append(epoch)
        model.train(epoch > 0)

    trainer = make_trainer(training_mode=mode)
    modes = [trainer.model.training for _ in trainer.epochs(batches(0, 6), STEPS)]
    assert (seen, modes) == ([0, 1, 2], [False, True])
    resumed = make_trainer(training_mode=mode)
    resumed.load_state_dict(trainer.state_dict())
    seen.clear()
    train(resumed, 7)
    assert seen == [2]


def test_batchnorm_that_the_training_mode_froze_keeps_its_statistics():
    frozen, free = make_trainer(training_mode=frozen_batchnorm), make_trainer()
    for trainer in (frozen, free):
        train(trainer, 6)
    assert frozen.model[2].running_mean.eq(0).all()
    assert not free.model[2].running_mean.eq(0).all()


def test_pieces_of_a_batch_make_the_step_of_the_whole_batch():
    def frozen(model, epoch):
        model.eval()  # without dropout, too

    sizes = []
    whole, pieces = (make_trainer(training_mode=frozen, piece_size=size, clip_norm=1.0) for size in (None, 3))
    pieces.model[1].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    expected, found = train(whole, 4), train(pieces, 4)
    assert sizes == 4 * [3, 3, 2]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-5)
    for left, right in zip(whole.model.parameters(), pieces.model.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("precision", "inside"), [("float32", "float32"), ("bfloat16",) * 2, ("float16",) * 2])
def test_the_model_computes_in_its_precision_and_the_loss_in_float32(precision, inside):
    seen = []

    def record(*arguments):
        seen.append(arguments[-1].dtype)
        assert torch.is_autocast_enabled("cpu") == (precision != "float32")

    def loss(embeddings, labels):
        seen.append(embeddings.dtype)
        assert not torch.is_autocast_enabled("cpu")
        return (embeddings @ embeddings.T).square().mean()

    trainer = make_trainer(Computed(loss), precision=precision)
    trainer.model[1].register_forward_hook(record)
    train(trainer, 1)
    assert seen == [getattr(torch, inside), torch.float32]
    assert trainer.model[1].weight.dtype == torch.float32


def test_a_model_in_float64_gets_its_loss_in_float64():
    trainer = make_trainer(Computed(lambda embeddings, labels: seen.append(embeddings.dtype) or embeddings.sum()))
    seen = []
    trainer.model.double()
    next(trainer.epochs([(images.double(), labels) for images, labels in batches(0, 1)], 1))
    assert seen == [torch.float64]


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'half', expected one of float32, bfloat16, float16"):
        make_trainer(precision="half")


def test_float16_skips_a_step_that_was_scaled_too_far_and_lowers_the_scale():
    trainer = make_trainer(precision="float16")
    scale_gradients(trainer, math.inf, 1, 1)
    before = trainer.model[1].weight.clone()
    train(trainer, 1)
    assert torch.equal(trainer.model[1].weight, before)
    assert (trainer.scaler.get_scale(), trainer.step) == (2.0**15, 1)
    train(trainer, 3)
    assert not torch.equal(trainer.model[1].weight, before)


def test_float16_whose_scale_cannot_go_lower_stops_the_run():
    trainer = make_trainer(precision="float16")
    scale_gradients(trainer, *[math.inf] * 30)
    with pytest.raises(
        RetrievalError, match=r"step 16: training has diverged: the loss is \S+ and the gradient's norm nan"
    ):
        train(trainer, 30)


def test_the_average_follows_the_weights_and_is_what_is_evaluated():
    trainer, expected = make_trainer(average=True), None
    for step in range(1, 5):
        train(trainer, step)
        weight = trainer.model[1].weight.detach()
        # timm's average begins with the weights after the first step.
        expected = weight.clone() if step == 1 else 0.8 * expected + 0.2 * weight
    torch.testing.assert_close(trainer.evaluated[1].weight, expected)
    assert make_trainer().evaluated[1].weight.shape == expected.shape


def test_the_gradient_is_clipped_to_its_norm():
    norms = []
    for clip_norm in (None, 1e-4):
        trainer = make_trainer(clip_norm=clip_norm)
        train(trainer, 1)
        norms.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm().item())
    assert norms[0] > 2e-4
    assert norms[1] == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("loss", [lambda: losses.ProxyAnchorLoss(4, 8), lambda: with_proxies()])
def test_the_loss_learns_too_even_where_nothing_else_does(loss):
    def freeze(model, epoch):
        model.requires_grad_(False).eval()

    trainer = make_trainer(loss(), training_mode=freeze)
    model, proxies = trainer.model[1].weight.clone(), trainer.loss_function.proxies.clone()
    train(trainer, 2)
    assert torch.equal(trainer.model[1].weight, model)
    assert not torch.equal(trainer.loss_function.proxies, proxies)


def test_frozen_proxies_stay_while_the_model_learns():
    trainer = make_trainer(with_proxies().requires_grad_(False))
    model, proxies = trainer.model[1].weight.clone(), trainer.loss_function.proxies.clone()
    train(trainer, 2)
    assert torch.equal(trainer.loss_function.proxies, proxies)
    assert not torch.equal(trainer.model[1].weight, model)


class TestAStepThatCannotBeTaken:
    """The run stops with a diagnosis, and everything is as before the step."""

    def stop(self, trainer: Trainer, steps: int = 1) -> str:
        before = [parameter.clone() for parameter in trainer.model.parameters()]
        with pytest.raises(RetrievalError) as caught:
            train(trainer, steps)
        assert trainer.step == 0
        assert not trainer.optimizer.state
        assert all(map(torch.equal, trainer.model.parameters(), before))
        return str(caught.value)

    def test_a_loss_that_is_not_a_number(self):
        trainer = make_trainer(Computed(lambda embeddings, labels: embeddings.sum() * math.nan), average=True)
        message = self.stop(trainer)
        assert (
            "epoch 1, step 0: training has diverged: the loss is nan and the gradient's norm nan; the step was skipped"
            in message
        )
        assert "all 8 embeddings are finite, from -" in message
        assert "lower training.learning_rate (now 0.01)" in message
        assert same(trainer.evaluated[1], make_trainer().model[1])

    @pytest.mark.parametrize("clip_norm", [None, 1.0])
    def test_a_gradient_that_is_not_finite_while_the_loss_is(self, clip_norm):
        trainer = make_trainer(clip_norm=clip_norm)
        scale_gradients(trainer, math.inf)
        message = self.stop(trainer)
        assert "the gradient's norm nan" in message
        assert "the gradient is not finite in 1 of 4 parameters (1.bias)" in message
        assert "the largest finite gradient is that of" in message

    def test_images_whose_embeddings_are_not_finite_are_named(self):
        images, labels = batches(0, 1)[0]
        images[5] = math.inf
        trainer = make_trainer(
            training_mode=frozen_batchnorm, name_images=lambda step: [f"{step}/{i}.jpg" for i in range(8)]
        )
        with pytest.raises(
            RetrievalError, match=r"1 of 8 embeddings is not finite \(image 0/5\.jpg\); finite values: from"
        ):
            list(trainer.epochs([(images, labels)], STEPS))


def test_embeddings_that_are_all_zero_and_have_no_gradient_stop_the_run():
    trainer = make_trainer()
    trainer.model.append(nn.ReLU())
    trainer.model[2].weight.data.zero_()
    trainer.model[2].bias.data.fill_(-1)
    message = r"epoch 1, step 0: training has diverged: all 8 embeddings .* are zero .*; lower training\.learning_rate"
    with pytest.raises(RetrievalError, match=message):
        train(trainer, 1)


def test_tensors_of_a_state_that_are_not_finite_are_named_unless_they_began_so():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8))
    model.register_buffer("mask", torch.full((2,), -math.inf))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=4, step_on_epochs=False, updates_per_epoch=STEPS)
    trainer = Trainer(model, RecallLoss(noise=0), optimizer, scheduler)
    train(trainer, 1)
    assert trainer.find_fault(trainer.state_dict()) is None
    model[1].weight.data[0, 0] = math.nan
    optimizer.state[model[1].bias]["momentum_buffer"][0] = math.inf
    fault = "NaN or infinity in model.1.weight, optimizer.state.1.momentum_buffer"
    assert trainer.find_fault(trainer.state_dict()) == fault
