from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from own_photographs import Job, page, summary, unpack_emoji
from PIL import Image
from search_own_photographs import SETTINGS, table

from retrieval.config import load


def figures(recall: float, map_at_r: float) -> dict[str, float]:
    return {"recall@1": recall, "map@r": map_at_r}


def finished_run(folder: Path, *, best: float, warned: bool = False) -> None:
    folder.mkdir()
    results = {name: figures(0.5, 0.25) for name in ("frozen features", "untrained", "last")}
    (folder / "results.json").write_text(json.dumps(results | {"best by validation": figures(best, 0.5)}))
    (folder / "minutes.json").write_text(json.dumps({"minutes": 2.345, "warned": warned}))
    rows = [{"epoch": epoch, "validation recall@1": epoch % 2, "validation map@r": 0.1} for epoch in range(3)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_the_page_has_a_row_for_each_run_and_tells_where_it_is_not_above_the_frozen_features(tmp_path):
    jobs = [Job("cub", "net", seed) for seed in range(3)]
    for job, best, warned in zip(jobs, (0.75, 0.5, 0.5), (False, False, True), strict=True):
        finished_run(tmp_path / job.name, best=best, warned=warned)
    heads, _, *rows = page(jobs, tmp_path).splitlines()
    assert len(rows) == 3
    cells = [cell.strip() for cell in rows[0].split("|")[1:-1]]
    assert len(cells) == heads.count("|") - 1
    assert cells == [
        "CUB, classes 1-50",
        "`net`",
        "0",
        "50.0 / 25.0",
        "50.0 / 25.0",
        "75.0 / 50.0",
        "50.0 / 25.0",
        "1 of 2",
        "yes",
        "2.3",
    ]
    assert [row.split("|")[-3].strip() for row in rows[1:]] == ["no", "no, and says so"]


def test_the_summary_has_the_gain_over_the_frozen_features_with_its_interval(tmp_path):
    jobs = [Job("cub", "net", seed) for seed in range(3)]
    for job, best in zip(jobs, (0.74, 0.75, 0.76), strict=True):
        finished_run(tmp_path / job.name, best=best)
    expected = "| CUB, classes 1-50 | `net` | 50.0 / 25.0 | 75.0 / 50.0 | +25.0 ± 2.5 | +25.0 ± 0.0 |"
    assert summary(jobs, tmp_path).splitlines()[2:] == [expected]


def test_the_images_of_a_data_set_become_a_folder_a_class(tmp_path):
    shared, folder = tmp_path / "shared" / "emoji", tmp_path / "images"
    shared.mkdir(parents=True)
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "JPEG")
    with tarfile.open(shared / "emoji_images_64.tar", "w") as archive:
        for name in ("a.jpg", "b.jpg", "of_no_list.jpg"):
            member = tarfile.TarInfo(f"images/{name}")
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))
    for split, class_id, name in (("train", 1, "a.jpg"), ("test", 2, "b.jpg")):
        (shared / f"Ebay_{split}.txt").write_text(
            f"image_id class_id super_class_id path\n1 {class_id} 1 images/{name}\n"
        )
    unpack_emoji(tmp_path / "shared", folder)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")) == ["1/a.jpg", "2/b.jpg"]


def test_the_table_of_the_search_has_the_start_and_a_row_for_each_setting_that_was_tried():
    found = {"frozen": [1.0, 2.0], "start": [3.0, 4.0], "half": [5.0, 6.0], "end": [7.0, 8.0]}
    rows = [{"name": name, "data": "cub", **found} for name in ("as in photos.yaml", "random head")]
    lines = table(rows, ["cub", "cars"]).splitlines()
    assert lines[2:] == [
        "| frozen features | 1.0 / 2.0 |  |",
        "| start, untrained | 3.0 / 4.0 |  |",
        "| as in photos.yaml | 7.0 / 8.0 (5.0 / 6.0) |  |",
        "| random head | 7.0 / 8.0 (5.0 / 6.0) |  |",
    ]


def test_the_first_setting_of_the_search_is_that_of_the_configuration_photos():
    setting, config = SETTINGS["as in photos.yaml"], load("photos")
    assert setting.learning_rate == pytest.approx(config.training.learning_rate)
    assert (setting.head_init, setting.batchnorm) == (config.model.head_init, config.model.freeze_batchnorm)
    assert (setting.temperature, setting.backbone) == (config.loss.temperature, config.model.backbone)
    assert setting.area == config.image.augmentation_options["area"][0]
