from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from retrieval.report import plot_training
from retrieval.report.curves import charts_training

BLUE, VERMILLION = (0, 114, 178), (213, 94, 0)
FROZEN, BETTER = {"recall@1": 0.7, "map@r": 0.3}, {"recall@1": 0.8, "map@r": 0.4}


def rows(*, split: str = "validation", every: int = 1, start: int = 1) -> list[dict[str, float]]:
    found: list[dict[str, float]] = [{"epoch": epoch, "step": 10 * epoch} for epoch in range(start, 9)]
    for row in found[::every]:
        row |= {f"{split} recall@1": 0.1 * row["epoch"], f"{split} map@r": 0.05 * row["epoch"]}
    for row in found[start == 0 :]:
        row |= {"loss": 1 / row["epoch"], "lr": 1e-3}
    return found


def drawn(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def share_of(pixels: np.ndarray, color: tuple[int, int, int]) -> float:
    return float((np.abs(pixels - color).max(2) < 40).mean())


def axes_of(name: str, rows, results=None):
    (chart,) = [chart for chart in charts_training(rows, results or {}) if chart.name == name]
    axes = Figure().subplots()
    chart.draw_on(axes)
    return axes


def lines_of(axes) -> dict[str, float]:
    """The heights of the dashed and dotted lines by their labels."""
    return {line.get_label(): line.get_ydata()[0] for line in axes.get_lines() if line.get_linestyle() in ("--", ":")}


def test_loss_recall_and_map_are_drawn_in_panels_of_their_own(tmp_path):
    plot_training(rows(), {}, tmp_path / "curves.png")
    loss, recall, precision = np.array_split(drawn(tmp_path / "curves.png"), 3, axis=1)
    assert (
        share_of(loss, BLUE)
        == share_of(loss, VERMILLION)
        == share_of(recall, VERMILLION)
        == share_of(precision, BLUE)
        == 0
    )
    assert min(share_of(recall, BLUE), share_of(precision, VERMILLION)) > 0.001


def test_the_frozen_features_are_a_line(tmp_path):
    results = {"frozen features (validation)": FROZEN, "frozen features": BETTER, "last": BETTER}
    assert lines_of(axes_of("validation-recall", rows(), results)) == {"frozen features 70.0": pytest.approx(70)}
    assert lines_of(axes_of("validation-map", rows(), results)) == {"frozen features 30.0": pytest.approx(30)}
    assert lines_of(axes_of("test-recall", rows(), results)) == {"frozen features 80.0": pytest.approx(80)}
    assert lines_of(axes_of("validation-recall", rows(), {"frozen features": FROZEN})) == {}  # of other images


def test_the_start_is_a_line_if_it_differs_and_is_no_point_of_the_curve():
    results = {"frozen features (validation)": FROZEN, "untrained (validation)": BETTER}
    levels = {"frozen features 70.0": pytest.approx(70), "untrained 80.0": pytest.approx(80)}
    assert lines_of(axes_of("validation-recall", rows(), results)) == levels
    same = {**results, "untrained (validation)": FROZEN}
    assert list(lines_of(axes_of("validation-recall", rows(), same))) == ["frozen features 70.0"]
    assert list(lines_of(axes_of("validation-recall", rows(start=0), results))) == ["frozen features 70.0"]


def test_epoch_0_is_the_first_point_of_the_figures_and_has_no_loss():
    assert axes_of("validation-recall", rows(start=0)).get_lines()[0].get_xdata()[0] == 0
    assert axes_of("loss", rows(start=0)).get_lines()[0].get_xdata()[0] == 1


def test_test_figures_of_the_start_and_the_end_are_two_points():
    line = axes_of("test-recall", rows(), {"untrained": FROZEN, "last": BETTER}).get_lines()[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 8], [pytest.approx(70), pytest.approx(80)])
    assert line.get_linestyle() == "None"
    assert (
        axes_of("test-recall", rows(), {"frozen features": FROZEN, "last": BETTER}).get_lines()[0].get_ydata()[0] == 70
    )


def test_figures_between_95_and_100_are_no_flat_line():
    found = [{"epoch": i, "validation recall@1": 0.95 + 0.01 * i, "validation map@r": 0.2} for i in range(6)]
    assert axes_of("validation-recall", found).get_ylim() == pytest.approx((94.5, 100))


@pytest.mark.slow
def test_test_figures_get_a_row_of_panels_below(tmp_path):
    found = rows()
    plot_training(found, {}, tmp_path / "one.png")
    for row in found[::2]:
        row |= {"test recall@1": 0.1, "test map@r": 0.05}
    plot_training(found, {}, tmp_path / "two.png")
    one, two = drawn(tmp_path / "one.png"), drawn(tmp_path / "two.png")
    assert two.shape == (2 * one.shape[0], one.shape[1], 3)
    for part in np.array_split(two, 2, axis=0):
        assert min(share_of(part, BLUE), share_of(part, VERMILLION)) > 0.001


GAUGE = {"score_spread": 0.1, "mean_intruders": 20.0, "perfect_queries": 0.25}


@pytest.mark.slow
def test_the_figures_of_the_training_batches_are_a_row_of_charts(tmp_path):
    found = rows()
    plot_training(found, {}, tmp_path / "one.png")
    for row in found:
        row |= {name: value / row["epoch"] for name, value in GAUGE.items()}
    plot_training(found, {}, tmp_path / "two.png", chosen=2)
    plot_training([{"epoch": 1, "loss": 2.0, **GAUGE}], {}, tmp_path / "three.png")
    one, two, three = (drawn(tmp_path / f"{name}.png") for name in ("one", "two", "three"))
    assert two.shape == three.shape == (2 * one.shape[0], one.shape[1], 3)
    for panel in np.array_split(two[len(one) :], 3, axis=1):
        assert share_of(panel, (0, 0, 0)) > 0.001

    names = ["loss", "validation-recall", "validation-map", "spread", "intruders", "perfect"]
    assert [chart.name for chart in charts_training(found, {})] == names
    heights = [axes_of(name, found).get_lines()[0].get_ydata()[1] for name in names[3:]]
    assert heights == pytest.approx([0.05, 10, 12.5])
    assert all(axes_of(name, found).get_ylim()[0] == 0 for name in names[3:])


def test_figures_that_are_missing_in_some_rows_are_joined_by_a_line():
    some = axes_of("validation-recall", rows(every=3)).get_lines()[0]
    assert list(some.get_xdata()) == [1, 4, 7]
    assert some.get_linestyle() == "-"


def test_a_run_without_validation_or_with_nan_is_drawn(tmp_path):
    for number, found in enumerate([[{"epoch": 1, "loss": 2.0}], [*rows(), {"epoch": 9, "loss": float("nan")}]]):
        plot_training(found, {}, tmp_path / f"{number}.png")
        assert share_of(drawn(tmp_path / f"{number}.png"), (0, 0, 0)) > 0.001
    assert share_of(drawn(tmp_path / "0.png"), BLUE) == 0


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        plot_training([], {}, tmp_path / "curves.png")


def test_drawing_does_not_load_pyplot_and_its_global_state(tmp_path):
    program = (
        "import sys, retrieval.report as report\n"
        f"report.plot_training([{{'epoch': 1, 'loss': 2.0}}], {{}}, {str(tmp_path / 'curves.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
    assert (tmp_path / "curves.png").is_file()


@pytest.mark.parametrize(("chosen", "name"), [(3, "chosen: epoch 3"), (0, "chosen: the start, epoch 0")])
def test_the_chosen_epoch_is_marked_and_named_in_every_chart(tmp_path, chosen, name):
    charts = charts_training(rows(start=0), {}, chosen)
    assert [chart.name for chart in charts] == ["loss", "validation-recall", "validation-map"]
    for chart in charts:
        axes = Figure().subplots()
        chart.draw_on(axes)
        (line,) = [line for line in axes.get_lines() if line.get_label() == name]
        assert list(line.get_xdata()) == [chosen, chosen]
        assert axes.get_xlim()[0] < chosen < axes.get_xlim()[1]
        assert name in [text.get_text() for text in axes.get_legend().get_texts()]
        assert name in chart.description
    plot_training(rows(start=0), {}, tmp_path / "curves.png", chosen=chosen)
    for panel in np.array_split(drawn(tmp_path / "curves.png"), 3, axis=1):
        assert (panel == 204).all(axis=2).mean() > 0.001  # the grey of the line; grid lines are lighter


def test_without_a_chosen_epoch_nothing_is_marked():
    assert "chosen" not in "".join(str(line.get_label()) for line in axes_of("loss", rows()).get_lines())
    assert charts_training(rows()[:1], {})[0].description == "training loss over 1 epoch"
