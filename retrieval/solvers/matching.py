"""The assignment solver."""

from __future__ import annotations

import torch
from torch import Tensor


def match(costs: Tensor) -> Tensor:
    """Marks the cheapest assignment of rows to columns: argmin over (partial) permutation matrices y of <costs, y>.

    Solved exactly on the CPU, one problem after the other, by SciPy's `linear_sum_assignment`: O(n^3) each.
    A problem has one scale: a projection must see all of its costs at once, as `whole(normalize)` does; `normalize` would scale
    each row by a factor of its own, and so change the assignment.

    Args:
        costs: (..., n, m), finite; every row is matched if n <= m, every column if m <= n.

    Returns:
        Ones and zeros of the same shape and device, in the dtype of the costs, at least float32.

    Raises:
        ValueError: fewer than two dimensions, or costs that are not finite.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and needed here only

    if costs.ndim < 2:
        raise ValueError(f"costs have shape {tuple(costs.shape)}, expected (..., rows, columns)")
    if not costs.isfinite().all():
        raise ValueError("costs are not finite; give a forbidden pair a high finite cost")
    problems = costs.detach().cpu().double().reshape(costs.shape[:-2].numel(), *costs.shape[-2:]).numpy()
    marks = torch.zeros(problems.shape, dtype=torch.promote_types(costs.dtype, torch.float32))
    for mark, problem in zip(marks, problems, strict=True):
        rows, columns = linear_sum_assignment(problem)
        mark[rows, columns] = 1
    return marks.reshape(costs.shape).to(costs.device)
