from __future__ import annotations

import html.parser
import io
import re
from datetime import UTC, datetime
from html import unescape

import numpy as np
import pytest
from PIL import Image
from report.pages import NAMES, hostile_images, hostile_report, hostile_search_page, vectors_alone

from retrieval import evaluation
from retrieval.report import MARK, Facts, Images, analyse, make_report

pytestmark = pytest.mark.usefixtures("quick_pictures")


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
    assert {"query", "right", "wrong", "map"} == set(kinds)
    assert page.text.count("✓") == kinds.count("right") + 1  # the legend
    assert page.text.count("✗") == kinds.count("wrong") + 1


def test_files_that_cannot_be_read_are_counted_and_leave_their_place_empty(report, page):
    assert report.unreadable == ["1 \"<b>&'.png", "2 \"<b>&'.png"]
    assert "2 of the images that belong on this page could not be read" in page.text
    assert "missing" in page.values("class")


def test_one_picture_under_two_labels_is_said_to_be_the_same(page):
    assert page.text.count("the same picture, byte for byte") == 1


def test_pictures_come_as_png_too(report):
    charts = {"loss", "validation-recall", "validation-map", "recall", "ranks", "classes", "scores"}
    assert report.pictures.keys() == {f"{name}.png" for name in (*charts, "map", "random", "worst", "confused")}
    for content in report.pictures.values():
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            assert picture.format == "PNG"


@pytest.mark.slow
def test_one_seed_gives_one_page(report, tmp_path, pictures):
    again = hostile_report(tmp_path)
    without_time = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text) for text in (report.html, again.html)]
    assert without_time[0] == without_time[1]


def test_the_page_says_near_its_top_that_it_is_a_report(report):
    assert MARK in report.html[:1000]


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


def test_a_sample_of_queries_is_said_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setattr("retrieval.report.analysis._MOST_PAIRS", 300)
    images = hostile_images(tmp_path)
    report = make_report(analyse(images, ks=(1,)), Facts("some"))
    assert re.search(r"everything here is of \d+ queries sampled at random from 30", report.html)


def text_of(html: str) -> str:
    """The text of the body of a page, in one line."""
    body = html[html.index("<body>") :].replace("<wbr>", "")
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def report_of(images: Images, results=None, **facts) -> str:
    return make_report(analyse(images, ks=(1, 2)), Facts("A report", results=results or {}, **facts)).html


@pytest.fixture(scope="module")
def plain() -> Images:
    """Vectors, which are soon reported on."""
    return vectors_alone()


def test_the_report_begins_with_recall_and_how_far_it_is_above_or_below_the_frozen_features(plain):
    figures = evaluation.evaluate(plain.vectors, plain.labels, ks=(1,))
    recall = f"{100 * figures['recall@1']:.1f}"
    frozen = {**figures, "recall@1": figures["recall@1"] - 0.025, "map@r": figures["map@r"] + 0.01}
    text = text_of(report_of(plain, {"frozen features": frozen}))
    assert text.startswith(f"A report {recall} % recall@1, 2.5 points above the frozen features MAP@R ")
    assert "1.0 point below the frozen features. Of 30 queries among 30 images of 6 classes" in text


def test_without_other_figures_the_report_begins_with_recall(plain):
    assert re.match(r"A report \d+\.\d % recall@1 MAP@R \d+\.\d %\. Of 30 queries ", text_of(report_of(plain)))


def test_the_page_says_what_the_figures_are_of(plain):
    html = report_of(plain, split="validation")
    assert "Of 30 queries among 30 validation images of 6 classes, each against all other images." in text_of(html)
    assert '<p class="note">The best epoch was chosen on these images' in html


def test_a_run_that_tested_nothing_says_that_its_figures_are_of_the_validation_images(plain):
    figures = {"recall@1": 0.5, "map@r": 0.25}
    untested = report_of(plain, {"frozen features (validation)": figures, "last (validation)": figures})
    assert "In percent, on the validation images: nothing was tested." in text_of(untested)
    tested = report_of(plain, {"frozen features (validation)": figures, "last": figures})
    assert "In percent, on the test images where nothing else is said." in text_of(tested)


def test_dates_have_one_format_and_numbers_have_groups_of_three_digits(plain):
    indexed = datetime(2026, 3, 1, 4, 5, 6, tzinfo=UTC)
    text = text_of(report_of(plain, lines={"backbone": "resnet50", "images": 12345, "indexed": indexed}))
    assert "backbone resnet50 images 12,345 indexed 2026-03-01 04:05 UTC reported" in text
    assert len(re.findall(r"\d{4}-\d\d-\d\d", text)) == len(re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", text)) == 2


def test_galleries_have_four_rows_and_the_others_are_folded_away(report):
    random = report.html[report.html.index("Random queries") : report.html.index("<h3>Worst")]
    before, folded = random.split('<details class="more"><summary>4 more queries</summary>')
    assert before.count('class="row"') == folded.count('class="row"') == 4


def test_every_tile_can_be_enlarged_without_a_script(report, page):
    tiles = re.findall(r'<details class="tile[^>]*><summary>\s*<img', report.html)
    assert len(tiles) == page.tags.count("img") > 50
    assert "script" not in page.tags
    assert set(page.values("name")) == {"generator", "viewport", "color-scheme", "enlarged"}  # one at a time


def test_vectors_without_pictures_have_neither_tiles_nor_places_for_pictures(plain):
    report = make_report(analyse(plain, ks=(1,)), Facts("vectors"))
    assert "no picture" not in report.html
    assert "could not be read" not in report.html
    assert report.unreadable == []
    assert Page(report.html).tags.count("img") == 1  # the map
    assert report.pictures.keys() == {f"{name}.png" for name in ("recall", "ranks", "classes", "scores", "map")}
    assert "the same picture" not in report.html
    assert re.search(r"✗ 0\.\d{3} class \d \d+", text_of(report.html))


def test_images_that_are_all_missing_leave_no_empty_places(tmp_path):
    images = hostile_images(tmp_path / ".")
    gone = Images(images.vectors, images.labels, images.class_names, images.paths, tmp_path / "gone")
    report = make_report(analyse(gone, ks=(1,)), Facts("gone"))
    assert "no picture" not in report.html
    assert "could not be read" in report.html
    assert len(report.unreadable) == 30


def test_a_search_has_the_design_of_the_report_and_needs_nothing_but_itself(report, tmp_path):
    html = hostile_search_page(tmp_path).read_text(encoding="utf-8")
    style = re.compile(r"<style>(.*)</style>", re.DOTALL)
    assert style.search(html)[1] == style.search(report.html)[1]
    page = Page(html)
    assert all(source.startswith("data:") for source in page.values("src") + page.values("href"))
    assert "script" not in page.tags
    assert "Neighbours <of> all" in page.text
    assert "images 12,345" in text_of(html)
    assert NAMES[0] in page.text
    assert MARK not in html  # or a report would replace it


def test_a_search_that_found_nothing_says_so(tmp_path):
    html = hostile_search_page(tmp_path).read_text(encoding="utf-8")
    first, second = (text_of(f"<body>{part}") for part in html.split("<section>")[1:])
    assert "0.875" in first
    assert "No similar image" not in first
    assert second == "other.png other.png other.png No similar image No image of the index reaches the minimum score."
