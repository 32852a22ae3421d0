"""Vendi score: how many different images a set effectively has."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

BLOCK = 4096
NORMAL_QUANTILE = 1.96


def vendi_score(features: torch.Tensor) -> tuple[float, tuple[float, float]]:
    """Exponential of the entropy of the eigenvalues of K / N, K the cosines of all pairs; in [1, min(N, D)].

    Friedman & Dieng (arXiv 2210.02410), Eq. 2, through the dual matrix X^T X / N, [D, D], which has the same
    eigenvalues above 0 (section 3.3). In float64. It grows with N: compare only sets of the same size.

    The entropy is the mean of -x^T log(X^T X / N) x over the images x, which is also the first-order effect of an image
    on it, so the scatter of these makes its standard error (the delta method). With fewer images than dimensions that
    is somewhat too small.

    Args:
        features: [N, D]; an image whose features are all 0 counts for nothing.

    Returns:
        the score, and its interval of 1.96 standard errors of the entropy to both sides.

    Raises:
        ValueError: fewer than 2 images with features other than 0.
    """
    features = features[features.any(dim=1)]
    count = len(features)
    if count < 2:
        raise ValueError(f"{count} images with features other than 0: a Vendi score with its interval needs 2 or more")
    second = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for block in features.split(BLOCK):
        unit = normalize(block.double(), dim=1)
        second += unit.T @ unit / count
    values, vectors = torch.linalg.eigh(second)
    there = values > values[-1] * 1e-12
    values, vectors = values[there], vectors[:, there]
    shares = [(normalize(block.double(), dim=1) @ vectors).square() @ -values.log() for block in features.split(BLOCK)]
    entropy = torch.special.entr(values).sum()
    error = NORMAL_QUANTILE * torch.cat(shares).std() / count**0.5
    return entropy.exp().item(), ((entropy - error).exp().item(), (entropy + error).exp().item())
