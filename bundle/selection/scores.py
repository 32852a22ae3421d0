"""What a selection decides on: confidence, distances to class centroids, descriptors that show copies."""

from __future__ import annotations

import copy

import torch
from sklearn.covariance import LedoitWolf
from torch.nn.functional import adaptive_avg_pool2d

METRICS = ("squared_l2", "cosine", "mahalanobis")
DESCRIPTOR_SHAPE = (3, 16, 16)


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, float64 [N] in [0, log K], of probabilities [N, K]."""
    return torch.special.entr(probabilities.double()).sum(1).clamp(min=0)


def entropy_limits(
    entropies: torch.Tensor,
    labels: torch.Tensor,
    predicted: torch.Tensor,
    num_classes: int,
    quantile: float = 0.95,
    minimum: int = 20,
) -> torch.Tensor:
    """The highest entropy at which an image of a class counts as confidently classified, float64 [K] in nats.

    It is a quantile of the entropies of the real images of the class that are classified correctly by a classifier
    that wasn't trained on them; of those of all classes together where a class has too few.

    Args:
        entropies: of real images, in nats [N].
        labels, predicted: their true and predicted classes [N].
        num_classes: K.
        quantile: which one, in [0, 1].
        minimum: so many correctly classified images of a class are enough.

    Raises:
        ValueError: no image is classified correctly, or a quantile out of range.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"the quantile of the entropies is {quantile}; it must lie in [0, 1]")
    correct = labels == predicted
    if not correct.any():
        raise ValueError(
            f"none of {len(labels)} real images is classified correctly, so there is no limit for the entropy: the "
            "classifier has learnt nothing. Train it longer, or give it more labels"
        )
    of_class = [entropies[correct & (labels == number)].double() for number in range(num_classes)]
    pooled = entropies[correct].double()
    return torch.stack([(own if len(own) >= minimum else pooled).quantile(quantile) for own in of_class])


def normalise(features: torch.Tensor) -> torch.Tensor:
    """Features [N, D] divided by their Euclidean norm, float64; as LPIPS does (Zhang et al., CVPR 2018)."""
    features = features.double()
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)


def centroids(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Mean of the normalised features of each class, not normalised again: float64 [K, D].

    Raises:
        ValueError: a class has no image.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    if len(counts) > num_classes or not counts.all():
        raise ValueError(f"a centroid needs images of each class, and there are {counts.tolist()} of {num_classes}")
    features = normalise(features)
    return torch.stack([features[labels == number].mean(0) for number in range(num_classes)])


class Centroids:
    """Distances of normalised features to the centroid of each class.

    Args:
        metric: "squared_l2", "cosine" (1 - cosine of the angle), or "mahalanobis" (squared, with one covariance of all
            classes, of the residuals to their centroids, shrunk as by Ledoit & Wolf, J Multivar Anal 2004).

    Attributes:
        means: [K, D], see :func:`centroids`.

    Raises:
        ValueError: an unknown metric.
    """

    def __init__(self, metric: str = "squared_l2") -> None:
        if metric not in METRICS:
            raise ValueError(f"the distance {metric!r} is unknown: use one of {', '.join(METRICS)}")
        self.metric = metric

    def fit(self, features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Centroids:
        """Takes features [N, D] and labels [N] of real images.

        Raises:
            ValueError: a class has no image, or the covariance can't be inverted.
        """
        self._features, self._labels = features, labels
        self.means = centroids(features, labels, num_classes)
        if self.metric == "mahalanobis":
            residuals = normalise(features) - self.means[labels]
            covariance = LedoitWolf(assume_centered=True).fit(residuals.numpy()).covariance_
            factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(covariance))
            if failed:
                raise ValueError(
                    f"the covariance of {len(labels)} images in {num_classes} classes can't be inverted: they are too "
                    "few, or their features don't vary. Use the distance squared_l2 or cosine"
                )
            self._factor = factor
        return self

    def with_extra(self, features: torch.Tensor, labels: torch.Tensor) -> Centroids:
        """The same with further images in the means, and the covariance of the former ones.

        The code published with HistoDiffusion averages over real images and synthetic ones selected before.
        """
        result = copy.copy(self)
        result._features = torch.cat([self._features, features])
        result._labels = torch.cat([self._labels, labels])
        result.means = centroids(result._features, result._labels, len(self.means))
        return result

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """float64 [N, K], 0 or more, of features [N, D] that need not be normalised."""
        features, means = normalise(features), self.means
        if self.metric == "cosine":
            return (1 - features @ normalise(means).T).clamp(min=0)
        if self.metric == "mahalanobis":
            features, means = (
                torch.linalg.solve_triangular(self._factor, values.T, upper=False).T for values in (features, means)
            )
        # Not by a matrix product, in which small distances would be differences of large numbers.
        return torch.cdist(features, means, compute_mode="donot_use_mm_for_euclid_dist").square()


def descriptors(images: torch.Tensor, chunk: int = 256) -> torch.Tensor:
    """What copies are looked for in: uint8 [N, 3, S, S] averaged over areas to 16 x 16, float32 [N, 768] in [0, 1]."""
    side = DESCRIPTOR_SHAPE[1:]
    return torch.cat([adaptive_avg_pool2d(batch.float() / 255, side).flatten(1) for batch in images.split(chunk)])
