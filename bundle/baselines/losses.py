"""The adversarial losses of both baselines, and the penalty of their discriminators."""

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
