"""The best weights so far: kept as they were, across a restart, and when enough is enough."""

import math

import pytest
import torch

from bundle.training.best import BestWeights


def after(losses, patience=None):
    best = BestWeights(patience)
    for number, loss in enumerate(losses, 1):
        best.update(loss, 10 * number, {"weight": torch.full((2,), float(number))})
    return best


def test_lowest_loss_is_kept_wherever_it_came():
    best = after([0.9, 0.4, 0.6, 0.5])
    assert (best.loss, best.step, best.misses) == (0.4, 20, 2)
    assert best.weights["weight"].tolist() == [2.0, 2.0]


def test_weights_are_a_copy():
    network = torch.nn.Linear(3, 2)
    best = BestWeights()
    best.update(1.0, 1, network.state_dict())
    before = network.weight.detach().clone()
    with torch.no_grad():
        network.weight.mul_(2).add_(1)  # as an optimiser and an average change theirs
    best.update(2.0, 2, network.state_dict())
    assert torch.equal(best.weights["weight"], before) and not best.weights["weight"].requires_grad


def test_patience_counts_validations_since_the_best():
    assert [after([5, 4, 4.5, 4.2][:count], patience=2).exhausted for count in range(5)] == [False] * 4 + [True]
    assert not after([5, 4, 4.5, 3.9, 4.5], patience=2).exhausted, "an improvement starts the count again"


def test_an_equal_loss_is_no_improvement():
    best = after([4.0, 4.0, 4.0], patience=2)
    assert best.exhausted and best.step == 10 and best.weights["weight"].tolist() == [1.0, 1.0]


def test_without_patience_it_never_ends():
    assert not after([1.0] + [2.0] * 1000).exhausted


def test_a_loss_that_is_no_number_is_no_improvement():
    best = after([math.nan, 3.0, math.nan], patience=2)
    assert (best.loss, best.step, best.misses) == (3.0, 20, 1)


@pytest.mark.parametrize("patience", [0, -3])
def test_patience_below_one_is_refused(patience):
    with pytest.raises(ValueError, match=f"--patience is {patience}; it must be at least 1, or None"):
        BestWeights(patience)


def test_state_survives_a_file(tmp_path):
    before, path = after([0.9, 0.4, 0.6], patience=2), tmp_path / "state.pt"
    torch.save(before.state_dict(), path)
    restored = BestWeights(2)
    restored.load_state_dict(torch.load(path, weights_only=True))
    assert (restored.loss, restored.step, restored.misses) == (0.4, 20, 1)
    assert torch.equal(restored.weights["weight"], before.weights["weight"])
    for best in (before, restored):
        best.update(0.5, 40, {"weight": torch.zeros(2)})
        assert best.exhausted and best.weights["weight"].tolist() == [2.0, 2.0]


def test_state_before_the_first_validation_survives_too(tmp_path):
    torch.save(BestWeights(1).state_dict(), tmp_path / "state.pt")
    restored = BestWeights(1)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    restored.update(7.0, 5, {"weight": torch.ones(1)})
    assert (restored.loss, restored.step, restored.exhausted) == (7.0, 5, False)
