"""Learning rates by hand."""

import pytest
import torch

from bundle.training.schedules import warm_up_and_cool_down


def rates(steps, **settings):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = warm_up_and_cool_down(optimizer, steps=steps, **settings)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_constant_without_either():
    assert rates(3) == [2.0, 2.0, 2.0]


def test_rises_stays_and_falls():
    assert rates(8, warm_up=2, cool_down=4) == pytest.approx([0.0, 1.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5], abs=1e-5)
