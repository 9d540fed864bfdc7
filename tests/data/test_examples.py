"""The examples in the docstrings of `retrieval.data` run and print what they state."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest


@pytest.mark.parametrize("name", ["image_set", "images", "registry", "samplers"])
def test_the_examples_of_a_module_are_right(name: str) -> None:
    module = importlib.import_module(f"retrieval.data.{name}")
    results = doctest.testmod(module, extraglobs={"np": np})
    assert results.attempted > 0
    assert results.failed == 0
