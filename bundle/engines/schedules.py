"""Learning-rate schedules as functions of the step."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warm_up(optimizer: Optimizer, steps: int) -> LambdaLR:
    """Linear from near 0 to the optimiser's learning rate over `steps` steps, then constant.

    Latent diffusion's LambdaLinearScheduler as HistoDiffusion's code configures it: 1e-6 of the rate at first.
    """
    return LambdaLR(optimizer, lambda step: min(1.0, 1e-6 + step / steps) if steps > 0 else 1.0)
