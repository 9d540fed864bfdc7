"""Promises of `retrieval.data.csv_list`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from retrieval.data import ImageSet, csv_list, listed_images
from retrieval.errors import DatasetError

PLAIN = "path,label\n" + "".join(f"{name}/{i}.jpg,{name}\n" for name in "abcdef" for i in range(2))
SPLIT = "path,split,label\n1.jpg,train,a\n2.jpg,train,b\n3.jpg,test,c\n4.jpg,test,c\n"


def read_splits(root: Path, **options: Any) -> dict[str, ImageSet]:
    found = csv_list.read(root, **options)
    assert isinstance(found, dict)
    return found


def write(root: Path, content: str, *, name: str = "images.csv", images: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content)
    for line in content.splitlines()[1:] if images else ():
        path = root / line.split(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_without_a_split_column_the_images_are_one_set(tmp_path: Path) -> None:
    images = csv_list.read(write(tmp_path, PLAIN))
    assert isinstance(images, ImageSet)
    assert images.class_names == tuple("abcdef")
    assert all((images.root / path).is_file() for path in images.paths)


def test_a_split_column_is_used_as_it_is_and_columns_come_in_any_order(tmp_path: Path) -> None:
    splits = read_splits(write(tmp_path, SPLIT))
    assert list(splits) == ["train", "test"]
    assert splits["train"].paths == ("1.jpg", "2.jpg")
    assert splits["train"].class_names == ("a", "b")
    assert splits["test"].labels.tolist() == [0, 0]
    assert splits["train"].super_labels is None


def test_query_and_gallery_take_the_place_of_test(tmp_path: Path) -> None:
    content = "path,label,split\n1.jpg,z,gallery\n2.jpg,z,query\n3.jpg,y,query\n4.jpg,x,train\n5.jpg,y,gallery\n"
    splits = read_splits(write(tmp_path, content))
    assert list(splits) == ["train", "query", "gallery"]
    assert splits["query"].labels.tolist() == [1, 0]
    assert splits["gallery"].labels.tolist() == [1, 0]


def test_validation_images_have_any_of_three_names_and_splits_may_share_classes(tmp_path: Path) -> None:
    for name in ("valid", "val", "validation"):
        content = f"path,label,split\n1.jpg,a,test\n2.jpg,a,train\n3.jpg,a,{name}\n"
        splits = read_splits(write(tmp_path / name, content))
        assert {split: images.paths for split, images in splits.items()} == {
            "train": ("2.jpg",),
            "validation": ("3.jpg",),
            "test": ("1.jpg",),
        }


def test_super_classes_are_numbered_over_all_splits(tmp_path: Path) -> None:
    content = (
        "super_class,path,label,split\nbird,1.jpg,a,train\nfish,2.jpg,b,train\nant,3.jpg,c,test\nfish,4.jpg,d,test\n"
    )
    splits = read_splits(write(tmp_path, content, images=False), check_images=False)
    found = {name: images.super_labels.tolist() for name, images in splits.items() if images.super_labels is not None}
    assert found == {"train": [1, 2], "test": [0, 2]}


def test_values_with_commas_stand_in_quotes_and_space_around_them_does_not_count(tmp_path: Path) -> None:
    content = '\ufeffpath, label ,split\r\n"a, b.jpg", "x, ""y""",train\r\n\r\n./c.jpg,z,test\r\n'
    (tmp_path / "images.csv").write_bytes(content.encode())
    splits = read_splits(tmp_path, check_images=False)
    assert (splits["train"].paths, splits["train"].class_names) == (("a, b.jpg",), ('x, "y"',))
    assert splits["test"].paths == ("c.jpg",)


def test_the_list_may_have_another_name_and_lie_elsewhere(tmp_path: Path) -> None:
    root = write(tmp_path / "root", SPLIT, name="birds.csv")
    assert len(read_splits(root, file="birds.csv")["train"]) == 2
    (root / "birds.csv").rename(tmp_path / "birds.csv")
    assert len(read_splits(root, file=str(tmp_path / "birds.csv"))["train"]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected a list whose first line is path,label"),
        ("path,label\n", "line 1: no image is listed"),
        ("path,split\na,train\n", "line 1: the column label is missing"),
        ("label,split\na,train\n", "line 1: the column path is missing"),
        (
            "path;label\na;b\n",
            "line 1: the values are separated by semicolons, not by commas; save the list with commas",
        ),
        ("label\tpath\na\tb\n", "line 1: the values are separated by tabs, not by commas"),
        ('"path";"label"\na;b\n', "line 1: the values are separated by semicolons"),
        ("a/1.jpg,a\na/2.jpg,a\n", "line 1: is an image, not the names of the columns; add the first line; expected"),
        ("path;lable\na;b\n", "line 1: column 'path;lable' is not known"),
        (
            'path,label\na.jpg,"a\tb"\n',
            r"line 2: 'a\\tb' has a control character, such as a tab, which cannot be stored",
        ),
        ('path,label\n"a\t.jpg",a\n', r"line 2: 'a\\t.jpg' has a control character"),
        ("path,label\na.jpg,a\x85b\n", "line 2: .* has a control character"),
        (
            "path,label,split\na.jpg,caf\u00e9,train\nb.jpg,b,train\nc.jpg,cafe\u0301,test\n",
            r"the classes .* look alike but are written 'caf\\xe9' and 'cafe\\u0301'; give them one name",
        ),
        ("path,lable\na,b\n", r"line 1: column 'lable' is not known; did you mean label\?"),
        ("path,label,label\na,b,b\n", "line 1: column 'label' occurs twice"),
        ("path,label,\na,b,\n", "line 1: column '' is not known"),
        ("path,label\na.jpg\n", "line 2: 1 values, expected 2"),
        ("path,label\na.jpg,b,c\n", "line 2: 3 values, expected 2"),
        ("path,label\na.jpg,\n", "line 2: the column label is empty"),
        ('path,label\n"a.jpg,b\n', "line 2: .* is not a line of a CSV file"),
        ('path,label\n"a"b.jpg,b\n', "line 2: .* is not a line of a CSV file"),
        ("path,label\n../a.jpg,b\n", "line 2: '../a.jpg' does not stay below"),
        ("path,label\na.jpg,b\na.jpg,b\n", "line 3: image 'a.jpg' is listed twice"),
        (
            "path,label,split\na.jpg,b,tst\n",
            "line 2: split 'tst' is none of train, validation, valid, val, test, query, gallery",
        ),
        (
            "path,label,split\na.jpg,b,train\n",
            "its splits are train; expected train and test, or train, query and gallery, each with or without validation",
        ),
        ("path,label,split\na.jpg,b,test\n", "its splits are test; expected"),
        ("path,label,split\na.jpg,b,query\nb.jpg,b,gallery\n", "its splits are query, gallery; expected"),
        (
            "path,label,split\na.jpg,b,train\nb.jpg,b,val\nc.jpg,b,valid\n",
            "has valid and val; the validation",
        ),
        (
            "path,label,split\na.jpg,b,test\nb.jpg,c,query\nc.jpg,d,train\n",
            "its splits are train, test, query; expected",
        ),
        (
            "path,label,super_class\na.jpg,b,c\nb.jpg,b,d\n",
            "line 3: class 'b' has super-class 'd', but 'c' in an earlier line",
        ),
    ],
)
def test_a_malformed_list_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        csv_list.read(write(tmp_path, content, images=False), check_images=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train_test_split.txt", "anno_train.csv"])
def test_closed_set_lists_are_refused_with_an_explanation(tmp_path: Path, name: str) -> None:
    write(tmp_path, "1 0\n2 1\n", name=name, images=False)
    with pytest.raises(DatasetError, match=rf"{name}: retrieval is tested on classes never trained on.*the data set c"):
        csv_list.read(tmp_path, file=name)


def test_missing_images_are_counted(tmp_path: Path) -> None:
    write(tmp_path, SPLIT)
    (tmp_path / "3.jpg").unlink()
    with pytest.raises(
        DatasetError, match=r"3.jpg: this and 0 more of the 2 test images do not exist; .*choose the root"
    ):
        csv_list.read(tmp_path)


def test_a_list_in_one_normal_form_finds_files_in_the_other(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = write(tmp_path, f"path,label\n{composed}/{decomposed}.jpg,a\nb/{composed}.jpg,b\n", images=False)
    for path in (f"{decomposed}/{composed}.jpg", f"b/{composed}.jpg"):
        (root / path).parent.mkdir()
        (root / path).touch()
    images = csv_list.read(root)
    assert isinstance(images, ImageSet)
    assert all((root / path).is_file() for path in images.paths)
    if composed not in [path.name for path in root.iterdir()]:  # the file system tells the two apart
        assert images.paths == (f"{decomposed}/{composed}.jpg", f"b/{composed}.jpg")
    write(tmp_path, f"path,label\nb/{composed}.jpg,a\nb/{decomposed}.jpg,b\n", images=False)
    with pytest.raises(DatasetError, match=r"line 3: image .* is listed twice"):
        csv_list.read(root)


def test_labels_that_are_the_text_of_a_missing_value_give_a_warning_with_the_line(tmp_path: Path, caplog) -> None:
    root = write(tmp_path, "path,label\n1.jpg,a\n2.jpg,nan\n3.jpg,nan\n4.jpg,None\n5.jpg,Nancy\n")
    csv_list.read(root)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert caplog.messages == [
        f"{root}/images.csv, line 3: label 'nan' is the text of a missing value; the class has 2 images",
        f"{root}/images.csv, line 5: label 'None' is the text of a missing value; the class has 1 image",
    ]


def test_the_values_of_the_split_column_are_in_any_case(tmp_path: Path) -> None:
    assert list(read_splits(write(tmp_path, SPLIT.replace("train", "Train").replace("test", "TEST")))) == [
        "train",
        "test",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_in_place_of_a_list_or_an_image_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "images.csv")
    with pytest.raises(DatasetError, match=r"images.csv: cannot be read \(it is a pipe\)"):
        csv_list.read(tmp_path)
    root = write(tmp_path / "root", PLAIN)
    (root / "a" / "0.jpg").unlink()
    os.mkfifo(root / "a" / "0.jpg")
    with pytest.raises(DatasetError, match=r"a/0\.jpg: this and 0 more of the 12 images do not exist"):
        csv_list.read(root)


def test_the_apostrophe_in_front_of_a_formula_is_no_part_of_a_name(tmp_path: Path) -> None:
    lines = ["'=a/1.jpg,'=a", "b/2.jpg,'@b", "b/3.jpg,-0.5", "b/4.jpg,'quoted'"]
    write(tmp_path, "\n".join(["path,label", *lines]), images=False)
    images = csv_list.read(tmp_path, check_images=False)
    assert isinstance(images, ImageSet)
    assert images.paths == ("=a/1.jpg", "b/2.jpg", "b/3.jpg", "b/4.jpg")
    assert sorted(images.class_names) == ["'quoted'", "-0.5", "=a", "@b"]


def test_an_apostrophe_that_the_name_of_a_file_has_is_kept(tmp_path: Path) -> None:
    """A list of another program, which does not guard its cells."""
    for name in ("'-0.jpg", "'=1.jpg", "=2.jpg", "'=3.jpg", "=3.jpg"):
        (tmp_path / name).touch()
    write(tmp_path, "path,label\n'-0.jpg,a\n'=1.jpg,a\n'=2.jpg,a\n'=3.jpg,a\n", images=False)
    images = csv_list.read(tmp_path)
    assert isinstance(images, ImageSet)
    assert images.paths == ("'-0.jpg", "'=1.jpg", "=2.jpg", "=3.jpg")
    assert listed_images(tmp_path / "images.csv").paths == images.paths
