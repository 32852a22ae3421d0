"""What keeps a StyleGAN2 from overfitting and its latent space smooth: lazy regularisers and adaptive augmentation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch

from bundle.baselines.augmentation import orient_each, shift, vary_density

DENSITY_SCALE = 0.5
MEAN_DECAY = 0.99


@dataclasses.dataclass(frozen=True)
class Regularisation:
    """How strongly and how often each lazy regulariser acts (arXiv 1912.04958, appendix B); at a weight of 0 never.

    Args:
        r1_weight: gamma of R1 (arXiv 1801.04406), 0 or more.
        r1_interval: steps between two updates of the discriminator by it.
        path_weight: of the path length, 0 or more.
        path_interval: steps between two updates of the generator by it.

    Raises:
        ValueError: a weight below 0.
    """

    r1_weight: float = 1.0
    r1_interval: int = 16
    path_weight: float = 2.0
    path_interval: int = 4

    def __post_init__(self) -> None:
        for flag, value in (("r1_weight", self.r1_weight), ("train#regularisation#path_weight", self.path_weight)):
            if value < 0:
                raise ValueError(f"--{flag} is {value}; it must be 0 or more")

    def r1_due(self, step: int) -> bool:
        return self.r1_weight > 0 and step % self.r1_interval == 0

    def path_due(self, step: int) -> bool:
        return self.path_weight > 0 and step % self.path_interval == 0


def lazy_optimizer(make: Callable[..., torch.optim.Adam], interval: int | None) -> dict[str, Any]:
    """Adam's settings where each `interval`-th step is followed by another one, of a regulariser alone.

    Karras et al., arXiv 1912.04958, appendix B: with c = k / (k + 1), the learning rate is multiplied by c and the
    betas are raised to it, so that k + 1 updates move the weights and their averages as k did before.

    Args:
        make: the optimiser's class with its settings bound, "lr" and "betas" among them.
        interval: k; None without a regulariser.
    """
    share = 1.0 if interval is None else interval / (interval + 1)
    return {"lr": make.keywords["lr"] * share, "betas": tuple(beta**share for beta in make.keywords["betas"])}


def path_lengths(images: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """|J^T y| of each image, with its graph, [B]: y is noise of the images' shape over the root of its pixels.

    Karras et al., arXiv 1912.04958, section 3.2, Eq. 4; over the layers' styles the mean square is taken.

    Args:
        images: [B, 3, S, S], computed from the styles.
        styles: [B, L, D].
    """
    noise = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
    gradient = torch.autograd.grad((images * noise).sum(), styles, create_graph=True)[0]
    return gradient.square().sum(2).mean(1).sqrt()


class PathLengthPenalty:
    """Mean squared difference of path lengths from a, their moving average (arXiv 1912.04958, Eq. 4).

    Attributes:
        mean: a.
    """

    def __init__(self) -> None:
        self.mean = 0.0

    def __call__(self, lengths: torch.Tensor) -> torch.Tensor:
        """The penalty of one batch of lengths [B]; the average takes them in first."""
        self.mean += (1 - MEAN_DECAY) * (lengths.detach().mean().item() - self.mean)
        return (lengths - self.mean).square().mean()

    def state_dict(self) -> dict[str, float]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.mean = state["mean"]


class AdaptiveAugmentation:
    """Augments what the discriminator sees, as often as its overfitting calls for (Karras et al., arXiv 2006.06676).

    Each operation is applied to an image with probability p, real and generated alike: flips and rotations, integer
    translation, optical density of each colour channel. Those are what histology bears of the paper's (Table 3 and
    appendix B). p moves by a constant amount, up where r = E[sign D(real)] is above its target and down where it is
    below (section 3, Eq. 1).

    Args:
        target: of r, in [-1, 1]; None for no augmentation.
        images: real images in which p could go from 0 to 1; the paper's 500,000.
        interval: batches between two changes of p; the paper's 4.
        maximum: of p. Up to 0.8 the generator doesn't learn the augmentation itself (section 2.2 of the paper).

    Attributes:
        probability: p.
        overfitting: r at the last change.

    Raises:
        ValueError: a number out of range.
    """

    operations = (orient_each, shift, lambda images: vary_density(images, DENSITY_SCALE))

    def __init__(
        self, target: float | None = 0.6, images: int = 500_000, interval: int = 4, maximum: float = 0.8
    ) -> None:
        if target is not None and not -1 <= target <= 1:
            raise ValueError(f"--train#augmentation#target is {target}; it must lie between -1 and 1, or be None")
        if not 0 <= maximum <= 1:
            raise ValueError(f"--train#augmentation#maximum is {maximum}; it must lie between 0 and 1")
        self.target = target
        self.images = images
        self.interval = interval
        self.maximum = maximum
        self.probability = 0.0
        self.overfitting = 0.0
        self._signs: list[float] = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] in [-1, 1], same shape, with its graph; draws from torch's generators."""
        if self.probability > 0:
            for operation in self.operations:
                chosen = torch.rand(len(images), device=images.device) < self.probability
                images = torch.where(chosen[:, None, None, None], operation(images), images)
        return images

    def observe(self, real_logits: torch.Tensor) -> None:
        """Takes note of the discriminator's logits [B] of a batch of real images, and changes p where it is time."""
        if self.target is None:
            return
        self._signs.append(real_logits.detach().sign().mean().item())
        if len(self._signs) < self.interval:
            return
        self.overfitting = sum(self._signs) / len(self._signs)
        step = self.interval * len(real_logits) / self.images
        step = math.copysign(step, self.overfitting - self.target) if self.overfitting != self.target else 0.0
        self.probability = min(max(self.probability + step, 0.0), self.maximum)
        self._signs = []

    def state_dict(self) -> dict[str, Any]:
        return {"probability": self.probability, "overfitting": self.overfitting, "signs": list(self._signs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.probability, self.overfitting = state["probability"], state["overfitting"]
        self._signs = list(state["signs"])
