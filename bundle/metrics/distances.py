"""Squared distances of features, a block of pairs at a time, so that the matrix of all pairs is never in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

BLOCK = 1024


def distance_blocks(
    left: torch.Tensor, right: torch.Tensor | None = None, size: int = BLOCK
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Squared Euclidean distances of all pairs, block by block, in the precision of the features.

    They are sums of matrix products of centred features: in fp32, distances below a thousandth of the spread of the
    features are noise.

    Args:
        left: features [N, D].
        right: features [M, D]; None for the pairs within `left`, in both orders, each image infinitely far from itself.
        size: images of a block.

    Yields:
        rows and columns, and [rows, columns] squared distances.
    """
    within = right is None
    # Distances don't depend on the origin, the rounding of a sum of products does.
    origin = (left if within else right).mean(0)
    left = left - origin
    right = left if within else right - origin
    norms = [features.square().sum(1) for features in (left, right)]
    for rows in _blocks(len(left), size):
        for columns in _blocks(len(right), size):
            if within and columns.start < rows.start:
                continue
            squared = norms[0][rows, None] + norms[1][columns]
            squared.addmm_(left[rows], right[columns].T, alpha=-2).clamp_(min=0)
            if within and rows == columns:
                squared.fill_diagonal_(torch.inf)
            yield rows, columns, squared
            if within and rows != columns:
                yield columns, rows, squared.T.contiguous()


def _blocks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
