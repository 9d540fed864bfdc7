"""Whatever stands in the lists of a data set, reading it gives image sets or one `DatasetError` of one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.data import ImageSet, read_dataset
from retrieval.errors import DatasetError


@dataclass(frozen=True)
class Lists:
    """A small data set: its lists that are text, where the images lie, and how it is read."""

    contents: dict[str, str]
    images: str = "{}"
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, root: Path, **changed: bytes) -> Path:
        for name, content in self.contents.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(changed.get(name, content.encode()))
        return root


CSV = "path,label,split,super_class\na/1.jpg,a,train,s\nb/2.jpg,b,train,t\nc/3.jpg,c,test,s\nc/4.jpg,c,test,s\n"
DATASETS = {
    "csv": Lists({"images.csv": CSV}),
    "cub200": Lists(
        {
            "classes.txt": "1 a\n2 b\n3 c\n",
            "images.txt": "1 a/1.jpg\n2 b/2.jpg\n3 c/3.jpg\n4 c/4.jpg\n",
            "image_class_labels.txt": "1 1\n2 2\n3 3\n4 3\n",
        },
        "images/{}",
        {"train_classes": (1, 2), "test_classes": (3, 3)},
    ),
    "cars196": Lists(
        {
            "names.csv": "a\nb\nc\n",
            "anno_train.csv": "1.jpg,1,2,3,4,1\n2.jpg,1,2,3,4,2\n",
            "anno_test.csv": "3.jpg,1,2,3,4,3\n4.jpg,1,2,3,4,3\n",
            "car_data/README": "",
        },
        "car_data/{}",
        {"train_classes": (1, 2), "test_classes": (3, 3)},
    ),
    "inshop": Lists(
        {
            "list_eval_partition.txt": "4\nimage_name item_id evaluation_status\nimg/a/1.jpg a train\nimg/b/2.jpg b train\n"
            "img/c/3.jpg c query\nimg/c/4.jpg c gallery\n"
        },
        options={"check_counts": False},
    ),
    "sop": Lists(
        {
            "Ebay_train.txt": "image_id class_id super_class_id path\n1 1 1 a/1.jpg\n2 2 1 b/2.jpg\n",
            "Ebay_test.txt": "image_id class_id super_class_id path\n3 3 2 c/3.jpg\n4 3 2 c/4.jpg\n",
        },
        options={"check_counts": False},
    ),
}
FILES = [(name, file) for name, lists in DATASETS.items() for file in lists.contents if file != "car_data/README"]
PATH_FILES = {
    "csv": "images.csv",
    "cub200": "images.txt",
    "cars196": "anno_train.csv",
    "inshop": "list_eval_partition.txt",
    "sop": "Ebay_train.txt",
}


def read(name: str, root: Path, *, check_images: bool = False) -> dict[str, ImageSet]:
    return read_dataset(name, root, check_images=check_images, **DATASETS[name].options)


@pytest.mark.parametrize("name", DATASETS)
def test_the_lists_are_good_as_they_are_also_from_windows(name: str, tmp_path: Path) -> None:
    lists = DATASETS[name]
    plain = read(name, lists.write(tmp_path / "plain"))
    assert sum(len(images) for images in plain.values()) == 4
    windows = {file: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() for file, text in lists.contents.items()}
    found = read(name, lists.write(tmp_path / "windows", **windows))
    assert [images.fingerprint() for images in found.values()] == [images.fingerprint() for images in plain.values()]


HOSTILE: dict[str, Callable[[str], str]] = {
    "absolute path": lambda path: f"/etc/{path}",
    "leads upwards": lambda path: f"../{path}",
    "leads upwards inside": lambda path: f"x/../../{path}",
    "drive": lambda path: f"C:/{path}",
    "backslashes": lambda path: path.replace("1.jpg", "..\\..\\1.jpg"),
    "NUL": lambda path: f"{path}\0",
    "carriage return": lambda path: path.replace("1", "\r1"),
    "5,000 characters": lambda path: "x" * 5000 + path,
}


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_path_is_one_error_with_file_and_line(name: str, hostile: str, tmp_path: Path) -> None:
    lists, file = DATASETS[name], PATH_FILES[name]
    line = next(line for line in lists.contents[file].splitlines() if "1.jpg" in line)
    number = lists.contents[file].splitlines().index(line) + 1
    path = next(word for word in line.replace(",", " ").split() if "1.jpg" in word)
    content = lists.contents[file].replace(path, HOSTILE[hostile](path))
    with pytest.raises(DatasetError, match=rf"^{tmp_path / file}, line {number}: ") as caught:
        read(name, lists.write(tmp_path, **{file: content.encode()}))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_missing_column_and_a_doubled_line_are_one_error_with_file_and_line(
    name: str, file: str, tmp_path: Path
) -> None:
    lines = DATASETS[name].contents[file].splitlines()
    number = len(lines)
    broken = {"doubled": [*lines, lines[-1]]}
    if file != "names.csv":  # it has one column
        separator = "," if file.endswith("csv") else " "
        broken["short"] = [*lines[:-1], lines[-1].rpartition(separator)[0]]
    for kind, changed in broken.items():
        if name == "inshop":  # its first line is the number of the others
            changed[0] = str(len(changed) - 2)
        root = DATASETS[name].write(tmp_path / kind, **{file: "\n".join(changed).encode()})
        with pytest.raises(DatasetError, match=rf"^{root / file}, line {number + (kind == 'doubled')}: "):
            read(name, root)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("linked", ["folder", "image"])
def test_links_out_of_the_root_are_one_error_with_file_and_line(name: str, linked: str, tmp_path: Path) -> None:
    root = DATASETS[name].write(tmp_path / "root")
    for images in read(name, root).values():
        for path in images.paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
    (tmp_path / "link").symlink_to(root)
    assert len(read(name, tmp_path / "link", check_images=True)["train"]) == 2
    inside = root / read(name, root)["train"].paths[0]
    (inside.parent / "other.jpg").touch()
    inside.unlink()
    inside.symlink_to("other.jpg")
    read(name, root, check_images=True)  # a link that stays below the root is no fault
    place = inside if linked == "image" else inside.parent
    target = tmp_path / "elsewhere"
    if linked == "image":
        place.unlink()
        target.touch()
    else:
        place.rename(target)
    place.symlink_to(target)
    for check_images in (False, True):
        with pytest.raises(
            DatasetError, match=rf"^{root / PATH_FILES[name]}, line \d: .*1.jpg' leads out of .* by a link"
        ):
            read(name, root, check_images=check_images)


@pytest.mark.parametrize("name", DATASETS)
def test_a_name_longer_than_the_system_allows_is_a_missing_image(name: str, tmp_path: Path) -> None:
    lists, file = DATASETS[name], PATH_FILES[name]
    content = lists.contents[file].replace("1.jpg", "1" * 300 + ".jpg")
    root = lists.write(tmp_path, **{file: content.encode()})
    read(name, root)
    with pytest.raises(DatasetError, match="this and 1 more of the 2 train images do not exist"):
        read(name, root, check_images=True)


NAMES = "a b a/1.jpg b/2.jpg img/a/1.jpg train test query gallery path label split"
WORDS = st.sampled_from(
    [*NAMES.split(), *"0123,;\t \"'", "\r", "\n", "\0", "..", "/", "\\", "\ufeff", "\u2028", "é", "x" * 5000]
)
TEXTS = (
    st.binary()
    | st.text().map(lambda text: text.encode(errors="ignore"))
    | st.lists(WORDS).map("".join).map(str.encode)
)


@st.composite
def changed_lists(draw: st.DrawFn, content: str) -> bytes:
    """The good list with some of its words exchanged, added or taken out, or anything at all."""
    if draw(st.booleans()):
        return draw(TEXTS)
    lines = [line.replace(",", " , ").split() for line in content.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        line = draw(st.sampled_from(lines))
        place = draw(st.integers(0, len(line)))
        line[place : place + draw(st.integers(0, 1))] = draw(st.lists(WORDS, max_size=1))
    return "\n".join(" ".join(line).replace(" , ", ",") for line in lines).encode()


@pytest.mark.parametrize(("name", "file"), FILES)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_text_gives_image_sets_or_one_error(
    name: str, file: str, data: st.DataObject, tmp_path_factory: Any
) -> None:
    lists = DATASETS[name]
    root = tmp_path_factory.getbasetemp() / f"{name}-{file}"
    lists.write(root, **{file: data.draw(changed_lists(lists.contents[file]))})
    found = outcome(name, root, check_images=data.draw(st.booleans()))
    if isinstance(found, DatasetError):
        message = str(found)
        assert str(root) in message
        assert "\n" not in message
        assert len(message) < 1500
    else:
        assert set(found) in ({"train", "test"}, {"train", "query", "gallery"})
        assert all(os.path.normpath(path) == path for images in found.values() for path in images.paths)


def outcome(name: str, root: Path, *, check_images: bool) -> dict[str, ImageSet] | DatasetError:
    try:
        return read(name, root, check_images=check_images)
    except DatasetError as error:
        return error
