"""Selective augmentation within the training of the unified ViT-cGAN."""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class SelectiveAugmentation:
    """Which generated images may join the classification loss.

    The abstract of arXiv 2212.09977 says that suitable generated images are chosen, not how. Here one must pass two
    gates: a teacher sees its class with confidence (as FixMatch chooses labels, arXiv 2001.07685), and finds it as real
    as a share of the real images are to it. Of those that pass, the most real ones up to the cap are taken.

    Args:
        start: the step from which generated images may join; None for never.
        confidence: the least probability of the label.
        realism_quantile: of the real images' scores, which one's score is the least.
        maximum_generated: images taken for each real one.

    Raises:
        ValueError: a share out of [0, 1].
    """

    start: int | None = 1000
    confidence: float = 0.9
    realism_quantile: float = 0.25
    maximum_generated: float = 1.0

    def __post_init__(self) -> None:
        for name in ("confidence", "realism_quantile", "maximum_generated"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--train#selection#{name} is {getattr(self, name)}; it must be between 0 and 1")

    def started(self, step: int) -> bool:
        return self.start is not None and step >= self.start

    def choose(
        self, probabilities: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor, real_scores: torch.Tensor
    ) -> torch.Tensor:
        """Which of a batch are taken, bool [B].

        Args:
            probabilities: the teacher's, [B, classes].
            labels: the classes they were generated as, [B].
            scores: the teacher's scores of realism, [B].
            real_scores: those of real images, [R].
        """
        confident = probabilities.gather(1, labels[:, None])[:, 0] >= self.confidence
        passed = confident & (scores >= real_scores.quantile(self.realism_quantile))
        order = torch.where(passed, scores, -torch.inf).argsort(descending=True, stable=True)
        first = torch.zeros_like(passed)
        first[order[: int(self.maximum_generated * len(real_scores))]] = True
        return passed & first
