"""Promises of `retrieval.data.cars196`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from scipy.io import savemat

from retrieval.data import ImageSet, cars196, load_image
from retrieval.errors import DatasetError

NAMES = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012", "Volvo 240 Sedan 1993"]
# The options for the small copies that are written here, whose lists are not the published ones.
SMALL: dict[str, Any] = {"train_classes": (1, 2), "test_classes": (3, 4), "check_md5": False}
# Half, number in the half, class id: every class has images in both halves, and numbers repeat between the halves.
PHOTOGRAPHS = [("train", 1, 2), ("train", 2, 1), ("train", 3, 3), ("train", 4, 4), ("train", 5, 4)]
PHOTOGRAPHS += [("test", 1, 1), ("test", 2, 4), ("test", 3, 3), ("test", 4, 2)]


def structs(rows: list[dict[str, object]]) -> np.ndarray:
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for place, row in enumerate(rows):
        array[0, place] = tuple(row.values())
    return array


def names() -> np.ndarray:
    return np.array([NAMES], dtype=object)


BOX = {f"bbox_{corner}": np.uint16(7) for corner in ("x1", "y1", "x2", "y2")}


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def second_edition(root: Path) -> None:
    rows = []
    ordered = sorted(PHOTOGRAPHS, key=lambda photograph: photograph[2])  # as the official file is
    for number, (half, _, class_id) in enumerate(ordered, start=1):
        path = f"car_ims/{number:06}.jpg"
        touch(root, path)
        rows.append({"relative_im_path": path, **BOX, "class": np.uint8(class_id), "test": np.uint8(half == "test")})
    savemat(root / "cars_annos.mat", {"annotations": structs(rows), "class_names": names()})


def first_edition(root: Path, *, labelled: str = "devkit/cars_test_annos_withlabels.mat") -> None:
    (root / "devkit").mkdir(parents=True, exist_ok=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names()})
    for half, file in (("train", "devkit/cars_train_annos.mat"), ("test", labelled)):
        rows = []
        for _, number, class_id in (photograph for photograph in PHOTOGRAPHS if photograph[0] == half):
            touch(root, f"cars_{half}/{number:05}.jpg")
            rows.append({**BOX, "class": np.uint8(class_id), "fname": f"{number:05}.jpg"})
        savemat(root / file, {"annotations": structs(rows)})


def double(root: Path, name: str) -> None:
    (root / name).rename(root / "moved")
    (root / name).mkdir()
    (root / "moved").rename(root / name / name)


def doubled_first_edition(root: Path, devkit: str = "devkit/devkit") -> None:
    first_edition(root)
    for name in ("cars_train", "cars_test", "devkit"):
        double(root, name)
    (root / "devkit").rename(root / devkit.partition("/")[0])


def class_folders(root: Path, *, below: str = "car_data/car_data") -> None:
    root.mkdir(exist_ok=True)
    (root / "names.csv").write_text("".join(f"{name}\n" for name in NAMES))
    for half in ("train", "test"):
        lines = []
        for _, number, class_id in (photograph for photograph in PHOTOGRAPHS if photograph[0] == half):
            touch(root, f"{below}/{half}/{NAMES[class_id - 1].replace('/', '-')}/{number:05}.jpg")
            lines.append(f"{number:05}.jpg,39,116,569,375,{class_id}\n")
        (root / f"anno_{half}.csv").write_text("".join(lines))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "second edition": second_edition,
    "first edition": first_edition,
    "first edition, labels beside the devkit": lambda root: first_edition(
        root, labelled="cars_test_annos_withlabels.mat"
    ),
    "first edition below stanford_cars": lambda root: first_edition(root / "stanford_cars"),
    "folder per class": class_folders,
    "folder per class, once": lambda root: class_folders(root, below="car_data"),
    "first edition, doubled": lambda root: doubled_first_edition(root),
    "first edition, doubled, below stanford_cars twice": lambda root: doubled_first_edition(
        root / "stanford_cars" / "stanford_cars"
    ),
    "first edition, the devkit in car_devkit": lambda root: doubled_first_edition(root, devkit="car_devkit/devkit"),
    "second edition, doubled": lambda root: (second_edition(root), double(root, "car_ims")),
}


def by_class(images: ImageSet) -> dict[str, int]:
    return dict(zip(images.class_names, images.class_sizes().tolist(), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_halves_are_merged_and_divided_by_class(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path)
    splits = cars196.read(tmp_path, **SMALL)
    assert list(splits) == ["train", "test"]
    assert by_class(splits["train"]) == {NAMES[0]: 2, NAMES[1]: 2}
    assert by_class(splits["test"]) == {NAMES[2]: 2, NAMES[3]: 3}
    assert all((images.root / path).is_file() for images in splits.values() for path in images.paths)
    assert splits["train"].super_labels is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_half_can_be_read_alone(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path)
    train = cars196.read(tmp_path, **SMALL, halves=["train"])
    assert by_class(train["train"]) == {NAMES[0]: 1, NAMES[1]: 1}
    assert by_class(train["test"]) == {NAMES[2]: 1, NAMES[3]: 2}
    test = cars196.read(tmp_path, **SMALL, halves=["test"])
    both = cars196.read(tmp_path, **SMALL, halves=["test", "train"])
    for split in both:
        assert set(both[split].paths) == {*train[split].paths, *test[split].paths}


def test_a_copy_without_the_test_folder_and_its_labels_is_read_by_its_train_half(tmp_path: Path) -> None:
    first_edition(tmp_path)
    for path in (tmp_path / "cars_test").iterdir():
        path.unlink()
    (tmp_path / "cars_test").rmdir()
    with pytest.raises(
        DatasetError, match=r"cars_test/00001.jpg: .* do not exist; looked in .* by halves \(e.g. \[train\]\)"
    ):
        cars196.read(tmp_path, **SMALL)
    (tmp_path / "devkit" / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(DatasetError, match=r"cars_test_annos_withlabels.mat: cannot be read \(No such file"):
        cars196.read(tmp_path, **SMALL)
    assert len(cars196.read(tmp_path, **SMALL, halves=["train"])["test"]) == 3


def test_paths_tell_the_halves_apart(tmp_path: Path) -> None:
    first_edition(tmp_path / "first")
    assert cars196.read(tmp_path / "first", **SMALL)["train"].paths == (
        *("cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg", "cars_test/00004.jpg"),
    )
    class_folders(tmp_path / "folders")
    paths = cars196.read(tmp_path / "folders", **SMALL)["test"].paths
    assert "car_data/car_data/test/Ram C-V Cargo Van Minivan 2012/00003.jpg" in paths


def test_what_is_no_layout_is_refused_with_those_expected(tmp_path: Path) -> None:
    touch(tmp_path, "devkit/cars_meta.mat", "images/1.jpg")
    with pytest.raises(
        DatasetError,
        match=r"none of the layouts of Cars196 \(looked in .*/stanford_cars, .*\); expected car_ims/ with cars_annos.mat",
    ):
        cars196.read(tmp_path)


def test_the_closed_set_folders_alone_are_refused_with_an_explanation(tmp_path: Path) -> None:
    class_folders(tmp_path)
    with pytest.raises(
        DatasetError, match=r"train/ and test/ alone are not enough: retrieval is tested on classes never"
    ):
        cars196.read(tmp_path / "car_data" / "car_data")


@pytest.mark.parametrize("halves", ["train", [], ["train", "val"], "both"])
def test_other_halves_are_refused(tmp_path: Path, halves: object) -> None:
    with pytest.raises(ValueError, match=r"halves is .*; give a list of train, test or both, e.g. \[train\]"):
        cars196.read(tmp_path, halves=halves)  # type: ignore[arg-type]


def test_ranges_are_checked_as_those_of_cub200(tmp_path: Path) -> None:
    second_edition(tmp_path)
    with pytest.raises(ValueError, match="overlap"):
        cars196.read(tmp_path, train_classes=(1, 3), test_classes=(3, 4))
    with pytest.raises(DatasetError, match="train_classes ends at 98, the classes of the lists at 4"):
        cars196.read(tmp_path, check_md5=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": np.uint8(5)}, r"entry 2 of annotations: class 5 is not one of 1-4"),
        ({"class": np.uint8(0)}, r"entry 2 of annotations: class 0 is not one of 1-4"),
        ({"class": 1.5}, r"entry 2 of annotations: is neither text nor an integer"),
        ({"class": np.nan}, r"entry 2 of annotations: is neither text nor an integer"),
        ({"class": "1"}, r"entry 2 of annotations: is not a file name with a class id"),
        ({"class": np.array([1, 2])}, r"entry 2 of annotations: is neither text nor an integer"),
        ({"fname": "../../00002.jpg"}, r"entry 2 of annotations: '../../00002.jpg' does not stay below"),
        ({"fname": "/etc/passwd"}, r"entry 2 of annotations: '/etc/passwd' does not stay below"),
        ({"fname": "00001.jpg"}, r"entry 2 of annotations: image 'cars_train/00001.jpg' is listed twice"),
        ({"fname": ""}, r"entry 2 of annotations: '' does not stay below"),
        ({"fname": 3}, r"entry 2 of annotations: is not a file name with a class id"),
    ],
)
def test_a_malformed_annotation_is_named_with_its_number(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    first_edition(tmp_path)
    rows: list[dict[str, object]] = [{"class": np.uint8(i), "fname": f"{i:05}.jpg"} for i in (1, 2, 3, 4)]
    rows[1] |= change
    savemat(tmp_path / "devkit" / "cars_train_annos.mat", {"annotations": structs(rows)})
    with pytest.raises(DatasetError, match=rf"cars_train_annos.mat, {message}") as caught:
        cars196.read(tmp_path, **SMALL)
    assert "\n" not in str(caught.value)


def test_the_devkit_of_which_the_test_half_has_no_classes_is_not_taken_for_the_labels(tmp_path: Path) -> None:
    first_edition(tmp_path)
    rows: list[dict[str, object]] = [{**BOX, "fname": "00001.jpg"}]
    savemat(tmp_path / "devkit" / "cars_test_annos_withlabels.mat", {"annotations": structs(rows)})
    with pytest.raises(
        DatasetError, match=r"cars_test_annos_withlabels.mat: 'annotations' does not have the fields fname, class"
    ):
        cars196.read(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("names.csv", "a\nb\na\nc\n", "names.csv, line 3: class 'a' is listed twice"),
        ("names.csv", "a\nb,b\nc\nd\n", "names.csv, line 2: 2 values, expected 1"),
        ("names.csv", "..\nb\nc\nd\n", r"anno_train.csv, line 2: 'train/../00002.jpg' does not stay below"),
        ("anno_test.csv", "00001.jpg,1,2,3,4,5\n", "anno_test.csv, line 1: class 5 is not one of 1-4"),
        ("anno_test.csv", "00001.jpg,1,2,3,4,car\n", "anno_test.csv, line 1: class id 'car' is not an integer"),
        ("anno_test.csv", "00001.jpg,1\n", "anno_test.csv, line 1: 2 values, expected 6"),
    ],
)
def test_a_malformed_list_of_the_class_folders_is_named_with_its_line(
    tmp_path: Path, file: str, content: str, message: str
) -> None:
    class_folders(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(DatasetError, match=message):
        cars196.read(tmp_path, **SMALL)


@pytest.mark.parametrize("layout", [second_edition, first_edition])
def test_other_lists_than_the_published_ones_are_refused_before_scipy_parses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Callable[[Path], None]
) -> None:
    layout(tmp_path)
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("a file is parsed before it is checked"))
    with pytest.raises(
        DatasetError, match=r"cars_\w+.mat: its md5 sum is \w{32}, .* is \w{32}; .* set check_md5 to false"
    ):
        cars196.read(tmp_path, train_classes=(1, 2), test_classes=(3, 4))


@pytest.mark.parametrize("damaged", ["cars_annos.mat", "cars_train_annos.mat", "cars_meta.mat"])
def test_a_damaged_official_list_is_refused_before_scipy_parses_it(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    cars = shared_data / "cars196"
    if not cars.is_dir():
        pytest.skip(f"no {cars}")
    (tmp_path / "devkit").mkdir()
    (tmp_path / ("car_ims" if damaged == "cars_annos.mat" else "cars_train")).mkdir()
    for source in (*cars.glob("*.mat"), *cars.glob("devkit/*.mat")):
        content = bytearray(source.read_bytes())
        if source.name == damaged:
            content[len(content) // 2] ^= 1
        (tmp_path / source.relative_to(cars)).write_bytes(content)
    parsed = []
    loadmat = scipy.io.loadmat
    monkeypatch.setattr(
        "scipy.io.loadmat", lambda file, **options: parsed.append(file.getvalue()) or loadmat(file, **options)
    )
    with pytest.raises(DatasetError, match=f"{damaged}: its md5 sum is "):
        cars196.read(tmp_path, check_images=False)
    assert {hashlib.md5(content).hexdigest() for content in parsed} <= set(cars196.MD5.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("halves", "train", "test"),
    [(["train", "test"], 8_054, 8_131), (["train"], 4_052, 4_092), (["test"], 4_002, 4_039)],
)
@pytest.mark.parametrize("edition", ["first", "second"])
def test_the_official_lists_have_the_published_counts(
    shared_data: Path, tmp_path: Path, edition: str, halves: list[str], train: int, test: int
) -> None:
    cars = shared_data / "cars196"
    if not cars.is_dir():
        pytest.skip(f"no {cars}")
    for file in ("cars_annos.mat", "cars_test_annos_withlabels.mat", "devkit"):
        (tmp_path / file).symlink_to(cars / file)
    (tmp_path / ("cars_train" if edition == "first" else "car_ims")).mkdir()
    splits = cars196.read(tmp_path, halves=halves, check_images=False)
    assert (len(splits["train"]), len(splits["test"])) == (train, test)
    assert (splits["train"].num_classes, splits["test"].num_classes) == (98, 98)


def test_the_published_counts_are_asserted_for_the_default_classes(tmp_path: Path) -> None:
    (tmp_path / "car_ims").mkdir()
    rows: list[dict[str, object]] = [
        {"relative_im_path": f"car_ims/{i:06}.jpg", "class": np.uint8(i), "test": np.uint8(0)} for i in range(1, 197)
    ]
    class_names = np.array([[f"car {i}" for i in range(1, 197)]], dtype=object)
    savemat(tmp_path / "cars_annos.mat", {"annotations": structs(rows), "class_names": class_names})
    with pytest.raises(DatasetError, match=r"train set has 98 images of 98 classes .* has 8054 of 98"):
        cars196.read(tmp_path, check_images=False, check_md5=False)
    with pytest.raises(DatasetError, match=r"train set has 98 images of 98 classes .* has 4052 of 98"):
        cars196.read(tmp_path, halves=["train"], check_images=False, check_md5=False)
    assert (
        len(
            cars196.read(tmp_path, train_classes=(1, 97), test_classes=(100, 196), check_images=False, check_md5=False)[
                "test"
            ]
        )
        == 97
    )


def test_the_train_half_is_a_data_set_of_its_own(cars196_root: Path) -> None:
    splits = cars196.read(cars196_root, halves=["train"])
    assert {split: (len(images), images.num_classes) for split, images in splits.items()} == {
        "train": (4_052, 98),
        "test": (4_092, 98),
    }
    assert max(load_image(splits["test"].root / splits["test"].paths[0]).size) == 160
    with pytest.raises(DatasetError, match="of the 8054 train images do not exist"):
        cars196.read(cars196_root)
