"""Learning-rate schedules as functions of the step."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warm_up_and_cool_down(optimizer: Optimizer, warm_up: int = 0, cool_down: int = 0, steps: int = 0) -> LambdaLR:
    """Rises linearly over the first `warm_up` steps, stays, then falls linearly to 0 over the last `cool_down`.

    The warm-up is latent diffusion's LambdaLinearScheduler as HistoDiffusion's code configures it: 1e-6 of the rate at
    first. The cool-down is not in either: it settles what a constant rate keeps moving, such as the shade of white.

    Args:
        optimizer: its learning rate is the constant one.
        warm_up, cool_down: numbers of steps; 0 for none.
        steps: the whole budget, where there is a cool-down.
    """

    def factor(step: int) -> float:
        rising = 1e-6 + step / warm_up if warm_up > 0 else 1.0
        falling = (steps - step) / cool_down if cool_down > 0 else 1.0
        return max(0.0, min(1.0, rising, falling))

    return LambdaLR(optimizer, factor)
