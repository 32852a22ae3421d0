"""Fréchet distance between two sets of features, each taken for a Gaussian."""

from __future__ import annotations

import torch
from scipy.stats import t as student

BLOCK = 4096


def frechet_distance(left: torch.Tensor, right: torch.Tensor) -> float:
    """|m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½), Dowson & Landau (1982); as FID, Heusel et al. (arXiv 1706.08500), Eq. 6.

    In float64, with unbiased covariances. The trace of (S1 S2)^½ is the sum of the square roots of the eigenvalues of
    S1^½ S2 S1^½, which is symmetric. It grows as the sets shrink: compare only sets of the same size.

    Args:
        left, right: features, [N, D] and [M, D], N and M of 2 or more.
    """
    if min(len(left), len(right)) < 2:
        raise ValueError(f"{len(left)} and {len(right)} images: a covariance needs at least 2 of each")
    return _distance(_moments(left), _moments(right))


def _moments(
    features: torch.Tensor, counts: torch.Tensor | None = None, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [D] and unbiased covariance [D, D] in float64 of features [N, D], each `counts` [N] times.

    Products are made in `dtype`, block by block, and summed in float64.
    """
    total = len(features) if counts is None else int(counts.sum())
    rows = range(0, len(features), BLOCK)
    weights = torch.ones(len(features)) if counts is None else counts
    mean = sum(weights[row : row + BLOCK].double() @ features[row : row + BLOCK].double() for row in rows) / total
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for row in rows:
        centred = (features[row : row + BLOCK].double() - mean).to(dtype)
        if counts is not None:
            centred *= counts[row : row + BLOCK, None].to(dtype).sqrt()
        covariance += centred.T @ centred
    return mean, covariance / (total - 1)


def _distance(left: tuple[torch.Tensor, torch.Tensor], right: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Between two pairs of mean and covariance."""
    (mean, one), (other_mean, other) = left, right
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return ((mean - other_mean).square().sum() + one.trace() + other.trace() - 2 * mixed).item()


def principal_axes(reference: torch.Tensor, dimensions: int) -> torch.Tensor:
    """Directions in which a reference varies most, float64 [D, dimensions]; `features @ axes` projects onto them.

    For sets with too few images for a Fréchet distance in all D dimensions. What is compared with the reference plays
    no part in the choice, and what it does along other directions is not seen.

    Args:
        reference: features [N, D].
        dimensions: at most D, and below N.

    Raises:
        ValueError: more dimensions than that.
    """
    if not 0 < dimensions <= min(reference.shape[1], len(reference) - 1):
        raise ValueError(f"{dimensions} principal axes of {len(reference)} images with {reference.shape[1]} features")
    _, vectors = torch.linalg.eigh(_moments(reference)[1])
    return vectors[:, -dimensions:].flip(1)


def centred_interval(
    value: float, left: torch.Tensor, right: torch.Tensor, draws: int, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval around a Fréchet distance from few draws, fast enough for D in the thousands.

    The images of both sets are drawn again with replacement, and the interval is Student's, around `value`, from the
    standard deviation of the draws. Only their scatter is taken, as repeated images raise each of them: it says how far
    other images of the same sources would move the distance, not how far the size of the sets raises it. With about as
    few images as dimensions it is up to twice too wide.

    A draw costs about the eigen-decompositions of one distance: of N images drawn, about 0.63 N are different, so each
    is weighted by how often it was drawn, and products are made in single precision.

    Args:
        value: the distance of `left` and `right`.
        left, right: features, [N, D] and [M, D].
        draws: 2 or more.
        seed: of the draws.
        level: of confidence.

    Raises:
        ValueError: fewer than 2 draws.
    """
    if draws < 2:
        raise ValueError(f"{draws} draws: their scatter needs at least 2")
    again = _Redraw(seed)

    def drawn(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counts = torch.bincount(again(torch.arange(len(features))), minlength=len(features))
        return _moments(features[counts > 0], counts[counts > 0], torch.float32)

    distances = torch.tensor([_distance(drawn(left), drawn(right)) for _ in range(draws)], dtype=torch.float64)
    reach = distances.std().item() * float(student.ppf((1 + level) / 2, draws - 1))
    return max(value - reach, 0.0), value + reach


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
