from __future__ import annotations

import pytest
from interval import half_width


# The quantiles stand in every table of Student's t; the standard error of a, ..., b is sqrt(variance / count).
@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 3], 12.7062 * 1), ([1, 2, 3], 4.3027 * (1 / 3) ** 0.5), ([0.0] * 5 + [6.0], 2.5706 * 1), ([4, 4, 4], 0)],
)
def test_half_the_interval_is_the_quantile_times_the_standard_error(values, expected):
    assert half_width(values) == pytest.approx(expected, rel=1e-4)
