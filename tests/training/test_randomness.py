from __future__ import annotations

import pytest
import torch

from retrieval.training.randomness import seeded

CPU = torch.device("cpu")


def draw(*numbers: int) -> list[float]:
    with seeded(CPU, *numbers):
        return torch.rand(3).tolist()


def test_the_samples_depend_on_the_numbers_only():
    first = draw(1, 2)
    torch.rand(5)
    assert draw(1, 2) == first
    drawn = [first, draw(2, 1), draw(1, 2, 3), draw(1), draw(2**63, 0)]
    assert all(one != other for i, one in enumerate(drawn) for other in drawn[:i])


def test_the_state_before_is_restored_also_after_an_error():
    def fail():
        with seeded(CPU, 1):
            torch.rand(2)
            raise ValueError("broken")

    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    draw(3)
    with pytest.raises(ValueError, match="broken"):
        fail()
    assert torch.equal(torch.rand(4), expected)
