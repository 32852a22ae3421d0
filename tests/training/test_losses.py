"""Eq. 4 and 5: terms against closed forms, the reduction against published sums, the gradient against autograd."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from bundle.models.artefacts import build_from_definition
from bundle.models.perceptual import PerceptualDistance
from bundle.training.losses import (
    AutoencoderLoss,
    DecoderLoss,
    adaptive_weight,
    hinge_discriminator_loss,
    kl_divergence,
    patch_logits,
)


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
    assert terms["loss"].item() == pytest.approx(total.item(), rel=1e-4)
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


IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
LABELS = torch.tensor([0, 3, 1, 1])


class DecoderCase:
    """A decoder, what it is to be fine-tuned with, and the terms of Eq. 5 through one plain graph.

    The reconstruction is differentiable down to the decoder's weights; nothing here is taken from DecoderLoss.
    """

    def __init__(self, adversarial=False):
        self.autoencoder, discriminator = small_networks()
        torch.manual_seed(2)
        self.classifier = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
            torch.nn.Linear(8, 5),
        )  # fmt: skip
        self.discriminator = discriminator.eval() if adversarial else None
        self.loss = AutoencoderLoss(PerceptualDistance("random"), kl_weight=0.0)
        self.latents = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(4))
        self.parameters = [
            parameter
            for name, parameter in self.autoencoder.named_parameters()
            if name.startswith(("decoder.", "post_quant_conv."))
        ]
        self.last = self.autoencoder.decoder.blocks[-1].conv.weight

    def backward(self, *, classifier=None, images=IMAGES, **settings):
        """Terms and gradients of DecoderLoss."""
        self.autoencoder.zero_grad()
        reconstruction = self.autoencoder.decode(self.latents)
        terms = DecoderLoss(self.loss, **settings).backward(
            images, reconstruction, LABELS, classifier or self.classifier, self.last, self.discriminator
        )
        return terms, [parameter.grad for parameter in self.parameters]

    def plain(self, adversarial_weight=0.0):
        """(reconstruction with its weighted adversarial term, CE), as two scalars of one graph."""
        reconstruction = self.autoencoder.decode(self.latents)
        others = (IMAGES - reconstruction).abs().mean() + self.loss.perceptual(IMAGES, reconstruction).mean()
        if self.discriminator is not None:
            others = others - adversarial_weight * self.discriminator(reconstruction)[-1].mean()
        return others, cross_entropy(self.classifier(reconstruction), LABELS)

    def norm(self, term):
        return torch.autograd.grad(term, self.last, retain_graph=True)[0].norm().item()


def test_decoders_gradient_is_that_of_the_plain_sum():
    case = DecoderCase()
    others, ce = case.plain()
    expected = torch.autograd.grad(others + 0.7 * ce, case.parameters)
    terms, gradients = case.backward(ce_weight=0.7)
    assert terms["ce"].item() == pytest.approx(ce.item())
    assert terms["loss"].item() == pytest.approx((others + 0.7 * ce).item(), rel=1e-5)
    for gradient, written_out in zip(gradients, expected):
        torch.testing.assert_close(gradient, written_out, rtol=1e-4, atol=1e-7)
    encoder = [value for name, value in case.autoencoder.named_parameters() if name.startswith(("encoder.", "quant_"))]
    assert encoder and all(parameter.grad is None for parameter in encoder)


@pytest.mark.parametrize("adversarial", [False, True])
def test_ce_ratio_is_that_of_the_gradients_at_the_last_layer(adversarial):
    case = DecoderCase(adversarial)
    terms, _ = case.backward(ce_weight=0.7)
    others, ce = case.plain(terms["adversarial_weight"] if adversarial else 0.0)
    assert terms["ce_ratio"].item() == pytest.approx(0.7 * case.norm(ce) / (case.norm(others) + 1e-4), rel=1e-3)


@pytest.mark.parametrize("adversarial", [False, True])
@pytest.mark.parametrize("ce_weight", [0.2, 1.0])
def test_adaptive_balance_makes_the_ratio_the_weight(adversarial, ce_weight):
    case = DecoderCase(adversarial)
    terms, gradients = case.backward(ce_weight=ce_weight, balance="adaptive")
    assert terms["ce_ratio"].item() == pytest.approx(ce_weight, rel=1e-5)
    # What really arrived at the last layer besides the other terms: along the gradient of CE, and of that size.
    others, ce = case.plain(terms["adversarial_weight"] if adversarial else 0.0)
    other_gradient, ce_gradient = (torch.autograd.grad(term, case.last, retain_graph=True)[0] for term in (others, ce))
    place = next(number for number, parameter in enumerate(case.parameters) if parameter is case.last)
    added = gradients[place] - other_gradient
    assert (added.norm() / other_gradient.norm()).item() == pytest.approx(ce_weight, rel=0.01)
    assert torch.cosine_similarity(added.flatten(), ce_gradient.flatten(), dim=0) > 0.999


def test_adaptive_balance_survives_a_classifier_that_sees_nothing():
    case = DecoderCase()
    blind = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 5))
    torch.nn.init.zeros_(blind[1].weight)
    terms, gradients = case.backward(classifier=blind, balance="adaptive")
    assert terms["ce_ratio"] == 0.0
    others, _ = case.plain()
    for gradient, expected in zip(gradients, torch.autograd.grad(others, case.parameters)):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def test_without_weight_the_classifier_is_never_asked():
    def asked(images):
        raise AssertionError("the classifier was called")

    case = DecoderCase()
    for balance in ("fixed", "adaptive"):
        terms, gradients = case.backward(classifier=asked, ce_weight=0.0, balance=balance)
        assert terms.keys() == {"loss", "l1", "perceptual"}
        others, _ = case.plain()
        for gradient, expected in zip(gradients, torch.autograd.grad(others, case.parameters)):
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def test_eq_5_leaves_classifier_and_discriminator_alone():
    case = DecoderCase(adversarial=True)
    networks = {"classifier": case.classifier, "discriminator": case.discriminator}
    before = {name: [tensor.clone() for tensor in part.state_dict().values()] for name, part in networks.items()}
    case.backward()
    for name, network in networks.items():
        assert all(parameter.grad is None for parameter in network.parameters()), name
        assert all(map(torch.equal, before[name], network.state_dict().values())), name


def test_terms_of_the_decoder_are_means():
    """An image four times as large, of four times the same content, has the same terms and the same gradient."""
    torch.manual_seed(0)
    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    loss = DecoderLoss(AutoencoderLoss(PerceptualDistance("random"), perceptual_weight=0.0), ce_weight=0.5)
    latents = torch.randn(4, 2, 16, 16)
    found = []
    for tiles in (1, 2):
        torch.manual_seed(1)
        decoder = torch.nn.Conv2d(2, 3, 1)  # sees one position, so that a tile's neighbours make no difference
        images, reconstruction = IMAGES.tile(1, 1, tiles, tiles), decoder(latents.tile(1, 1, tiles, tiles))
        terms = loss.backward(images, reconstruction, LABELS, pool, decoder.weight, None)
        found.append((terms, decoder.weight.grad))
    (small, small_gradient), (large, large_gradient) = found
    assert small.keys() == {"loss", "l1", "ce", "ce_ratio"}
    for name, term in small.items():
        torch.testing.assert_close(large[name], term, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(large_gradient, small_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"ce_weight": -0.1}, "--decoder#loss#ce_weight is -0.1; it must be 0 or more"),
        ({"balance": "even"}, "--decoder#loss#balance is 'even'; it must be one of fixed, adaptive"),
    ],
)
def test_decoder_loss_refuses_by_the_flags_name(settings, message):
    with pytest.raises(ValueError, match=message):
        DecoderLoss(AutoencoderLoss(PerceptualDistance("random")), **settings)
