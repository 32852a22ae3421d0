"""Dynamic weights, gates and augmentation of the unified ViT-cGAN, against closed forms and cases by hand."""

import math

import pytest
import torch
from torch import nn

from bundle.baselines.vit_cgan.augmentation import Augmentation
from bundle.baselines.vit_cgan.selection import SelectiveAugmentation
from bundle.baselines.vit_cgan.weighting import (
    DynamicAverageWeighting,
    GradientNormWeighting,
    LossWeighting,
    UncertaintyWeighting,
)

NAMES = ("real", "generated")


def losses(*values):
    return {name: torch.tensor(float(value)) for name, value in zip(NAMES, values)}


def test_uncertainty_weights_come_to_the_losses_themselves():
    """At the optimum sigma² = L, where the weight is 1 / (2 L) and the sum is half of 1 + log L for each."""
    weighting = UncertaintyWeighting(NAMES)
    given = losses(0.25, 4.0)
    optimizer = torch.optim.LBFGS(weighting.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weighting(given)
        loss.backward()
        return loss

    optimizer.step(closure)
    for name, value in given.items():
        assert weighting.log_variances[name].exp().item() == pytest.approx(value.item(), rel=1e-3)
        assert weighting.weights()[name].item() == pytest.approx(1 / (2 * value.item()), rel=1e-3)
    assert weighting(given).item() == pytest.approx(0.5 * (2 + math.log(0.25) + math.log(4)), abs=1e-5)


def test_uncertainty_by_hand_and_its_gradients():
    weighting = UncertaintyWeighting(NAMES)
    loss = torch.tensor(3.0, requires_grad=True)
    with torch.no_grad():
        weighting.log_variances["real"].fill_(math.log(2))
    total = weighting({"real": loss})
    assert total.item() == pytest.approx(3 / (2 * 2) + 0.5 * math.log(2))
    total.backward()
    assert loss.grad.item() == pytest.approx(0.25)
    assert weighting.log_variances["real"].grad.item() == pytest.approx((1 - 3 / 2) / 2)
    assert weighting.log_variances["generated"].grad is None, "an absent loss leaves its weight"


def test_a_loss_near_nothing_does_not_count_beyond_measure():
    weighting = UncertaintyWeighting(NAMES)
    with torch.no_grad():
        weighting.log_variances["real"].fill_(-50)
    weighting(losses(1e-9))
    assert weighting.weights()["real"].item() == pytest.approx(10, rel=1e-5)


def test_dynamic_averages_by_hand():
    weighting = DynamicAverageWeighting(NAMES, interval=2)
    for values in ((4, 1), (2, 3)):  # means 3 and 2
        assert weighting(losses(*values)).item() == sum(values)
    for values in ((1, 2), (2, 2)):  # means 1.5 and 2: ratios 0.5 and 1
        assert weighting(losses(*values)).item() == sum(values)
    raised = [math.exp(0.5 / 2), math.exp(1 / 2)]
    expected = [2 * value / sum(raised) for value in raised]
    assert [weight.item() for weight in weighting.weights().values()] == pytest.approx(expected)
    assert weighting(losses(10, 1)).item() == pytest.approx(10 * expected[0] + expected[1])
    weighting(losses(1))  # the second loss was there once in this interval
    assert weighting.last.tolist() == pytest.approx([5.5, 1.0])
    for _ in range(2):
        weighting(losses(1))
    assert [weight.item() for weight in weighting.weights().values()] == [1, 1], "one was absent for an interval"


def test_gradient_norms_by_hand():
    shared = nn.Parameter(torch.tensor([1.0, 0.0]))
    weighting = GradientNormWeighting(NAMES, alpha=1.0, rate=0.1)

    def both():
        return {"real": 3 * shared[0] ** 2, "generated": 2 * shared[0]}

    assert weighting(both(), shared).item() == pytest.approx(5)
    # Norms 6 and 2, both losses as at first: the target is 4 for each, so weights go 1 -+ 0.1 * norm, then to mean 1.
    moved = torch.tensor([1 - 0.6, 1 + 0.2])
    expected = moved / moved.mean()
    assert torch.allclose(weighting.present, expected)
    with torch.no_grad():
        shared.copy_(torch.tensor([0.8, 0.0]))
    # Now 0.64 and 0.8 of the first losses; norms 4.8 and 2, times weights 2.4 and 3: the mean is 2.7, and the targets
    # are 2.7 * 0.64 / 0.72 = 2.4 and 2.7 * 0.8 / 0.72 = 3 for alpha 1; for alpha 2 they are 2.13 and 3.33.
    weighting.alpha = 2.0
    weighting(both(), shared)
    again = torch.tensor([0.5 - 0.1 * 4.8, 1.5 + 0.1 * 2])
    assert torch.allclose(weighting.present, again / again.mean(), atol=1e-5)
    before = weighting.present.clone()
    weighting({"real": both()["real"]}, shared)
    assert torch.equal(weighting.present, before), "an absent loss leaves the weights"
    assert shared.grad is None


def test_fixed_weights_stay():
    weighting = LossWeighting(NAMES)
    assert weighting(losses(2, 5)).item() == 7 and not list(weighting.parameters())


@pytest.mark.parametrize("kind", [UncertaintyWeighting, DynamicAverageWeighting, GradientNormWeighting, LossWeighting])
def test_what_was_learned_survives_a_checkpoint(kind):
    shared = nn.Parameter(torch.tensor(1.0))

    def step(weighting, factor):
        optimizer = torch.optim.SGD([*weighting.parameters(), nn.Parameter(torch.zeros(()))], lr=0.1)
        total = weighting({"real": factor * shared**2, "generated": 2 * shared}, shared)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return total.item()

    settings = {"interval": 1} if kind is DynamicAverageWeighting else {}
    whole, first, second = (kind(NAMES, **settings) for _ in range(3))
    for factor in (3, 2):
        assert step(whole, factor) == step(first, factor)
    second.load_state_dict(first.state_dict())
    for factor in (1, 4, 5):
        assert step(whole, factor) == step(second, factor)


# Three images of class 0, of which the teacher is sure to degrees, and scores beside four real images'.
LABELS = torch.tensor([0, 0, 1, 1])
SURE = torch.tensor([[0.95, 0.05], [0.6, 0.4], [0.05, 0.95], [0.02, 0.98]])
SCORES = torch.tensor([3.0, 9.0, 0.0, 2.5])
REAL = torch.tensor([1.0, 2.0, 3.0, 4.0])


def chosen(scores=SCORES, **settings):
    return SelectiveAugmentation(**settings).choose(SURE, LABELS, scores, REAL).tolist()


def test_an_image_must_pass_both_gates():
    """The second is unsure, however real it looks; the third looks unreal, however sure it is."""
    assert chosen() == [True, False, False, True]
    assert chosen(confidence=0.5) == [True, True, False, True]
    assert chosen(realism_quantile=0.0) == [True, False, False, True], "the least of the real images is the limit"
    assert chosen(realism_quantile=0.0, scores=SCORES + 1) == [True, False, True, True]
    assert chosen(realism_quantile=0.75) == [False, False, False, False]  # 3.25
    assert chosen(confidence=0.96, realism_quantile=0.25) == [False, False, False, True]


def test_the_cap_takes_the_most_real_ones():
    assert chosen(maximum_generated=0.25) == [True, False, False, False]
    assert chosen(maximum_generated=0.25, confidence=0.5) == [False, True, False, False]
    assert chosen(maximum_generated=0.5, confidence=0.5) == [True, True, False, False]
    assert chosen(maximum_generated=0.0, confidence=0.5) == [False] * 4


def test_gradients_pass_through_all_of_it_to_each_image_alone():
    augmentation = Augmentation("density, translation, cutout")
    images = (torch.rand(2, 3, 16, 16) * 1.8 - 0.9).requires_grad_(True)
    seen = augmentation(images)
    assert seen.shape == images.shape
    gradient = torch.autograd.grad(seen[0].sum(), images)[0]
    assert gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0
    assert torch.equal(Augmentation("")(images), images) and torch.equal(Augmentation([])(images), images)


def test_bad_augmentations_are_refused():
    with pytest.raises(ValueError, match="--augmentation names 'flip'; .* density, translation, cutout"):
        Augmentation("density,flip")
    with pytest.raises(ValueError, match="--train#augmentation#density_scale is 1"):
        Augmentation("density", 1)
    with pytest.raises(ValueError, match="--weighting#options#dynamic_average#interval is 0"):
        DynamicAverageWeighting(NAMES, interval=0)
