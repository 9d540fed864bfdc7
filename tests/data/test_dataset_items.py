"""Promises of `ImageSet.from_dataset` and `retrieval.data.dataset_items`."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from retrieval.data import ImageSet, Preprocessing, evaluation_loader, load_image, prepare, require_pairs
from retrieval.errors import DatasetError


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (5, 4 + number, 3), dtype=np.uint8)


class Photos(Dataset[Any]):
    """A data set as users write them, which counts the reads of each item."""

    def __init__(self, labels: list[Any]) -> None:
        self.of_item = labels
        self.reads = [0] * len(labels)

    def __len__(self) -> int:
        return len(self.of_item)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        self.reads[index] += 1
        return pixels(index), self.of_item[index]


class Listed(Photos):
    """One that lists its labels, as those of torchvision do."""

    def __init__(self, labels: list[Any], name: str, listed: Any) -> None:
        super().__init__(labels)
        setattr(self, name, listed)


def names_of(images: ImageSet) -> list[str]:
    return [images.class_names[label] for label in images.labels]


def test_images_are_read_when_needed_and_labels_once() -> None:
    photos = Photos([7, 12, 7])
    images = ImageSet.from_dataset(photos)
    assert photos.reads == [1, 1, 1]
    assert (images.root, images.paths) == (Path(), ("000000", "000001", "000002"))
    assert (images.class_names, images.labels.tolist()) == (("7", "12"), [0, 1, 0])
    image, label = images[1]
    np.testing.assert_array_equal(np.asarray(image), pixels(1))
    assert (label, photos.reads) == (1, [1, 2, 1])


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_listed_labels_spare_the_reading(name: str, kind: Any) -> None:
    photos = Listed([0, 0, 0], name, kind([3, 1, 3]))
    images = ImageSet.from_dataset(photos)
    assert (names_of(images), photos.reads) == (["3", "1", "3"], [0, 0, 0])


@pytest.mark.parametrize("listed", [None, "abc", {"a": 1, "b": 2, "c": 3}, [1, 2], 3])
def test_what_is_not_one_label_per_item_is_passed_over(listed: Any) -> None:
    assert names_of(ImageSet.from_dataset(Listed(["x", "y", "x"], "targets", listed))) == ["x", "y", "x"]


def test_given_labels_come_first_and_items_may_then_be_images_alone() -> None:
    assert names_of(ImageSet.from_dataset(Listed([0, 1], "targets", [0, 1]), labels=["a", "b"])) == ["a", "b"]
    images = ImageSet.from_dataset([Image.new("L", (3, 2)), pixels(0)], labels=iter(["a", "b"]))
    assert [image.size for image, _ in images] == [(3, 2), (4, 5)]
    stack = torch.zeros(2, 3, 6, 5, dtype=torch.uint8)
    assert ImageSet.from_dataset(stack, labels=torch.tensor([4, 2])).class_names == ("2", "4")


@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        ([10, 9, -1], ("-1", "9", "10")),
        ([np.int8(10), torch.tensor(9), 9], ("9", "10")),
        (["b10", "b9", "a"], ("a", "b9", "b10")),
        ([("x", 1), None, 2.5], ("2.5", "('x', 1)", "None")),
        ([True, False, True], ("False", "True")),
    ],
)
def test_integers_keep_their_order_and_other_labels_that_of_their_names(
    labels: list[Any], class_names: tuple[str, ...]
) -> None:
    images = ImageSet.from_dataset(Photos(labels))
    assert images.class_names == class_names
    assert names_of(images) == [str(label.item() if hasattr(label, "item") else label) for label in labels]


def test_class_names_belong_to_the_numbers_of_the_labels() -> None:
    images = ImageSet.from_dataset(Photos([2, 0, 2]), class_names=["cat", "dog", "bird"])
    assert (images.class_names, images.labels.tolist()) == (("cat", "bird"), [1, 0, 1])
    for labels in ([0, 3, 0], [-1, 0, 1], ["cat", "dog", "cat"]):
        with pytest.raises(ValueError, match=r"label .* has no class name; 3 are given, for 0, 1"):
            ImageSet.from_dataset(Photos(labels), class_names=["cat", "dog", "bird"])


def test_labels_of_the_same_name_are_refused() -> None:
    with pytest.raises(ValueError, match="class_names holds '1' twice"):
        ImageSet.from_dataset(Photos([1, "1"]))


def test_a_number_of_labels_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 labels for 3 items; give one per item"):
        ImageSet.from_dataset(Photos([0, 1, 2]), labels=[0, 1])
    with pytest.raises(ValueError, match="without images"):
        ImageSet.from_dataset([])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize("dataset", [Stream(), iter([]), {0: (pixels(0), 1)}, "photos", 3, DataLoader([1])])
def test_what_is_not_map_style_is_refused(dataset: Any) -> None:
    with pytest.raises(ValueError, match=r"the data set is of type \w+; give a map-style Dataset or a sequence"):
        ImageSet.from_dataset(dataset)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (pixels(0), r"is of type ndarray; expected \(image, label\), or give the labels"),
        ((pixels(0),), r"is of type tuple; expected \(image, label\)"),
        ((pixels(0), [1, 2]), "its label is of type list; give one hashable label per item"),
        ((pixels(0), (1, [2])), "its label is of type tuple; give one hashable label per item"),
        ((pixels(0), torch.tensor([0, 1])), "its label is of type Tensor; give one hashable label"),
        ((pixels(0), np.array([0, 1])), "its label is of type ndarray; give one hashable label"),
    ],
)
def test_an_item_without_a_usable_label_is_named_by_its_position(item: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"^item 1 of the data set list: {message}"):
        ImageSet.from_dataset([(pixels(0), 0), item])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            torch.zeros(3, 4, 4),
            r"the image is a tensor of float32 \(3, 4, 4\); .*transform to tensors, create it without",
        ),
        (None, "the image is of type NoneType; give a path, a PIL image"),
        ((), "the image is of type tuple"),
        ("missing.png", r"missing.png: cannot be read as an image \(No such file"),
    ],
)
def test_an_image_that_cannot_be_used_is_named_by_its_position(item: Any, message: str) -> None:
    images = ImageSet.from_dataset([(pixels(0), "a"), (item, "b")]).select([1])
    with pytest.raises(DatasetError, match=rf"^item 1 of the data set list: {message}"):
        images.load(0)


class Broken(Photos):
    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index == 2:
            raise KeyError("no such\nkey")
        return super().__getitem__(index)


def test_whatever_an_item_raises_is_one_line_with_its_position() -> None:
    with pytest.raises(
        DatasetError, match=r"^item 2 of the data set Broken: cannot be read \(KeyError: .*\)$"
    ) as caught:
        ImageSet.from_dataset(Broken([0, 1, 2]))
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match=r"^item 2 of the data set Broken: cannot be read"):
        ImageSet.from_dataset(Broken([0, 1, 2]), labels=[0, 1, 2]).load(2)


def test_a_selection_reads_its_own_items_and_keeps_the_transform() -> None:
    images = ImageSet.from_dataset(Photos(["a", "b", "c", "b"])).with_transform(lambda image: image.width)
    selected = images.select([3, 0]).select([1, 0])
    assert (selected.paths, selected.class_names) == (("000000", "000003"), ("a", "b"))
    assert list(selected) == [(4, 0), (7, 1)]
    assert selected.where(1) == "item 3 of the data set Photos"
    assert selected.origin == "the data set Photos"


def test_the_fingerprint_is_that_of_the_list() -> None:
    one, other = (ImageSet.from_dataset(Photos(["a", "b", "a"])) for _ in range(2))
    assert one.fingerprint() == other.fingerprint()
    assert one.fingerprint() != ImageSet.from_dataset(Photos(["a", "b", "b"])).fingerprint()


def test_a_report_gets_the_file_or_a_png(tmp_path: Path) -> None:
    images = ImageSet.from_dataset(Photos([0, 1]))
    assert not images.is_on_disk
    with Image.open(io.BytesIO(images.picture(1))) as opened:
        np.testing.assert_array_equal(np.asarray(opened), pixels(1))
    on_disk = ImageSet.from_pairs(tmp_path, [("a/1.png", "a")])
    assert on_disk.is_on_disk
    assert on_disk.picture(0) == tmp_path / "a" / "1.png"


def test_a_lone_item_is_named() -> None:
    with pytest.raises(
        DatasetError, match=r"^item 1 of the data set Photos: class 'b' of the train set has a single image"
    ):
        require_pairs(ImageSet.from_dataset(Photos(["a", "b", "a"])), "train")


def test_files_are_read_as_load_image_reads_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated
    path = tmp_path / "1.png"
    Image.fromarray(pixels(3)).convert("RGBA").save(path, exif=exif)
    with Image.open(path) as opened:
        images = ImageSet.from_dataset([(path, 0), (str(path), 0), (opened, 0)])
        for index in range(3):
            np.testing.assert_array_equal(np.asarray(images.load(index)), np.asarray(load_image(path)))


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_read_it_in_any_number_of_workers(workers: int) -> None:
    preprocessing = Preprocessing(4, 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    images = pickle.loads(pickle.dumps(ImageSet.from_dataset(Photos([0, 1, 0, 1, 2]))))
    batches = evaluation_loader(images, preprocessing, batch_size=2, workers=workers, timeout=60)
    expected = [prepare(Image.fromarray(pixels(number)), preprocessing) for number in range(5)]
    np.testing.assert_array_equal(torch.cat(list(batches)).numpy(), np.stack(expected))
    broken = ImageSet.from_dataset(Broken([0, 1, 2]), labels=[0, 1, 2])
    with pytest.raises(DatasetError, match=r"^item 2 of the data set Broken: cannot be read \(KeyError: .*\)$"):
        list(evaluation_loader(broken, preprocessing, batch_size=2, workers=workers, timeout=60))


def test_data_sets_of_torch_are_read() -> None:
    tensors = TensorDataset(torch.zeros(4, 3, 6, 6, dtype=torch.uint8), torch.tensor([5, 5, 9, 9]))
    assert names_of(ImageSet.from_dataset(tensors)) == ["5", "5", "9", "9"]
    assert names_of(ImageSet.from_dataset(Subset(tensors, [3, 0]))) == ["9", "5"]


@pytest.mark.parametrize("missing", [float("nan"), np.float32("nan"), torch.tensor(float("nan"))])
def test_a_missing_label_is_refused_with_its_position(missing: Any) -> None:
    with pytest.raises(DatasetError, match=r"item 1 of the data set list: its label is nan, a missing value"):
        ImageSet.from_dataset([0, 0, 0], labels=["a", missing, "b"])


def test_labels_that_name_a_missing_value_give_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    ImageSet.from_dataset([0, 0], labels=["a", None])
    assert caplog.messages == ["the data set list: the class 'None' has the name of a missing value"]
