from __future__ import annotations

import math
import re

import numpy as np
import torch
from torch import nn

from retrieval.config.schema import TrainingConfig
from retrieval.training.diagnosis import describe_fault, diagnose, diverged


def parameter(*gradient: float) -> nn.Parameter:
    found = nn.Parameter(torch.zeros(len(gradient)))
    found.grad = torch.tensor(gradient, dtype=torch.float32)
    return found


def explain(**options) -> list[str]:
    defaults = {
        "learning_rate": 0.1,
        "embeddings": torch.tensor([[-0.5, 0.25], [0.125, 1.0]]),
        "parameters": [("weight", parameter(3, 4))],
    }
    return diagnose(2, 7, 0.5, math.inf, **defaults | options).splitlines()


def test_every_line_names_its_step():
    lines = explain()
    assert all(line.startswith("epoch 2, step 7: ") for line in lines)
    assert lines[0].startswith(
        "epoch 2, step 7: training has diverged: the loss is 0.5 and the gradient's norm inf; the step was skipped"
    )
    assert "(now 0.1)" in lines[-1]


def test_the_options_that_may_help_are_options_of_training():
    for line in (explain()[-1], diverged(2, 7, "the embeddings are zero", 0.1)):
        assert "(now 0.1)" in line or "(0.1)" in line
        for name in re.findall(r"training\.(\w+)", line):
            assert name in TrainingConfig.model_fields


def test_vectors_that_are_not_finite_or_zero_are_counted():
    vectors = np.ones((5, 2), dtype=np.float32)
    assert describe_fault(vectors) is None
    vectors[1] = 0
    vectors[2, 0] = 0
    assert describe_fault(vectors) == "1 of 5 embeddings is zero"
    vectors[3, 1] = np.nan
    vectors[4, 1] = np.inf
    assert describe_fault(vectors) == "2 of 5 embeddings are not finite"


def test_extremes_of_the_embeddings():
    assert "all 2 embeddings are finite, from -0.5 to 1" in explain()[1]
    assert "all 2 embeddings of the images 3, 9 are finite" in explain(images=[3, 9])[1]


def test_embeddings_that_are_not_finite_are_named_by_their_images_or_rows():
    embeddings = torch.ones(9, 2)
    embeddings[1:8, 0] = math.nan
    assert "7 of 9 embeddings are not finite (rows 1, 2, 3, 4, 5 and 2 more)" in explain(embeddings=embeddings)[1]
    embeddings[2:] = 1
    found = explain(embeddings=embeddings, images=list("abcdefghi"))[1]
    assert "1 of 9 embeddings is not finite (image b); finite values: from 1 to 1" in found
    assert "finite values: none" in explain(embeddings=torch.full((1, 2), math.inf))[1]


def test_where_the_gradient_is_not_finite_and_where_it_is_largest():
    parameters = [
        ("a", parameter(3, 4)),
        ("b", parameter(math.nan, 1)),
        ("c", parameter(0, 1)),
        ("frozen", nn.Parameter(torch.zeros(2))),
    ]
    found = explain(parameters=parameters)[2]
    assert (
        "the gradient is not finite in 1 of 3 parameters (b); the largest finite gradient is that of a, with norm 5"
        in found
    )
    assert explain(parameters=parameters[1:2])[2].endswith("in 1 of 1 parameters (b)")
    assert explain(parameters=parameters[3:])[2].endswith("there is no gradient")
