from __future__ import annotations

import numpy as np

from retrieval.index.comparison import paired


def test_the_paired_test_tells_a_gain_from_chance():
    generator = np.random.default_rng(0)
    base = generator.integers(0, 2, 400).astype(float)
    better = np.maximum(base, generator.random(400) < 0.1)
    found = paired(better, base)
    assert found.p < 0.01
    assert 0 < found.low < found.difference < found.high
    swapped = np.where(generator.random(400) < 0.05, 1 - base, base)
    assert paired(swapped, base).p > 0.05
