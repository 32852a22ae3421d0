"""Keeping the weights that validated best, and stopping when nothing gets better."""

from __future__ import annotations

import math
from typing import Any

import torch


class BestWeights:
    """The weights with the lowest validation loss so far.

    Args:
        patience: validations without an improvement after which training stops; None never stops it.
    """

    def __init__(self, patience: int | None = None) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"--patience is {patience}; it must be at least 1, or None")
        self.patience = patience
        self.loss = math.inf
        self.step = 0
        self.misses = 0
        self.weights: dict[str, torch.Tensor] = {}

    def update(self, loss: float, step: int, weights: dict[str, torch.Tensor]) -> None:
        """Takes the result of one validation."""
        if loss < self.loss:
            self.loss, self.step, self.misses = loss, step, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        else:
            self.misses += 1

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.misses >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "step": self.step, "misses": self.misses, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss, self.step, self.misses = state["loss"], state["step"], state["misses"]
        self.weights = state["weights"]
