from __future__ import annotations

import re

import pytest
import train_with_pml


@pytest.mark.filterwarnings("ignore:Converting a tensor:UserWarning")  # by the trainer
def test_the_loss_drops_into_a_script_that_trains_with_pytorch_metric_learning(call_main):
    before, after = call_main(train_with_pml, "--classes", "40").strip().splitlines()
    assert before.startswith("before")
    assert after.startswith("after")
    for line in (before, after):
        figures = re.findall(r"'(\w+)': ([\d.]+)", line)
        assert {name.removesuffix("_level0") for name, _ in figures} == {
            "precision_at_1",
            "mean_average_precision_at_r",
        }
        assert all(0 < float(value) < 1 for _, value in figures)
    assert before.removeprefix("before") != after.removeprefix("after")
