from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from retrieval.data import ImageSet
from retrieval.data.samplers import HierarchicalSampler, MPerClassSampler


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
        ([5, 5, 1], 9, 4, "a batch of 9 cannot be filled: 2 classes with at least 2 images provide 8 at 4 each"),
        ([1, 1, 1], 2, 2, "0 classes with at least 2 images provide 0"),
        ([5, 5], 4, 1, "samples_per_class is 1"),
        ([5, 5], 1, 2, "batch_size is 1"),
    ],
)
def test_a_batch_that_cannot_be_filled_is_refused_with_the_numbers(sizes, batch_size, samples_per_class, message):
    with pytest.raises(ValueError, match=message):
        MPerClassSampler(labels_of(sizes), batch_size, samples_per_class)


@pytest.mark.parametrize(("batch_size", "world_size"), [(12, 2), (12, 3), (12, 12), (15, 5)])
def test_the_parts_of_the_ranks_together_are_the_batch_of_one_process(batch_size, world_size):
    labels = labels_of([4, 3, 5, 2, 6, 9])
    whole = MPerClassSampler(labels, batch_size, 4, seed=1).epoch(2)
    parts = [
        MPerClassSampler(labels, batch_size, 4, seed=1, rank=rank, world_size=world_size).epoch(2)
        for rank in range(world_size)
    ]
    assert all(part.shape == (len(whole), batch_size // world_size) for part in parts)
    np.testing.assert_array_equal(np.stack(parts, axis=2).reshape(whole.shape), whole)


def test_the_images_of_a_class_are_spread_over_the_ranks():
    labels = labels_of([4, 3, 5, 2, 6, 9])
    parts = np.stack([MPerClassSampler(labels, 15, 4, rank=rank, world_size=3).epoch(0) for rank in range(3)], axis=1)
    for batch in labels[parts]:
        for label in np.unique(batch):
            counts = (batch == label).sum(axis=1)
            assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("rank", "world_size", "message"),
    [
        (0, 4, "a batch of 6 cannot be divided evenly among 4 processes"),
        (2, 2, "rank is 2 of 2 processes"),
        (-1, 2, "rank is -1"),
        (0, 0, "rank is 0 of 0"),
    ],
)
def test_a_rank_that_cannot_have_its_part_is_refused(rank, world_size, message):
    with pytest.raises(ValueError, match=message):
        MPerClassSampler(labels_of([5, 5]), 6, 3, rank=rank, world_size=world_size)


def read_list(shared_data: Path, name: str) -> tuple[np.ndarray, list[str]]:
    """The labels and the paths of a list in the format of SOP."""
    path = shared_data / "lists" / f"{name}.txt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    rows = [line.split() for line in path.read_text().splitlines()[1:]]
    return np.array([int(row[1]) for row in rows]), [row[3] for row in rows]


@pytest.mark.parametrize(
    ("name", "images", "batch_size", "samples_per_class"),
    [
        ("inshop_train", 25_882, 128, 4),
        ("inshop_train", 25_882, 65, 3),
        ("cub200_train", 5_864, 400, 4),
        ("cars196_train", 8_054, 392, 4),
    ],
)
def test_the_promises_hold_at_true_scale(shared_data: Path, name, images, batch_size, samples_per_class):
    labels, _ = read_list(shared_data, name)
    assert len(labels) == images
    batches = MPerClassSampler(labels, batch_size, samples_per_class).epoch(0)
    check_promises(labels, batch_size, samples_per_class, batches)


def check_hierarchy(sampler: HierarchicalSampler, labels, super_labels, batches: np.ndarray, most_ahead: int) -> None:
    """Distinct images, pairs, and no class of any super-class `most_ahead` visits ahead of another."""
    sizes = Counter(labels.tolist())
    visits = {label: 0 for label in sizes if sizes[label] > 1}
    super_class = dict(zip(labels.tolist(), super_labels.tolist(), strict=True))
    assert batches.shape == (sampler.steps_per_epoch, sampler.batch_size)
    for batch in batches.tolist():
        assert len(set(batch)) == sampler.batch_size
        for label in set(labels[batch].tolist()):
            visits[label] += 1
        for name in set(super_class.values()):
            often = [count for label, count in visits.items() if super_class[label] == name]
            assert not often or max(often) - min(often) <= 1
        assert max(visits.values()) - min(visits.values()) <= most_ahead


@settings(max_examples=150, deadline=None)
@given(
    classes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=2, max_size=30),
    samples_per_class=st.integers(2, 5),
    super_classes=st.integers(1, 4),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_any_super_classes_give_full_batches_that_show_all_classes_about_equally_often(
    classes, samples_per_class, super_classes, share, seed
):
    sizes, names = np.array(classes).T
    most = np.minimum(sizes, samples_per_class)[sizes > 1].sum()
    if super_classes > len(set(names[sizes > 1])) or most < 2 * super_classes:
        return
    batch_size = 2 * super_classes + int(share * (most - 2 * super_classes))
    order = np.random.default_rng(0).permutation(sizes.sum())
    labels, super_labels = np.repeat(np.arange(len(sizes)), sizes)[order], np.repeat(names, sizes)[order]
    sampler = HierarchicalSampler(labels, super_labels, batch_size, samples_per_class, super_classes, seed)
    check_hierarchy(sampler, labels, super_labels, sampler.epoch(3), most_ahead=3)


def test_a_batch_takes_its_classes_from_as_many_super_classes_as_asked_for():
    labels, super_labels = np.repeat(np.arange(60), 5), np.repeat(np.arange(6), 50)
    for super_classes in (1, 2, 3, 6):
        for batch in HierarchicalSampler(labels, super_labels, 24, 4, super_classes).epoch(0):
            counts = Counter(super_labels[batch].tolist())
            assert list(counts.values()) == super_classes * [24 // super_classes]


def test_one_super_class_is_sampled_as_if_there_were_none():
    labels = labels_of([4, 3, 5, 2, 6])
    batches = HierarchicalSampler(labels, np.zeros_like(labels), 6, 3, super_classes=1).epoch(0)
    check_promises(labels, 6, 3, batches)


def test_a_super_class_too_small_for_its_share_leaves_the_rest_to_another():
    labels = np.repeat(np.arange(12), 4)
    super_labels = np.where(labels == 11, 1, 0)
    batches = HierarchicalSampler(labels, super_labels, 24, 4, super_classes=2).epoch(0)
    assert {tuple(np.bincount(super_labels[batch])) for batch in batches} <= {(20, 4), (24,)}


def test_the_ranks_share_a_hierarchical_batch_too():
    labels, super_labels = np.repeat(np.arange(20), 6), np.repeat(np.arange(4), 30)
    whole, *parts = (
        HierarchicalSampler(labels, super_labels, 16, 4, seed=7, rank=rank, world_size=size).epoch(1)
        for rank, size in ((0, 1), (0, 2), (1, 2))
    )
    np.testing.assert_array_equal(np.stack(parts, axis=2).reshape(whole.shape), whole)


@pytest.mark.parametrize(
    ("super_labels", "batch_size", "super_classes", "message"),
    [
        (
            [0, 0, 0, 1, 1, 1, 2],
            4,
            3,
            "super_classes is 3; the classes with at least 2 images belong to 2 super-classes",
        ),
        ([0, 0, 0, 1, 1, 1, 2], 4, 0, "super_classes is 0"),
        ([0, 0, 1, 1, 1, 1, 2], 4, 2, "class 5 has images in two super-classes"),
        ([0, 0, 0, 1, 1, 1], 4, 2, r"super_labels are \(6,\); give one per label \(7,\)"),
        ([0, 0, 0, 1, 1, 1, 2], 3, 2, "no room for a pair of each of 2 super-classes"),
    ],
)
def test_super_classes_that_cannot_be_sampled_are_refused(super_labels, batch_size, super_classes, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalSampler(np.array([5, 5, 5, 8, 8, 8, 9]), np.array(super_labels), batch_size, 3, super_classes)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "samples_per_class", "super_classes"), [(128, 4, 2), (80, 4, 1), (180, 3, 4)])
def test_the_hierarchy_of_in_shop_is_kept_at_true_scale(shared_data, batch_size, samples_per_class, super_classes):
    labels, paths = read_list(shared_data, "inshop_train")
    categories = ["/".join(path.split("/")[1:3]) for path in paths]
    of_class = dict(
        zip(labels[::-1].tolist(), categories[::-1], strict=True)
    )  # a few items lie in two: the first counts
    super_labels = np.unique([of_class[label] for label in labels.tolist()], return_inverse=True)[1]
    sampler = HierarchicalSampler(labels, super_labels, batch_size, samples_per_class, super_classes)
    batches = sampler.epoch(0)
    check_hierarchy(sampler, labels, super_labels, batches, most_ahead=2)
    found = Counter(len(set(super_labels[batch].tolist())) for batch in batches)
    assert found[super_classes] > 0.8 * len(batches)  # the others met the category of four items
    assert set(found) <= {super_classes, super_classes + 1}


def test_the_hierarchy_of_stanford_online_products_is_kept_at_true_scale():
    """11,318 classes of 59,551 images in 12 super-classes of unequal size, many classes of two images."""
    generator = np.random.default_rng(0)
    sizes = 2 + np.bincount(generator.integers(11_318, size=59_551 - 2 * 11_318), minlength=11_318)
    labels = np.repeat(np.arange(11_318), sizes)
    super_labels = generator.choice(12, 11_318, p=np.arange(4, 16) / 114)[labels]
    sampler = HierarchicalSampler(labels, super_labels, 512, 4)
    batches = sampler.epoch(0)
    assert {len(set(super_labels[batch].tolist())) for batch in batches} == {2}
    assert all(len(set(batch)) == 512 for batch in batches.tolist())
    visits = np.bincount(np.concatenate([np.unique(labels[batch]) for batch in batches]), minlength=11_318)
    assert visits.max() - visits.min() <= 2


SAMPLERS = {
    "classes": lambda labels, **options: MPerClassSampler(labels, 6, 2, **options),
    "super-classes": lambda labels, **options: HierarchicalSampler(labels, np.asarray(labels) % 2, 6, 2, **options),
}


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_each_pass_yields_the_batches_of_the_next_epoch(make):
    labels = np.repeat(np.arange(6), 5)
    sampler = make(labels, seed=3)
    assert len(sampler) == sampler.steps_per_epoch == 5
    passes = [list(sampler) for _ in range(3)]
    assert passes == [sampler.epoch(epoch).tolist() for epoch in range(3)]
    assert passes[0] != passes[1]
    assert all(type(index) is int for batch in passes[0] for index in batch)


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_a_pass_of_any_epoch_can_be_repeated(make):
    sampler = make(np.repeat(np.arange(6), 5))
    passes = [list(sampler) for _ in range(4)]
    sampler.set_epoch(2)
    assert [list(sampler), list(sampler)] == passes[2:]
    with pytest.raises(ValueError, match="epoch is -1"):
        sampler.set_epoch(-1)


def test_a_pass_that_is_broken_off_is_not_continued():
    sampler = MPerClassSampler(np.repeat(np.arange(6), 5), 6, 2)
    for _ in sampler:
        break
    assert list(sampler) == sampler.epoch(1).tolist()


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_labels_may_be_a_list_or_a_tensor(make, kind):
    labels = np.repeat(np.arange(6), 5)
    np.testing.assert_array_equal(make(kind(labels.tolist())).epoch(0), make(labels).epoch(0))


def test_labels_may_be_text():
    names = [name for name in "abcdef" for _ in range(5)]
    batches = MPerClassSampler(names, 6, 2).epoch(0)
    np.testing.assert_array_equal(batches, MPerClassSampler(np.repeat(np.arange(6), 5), 6, 2).epoch(0))


def test_labels_that_are_not_one_per_image_are_refused():
    with pytest.raises(ValueError, match=r"labels are \(4, 2\); give one per image"):
        MPerClassSampler(np.zeros((4, 2)), 4, 2)


def first_pixel(image):
    return torch.tensor(image.getpixel((0, 0))[0])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_a_data_loader_takes_the_sampler_as_it_is(make, workers):
    labels = np.repeat(np.arange(6), 5)
    pixels = np.arange(30, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(3, 2)
    images = ImageSet.from_dataset(pixels, labels=labels)
    loader = DataLoader(
        images.with_transform(first_pixel), batch_sampler=make(images.labels, seed=1), num_workers=workers
    )
    assert len(loader) == 5
    passes = [[(seen.tolist(), of.tolist()) for seen, of in loader] for _ in range(2)]
    sampler = make(labels, seed=1)
    for epoch, batches in enumerate(passes):
        assert [seen for seen, _ in batches] == sampler.epoch(epoch).tolist()
        assert [of for _, of in batches] == labels[sampler.epoch(epoch)].tolist()
    assert passes[0] != passes[1]
    loader.batch_sampler.set_epoch(0)
    assert [(seen.tolist(), of.tolist()) for seen, of in loader] == passes[0]
