from __future__ import annotations

import json

import pytest
import torch

from retrieval.losses import Gauge, RecallLoss, measure_batch

LABELS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 7, 2, 2, 2])  # with a lone label


def batch(seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(len(LABELS), 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def count_plainly(embeddings: torch.Tensor) -> dict[str, float]:
    """Pair by pair."""
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    perfect, intruders, spreads = [], [], []
    for query, label in enumerate(LABELS):
        others = [i for i in range(len(LABELS)) if i != query]
        scores = {i: float(unit[query] @ unit[i]) for i in others}
        wrong = [scores[i] for i in others if LABELS[i] != label]
        found = [sum(s >= scores[i] - 1e-9 for s in wrong) for i in others if LABELS[i] == label]
        intruders += found
        perfect += [not any(found)] if found else []
        spreads.append(torch.tensor(list(scores.values())).std(correction=0).item())
    means = (sum(values) / len(values) for values in (perfect, intruders, spreads))
    return dict(zip(("perfect_queries", "mean_intruders", "score_spread"), means, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_batch_is_measured_as_by_plain_counting(dtype):
    embeddings = batch(dtype=dtype).requires_grad_()
    assert measure_batch(embeddings, LABELS) == pytest.approx(count_plainly(embeddings.detach()), rel=1e-5)
    assert measure_batch(4 * embeddings, LABELS.to(torch.uint8)) == pytest.approx(measure_batch(embeddings, LABELS))


def test_the_figures_are_those_that_the_recall_loss_records_whatever_its_options():
    loss = RecallLoss("softmax", noise=2.0, margin=0.1, collect_stats=True)
    loss(batch(), LABELS)
    found = measure_batch(batch(), LABELS)
    assert {name: getattr(loss, name) for name in found} == found


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_equal_embeddings_are_never_perfect(value):
    for dtype in (torch.float16, torch.float32, torch.float64):
        found = measure_batch(torch.full((len(LABELS), 6), value, dtype=dtype), LABELS)
        assert found["perfect_queries"] == 0
        assert found["mean_intruders"] == pytest.approx((20 * 6 + 2 * 9 + 6 * 8) / 28)
        assert found["score_spread"] == pytest.approx(0, abs=1e-6)


def test_a_batch_without_a_relevant_item_has_a_spread_only():
    found = measure_batch(batch(), torch.arange(len(LABELS)))
    assert (found["perfect_queries"], found["mean_intruders"]) == (0, 0)
    assert found["score_spread"] > 0.1


def test_measuring_draws_no_random_numbers_and_needs_no_float32_from_autocast():
    state = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert measure_batch(batch(), LABELS) == measure_batch(batch(), LABELS)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_gauge_averages_an_epoch_and_leaves_out_what_is_not_finite():
    gauge = Gauge()
    assert gauge.mean() == {}
    gauge.add(batch(0), LABELS)
    gauge.add(batch(1), LABELS)
    gauge.add(torch.full_like(batch(), torch.nan), LABELS)
    both = [measure_batch(batch(seed), LABELS) for seed in (0, 1)]
    assert gauge.mean() == pytest.approx({name: (both[0][name] + both[1][name]) / 2 for name in both[0]})
    assert gauge.figures == both[1]
    gauge.clear()
    assert gauge.mean() == {}


def around_a_point(width: float, seed: int = 0) -> torch.Tensor:
    return torch.ones(len(LABELS), 6) + width * batch(seed, torch.float32)


def test_a_collapse_is_told_once_also_after_a_resume():
    gauge, said = Gauge(), []
    for step in range(60):
        gauge.add(around_a_point(1.0 if step < 10 else 0.05, step), LABELS)
        if step == 20:
            state = json.loads(json.dumps(gauge.state_dict()))
            gauge = Gauge()
            gauge.load_state_dict(state)
        said.append(gauge.new_collapse())
    (found,) = [collapse for collapse in said if collapse]
    assert found.spread < 0.1 * found.largest
    assert said.index(found) > 20


def test_no_collapse_is_told_of_a_single_batch_or_of_scores_that_were_alike_at_the_start():
    one, growing = Gauge(), Gauge()
    for step in range(40):
        one.add(around_a_point(0.0 if step == 20 else 1.0, step), LABELS)
        growing.add(around_a_point(0.001 * 1.2**step, step), LABELS)
        assert one.new_collapse() is growing.new_collapse() is None
