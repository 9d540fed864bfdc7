from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from retrieval.report import plot_training


def drawn(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def share_of(pixels: np.ndarray, color: tuple[int, int, int]) -> float:
    return float((np.abs(pixels - color).max(2) < 40).mean())


BLUE, VERMILLION = (0, 114, 178), (213, 94, 0)


def rows(*, prefix: str = "validation ", every: int = 1) -> list[dict[str, float]]:
    found = [{"epoch": epoch, "step": 10 * epoch, "loss": 1 / epoch, "lr": 1e-3} for epoch in range(1, 9)]
    for row in found[::every]:
        row |= {f"{prefix}recall@1": 0.1 * row["epoch"], f"{prefix}map@r": 0.05 * row["epoch"]}
    return found


@pytest.mark.parametrize("prefix", ["", "validation "])
def test_loss_and_validation_figures_are_drawn_in_two_panels(tmp_path, prefix):
    plot_training(rows(prefix=prefix), tmp_path / "curves.png")
    left, right = np.array_split(drawn(tmp_path / "curves.png"), 2, axis=1)
    assert share_of(left, BLUE) == share_of(left, VERMILLION) == 0
    assert min(share_of(right, BLUE), share_of(right, VERMILLION)) > 0.001


def test_test_figures_get_a_panel_of_their_own_where_there_are_any(tmp_path):
    found = rows()
    plot_training(found, tmp_path / "two.png")
    for row in found[::2]:
        row |= {"test recall@1": 0.1, "test map@r": 0.05}
    plot_training(found, tmp_path / "three.png")
    two, three = drawn(tmp_path / "two.png"), drawn(tmp_path / "three.png")
    assert three.shape == (two.shape[0], two.shape[1] * 3 // 2, 3)
    left, *others = np.array_split(three, 3, axis=1)
    assert share_of(left, BLUE) == share_of(left, VERMILLION) == 0
    for panel in others:
        assert min(share_of(panel, BLUE), share_of(panel, VERMILLION)) > 0.001


def test_figures_that_are_missing_in_some_rows_are_joined_by_a_line(tmp_path):
    plot_training(rows(every=3), tmp_path / "some.png")
    plot_training([row for row in rows() if row["epoch"] in (1, 4, 7)], tmp_path / "only.png")
    right = [np.array_split(drawn(tmp_path / name), 2, axis=1)[1] for name in ("some.png", "only.png")]
    assert share_of(right[0], BLUE) == pytest.approx(share_of(right[1], BLUE), rel=0.2)


def test_a_run_without_validation_or_with_nan_is_drawn(tmp_path):
    for number, found in enumerate([[{"epoch": 1, "loss": 2.0}], [*rows(), {"epoch": 9, "loss": float("nan")}]]):
        plot_training(found, tmp_path / f"{number}.png")
        assert share_of(drawn(tmp_path / f"{number}.png"), (0, 0, 0)) > 0.001
    assert share_of(drawn(tmp_path / "0.png"), BLUE) == 0


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        plot_training([], tmp_path / "curves.png")


def test_drawing_does_not_load_pyplot_and_its_global_state(tmp_path):
    program = (
        "import sys, retrieval.report as report\n"
        f"report.plot_training([{{'epoch': 1, 'loss': 2.0}}], {str(tmp_path / 'curves.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
    assert (tmp_path / "curves.png").is_file()
