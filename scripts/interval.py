"""The 95 % interval of the mean of a few values, as the tables of the scripts have it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def half_width(values: Sequence[float] | np.ndarray) -> float:
    """Half the width of the interval (mean ± it), by Student's t; of two values at least."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
