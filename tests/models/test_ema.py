"""The averaged weights by hand."""

import pytest
import torch

from bundle.models.ema import ExponentialMovingAverage


def test_warm_up_by_hand():
    network = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
    average = ExponentialMovingAverage(network.state_dict(), decay=0.9999)
    with torch.no_grad():
        network.weight.fill_(1.0)
    average.update(network.state_dict())  # decay (1 + 1) / (10 + 1) = 2/11
    assert average.weights["weight"].item() == pytest.approx(9 / 11)
    average.update(network.state_dict())  # decay 3/12 on what is left
    assert average.weights["weight"].item() == pytest.approx(1 - 2 / 11 * 3 / 12)


def test_decay_is_reached_and_never_exceeded():
    network = torch.nn.Linear(1, 1, bias=False)
    average = ExponentialMovingAverage(network.state_dict(), decay=0.5)
    average.updates = 1000
    start = average.weights["weight"].item()
    with torch.no_grad():
        network.weight.fill_(start + 1.0)
    average.update(network.state_dict())
    assert average.weights["weight"].item() == pytest.approx(start + 0.5)


def test_state_continues_exactly_and_counters_are_copied():
    network = torch.nn.BatchNorm1d(2)
    average, other = ExponentialMovingAverage(network.state_dict()), ExponentialMovingAverage(network.state_dict())
    for _ in range(3):
        network(torch.randn(4, 2))
        average.update(network.state_dict())
    other.load_state_dict(average.state_dict())
    assert other.updates == 3
    assert all(torch.equal(other.weights[name], average.weights[name]) for name in average.weights)
    assert average.weights["num_batches_tracked"].item() == 3


def test_impossible_decay_is_refused():
    with pytest.raises(ValueError, match="1.5"):
        ExponentialMovingAverage(torch.nn.Linear(1, 1).state_dict(), decay=1.5)
