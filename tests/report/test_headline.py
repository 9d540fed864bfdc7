from __future__ import annotations

import pytest

from retrieval.report.headline import headline

FIGURES = {"recall@1": 0.75, "map@r": 0.5}
FROZEN = {"recall@1": 0.7, "map@r": 0.6, "queries": 30}


def test_a_report_is_above_or_below_the_frozen_features():
    found = headline(FIGURES, 30, "test", {"untrained": FIGURES, "frozen features": FROZEN})
    assert (found.recall, found.precision, found.baseline) == (0.75, 0.5, "the frozen features")
    assert (found.recall_gain, found.precision_gain) == (pytest.approx(0.05), pytest.approx(-0.1))


def test_without_frozen_features_it_is_compared_with_the_untrained_network():
    found = headline(FIGURES, 30, "test", {"untrained": FROZEN, "last": FIGURES})
    assert (found.baseline, found.recall_gain) == ("the untrained network", pytest.approx(0.05))


def test_figures_of_other_images_are_not_compared_with():
    assert headline(FIGURES, 31, "test", {"frozen features": FROZEN}).baseline == ""
    assert headline(FIGURES, 30, "test", {"frozen features (validation)": FROZEN}).baseline == ""
    assert headline(FIGURES, 30, "validation", {"frozen features": FROZEN}).baseline == ""
    assert (
        headline(FIGURES, 30, "validation", {"frozen features (validation)": FROZEN}).baseline == "the frozen features"
    )
    assert headline(FIGURES, 30, "all", {"frozen features": {**FROZEN, "queries": 7}}).baseline == ""
    assert headline(FIGURES, 30, "test", {}).baseline == ""


@pytest.mark.parametrize(
    ("split", "images", "caution"),
    [
        ("test", "test images", ""),
        ("query", "test images", ""),
        ("vectors", "images", ""),
        ("validation", "validation images", "The best epoch was chosen on these images"),
        ("train", "training images", "The model was trained on these images"),
        ("all", "images", "Images that the model was trained on are among these"),
    ],
)
def test_it_says_what_the_figures_are_of(split, images, caution):
    found = headline(FIGURES, 30, split, {})
    assert found.images == images
    assert found.caution.startswith(caution)
    assert bool(found.caution) == bool(caution)
