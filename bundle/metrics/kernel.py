"""Kernel distance between two sets of features (KID), over all their images."""

from __future__ import annotations

import torch

from bundle.metrics.distances import BLOCK, distance_blocks

NORMAL_QUANTILE = 1.96


class KernelSums:
    """Sums of the kernel k(x, y) = (x.y / D + 1)³ of each image with all others, from blocks of squared distances.

    Args:
        left: features [N, D].
        right: features [M, D]; None for the pairs within `left`, where an image makes no pair with itself.

    Attributes:
        of_left, of_right: fp64 [N] and [M], the sum over the other set of each image.
    """

    def __init__(self, left: torch.Tensor, right: torch.Tensor | None = None) -> None:
        self.within = right is None
        self.scale = -1 / (2 * left.shape[1])
        # x.y = (|x|² + |y|² - |x - y|²) / 2, so the kernel is (halves of x + halves of y + scale |x - y|²)³.
        self.halves = [0.5 - self.scale * one.square().sum(1) for one in (left, left if self.within else right)]
        self.of_left, self.of_right = (torch.zeros(len(one), dtype=torch.float64) for one in self.halves)

    def add(self, rows: slice, columns: slice, squared: torch.Tensor) -> None:
        """A block of :func:`bundle.metrics.distances.distance_blocks` of the same sets."""
        kernel = torch.add(self.halves[1][columns], squared, alpha=self.scale).add_(self.halves[0][rows, None]).pow_(3)
        if self.within and rows == columns:
            kernel.fill_diagonal_(0)
        self.of_left[rows] += kernel.sum(1)
        self.of_right[columns] += kernel.sum(0)


def kernel_distance(left: torch.Tensor, right: torch.Tensor, size: int = BLOCK) -> tuple[float, tuple[float, float]]:
    """Unbiased squared maximum mean discrepancy with a cubic kernel: KID, Binkowski et al. (arXiv 1801.01401), Eq. 4.

    Over all images at once, not the mean over random subsets, so nothing about it is drawn. It is 0 on average where
    both sets come from one distribution, whatever their size, so it may fall below 0.

    Args:
        left, right: features [N, D] and [M, D], N and M of 3 or more; fp32 suffices.
        size: images of a block.

    Returns:
        the distance, and its interval by :func:`distance_of_sums`.
    """
    sums = KernelSums(left), KernelSums(right), KernelSums(left, right)
    for found, pair in zip(sums, ((left,), (right,), (left, right))):
        for block in distance_blocks(*pair, size=size):
            found.add(*block)
    return distance_of_sums(*sums)


def distance_of_sums(left: KernelSums, right: KernelSums, between: KernelSums) -> tuple[float, tuple[float, float]]:
    """The distance, and 1.96 standard errors to both sides, from sums within both sets and between them.

    The standard error is the jackknife's: each image of each set is left out once, which the sums give at no cost. It
    errs on the wide side (Efron & Stein, 1981), by up to √2 where the sets are alike.

    Raises:
        ValueError: fewer than 3 images, of which no pair is left when one is left out.
    """
    n, m = len(left.of_left), len(right.of_left)
    if min(n, m) < 3:
        raise ValueError(f"{n} and {m} images: a kernel distance with its interval needs at least 3 of each")
    one, other, both = (sums.of_left.sum() for sums in (left, right, between))
    value = one / (n * (n - 1)) + other / (m * (m - 1)) - 2 * both / (n * m)
    # Without one image of `left`: the rest of `left` with itself, and with `right`; likewise for `right`.
    without_left = (one - 2 * left.of_left) / ((n - 1) * (n - 2)) - 2 * (both - between.of_left) / ((n - 1) * m)
    without_right = (other - 2 * right.of_left) / ((m - 1) * (m - 2)) - 2 * (both - between.of_right) / (n * (m - 1))
    variance = sum((len(found) - 1) * found.var(correction=0) for found in (without_left, without_right))
    error = NORMAL_QUANTILE * variance.sqrt().item()
    return value.item(), (value.item() - error, value.item() + error)
