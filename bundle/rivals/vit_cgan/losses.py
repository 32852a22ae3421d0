"""The adversarial losses of the unified ViT-cGAN, and its selective augmentation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import softplus


def discriminator_loss(real: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
    """mean softplus(-D(x)) + mean softplus(D(G(z))), of scores [B] each.

    Goodfellow et al. (arXiv 1406.2661), Eq. 1, of scores before the sigmoid.
    """
    return softplus(-real).mean() + softplus(generated).mean()


def generator_loss(generated: torch.Tensor) -> torch.Tensor:
    """mean softplus(-D(G(z))), non-saturating, of scores [B]; Goodfellow et al., section 3."""
    return softplus(-generated).mean()


def gradient_penalty(score: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """R1: half the mean squared norm of the gradient of the scores at real images, with its graph.

    Mescheder, Geiger & Nowozin (arXiv 1801.04406), Eq. 9, without the factor gamma.

    Args:
        score: images -> scores [B], each of one image alone.
        images: fp32 [B, 3, H, W].
    """
    images = images.detach().requires_grad_(True)
    gradient = torch.autograd.grad(score(images).sum(), images, create_graph=True)[0]
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


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
