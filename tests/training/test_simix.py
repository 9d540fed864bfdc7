from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from retrieval.losses import RecallLoss, recall_loss
from retrieval.losses.memory import CrossBatchMemory
from retrieval.training.simix import SiMix, mix

LABELS = torch.tensor([0, 1, 0, 2, 0, 1, 3])  # pairs: three of class 0, one of class 1


def embeddings() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return nn.functional.normalize(torch.randn(7, 5, generator=generator, dtype=torch.float64), dim=1)


def test_every_pair_of_a_class_gives_a_point_on_the_line_between_its_two():
    mixed, labels = mix(embeddings(), LABELS)
    pairs = [(i, j) for i, j in itertools.combinations(range(7), 2) if LABELS[i] == LABELS[j]]
    assert torch.equal(mixed[:7], embeddings())
    assert labels.tolist() == [*LABELS.tolist(), *(int(LABELS[i]) for i, _ in pairs)]
    for virtual, (i, j) in zip(mixed[7:], pairs, strict=True):
        one, other = embeddings()[i], embeddings()[j]
        share = (virtual - other).norm() / (one - other).norm()
        assert 0 < share < 1
        torch.testing.assert_close(virtual, share * one + (1 - share) * other)


def test_scores_of_virtual_embeddings_are_mixtures_of_scores():
    mixed, _ = mix(embeddings(), LABELS)
    scores, virtual = embeddings() @ embeddings().T, mixed[7:8] @ embeddings().T
    share = (virtual[0, 6] - scores[2, 6]) / (scores[0, 6] - scores[2, 6])
    torch.testing.assert_close(virtual[0], share * scores[0] + (1 - share) * scores[2])


def test_mixtures_come_from_the_generator():
    first, again, other = (mix(embeddings(), LABELS, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_lone_labels_are_not_mixed():
    mixed, labels = mix(embeddings()[:3], torch.arange(3))
    assert torch.equal(mixed, embeddings()[:3])
    assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_sees_virtual_embeddings_in_training_only_and_the_gradient_reaches_their_two(training):
    loss = SiMix(RecallLoss(noise=0), torch.Generator().manual_seed(1)).train(training)
    real = embeddings().requires_grad_()
    mixed, labels = mix(real, LABELS, torch.Generator().manual_seed(1)) if training else (real, LABELS)
    unit = nn.functional.normalize(mixed, dim=1)
    same = labels[:, None] == labels
    own = torch.eye(len(labels), dtype=torch.bool)
    expected = recall_loss(unit @ unit.T, same & ~own, ~same, noise=0)
    value = loss(real, LABELS)
    torch.testing.assert_close(value, expected)
    found, right = (torch.autograd.grad(v, real)[0] for v in (value, expected))
    torch.testing.assert_close(found, right, rtol=1e-7, atol=1e-10)


def test_a_memory_inside_takes_virtual_embeddings_too():
    memory = CrossBatchMemory(RecallLoss(noise=0), 5, 30).double()
    loss = SiMix(memory)
    for _ in range(2):
        loss(embeddings(), LABELS)
    assert memory.queue_idx == 2 * (7 + 4)
    again = SiMix(CrossBatchMemory(RecallLoss(noise=0), 5, 30).double())
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.loss.embedding_memory, memory.embedding_memory)
