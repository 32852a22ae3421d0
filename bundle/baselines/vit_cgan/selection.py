"""Selective augmentation within the training of the unified ViT-cGAN."""

from __future__ import annotations

import torch


def choose_generated(
    probabilities: torch.Tensor,
    labels: torch.Tensor,
    scores: torch.Tensor,
    real_scores: torch.Tensor,
    confidence: float,
    quantile: float,
    maximum: float,
) -> torch.Tensor:
    """Which generated images may join the classification loss, bool [B].

    The abstract of arXiv 2212.09977 says that suitable generated images are chosen, not how. Here one must pass two
    gates: a teacher sees its class with confidence (as FixMatch chooses labels, arXiv 2001.07685), and finds it as real
    as a share of the real images are to it. Of those that pass, the most real ones up to the cap are taken.

    Args:
        probabilities: the teacher's, [B, classes].
        labels: the classes they were generated as, [B].
        scores: the teacher's scores of realism, [B].
        real_scores: those of real images, [R].
        confidence: the least probability of the label.
        quantile: of the real images' scores, which one's score is the least.
        maximum: images taken for each real one.
    """
    confident = probabilities.gather(1, labels[:, None])[:, 0] >= confidence
    passed = confident & (scores >= real_scores.quantile(quantile))
    order = torch.where(passed, scores, -torch.inf).argsort(descending=True, stable=True)
    first = torch.zeros_like(passed)
    first[order[: int(maximum * len(real_scores))]] = True
    return passed & first
