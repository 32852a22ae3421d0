"""The losses of both baselines against closed forms."""

import pytest
import torch

from bundle.baselines.losses import discriminator_loss, generator_loss, gradient_penalty


def test_the_adversarial_losses_are_cross_entropies():
    real, generated = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    probability = lambda scores: scores.sigmoid()  # noqa: E731
    expected = -(probability(real).log().mean() + (1 - probability(generated)).log().mean())
    assert torch.allclose(discriminator_loss(real, generated), expected)
    assert torch.allclose(generator_loss(generated), -probability(generated).log().mean())


def test_r1_on_a_quadratic_discriminator():
    """D(x) = a |x|^2 / 2 + b sum x has the gradient a x + b, so R1 is half its mean square norm, and its own follow."""
    a, b = torch.tensor(0.7, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    penalty = gradient_penalty(lambda x: (a / 2 * x.square() + b * x).flatten(1).sum(1), images)
    slope = 0.7 * images + 0.3
    assert penalty.item() == pytest.approx(0.5 * slope.square().sum().item() / 4, rel=1e-5)
    penalty.backward()
    assert a.grad.item() == pytest.approx((slope * images).sum().item() / 4, rel=1e-5)
    assert b.grad.item() == pytest.approx(slope.sum().item() / 4, rel=1e-5)
