from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.index import Index
from retrieval.index.reporting import describe


@pytest.fixture
def vectors() -> tuple[np.ndarray, list[str]]:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 5)
    return generator.normal(size=(4, 8))[labels] + generator.normal(size=(20, 8)), [
        f"class {label}" for label in labels
    ]


def page_of(index: Index, folder: Path, **options) -> str:
    page, _ = index.report(folder / "report.html", **options)
    return page.read_text(encoding="utf-8")


def test_a_report_on_vectors_alone_has_no_places_for_pictures(vectors, tmp_path, caplog):
    index = Index.from_vectors(*vectors)
    html = page_of(index, tmp_path)
    assert "no picture" not in html
    assert "could not be read" not in html
    assert "cannot be read" not in caplog.text
    assert not (tmp_path / "report-pictures" / "random.png").exists()


@pytest.mark.slow
def test_images_of_vectors_are_shown_from_the_folder_that_is_given(vectors, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(20):
        Image.new("RGB", (30, 30), (10 * i, 0, 0)).save(tmp_path / "images" / str(i), "PNG")
    html = page_of(Index.from_vectors(*vectors), tmp_path, images=tmp_path / "images")
    assert html.count("<img") > 20


@pytest.mark.slow
def test_missing_images_are_counted(vectors, tmp_path, caplog):
    paths = [f"{i}.png" for i in range(20)]
    html = page_of(Index.from_vectors(*vectors, paths=paths, root=tmp_path / "gone"), tmp_path)
    assert "20 of the images that belong on this page could not be read" in html
    assert "20 images cannot be read, the first: " in caplog.text


def test_the_threshold_of_the_index_is_drawn_among_the_scores(vectors, tmp_path):
    index = Index.from_vectors(*vectors)
    assert index.calibration is not None
    assert f"the threshold of the index is {index.calibration.threshold:.3f}" in page_of(index, tmp_path)


def test_a_page_says_when_and_of_what_the_index_was_made(vectors, tmp_path):
    index = Index.from_vectors(*vectors)
    found = describe(index._bundle, {"loss": "recall", "epochs": None})
    assert (found["images"], found["classes"], found["dimension"], found["loss"]) == (20, 4, 8, "recall")
    assert abs((found["indexed"] - datetime.now(UTC)).total_seconds()) < 60
    assert "epochs" not in found  # not known
    html = page_of(index, tmp_path)
    days = [
        re.findall(pattern, html[html.index("<body>") :])
        for pattern in (r"\d{4}-\d\d-\d\d", r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
    ]
    assert len(days[0]) == len(days[1]) == 2
