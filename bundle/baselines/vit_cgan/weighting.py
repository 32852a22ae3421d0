"""Weights of the losses: fixed ones, and dynamic ones of the classification losses on real and on generated images.

The abstract of arXiv 2212.09977 says that a dynamic weighting balances the losses of the classification tasks, not
which. Here are the three usual ones, and none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import nn

SMALLEST = 0.05  # of sigma²: a loss near 0, as of memorised images, is not to count beyond all measure


@dataclasses.dataclass(frozen=True)
class Losses:
    """What is added to the adversarial losses, and how much it counts.

    Args:
        penalty_weight: gamma of R1 in the discriminator's loss; 0 leaves it out.
        penalty_interval: steps from one R1 to the next, by which its weight is multiplied.
        classification_weight: of the weighted cross-entropies in the discriminator's loss.
        generator_class_weight: of the cross-entropy in the generator's loss. An auxiliary classifier alone draws a
            generator to what it is surest of (Gong et al., arXiv 1907.02690).
        label_smoothing: in [0, 1).

    Raises:
        ValueError: a number out of range.
    """

    penalty_weight: float = 0.1
    penalty_interval: int = 16
    classification_weight: float = 1.0
    generator_class_weight: float = 0.1
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        for name in ("penalty_weight", "classification_weight", "generator_class_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"--train#losses#{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"--train#losses#label_smoothing is {self.label_smoothing}; it must be 0 or more, and below 1"
            )

    def penalty_due(self, step: int) -> bool:
        return self.penalty_weight > 0 and step % self.penalty_interval == 0


class LossWeighting(nn.Module):
    """Adds up losses by weights that follow the training. This one's weights stay: the option "fixed".

    Args:
        names: of the losses; in a step some may be absent.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)

    def forward(self, losses: Mapping[str, torch.Tensor], shared: torch.Tensor | None = None) -> torch.Tensor:
        """The weighted sum; moves the weights where that is part of the step.

        Args:
            losses: scalars with their graph, by name.
            shared: a weight that all losses depend on.
        """
        weights = self.weights()
        return sum(weights[name] * loss for name, loss in losses.items())

    def weights(self) -> dict[str, torch.Tensor]:
        """What each loss is multiplied by now, scalars."""
        return dict.fromkeys(self.names, torch.ones(()))


class UncertaintyWeighting(LossWeighting):
    """L_i / (2 sigma_i²) + log(sigma_i) for each loss, sigma_i² = exp(s_i) learned; its optimum is sigma_i² = L_i.

    Kendall, Gal & Cipolla (arXiv 1705.07115), Eq. 7 (their Eq. 10 for a classification has 1 / sigma², so an optimum of
    2 L_i). The derivative with regard to s_i is (1 - L_i / sigma_i²) / 2. sigma_i² stays above 0.05.

    Args:
        names: of the losses.
        rate: learning rate of s_i.
    """

    def __init__(self, names: Sequence[str], rate: float = 0.01) -> None:
        super().__init__(names)
        self.rate = rate
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in names})

    def forward(self, losses: Mapping[str, torch.Tensor], shared: torch.Tensor | None = None) -> torch.Tensor:
        with torch.no_grad():
            for parameter in self.log_variances.values():
                parameter.clamp_(min=torch.tensor(SMALLEST).log().item())
        logs = self.log_variances
        return sum(0.5 * (loss * (-logs[name]).exp() + logs[name]) for name, loss in losses.items())

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: 0.5 * (-log.detach()).exp() for name, log in self.log_variances.items()}


class DynamicAverageWeighting(LossWeighting):
    """K softmax(r_i / T), r_i the mean loss of the last `interval` steps over that of the `interval` steps before.

    Liu, Johns & Davison (arXiv 1803.10704), Eq. 5, there with epochs for intervals: what falls more slowly counts more.
    Until two intervals have passed, and while a loss was absent in one, all count 1.

    Args:
        names: of the losses.
        interval: steps that are averaged over.
        temperature: T, 2 in the paper.
    """

    def __init__(self, names: Sequence[str], interval: int = 100, temperature: float = 2.0) -> None:
        super().__init__(names)
        if interval < 1:
            raise ValueError(f"--weighting#options#dynamic_average#interval is {interval}; it must be at least 1")
        self.interval = interval
        self.temperature = temperature
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        for name in ("total", "count", "former", "last"):
            self.register_buffer(name, torch.zeros(len(names)))
        self.register_buffer("present", torch.ones(len(names)))

    @torch.no_grad()
    def forward_weights(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Takes note of the losses of a step, and weighs anew at the end of an interval."""
        for place, name in enumerate(self.names):
            if name in losses:
                self.total[place] += losses[name].detach()
                self.count[place] += 1
        self.step += 1
        if int(self.step) % self.interval == 0:
            self.former.copy_(self.last)
            self.last.copy_(self.total / self.count.clamp(min=1))
            self.total.zero_()
            self.count.zero_()
            known = bool((self.former > 0).all() and (self.last > 0).all())
            ratios = (self.last / self.former / self.temperature).softmax(0) * len(self.names)
            self.present.copy_(ratios if known else torch.ones_like(ratios))

    def forward(self, losses: Mapping[str, torch.Tensor], shared: torch.Tensor | None = None) -> torch.Tensor:
        total = super().forward(losses, shared)
        self.forward_weights(losses)
        return total

    def weights(self) -> dict[str, torch.Tensor]:
        # Copies, because a graph that holds them is still to be passed backward when they change.
        return dict(zip(self.names, self.present.clone()))


class GradientNormWeighting(LossWeighting):
    """Weights by which the gradient of each loss at a shared layer has a norm that fits how far the loss has fallen.

    GradNorm (Chen et al., arXiv 1711.02257), Eq. 1 and 2: with G_i = w_i |d L_i / d W|, and r_i the loss over its first
    value, divided by the mean of that over all losses, each w_i goes down the slope of |G_i - mean(G) r_i^alpha| with
    the second term held fixed. Then all are divided so that their mean is 1. A step in which a loss is absent leaves
    them.

    Args:
        names: of the losses.
        alpha: how strongly those that have fallen less are favoured; 1.5 in the paper.
        rate: of the steps that the weights take; 0.025 in the paper.
    """

    def __init__(self, names: Sequence[str], alpha: float = 1.5, rate: float = 0.025) -> None:
        super().__init__(names)
        self.alpha = alpha
        self.rate = rate
        self.register_buffer("present", torch.ones(len(names)))
        self.register_buffer("first", torch.zeros(len(names)))

    def forward(self, losses: Mapping[str, torch.Tensor], shared: torch.Tensor | None = None) -> torch.Tensor:
        total = super().forward(losses, shared)
        if len(losses) == len(self.names):
            ordered = [losses[name] for name in self.names]
            norms = [torch.autograd.grad(loss, shared, retain_graph=True)[0].float().norm() for loss in ordered]
            self.move(torch.stack(norms), torch.stack(ordered).detach().float())
        return total

    @torch.no_grad()
    def move(self, norms: torch.Tensor, losses: torch.Tensor) -> None:
        """One step of the weights, from the norms [K] of the unweighted losses' gradients and the losses [K]."""
        self.first.copy_(torch.where(self.first > 0, self.first, losses))
        fallen = losses / self.first
        weighted = self.present * norms
        target = weighted.mean() * (fallen / fallen.mean()) ** self.alpha
        moved = self.present - self.rate * (weighted - target).sign() * norms
        moved = moved.clamp(min=1e-3)
        self.present.copy_(moved / moved.mean())

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(zip(self.names, self.present.clone()))
