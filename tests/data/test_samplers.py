from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.data import MPerClassSampler


def labels_of(sizes) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)) * 3 + 5, sizes)
    return np.random.default_rng(0).permutation(labels)


def check_promises(labels: np.ndarray, batch_size: int, samples_per_class: int, batches: np.ndarray) -> None:
    """The promises of the docstring, one image at a time."""
    sizes = Counter(labels.tolist())
    usable = [label for label in sizes if sizes[label] > 1]
    visits: Counter[int] = Counter()
    shown: Counter[int] = Counter()
    assert batches.shape == (max(1, len(labels) // batch_size), batch_size)
    assert batches.dtype == np.int64
    for batch in batches.tolist():
        assert len(set(batch)) == batch_size
        counts = Counter(labels[batch].tolist())
        full = [min(samples_per_class, sizes[label]) for label in counts]
        assert all(count <= whole for count, whole in zip(counts.values(), full, strict=True))
        assert sum(full) - batch_size < samples_per_class + 1  # only the seats of one class, and one more, are cut
        if 1 in counts.values():
            assert max(counts.values()) <= 2  # no class could do with one fewer
        assert all(sizes[label] > 1 for label in counts)
        visits.update(counts.keys())
        shown.update(batch)
        often = [visits[label] for label in usable]
        assert max(often) - min(often) <= 1  # no class a second time before all have come once
    for label in usable:
        times = [shown[image] for image in np.flatnonzero(labels == label).tolist()]
        assert max(times) - min(times) <= 1


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    samples_per_class=st.integers(2, 5),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_every_promise_holds_for_any_class_sizes(sizes, samples_per_class, share, seed):
    most = sum(min(size, samples_per_class) for size in sizes if size > 1)
    if most < 2:
        return
    batch_size = 2 + int(share * (most - 2))
    labels = labels_of(sizes)
    sampler = MPerClassSampler(labels, batch_size, samples_per_class, seed)
    for epoch in (0, 3):
        check_promises(labels, batch_size, samples_per_class, sampler.epoch(epoch))


def test_an_epoch_is_a_function_of_the_seed_and_its_number():
    labels = labels_of([4, 3, 5, 2, 6])
    sampler = MPerClassSampler(labels, 6, 2, seed=1)
    first = [sampler.epoch(epoch) for epoch in range(3)]
    again = [MPerClassSampler(labels, 6, 2, seed=1).epoch(epoch) for epoch in (2, 1, 0)]
    for one, other in zip(first, reversed(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], MPerClassSampler(labels, 6, 2, seed=2).epoch(0))


def test_the_global_random_state_is_neither_read_nor_changed():
    sampler = MPerClassSampler(labels_of([4, 3, 5]), 6, 2)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the state that must stay as it is
    sampler.epoch(0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_over_the_epochs_every_image_of_a_class_with_a_partner_is_shown():
    labels = labels_of([1, 2, 9, 40, 3])
    sampler = MPerClassSampler(labels, 8, 4)
    shown = np.unique([sampler.epoch(epoch) for epoch in range(40)])
    sizes = Counter(labels.tolist())
    np.testing.assert_array_equal(shown, [i for i, label in enumerate(labels.tolist()) if sizes[label] > 1])


def test_a_lone_seat_is_avoided_by_a_class_that_gives_one_fewer():
    batches = MPerClassSampler(labels_of([6] * 10), batch_size=9, samples_per_class=4).epoch(0)
    labels = labels_of([6] * 10)
    assert {tuple(sorted(Counter(labels[batch].tolist()).values())) for batch in batches} == {(2, 3, 4)}


def test_a_batch_may_be_all_images_that_there_are():
    labels = labels_of([3, 2, 4])
    np.testing.assert_array_equal(np.sort(MPerClassSampler(labels, 9, 4).epoch(5)), [np.arange(9)])


def test_a_single_short_epoch_has_a_step():
    sampler = MPerClassSampler(labels_of([2, 2, 1, 1]), 4, 2)
    assert sampler.steps_per_epoch == 1
    assert sampler.epoch(0).shape == (1, 4)


@pytest.mark.parametrize(
    ("sizes", "batch_size", "samples_per_class", "message"),
    [
        ([5, 5, 1], 9, 4, "a batch of 9 cannot be filled: 2 classes with at least 2 images give 8 at 4 each"),
        ([1, 1, 1], 2, 2, "0 classes with at least 2 images give 0"),
        ([5, 5], 4, 1, "samples_per_class is 1"),
        ([5, 5], 1, 2, "batch_size is 1"),
    ],
)
def test_a_batch_that_cannot_be_filled_is_refused_with_the_numbers(sizes, batch_size, samples_per_class, message):
    with pytest.raises(ValueError, match=message):
        MPerClassSampler(labels_of(sizes), batch_size, samples_per_class)


@pytest.mark.parametrize(("batch_size", "samples_per_class"), [(128, 4), (65, 3)])
def test_the_promises_hold_at_true_scale(shared_data: Path, batch_size, samples_per_class):
    path = shared_data / "lists" / "inshop_train.txt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    labels = np.array([int(line.split()[1]) for line in path.read_text().splitlines()[1:]])
    assert len(labels) == 25_882
    batches = MPerClassSampler(labels, batch_size, samples_per_class).epoch(0)
    assert batches.shape == (25_882 // batch_size, batch_size)
    check_promises(labels, batch_size, samples_per_class, batches)
