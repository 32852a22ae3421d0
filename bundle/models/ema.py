"""Exponential moving average of a network's weights."""

from __future__ import annotations

import torch


class ExponentialMovingAverage:
    """Averaged weights with warm-up: decay at update n is min(decay, (1 + n) / (10 + n)).

    Source: Rombach et al., latent diffusion, ldm/modules/ema.py; decay 0.9999 there. Without the warm-up a short run
    would sample from what is mostly its random start.
    """

    def __init__(self, weights: dict[str, torch.Tensor], decay: float = 0.9999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema_decay is {decay}; it must lie in [0, 1)")
        self.decay = decay
        self.updates = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, present: dict[str, torch.Tensor]) -> None:
        """Moves the average towards the present weights, a state dict."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        floating = [name for name, tensor in self.weights.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.weights[name] for name in floating], [present[name] for name in floating], 1 - decay)
        for name in self.weights.keys() - set(floating):
            self.weights[name].copy_(present[name])

    def state_dict(self) -> dict:
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        for name, tensor in self.weights.items():
            tensor.copy_(state["weights"][name])
