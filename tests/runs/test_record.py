from __future__ import annotations

import pytest

from retrieval.runs.record import (
    Record,
    below_frozen_features,
    labelled,
    parse_results,
    parse_rows,
    result_name,
    unlabelled,
)


def record(*figures: tuple[float, float] | None) -> Record:
    """A record of epochs with (recall@1, MAP@R) on the validation classes, None where they were not measured."""
    found = Record()
    for epoch, pair in enumerate(figures, start=1):
        measured = {} if pair is None else labelled("validation", {"recall@1": pair[0], "map@r": pair[1]})
        found.add({"epoch": epoch, "step": 5 * epoch, "loss": 1.0} | measured)
    return found


def test_the_sum_of_recall_and_map_decides_then_the_earlier_epoch():
    assert record((0.5, 0.1), (0.6, 0.1), (0.4, 0.2)).best("validation")["epoch"] == 2
    assert record((0.6, 0.1), (0.5, 0.3), (0.5, 0.3)).best("validation")["epoch"] == 2
    assert record((0.6, 0.1), (0.6, 0.2), (0.6, 0.2)).best("validation")["epoch"] == 2
    assert record((0.6, 0.1), None).best("validation")["epoch"] == 1
    assert record(None, None).best("validation") is None
    assert record((0.6, 0.1)).best("test") is None


def test_the_best_epoch_is_still_chosen_where_recall_is_saturated():
    assert record((1.0, 0.5), (1.0, 0.7), (1.0, 0.6)).best("validation")["epoch"] == 2


def test_a_trained_epoch_is_better_than_a_start_with_the_same_figures():
    found = Record()
    for epoch in range(3):
        found.add({"epoch": epoch, "step": epoch} | labelled("validation", figures(0.5, 0.5)))
        assert found.improved("validation") == (epoch < 2)
    assert found.best("validation")["epoch"] == 1


def test_an_epoch_has_improved_only_if_it_was_measured_and_no_earlier_one_was_as_good():
    assert record((0.6, 0.1)).improved("validation")
    assert record((0.6, 0.1), (0.6, 0.2)).improved("validation")
    assert not record((0.6, 0.1), (0.6, 0.1)).improved("validation")
    assert not record((0.6, 0.1), None).improved("validation")
    assert not Record().improved("validation")


def test_measurements_without_improvement_are_counted_not_epochs():
    assert record((0.6, 0.1), None, (0.5, 0.1), None, (0.6, 0.1)).evaluations_since_best("validation") == 2
    assert record((0.6, 0.1), None, (0.7, 0.1)).evaluations_since_best("validation") == 0
    assert record(None).evaluations_since_best("validation") == 0


def test_a_step_that_is_measured_again_keeps_one_row():
    found = record((0.6, 0.1), (0.7, 0.1))
    found.add({"epoch": 2, "step": 10, "loss": 3.0})
    assert [row["epoch"] for row in found.rows] == [1, 2]
    assert found.best("validation")["epoch"] == 1


def test_a_measurement_within_an_epoch_that_is_resumed_keeps_its_row():
    found = record((0.6, 0.1))
    for step, recall in ((7, 0.7), (10, 0.5)):
        found.add({"epoch": 2, "step": step, "loss": 1.0} | labelled("validation", {"recall@1": recall, "map@r": 0.1}))
        assert found.improved("validation") == (step == 7)
    assert [row["step"] for row in found.rows] == [5, 7, 10]
    assert found.best("validation")["step"] == 7
    assert found.evaluations_since_best("validation") == 1


def test_figures_keep_the_name_of_their_split():
    row = {"epoch": 1} | labelled("validation", {"recall@1": 0.5}) | labelled("test", {"recall@1": 0.25})
    assert unlabelled("validation", row) == {"recall@1": 0.5}
    assert unlabelled("test", row) == {"recall@1": 0.25}


def figures(recall: float, map_at_r: float) -> dict[str, float]:
    return {"recall@1": recall, "map@r": map_at_r}


def test_a_run_whose_last_epoch_is_below_the_frozen_features_says_so_in_one_line_with_what_to_change():
    results = {"frozen features": figures(0.9537, 0.4104), "last": figures(0.5921, 0.2470)}
    results["best by validation"] = figures(0.9537, 0.42)
    line = below_frozen_features(results, {"epoch": 0, "step": 0})
    assert line is not None
    assert "\n" not in line
    assert line.startswith("the last epoch is below the frozen features on the test images")
    assert "recall@1 59.21 against 95.37, MAP@R 24.70 against 41.04" in line
    assert "The model of this run is the start, untrained." in line
    assert "training.learning_rate" in line
    assert "The model of this run is epoch 2." in str(below_frozen_features(results, {"epoch": 2, "step": 9}))


def test_a_run_whose_model_is_below_the_frozen_features_says_so_even_if_the_last_epoch_is_above():
    results = {
        "frozen features": figures(0.95, 0.41),
        "last": figures(0.96, 0.5),
        "best by validation": figures(0.93, 0.39),
    }
    line = str(below_frozen_features(results, {"epoch": 3, "step": 9}))
    assert line.startswith(
        "the model of this run, epoch 3, is below the frozen features on the test images (recall@1 93.00 ag"
    )
    assert "Lower training" not in line
    assert "raise data.validation_share" in line
    del results["best by validation"]
    results["last"] = figures(0.91, 0.5)
    assert str(below_frozen_features(results, None)).startswith("the model of this run, the last epoch, is below")


def test_where_the_head_starts_below_the_frozen_features_the_line_says_how_to_start_at_them():
    results = {"frozen features": figures(0.95, 0.41), "untrained": figures(0.94, 0.41), "last": figures(0.94, 0.42)}
    assert "model.embedding_dim=null model.head_init=null" in str(below_frozen_features(results, None))
    results["untrained"] = results["frozen features"]
    assert "model.embedding_dim" not in str(below_frozen_features(results, None))


def test_one_figure_below_the_frozen_features_is_enough_for_the_line():
    line = below_frozen_features({"frozen features": figures(0.9, 0.4), "last": figures(0.91, 0.39)}, None)
    assert "(MAP@R 39.00 against 40.00)" in str(line)


def test_a_run_above_the_frozen_features_or_without_them_says_nothing():
    assert below_frozen_features({"frozen features": figures(0.9, 0.4), "last": figures(0.9, 0.4)}, None) is None
    assert below_frozen_features({"untrained": figures(0.9, 0.4), "last": figures(0.1, 0.1)}, None) is None
    assert below_frozen_features({}, None) is None


def test_where_nothing_is_tested_the_validation_images_decide_about_the_line():
    names = [result_name(what, "validation") for what in ("frozen features", "last")]
    line = below_frozen_features(dict(zip(names, (figures(0.9, 0.4), figures(0.8, 0.5)), strict=True)), None)
    assert "on the validation images" in str(line)


ROW = '{"epoch": 1, "step": 3, "validation recall@1": 0.5, "validation map@r": 0.25}'


def test_rows_and_results_are_read_as_they_were_written():
    assert parse_rows(f"{ROW}\n{ROW}\n")[1]["validation map@r"] == 0.25
    assert parse_rows("") == []
    assert parse_results('{"last": {"recall@1": 1}}') == {"last": {"recall@1": 1}}


@pytest.mark.parametrize(
    "line",
    [
        *(
            "5",
            "null",
            "[]",
            "{",
            "{}",
            '"x"',
            '{"epoch": 1}',
            '{"step": 1}',
            '{"epoch": null, "step": 1}',
            "[" * 100_000,
        ),
        *('{"epoch": NaN, "step": 1}', '{"epoch": true, "step": 1}', ROW.replace("0.25", "1e999"), "1" * 5000),
        *(ROW.replace("0.5", '"0.5"'), ROW.replace("map@r", "mrr"), ROW.replace("recall@1", "recall@2")),
    ],
)
def test_rows_that_are_none_are_damage(line):
    with pytest.raises(ValueError, match=r"row 2 is|Expecting|inside one another|integer string"):
        parse_rows(f"{ROW}\n{line}\n")


@pytest.mark.parametrize(
    "text", ["5", "[]", "null", '{"last": 1}', '{"last": {"recall@1": "1"}}', '{"last": {"r": NaN}}']
)
def test_results_that_are_none_are_damage(text):
    with pytest.raises(ValueError, match="the results are"):
        parse_results(text)
