"""The losses of many runs at once against those that they stand for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import study_losses

M, CLASSES, DIM, RUNS = 4, 8, 16, 3


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (runs, batch, dim) with some structure, and the classes of each batch, of twelve."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(RUNS, CLASSES, 1, DIM, generator=generator)
    noise = torch.randn(RUNS, CLASSES, M, DIM, generator=generator)
    embeddings = functional.normalize((centers + noise).flatten(1, 2), dim=2)
    classes = torch.stack([torch.randperm(12, generator=generator)[:CLASSES] for _ in range(RUNS)])
    return embeddings, classes


@pytest.mark.parametrize(
    ("name", "setting"), [(name, setting) for name, loss in study_losses.LOSSES.items() for setting in loss.settings]
)
def test_values_and_gradients_are_those_of_the_loss(name, setting):
    embeddings, classes = batches()
    inputs = embeddings.clone().requires_grad_()
    torch.manual_seed(0)  # of the proxies
    originals = [study_losses.original(name, setting, 12, DIM) for _ in range(RUNS)]
    parameters = [parameter for loss in originals for parameter in loss.parameters()]
    proxies = torch.stack(parameters) if parameters else None
    if proxies is not None:
        if proxies.shape[1] == DIM:  # some keep them as columns
            proxies = proxies.mT
        proxies = functional.normalize(proxies, dim=2)
    exact = {"noise": 0.0} if name in study_losses.OURS else {}
    unit = functional.normalize(inputs, dim=2)
    found = study_losses.batched(name, setting, unit, M, proxies, classes, **exact)
    found.sum().backward()
    learned = [parameter.grad.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    for run, loss in enumerate(originals):
        single = embeddings[run].clone().requires_grad_()
        loss.eval()  # without noise
        value = loss(functional.normalize(single, dim=1), classes[run].repeat_interleave(M))
        value.backward()
        if name not in study_losses.OURS:
            torch.testing.assert_close(found[run], value)
        torch.testing.assert_close(inputs.grad[run], single.grad, rtol=1e-4, atol=1e-6)
        for parameter, gradient in zip(loss.parameters(), learned[run:], strict=False):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("setting", study_losses.LOSSES["near"].settings, ids=str)
def test_scores_that_are_nearly_alike_have_finite_gradients(setting):
    embeddings, classes = batches()
    inputs = functional.normalize(1 + 0.01 * embeddings, dim=2).requires_grad_()
    study_losses.batched("near", setting, inputs, M, None, classes).sum().backward()
    assert inputs.grad.isfinite().all()
    assert inputs.grad.abs().sum() > 0
