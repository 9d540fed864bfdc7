from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from retrieval.report.charts import chart_classes, chart_ranks, chart_recall, chart_scores
from retrieval.report.curves import charts_training

RANKS = np.array([1, 1, 1, 2, 5, 40, 1000])
ROWS = [
    {"epoch": epoch, "loss": 1 / epoch, "validation recall@1": 0.1 * epoch, "validation map@r": 0.1}
    for epoch in (1, 2, 3)
]
SCORES = np.linspace(-0.2, 0.9, 500, dtype=np.float32)
CHARTS = [
    chart_recall(RANKS),
    chart_recall(np.ones(3, dtype=np.int64)),
    chart_ranks(RANKS),
    chart_ranks(np.ones(3, dtype=np.int64)),
    chart_classes(np.array([0.0, 0.05, 0.5, 1.0])),
    chart_scores(SCORES, SCORES - 0.3),
    chart_scores(SCORES[:1], SCORES[:1]),
    chart_scores(SCORES, SCORES - 0.3, 0.4),
    *charts_training(ROWS, {}),
]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_a_chart_is_a_picture_and_an_element_of_a_page_in_its_colours(chart):
    with Image.open(io.BytesIO(chart.png())) as picture:
        assert picture.size == tuple(round(150 * inches) for inches in chart.inches)
    svg = chart.svg()
    element = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert element.attrib.keys() == {"viewBox", "class", "aria-hidden"}
    assert "currentColor" in svg
    assert "var(--line)" in svg or "always first" in svg  # the grid
    for foreign in ("<style", "<metadata", "http", "font-family", "#000000", "#0072b2", "#d55e00", "#ffffff"):
        assert foreign not in svg


def test_charts_of_one_page_have_no_identifier_in_common():
    charts = [chart_recall(RANKS), chart_ranks(RANKS), chart_scores(SCORES, SCORES), *charts_training(ROWS, {})]
    used = [set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', chart.svg())) for chart in charts]
    assert sum(map(len, used)) == len(set.union(*used)) > 0


def test_a_description_says_what_the_chart_shows():
    assert chart_recall(RANKS).description == "recall@k is 42.9 % at k = 1, and 100 % from k = 1000"
    assert "rank 1: 42.9 %, rank 2: 14.3 %, rank 3-4: 0.0 %" in chart_ranks(RANKS).description
    assert "4 classes" in chart_classes(np.array([0.0, 0.05, 0.5, 1.0])).description
    assert "2 of them below 10 %, 1 at 90 % or above" in chart_classes(np.array([0.0, 0.05, 0.5, 1.0])).description


def drawn(chart):
    axes = Figure().subplots()
    chart.draw_on(axes)
    return axes


def test_axes_show_what_differs():
    most_first = np.array([1] * 97 + [2, 3, 9])
    assert drawn(chart_recall(most_first)).get_ylim() == pytest.approx((96.5, 100))
    assert [bar.get_height() for bar in drawn(chart_ranks(most_first)).patches] == pytest.approx([1, 1, 0, 1])
    edges = [bar.get_x() for bar in drawn(chart_classes(np.array([0.951, 0.97, 1.0]))).patches]
    assert edges == list(range(90, 100))
    assert len(drawn(chart_classes(np.array([0.0, 1.0]))).patches) == 10


def test_every_class_and_query_is_counted():
    for recall in (
        np.array([0.0, 0.05, 0.5, 1.0]),
        np.array([0.951, 0.97, 1.0]),
        np.array([1.0]),
        np.array([0.33, 0.6]),
    ):
        assert sum(bar.get_height() for bar in drawn(chart_classes(recall)).patches) == len(recall)


def test_the_threshold_of_an_index_is_a_line_among_the_scores():
    (line,) = drawn(chart_scores(SCORES, SCORES - 0.3, 0.4)).get_lines()
    assert (list(line.get_xdata()), line.get_label()) == ([0.4, 0.4], "threshold 0.400")
    assert drawn(chart_scores(SCORES, SCORES - 0.3)).get_lines() == []
    assert "the threshold of the index is 0.400" in chart_scores(SCORES, SCORES, 0.4).description


def test_curves_are_drawn_of_the_splits_that_were_measured():
    tested = [{"epoch": 1, "loss": 2.0, "test recall@1": 0.5, "test map@r": 0.2}]
    assert [chart.name for chart in charts_training(ROWS, {})] == ["loss", "validation-recall", "validation-map"]
    assert [chart.name for chart in charts_training(tested, {})] == ["loss", "test-recall", "test-map"]
