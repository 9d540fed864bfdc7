"""Promises of `retrieval.data.inshop`."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.data import MPerClassSampler, inshop
from retrieval.errors import DatasetError

HEADINGS = "image_name item_id evaluation_status\n"
ROWS = [
    ("WOMEN/Dresses", "id_00000002", "train", 3),
    ("MEN/Denim", "id_00000080", "train", 2),
    ("MEN/Shorts", "id_00000090", "train", 1),  # the official list has such articles too
    ("WOMEN/Tees_Tanks", "id_00000007", "query", 2),
    ("WOMEN/Tees_Tanks", "id_00000007", "gallery", 3),
    ("MEN/Denim", "id_00000010", "gallery", 1),
    ("MEN/Denim", "id_00000010", "query", 1),
]


def line(category: str, item: str, split: str, view: int) -> str:
    return f"img/{category}/{item}/{view:02}_{split}.jpg      {item} {split}\n"


LINES = "".join(line(*row[:3], view) for row in ROWS for view in range(row[3]))
LIST = f"13\n{HEADINGS}{LINES}"


def write(
    root: Path, content: str = LIST, *, list_in: str = "Eval", images_in: str = "Img", images: bool = True
) -> Path:
    (root / list_in).mkdir(parents=True, exist_ok=True)
    (root / list_in / "list_eval_partition.txt").write_text(content)
    for text in content.splitlines()[2:] if images else ():
        path = root / images_in / text.split()[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize(
    ("list_in", "images_in"),
    [("Eval", "Img"), ("Eval", ""), ("", ""), ("Eval/Eval", "Img/img"), ("Eval", "Img/Img"), ("", "img")],
)
def test_labels_of_query_and_gallery_agree_and_lone_images_are_kept(
    tmp_path: Path, list_in: str, images_in: str
) -> None:
    splits = inshop.read(write(tmp_path, list_in=list_in, images_in=images_in), check_counts=False)
    assert list(splits) == ["train", "query", "gallery"]
    train, query, gallery = splits.values()
    assert train.class_names == ("id_00000002", "id_00000080", "id_00000090")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 2]
    assert query.class_names == gallery.class_names == ("id_00000007", "id_00000010")
    assert query.labels.tolist() == [0, 0, 1]
    assert gallery.labels.tolist() == [0, 0, 0, 1]
    assert train.paths[0] == f"{images_in}/img/WOMEN/Dresses/id_00000002/00_train.jpg".lstrip("/")
    assert all((images.root / path).is_file() for images in splits.values() for path in images.paths)


def test_super_classes_are_the_categories_with_the_same_numbers_in_all_splits(tmp_path: Path) -> None:
    splits = inshop.read(write(tmp_path), check_counts=False)
    found = {name: images.super_labels.tolist() for name, images in splits.items() if images.super_labels is not None}
    # MEN/Denim, MEN/Shorts, WOMEN/Dresses, WOMEN/Tees_Tanks
    assert found == {"train": [2, 2, 2, 0, 0, 1], "query": [3, 3, 0], "gallery": [3, 3, 3, 0]}


def test_an_article_in_two_categories_belongs_to_that_of_its_first_image(tmp_path: Path) -> None:
    content = LIST.replace("13\n", "14\n") + line("MEN/Shorts", "id_00000080", "train", 8)
    train = inshop.read(write(tmp_path, content), check_counts=False)["train"]
    assert train.super_labels is not None
    assert train.super_labels.tolist() == [2, 2, 2, 0, 0, 1, 0]


def test_training_leaves_out_articles_of_a_single_image(tmp_path: Path) -> None:
    train = inshop.read(write(tmp_path), check_counts=False)["train"]
    assert set(train.labels[MPerClassSampler(train.labels, 4, 2).epoch(0)].ravel()) == {0, 1}


def test_the_published_counts_are_asserted(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"train set has 6 images of 3 classes .* has 25882 of 3997; .*check_counts"):
        inshop.read(write(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("many\n", r"line 1: the number of images 'many' is not an integer"),
        ("13\n", r"line 1: '13' is not 'image_name item_id evaluation_status'"),
        ("13\n" + LINES, r"line 2: 'img/WOMEN.*' is not 'image_name item_id evaluation_status'"),
        ("14\n" + HEADINGS + LINES, r"line 1: states 14 images, 13 are listed"),
        ("1\n" + HEADINGS + "img/a.jpg id_1\n", r"line 3: 'img/a.jpg id_1' is not '<image_name> <item_id>"),
        ("1\n" + HEADINGS + "img/a.jpg id_1 test\n", r"line 3: 'test' is none of train, query, gallery"),
        ("1\n" + HEADINGS + "/img/a.jpg id_1 train\n", r"line 3: '/img/a.jpg' does not stay below"),
        ("1\n" + HEADINGS + "img/a.jpg id_1 train\n", r"have no image of the query set"),
        (LIST.replace("13\n", "14\n") + LINES.splitlines()[0], r"line 16: image .*00_train.jpg' is listed twice"),
        (
            LIST.replace("id_00000002 train", "id_00000007 train"),
            r"line 9: class 'id_00000007' is in train and in query",
        ),
        (
            LIST.replace("id_00000010 query", "id_00000011 query"),
            r"line 15: .*'id_00000011' is in query and not in gallery",
        ),
        (
            LIST.replace("id_00000010 query", "id_00000007 query"),
            r"line 14: .*'id_00000010' is in gallery and not in query",
        ),
    ],
)
def test_a_malformed_list_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        inshop.read(write(tmp_path, content, images=False), check_counts=False)
    assert "\n" not in str(caught.value)


def test_missing_images_are_counted(tmp_path: Path) -> None:
    write(tmp_path, images=False)
    with pytest.raises(DatasetError, match=r"00_train.jpg: this and 5 more of the 6 train images do not exist"):
        inshop.read(tmp_path, check_counts=False)
    assert len(inshop.read(tmp_path, check_counts=False, check_images=False)["gallery"]) == 4


@pytest.mark.slow
def test_the_official_list_is_read_whole(shared_data: Path, tmp_path: Path) -> None:
    lists = shared_data / "lists"
    if not lists.is_dir():
        pytest.skip(f"no {lists}")
    lines = []
    for split in ("train", "query", "gallery"):
        for text in (lists / f"inshop_{split}.txt").read_text().splitlines()[1:]:
            path = text.split()[3]
            lines.append(f"{path} {path.split('/')[3]} {split}\n")
    write(tmp_path, f"{len(lines)}\n{HEADINGS}{''.join(lines)}", images=False)
    splits = inshop.read(tmp_path, check_images=False)
    assert {split: (len(images), images.num_classes) for split, images in splits.items()} == inshop.PUBLISHED
    assert (splits["train"].class_sizes() == 1).sum() == 12
    assert splits["query"].class_names == splits["gallery"].class_names


def test_the_folders_that_were_looked_in_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=rf"list_eval_partition.txt is missing \(looked in {tmp_path}/Eval, {tmp_path},"
    ):
        inshop.read(tmp_path)
    write(tmp_path, images_in="Images")
    with pytest.raises(
        DatasetError, match=rf"do not exist; looked in {tmp_path}/Img/img, .* for the folder img; unpack"
    ):
        inshop.read(tmp_path, check_counts=False)
