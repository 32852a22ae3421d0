"""What nearest neighbours say of a synthetic set: precision, recall, density, coverage, authenticity."""

from __future__ import annotations

import numpy as np
import torch

from bundle.metrics.distances import BLOCK, distance_blocks

NEIGHBOURS = 5


class Nearest:
    """The k nearest others of each image, from blocks of squared distances.

    Args:
        count: N, images whose neighbours are sought.
        k: neighbours of each.
        dtype: of the distances.

    Attributes:
        squared: [N, k] squared distances, nearest first; infinite where there are fewer others.
        places: int64 [N, k], which of the others.
    """

    def __init__(self, count: int, k: int, dtype: torch.dtype = torch.float32) -> None:
        self.k = k
        self.squared = torch.full((count, k), torch.inf, dtype=dtype)
        self.places = torch.full((count, k), -1)

    def add(self, rows: slice, columns: slice, squared: torch.Tensor) -> None:
        """A block of :func:`bundle.metrics.distances.distance_blocks`."""
        near = squared.topk(min(self.k, squared.shape[1]), dim=1, largest=False)
        found = torch.cat([self.squared[rows], near.values], dim=1)
        places = torch.cat([self.places[rows], near.indices + columns.start], dim=1)
        best = found.topk(self.k, dim=1, largest=False)
        self.squared[rows], self.places[rows] = best.values, places.gather(1, best.indices)


def nearest(
    left: torch.Tensor, right: torch.Tensor | None = None, k: int = 1, size: int = BLOCK
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest images of each, nearest first.

    Args:
        left: features [N, D].
        right: features [M, D] among which they are sought; None for the others of `left`.
        k: neighbours of each.
        size: images of a block.

    Returns:
        Euclidean distances [N, k], and int64 [N, k], places in `right`.

    Raises:
        ValueError: there are fewer than k.
    """
    others = len(left) - 1 if right is None else len(right)
    if others < k:
        raise ValueError(f"{others} other images: {k} nearest ones of each need at least {k}")
    found = Nearest(len(left), k, left.dtype)
    for block in distance_blocks(left, right, size):
        found.add(*block)
    return found.squared.sqrt(), found.places


class Overlap:
    """How two sets lie in each other's balls, from blocks of squared distances of synthetic to reference images.

    The ball of an image reaches to the k-th nearest other image of its own set, and includes its surface.

    Args:
        synthetic, reference: [N] and [M] squared radii of their balls.
        k: of the radii.
    """

    def __init__(self, synthetic: torch.Tensor, reference: torch.Tensor, k: int) -> None:
        self.radii, self.k = (synthetic, reference), k
        self.balls = torch.zeros(len(synthetic), dtype=torch.int64)
        self.recalled = torch.zeros(len(reference), dtype=torch.bool)
        self.covered = torch.zeros(len(reference), dtype=torch.bool)

    def add(self, rows: slice, columns: slice, squared: torch.Tensor) -> None:
        """A block of :func:`bundle.metrics.distances.distance_blocks`; rows are synthetic."""
        inside = squared <= self.radii[1][columns]
        self.balls[rows] += inside.sum(1)
        self.covered[columns] |= inside.any(0)
        self.recalled[columns] |= (squared <= self.radii[0][rows, None]).any(0)

    def images(self) -> dict[str, torch.Tensor]:
        """What each image adds, fp64; the figure is the mean.

        "precision" [N]: 1 where the synthetic image lies in the ball of a reference image. "recall" [M]: 1 where the
        reference image lies in the ball of a synthetic one (both Kynkäänniemi et al., arXiv 1904.06991, Eq. 1 and 2).
        "density" [N]: in how many reference balls the synthetic image lies, over k. "coverage" [M]: 1 where a synthetic
        image lies in the ball of the reference image (both Naeem et al., arXiv 2002.09797, Eq. 3 and 4).
        """
        return {
            "precision": (self.balls > 0).double(),
            "recall": self.recalled.double(),
            "density": self.balls.double() / self.k,
            "coverage": self.covered.double(),
        }


def overlap(
    synthetic: torch.Tensor, reference: torch.Tensor, k: int = NEIGHBOURS, size: int = BLOCK
) -> dict[str, float]:
    """Precision, recall and coverage in [0, 1], density of 0 or more; see :meth:`Overlap.images`.

    Args:
        synthetic, reference: features [N, D] and [M, D], N and M above k.
        k: the neighbour to which the balls reach.
        size: images of a block.

    Raises:
        ValueError: too few images for k.
    """
    radii = [nearest(features, k=k, size=size)[0][:, -1].square() for features in (synthetic, reference)]
    found = Overlap(*radii, k)
    for block in distance_blocks(synthetic, reference, size):
        found.add(*block)
    return {name: values.mean().item() for name, values in found.images().items()}


def mean_interval(values: torch.Tensor, draws: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` [N] when they are drawn again with replacement.

    To draw N values again is to draw how often each distinct one occurs, so its cost hardly depends on N.
    """
    distinct, counts = np.unique(values.numpy(), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=draws)
    low, high = np.percentile(drawn @ distinct / len(values), (2.5, 97.5))
    return float(low), float(high)


def authentic(synthetic: torch.Tensor, training: torch.Tensor, size: int = BLOCK) -> torch.Tensor:
    """Which synthetic images are authentic, bool [N]; their share is the authenticity of the set.

    One is authentic when it is farther from its nearest training image than that one is from the nearest other
    training image (Alaa et al., arXiv 2102.08921, section 4). The share is well below 1 where nothing is copied, as
    some images happen to lie close: compare with that of held-out real images.

    Args:
        synthetic: features [N, D].
        training: features [M, D], M of 2 or more.
        size: images of a block.
    """
    distances, places = nearest(synthetic, training, size=size)
    spacing, _ = nearest(training, size=size)
    return (distances > spacing[places[:, 0]])[:, 0]
