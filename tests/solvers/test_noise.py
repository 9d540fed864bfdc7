from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from retrieval.solvers import gumbel, sum_of_gamma, top_k, two_point

EULER = 0.5772156649015329


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_two_point_noise_has_the_two_values():
    like = torch.zeros(50, 40, dtype=torch.float64)
    noise = two_point(like, 0.2, generator=seeded(3))
    assert sorted(noise.unique().tolist()) == [-0.1, 0.1]
    assert abs(noise.mean()) < 0.01
    with pytest.raises(ValueError, match="at least 0"):
        two_point(like, -1.0)


@pytest.mark.parametrize("shape", [(0,), (1,), (7, 9), (64,), (3, 5, 11)])
def test_two_point_noise_has_any_shape(shape):
    assert two_point(torch.zeros(shape), 2.0).abs().eq(1).all()


def test_the_signs_of_two_point_noise_are_fair_and_independent():
    signs = two_point(torch.empty(1024, 256), 2.0, generator=seeded())
    assert signs.mean(0).abs().max() < 0.15
    assert signs.mean(1).abs().max() < 0.3
    pairs = (signs.T @ signs / len(signs)).fill_diagonal_(0)
    assert pairs.abs().max() < 0.2


@pytest.mark.parametrize(
    "draw",
    [
        lambda like, generator: two_point(like, 0.5, generator=generator),
        lambda like, generator: gumbel(like, generator=generator),
        lambda like, generator: sum_of_gamma(like, 3, generator=generator),
    ],
    ids=["two_point", "gumbel", "sum_of_gamma"],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_noise_repeats_with_its_generator_and_is_like_its_argument(draw, dtype):
    like = torch.ones(4, 25, dtype=dtype)
    noise = draw(like, seeded(1))
    assert noise.shape == like.shape
    assert noise.dtype == dtype
    assert noise.isfinite().all()
    assert like.eq(1).all()
    assert torch.equal(noise, draw(like, seeded(1)))
    assert not torch.equal(noise, draw(like, seeded(2)))
    state = torch.get_rng_state()
    draw(like, seeded(1))
    assert torch.equal(state, torch.get_rng_state())
    draw(like, None)
    assert not torch.equal(state, torch.get_rng_state())


def test_gumbel_noise_is_gumbel():
    noise = gumbel(torch.empty(100_000, dtype=torch.float64), generator=seeded())
    assert noise.mean().item() == pytest.approx(EULER, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.02)
    assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 0.01


def test_the_best_under_gumbel_noise_is_a_sample_from_the_softmax():
    scores = torch.tensor([0.0, 1.0, -1.0, 0.5]).expand(50_000, 4)
    frequencies = top_k(scores + gumbel(scores, generator=seeded()), 1).mean(dim=0)
    torch.testing.assert_close(frequencies, scores[0].softmax(dim=0), atol=0.01, rtol=0)


@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (2, 0.3), (7, 1.0)])
def test_k_draws_of_sum_of_gamma_noise_sum_to_a_gumbel_draw(k, temperature):
    like = torch.empty(10_000, k, dtype=torch.float64)
    sums = sum_of_gamma(like, k, temperature=temperature, terms=150, generator=seeded()).sum(dim=1) / temperature
    assert sums.mean().item() == pytest.approx(EULER, abs=0.03)
    assert sums.var().item() == pytest.approx(math.pi**2 / 6, rel=0.04)
    assert stats.kstest(sums.numpy(), "gumbel_r").pvalue > 0.01


@pytest.mark.parametrize("k", [1, 4])
def test_sum_of_gamma_noise_has_the_moments_of_its_truncated_series(k):
    temperature, terms = 2.0, 10
    noise = sum_of_gamma(
        torch.empty(200_000, dtype=torch.float64), k, temperature=temperature, terms=terms, generator=seeded()
    )
    mean = temperature / k * (sum(1 / t for t in range(1, terms + 1)) - math.log(terms))
    variance = temperature**2 / k * sum(1 / t**2 for t in range(1, terms + 1))
    assert noise.mean().item() == pytest.approx(mean, abs=0.02)
    assert noise.var().item() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize("change", [{"k": 0}, {"temperature": 0.0}, {"temperature": -1.0}, {"terms": 0}])
def test_impossible_sums_of_gammas_are_refused(change):
    with pytest.raises(ValueError, match="expected at least 1, 1, above 0"):
        sum_of_gamma(torch.zeros(3), **({"k": 2} | change))
