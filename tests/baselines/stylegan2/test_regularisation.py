"""Regularisers against closed forms, and the controller of the augmentation."""

import functools
import math

import pytest
import torch

from bundle.baselines.stylegan2.regularisation import (
    AdaptiveAugmentation,
    PathLengthPenalty,
    lazy_optimizer,
    path_lengths,
)


def test_path_lengths_of_a_linear_generator(monkeypatch):
    """G(w) = A w has the Jacobian A, so the length is |A^T y| for y = noise over the root of the pixels."""
    torch.manual_seed(0)
    matrix = torch.randn(3 * 4 * 4, 5)
    noise = torch.randn(2, 3, 4, 4)
    monkeypatch.setattr(torch, "randn_like", lambda images: noise)
    styles = torch.randn(2, 1, 5, requires_grad=True)
    images = (styles[:, 0] @ matrix.T).view(2, 3, 4, 4)
    expected = (noise.flatten(1) / 4 @ matrix).norm(dim=1)
    assert torch.allclose(path_lengths(images, styles), expected, atol=1e-5)
    # A second layer that the images don't depend on halves the mean square.
    styles = torch.randn(2, 2, 5, requires_grad=True)
    images = (styles[:, 0] @ matrix.T).view(2, 3, 4, 4)
    assert torch.allclose(path_lengths(images, styles), expected / math.sqrt(2), atol=1e-5)


def test_expected_path_length_of_an_orthogonal_generator():
    """E |A^T y|^2 = |A|^2 / (S S) over many draws of y, and the penalty's gradient reaches the generator."""
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.linalg.qr(torch.randn(3 * 8 * 8, 16)).Q)
    styles = torch.randn(4000, 1, 16, requires_grad=True)
    lengths = path_lengths((styles[:, 0] @ matrix.T).view(-1, 3, 8, 8), styles)
    assert lengths.square().mean().item() == pytest.approx(16 / 64, rel=0.03)
    PathLengthPenalty()(lengths).backward()
    assert matrix.grad.abs().max() > 0


def test_the_penalty_is_of_the_distance_to_the_moving_average():
    penalty = PathLengthPenalty()
    assert penalty(torch.tensor([2.0, 4.0])).item() == pytest.approx(((2 - 0.03) ** 2 + (4 - 0.03) ** 2) / 2)
    assert penalty.mean == pytest.approx(0.03)
    for _ in range(1000):
        penalty(torch.tensor([2.0, 4.0]))
    assert penalty.mean == pytest.approx(3, rel=1e-3)
    again = PathLengthPenalty()
    again.load_state_dict(penalty.state_dict())
    assert again.mean == penalty.mean


def test_lazy_regularisation_slows_the_optimiser():
    make = functools.partial(torch.optim.Adam, lr=0.1, betas=[0.0, 0.99])
    assert lazy_optimizer(make, None) == {"lr": 0.1, "betas": (0.0, 0.99)}
    settings = lazy_optimizer(make, 4)
    assert settings["lr"] == pytest.approx(0.08) and settings["betas"] == pytest.approx((0.0, 0.99**0.8))
    # Five updates forget as much of the past as four did.
    assert settings["betas"][1] ** 5 == pytest.approx(0.99**4)


def logits(sign_mean, count=100):
    positive = round(count * (1 + sign_mean) / 2)
    return torch.cat([torch.ones(positive), -torch.ones(count - positive)]) * 3


def test_the_augmentation_rises_when_the_discriminator_overfits_and_falls_again():
    control = AdaptiveAugmentation(target=0.6, images=10_000, interval=4)
    for _ in range(3):
        control.observe(logits(0.9))
    assert control.probability == 0, "only every fourth batch"
    control.observe(logits(0.9))
    assert control.overfitting == pytest.approx(0.9)
    assert control.probability == pytest.approx(4 * 100 / 10_000)
    for _ in range(36):
        control.observe(logits(0.9))
    assert control.probability == pytest.approx(0.4)
    for _ in range(8):
        control.observe(logits(0.1))
    assert control.probability == pytest.approx(0.32)
    for _ in range(4000):
        control.observe(logits(-1.0))
    assert control.probability == 0
    for _ in range(400):
        control.observe(logits(1.0))
    assert control.probability == 0.8, "the maximum"


def test_the_controller_finds_the_probability_of_its_target():
    """A discriminator that overfits less the more is augmented: r = 1 - p, so r = 0.6 at p = 0.4."""
    control = AdaptiveAugmentation(target=0.6, images=50_000)
    for _ in range(4000):
        control.observe(logits(1 - control.probability, 1000)[torch.randperm(1000)[:100]])
    assert control.probability == pytest.approx(0.4, abs=0.06)


def test_a_resumed_controller_goes_on_in_the_middle_of_its_interval():
    one, other = AdaptiveAugmentation(images=1000), AdaptiveAugmentation(images=1000)
    for sign in (0.9, 0.8, 0.2):
        one.observe(logits(sign))
    other.load_state_dict(one.state_dict())
    for control in (one, other):
        control.observe(logits(0.9))
    assert other.probability == one.probability > 0 and one.overfitting == pytest.approx(0.7)


def test_without_a_target_nothing_is_augmented():
    control = AdaptiveAugmentation(target=None)
    images = torch.randn(4, 3, 8, 8)
    for _ in range(8):
        control.observe(logits(1.0))
    assert control(images) is images and control.probability == 0


def test_each_operation_is_applied_to_its_share_of_images():
    control = AdaptiveAugmentation(images=1000)
    torch.manual_seed(0)
    images = torch.rand(2000, 3, 8, 8) - 0.5
    assert control(images) is images
    control.probability = 0.3
    unchanged = (control(images) == images).flatten(1).all(1).float().mean().item()
    # One of eight orientations and one of nine shifts (of one pixel each way) leave an image as it is.
    assert unchanged == pytest.approx((1 - 0.3 * 7 / 8) * (1 - 0.3 * 8 / 9) * 0.7, abs=0.04)


def test_augmentation_passes_the_gradient_on():
    control = AdaptiveAugmentation()
    control.probability = 0.8
    torch.manual_seed(0)
    images = (torch.rand(16, 3, 8, 8) - 0.5).requires_grad_()
    control(images).sum().backward()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    "settings, message",
    [({"target": 1.5}, "--train#augmentation#target is 1.5"), ({"maximum": 2}, "--train#augmentation#maximum is 2")],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveAugmentation(**settings)
