"""Fréchet distance between two sets of features, each taken for a Gaussian."""

from __future__ import annotations

import torch


def frechet_distance(left: torch.Tensor, right: torch.Tensor) -> float:
    """|m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½), Dowson & Landau (1982); as FID, Heusel et al. (arXiv 1706.08500), Eq. 6.

    In float64, with unbiased covariances. The trace of (S1 S2)^½ is the sum of the square roots of the eigenvalues of
    S1^½ S2 S1^½, which is symmetric. It grows as the sets shrink: compare only sets of the same size.

    Args:
        left, right: features, [N, D] and [M, D], N and M of 2 or more.
    """
    if min(len(left), len(right)) < 2:
        raise ValueError(f"{len(left)} and {len(right)} images: a covariance needs at least 2 of each")
    left, right = left.double(), right.double()
    difference = left.mean(0) - right.mean(0)
    one, other = torch.cov(left.T), torch.cov(right.T)
    if one.ndim == 0:  # torch.cov drops the axes of a single feature
        one, other = one.reshape(1, 1), other.reshape(1, 1)
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return (difference.square().sum() + one.trace() + other.trace() - 2 * mixed).item()


def bootstrap_interval(
    left: torch.Tensor, right: torch.Tensor, draws: int = 200, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of :func:`frechet_distance` when the images of both sets are drawn again with replacement.

    Drawing again repeats images, which alone raises the distance, so the interval lies somewhat high; two intervals of
    sets of the same sizes can be compared.
    """
    again = _Redraw(seed)
    return _percentiles([frechet_distance(again(left), again(right)) for _ in range(draws)], level)


def bootstrap_ratio(
    one: torch.Tensor, other: torch.Tensor, target: torch.Tensor, draws: int = 200, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of (distance of `one` to `target`) / (distance of `other` to `target`).

    Each draw takes one resample of the target for both, so that what the target's tiles happen to be cancels. Features
    [N, D]; `one` and `other` should be of one size, since the distance depends on it.
    """
    again = _Redraw(seed)
    ratios = []
    for _ in range(draws):
        tiles = again(target)
        ratios.append(frechet_distance(again(one), tiles) / frechet_distance(again(other), tiles))
    return _percentiles(ratios, level)


class _Redraw:
    """Features [N, D] -> as many of them, drawn with replacement."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return features[torch.randint(len(features), (len(features),), generator=self.generator)]


def _percentiles(values: list[float], level: float) -> tuple[float, float]:
    found, tail = torch.tensor(values, dtype=torch.float64), (1 - level) / 2
    return found.quantile(tail).item(), found.quantile(1 - tail).item()
