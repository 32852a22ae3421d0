"""Eq. 4: each term against a closed form, the reduction against published sums, the gradient against autograd."""

import pytest
import torch

from bundle.artefacts import build_from_definition
from bundle.losses import AutoencoderLoss, adaptive_weight, hinge_discriminator_loss, kl_divergence, patch_logits
from bundle.networks.perceptual import PerceptualDistance


def test_kl_is_torchs():
    mean, std = torch.randn(5, 3, 4, 4), torch.rand(5, 3, 4, 4) + 0.1
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(kl_divergence(mean, std), expected.sum((1, 2, 3)))


def test_kl_stays_finite_for_a_vanishing_std():
    assert torch.isfinite(kl_divergence(torch.zeros(1, 2), torch.zeros(1, 2))).all()


def test_hinge_by_hand():
    real, generated = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    # real: relu(1-2)=0, relu(1-0)=1, mean 0.5; generated: relu(1-3)=0, relu(1+1)=2, mean 1.
    assert hinge_discriminator_loss(real, generated).item() == pytest.approx(0.5 * (0.5 + 1.0))


def test_mean_form_is_latent_diffusions_sum_form_divided_by_the_values():
    """sum(|x - x_hat| + p) / B + 1e-6 * KL, as published, is `values` times ours, whatever the patch size."""
    for size in (16, 32):
        images, reconstruction = torch.rand(4, 3, size, size), torch.rand(4, 3, size, size)
        mean, std = torch.randn(4, 3, size // 4, size // 4) * 5, torch.rand(4, 3, size // 4, size // 4) + 0.1
        perceptual = PerceptualDistance("random")
        distance = perceptual(images, reconstruction)
        published = ((images - reconstruction).abs() + distance.reshape(-1, 1, 1, 1)).sum() / 4
        published = published + 1e-6 * kl_divergence(mean, std).sum() / 4
        loss = AutoencoderLoss(perceptual, perceptual_weight=1.0, kl_weight=1e-6)
        values = 3 * size * size
        ours = loss.total_reconstruction(loss.reconstruction(images, reconstruction)) + loss.scaled_kl(
            mean, std, values
        )
        torch.testing.assert_close(ours * values, published, rtol=1e-4, atol=1e-4)


def small_networks():
    torch.manual_seed(0)
    autoencoder = build_from_definition(
        {
            "_target_": "AutoencoderKL", "spatial_dims": 2, "in_channels": 3, "out_channels": 3, "channels": [8, 8],
            "num_res_blocks": 1, "attention_levels": [False, False], "latent_channels": 2, "norm_num_groups": 4,
            "with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False,
        }
    )  # fmt: skip
    discriminator = build_from_definition(
        {
            "_target_": "PatchDiscriminator", "spatial_dims": 2, "in_channels": 3, "out_channels": 1, "channels": 8,
            "num_layers_d": 1,
        }
    )  # fmt: skip
    return autoencoder, discriminator


def test_gradient_is_that_of_the_written_out_loss():
    autoencoder, discriminator = small_networks()
    discriminator.eval()  # batch statistics must not move between the two computations
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    loss = AutoencoderLoss(PerceptualDistance("random"), adversarial_weight=0.5, kl_weight=1e-2)
    last = autoencoder.decoder.blocks[-1].conv.weight

    torch.manual_seed(1)
    reconstruction, mean, std = autoencoder(images)
    written_out = loss.total_reconstruction(loss.reconstruction(images, reconstruction))
    generator_loss = -patch_logits(discriminator, reconstruction).mean()
    norms = [torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (written_out, generator_loss)]
    weight = 0.5 * (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4 / images[0].numel()).detach()
    total = written_out + weight * generator_loss + 1e-2 * kl_divergence(mean, std).mean() / images[0].numel()
    expected = torch.autograd.grad(total, list(autoencoder.parameters()))

    torch.manual_seed(1)
    reconstruction, mean, std = autoencoder(images)
    terms = loss.backward(images, reconstruction, mean, std, last, discriminator)
    assert terms["adversarial_weight"].item() == pytest.approx(weight.item(), rel=1e-4)
    for parameter, gradient in zip(autoencoder.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert all(parameter.requires_grad for parameter in discriminator.parameters())


def test_adversarial_term_waits_for_its_step():
    loss = AutoencoderLoss(PerceptualDistance("random"), adversarial_start=10)
    assert not loss.adversarial(9) and loss.adversarial(10)
    assert not AutoencoderLoss(PerceptualDistance("random"), adversarial_weight=0.0).adversarial(10)


def test_adaptive_weight_is_cut_as_published():
    """Latent diffusion: clamp(|sum gradient| / (|g| + 1e-4), 0, 1e4); ours times `values` is that, cut or not."""
    weight = torch.ones(3, requires_grad=True)
    values = 100
    for size in (1e-3, 1e9):
        mean_gradient, other = torch.full((3,), size), torch.full((3,), 0.5)
        norms = [(2 * gradient).norm().item() for gradient in (mean_gradient * values, other)]
        published = min(norms[0] / (norms[1] + 1e-4), 1e4)
        ours = adaptive_weight(weight * 2, weight, mean_gradient, other, values).item()
        assert ours * values == pytest.approx(published, rel=1e-4)
