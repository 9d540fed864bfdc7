from __future__ import annotations

import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image
from report.pages import NAMES, hostile_images, hostile_report

from retrieval import evaluation
from retrieval.report import MARK, Facts, Images, analyse, make_report


class Page(html.parser.HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, other, value in self.attributes if other == name]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return hostile_report(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report.html)


def test_names_are_text_and_never_markup(page):
    assert "script" not in page.tags
    assert "b" in page.tags
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    for name in NAMES[:4]:
        assert name[:39] in page.text
        assert any(name in title for title in page.values("title"))
    assert "7 * 7" in page.text
    assert "A <title> & more" in page.text
    assert "</dd><script>alert(2)</script>" in page.text


def test_the_page_needs_nothing_but_itself(report, page):
    sources = page.values("src") + [value for value in page.values("href") if not value.startswith("#")]
    assert len(sources) > 50
    assert all(source.startswith("data:") for source in sources)
    assert "@import" not in report.html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", report.html))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.values("content")


def test_links_lead_to_sections_of_the_page(page):
    targets = {value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    assert targets == {"figures", "training", "ranks", "gallery", "classes", "mistakes", "scores", "map", "duplicates"}
    assert targets <= set(page.values("id"))
    assert len(page.values("id")) == len(set(page.values("id")))


def test_figures_are_those_of_the_evaluation_with_their_intervals(report, tmp_path):
    images = hostile_images(tmp_path)
    figures = evaluation.evaluate(images.vectors, images.labels, ks=(1, 2), interval_seed=0)
    text = " ".join(re.sub(r"<[^>]*>", " ", report.html).split())
    for name in ("recall@1", "recall@2", "map@r", "r_precision"):
        value, low, high = (f"{100 * figures[name + end]:.2f}" for end in ("", " low", " high"))
        assert f"{name} {value} {low} – {high}" in text  # noqa: RUF001


def test_the_run_s_own_results_are_shown_where_every_row_has_them(page):
    assert "untrained" in page.text
    assert "<last>" in page.text
    assert page.text.count("mrr") == 2  # among the figures and what they are


def test_right_and_wrong_neighbours_are_told_by_frame_and_mark(page):
    kinds = [value.split()[1] for value in page.values("class") if value.startswith("tile ")]
    assert {"query", "right", "wrong"} == set(kinds)
    assert page.text.count("✓") == kinds.count("right") + 1  # the legend
    assert page.text.count("✗") == kinds.count("wrong") + 1


def test_files_that_cannot_be_read_are_counted_and_leave_their_place_empty(report, page):
    assert report.unreadable == ["1 \"<b>&'.png", "2 \"<b>&'.png"]
    assert "2 of the images that belong on this page could not be read" in page.text
    assert "missing" in page.values("class")


def test_one_picture_under_two_labels_is_said_to_be_the_same(page):
    assert page.text.count("the same picture, byte for byte") == 1


def test_pictures_come_as_png_too(report):
    charts = {"loss", "validation", "recall", "ranks", "classes", "scores"}
    assert report.pictures.keys() == {f"{name}.png" for name in (*charts, "map", "random", "worst", "confused")}
    for content in report.pictures.values():
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            assert picture.format == "PNG"


@pytest.mark.slow
def test_one_seed_gives_one_page(report, tmp_path):
    again = hostile_report(tmp_path)
    without_time = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text) for text in (report.html, again.html)]
    assert without_time[0] == without_time[1]


def test_the_page_says_near_its_top_that_it_is_a_report(report):
    assert MARK in report.html[:1000]


@pytest.mark.slow
def test_pictures_that_an_index_holds_are_shown_without_the_files(tmp_path):
    images = hostile_images(tmp_path)
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (1, 200, 3)).save(buffer, "JPEG")
    held = Images(
        images.vectors, images.labels, images.class_names, images.paths, tmp_path / "gone", [buffer.getvalue()] * 30
    )
    assert make_report(analyse(held, ks=(1,)), Facts("held")).unreadable == []


def test_perfect_embeddings_with_a_gallery_and_no_run_have_a_page(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    queries = Images(vectors, np.arange(4), list("abcd"), list("abcd"), tmp_path)
    gallery = Images(vectors, np.arange(4), list("abcd"), list("efgh"), tmp_path)
    report = make_report(analyse(queries, gallery, ks=(1,)), Facts("perfect"))
    page = Page(report.html)
    assert "against 4 images of the gallery" in page.text
    assert "None: every query finds an image of its class first." in page.text
    assert "training" not in page.values("id")
    assert report.pictures.keys().isdisjoint({"worst.png", "confused.png", "loss.png"})


@pytest.mark.slow
def test_a_sample_of_queries_is_said_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setattr("retrieval.report.analysis._MOST_PAIRS", 300)
    images = hostile_images(tmp_path)
    report = make_report(analyse(images, ks=(1,)), Facts("some"))
    assert re.search(r"everything here is of \d+ queries sampled at random from 30", report.html)
