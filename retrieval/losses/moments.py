"""Products of which symmetry saves a part."""

from __future__ import annotations

from torch import Tensor
from torch.linalg import vecdot

COLUMNS = 128  # of a block of a symmetric matrix


def symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """left^T right of two matrices (num_rows, dim), where it is symmetric: half of its blocks are mirror images of the others."""
    dim = left.shape[1]
    found = left.new_empty(dim, dim)
    for top in range(0, dim, COLUMNS):
        rows = slice(top, min(top + COLUMNS, dim))
        found[rows, top:] = left[:, rows].T @ right[:, top:]
        found[rows.stop :, rows] = found[rows, rows.stop :].T
    return found


def quadratic_forms(rows: Tensor, matrix: Tensor) -> Tensor:
    """x^T M x (num_rows,) for each row x and a symmetric M (dim, dim), by the blocks of M on and above the diagonal."""
    found = rows.new_zeros(len(rows))
    for left in range(0, len(matrix), COLUMNS):
        block = slice(left, min(left + COLUMNS, len(matrix)))
        product = rows[:, block] @ matrix[block, block]
        if block.stop < len(matrix):
            product.addmm_(rows[:, block.stop :], matrix[block.stop :, block], alpha=2)
        found += vecdot(product, rows[:, block])
    return found
