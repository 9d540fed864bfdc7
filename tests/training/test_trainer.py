from __future__ import annotations

import pytest
import torch
from timm.scheduler import create_scheduler_v2

from retrieval.errors import RetrievalError
from retrieval.losses import RecallLoss
from retrieval.training import Trainer


def make_trainer(**options) -> Trainer:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=4, step_on_epochs=False, updates_per_epoch=3)
    scheduler.step_update(0)
    return Trainer(model, RecallLoss(noise=0.1), optimizer, scheduler, **options)


def batches(first: int, last: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    labels = torch.arange(8) // 2
    return [
        (torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(step)), labels) for step in range(first, last)
    ]


def test_epochs_are_counted_and_the_model_trains_again_after_an_evaluation():
    trainer, seen = make_trainer(), []
    for epoch, loss in trainer.epochs(batches(0, 6), steps_per_epoch=3, after_step=seen.append):
        trainer.model.eval()
        assert loss == pytest.approx(sum(seen[-3:]) / 3)
        assert trainer.step == 3 * epoch
    assert len(seen) == 6
    assert trainer.model.training


def test_three_epochs_and_three_more_after_a_resume_equal_six_bit_for_bit():
    whole = make_trainer()
    list(whole.epochs(batches(0, 12), steps_per_epoch=3))

    first = make_trainer()
    list(first.epochs(batches(0, 6), steps_per_epoch=3))
    state = first.state_dict()
    second = make_trainer()
    torch.manual_seed(99)
    second.load_state_dict(state)
    list(second.epochs(batches(6, 12), steps_per_epoch=3))

    assert second.step == whole.step
    for left, right in zip(second.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(left, right)
    assert second.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]


def test_frozen_batchnorm_keeps_its_statistics():
    trainer = make_trainer(training_mode=lambda model, epoch: model.eval())
    list(trainer.epochs(batches(0, 3), steps_per_epoch=3))
    assert trainer.model[2].running_mean.eq(0).all()
    unfrozen = make_trainer()
    list(unfrozen.epochs(batches(0, 3), steps_per_epoch=3))
    assert not unfrozen.model[2].running_mean.eq(0).all()


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step():
    trainer = make_trainer()
    trainer.loss_function = torch.nn.Module()
    trainer.loss_function.forward = lambda embeddings, labels: embeddings.sum() * torch.nan
    before = trainer.model[1].weight.clone()
    with pytest.raises(RetrievalError, match=r"(?s)step 0: the loss is nan.*training\.learning_rate"):
        list(trainer.epochs(batches(0, 3), steps_per_epoch=3))
    assert torch.equal(trainer.model[1].weight, before)


def test_the_gradient_is_clipped_to_its_norm():
    norms = []
    for clip_norm in (None, 1e-4):
        trainer = make_trainer(clip_norm=clip_norm)
        list(trainer.epochs(batches(0, 1), steps_per_epoch=1))
        norms.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm().item())
    assert norms[0] > 2e-4
    assert norms[1] == pytest.approx(1e-4, rel=1e-3)
