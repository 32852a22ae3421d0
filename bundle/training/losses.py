"""Eq. 4 and 5 of HistoDiffusion (arXiv 2308.04020): losses of the latent autoencoder and its fine-tuned decoder.

L = L_reconstruction + L_adversarial + L_KL as latent diffusion has it (Rombach et al., arXiv 2112.10752, Eq. 25;
CompVis, ldm/modules/losses/contperceptual.py). There the reconstruction is a *sum* over an image's values and the KL
term a sum over its latents. Here everything is divided by the number of values of an image, so that reconstruction
is a mean; dividing the KL term by the same number keeps the published weight, 1e-6, meaning what it meant.

Where several processes share a batch, terms are means over the rows of this process. Gradients are those of the mean
over the whole batch, as far as these rows have a part in it; summed over processes they are the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as functional

from bundle.models.perceptual import PerceptualDistance
from bundle.runs.job import summed
from bundle.runs.shares import Part, add_means


def kl_divergence(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, std²) || N(0, 1)) of each item, summed over its latents: fp32 [B].

    Kingma & Welling (arXiv 1312.6114), Appendix B: 0.5 * sum(mean² + std² - 1 - log std²).
    """
    mean, std = mean.float(), std.float()
    # MONAI clamps log variance to [-30, 20]; the tiny bound only guards a std that bf16 rounded to zero.
    log_variance = 2 * std.clamp(min=1e-7).log()
    return 0.5 * (mean.square() + std.square() - 1 - log_variance).flatten(1).sum(1)


def hinge_discriminator_loss(real_logits: torch.Tensor, generated_logits: torch.Tensor) -> torch.Tensor:
    """0.5 * (mean relu(1 - D(x)) + mean relu(1 + D(x_hat))) on raw logits; Lim & Ye (arXiv 1705.02894), taming's form.

    MONAI's PatchAdversarialLoss puts a tanh before the hinge, which saturates it; hence this one.
    """
    return 0.5 * (functional.relu(1 - real_logits).mean() + functional.relu(1 + generated_logits).mean())


class AutoencoderLoss:
    """The autoencoder's loss and its gradient, one backward pass through each network.

    Args:
        perceptual: frozen perceptual distance.
        perceptual_weight: weight of the perceptual term (1.0 in latent diffusion).
        kl_weight: weight of the KL term in latent diffusion's sum form (1e-6 there).
        adversarial_weight: factor of the adaptive adversarial weight (0.5 there).
        adversarial_start: step at which the adversarial term begins (50,001 there).
    """

    def __init__(
        self,
        perceptual: PerceptualDistance,
        perceptual_weight: float = 1.0,
        kl_weight: float = 1e-6,
        adversarial_weight: float = 0.5,
        adversarial_start: int = 0,
    ) -> None:
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight
        self.kl_weight = kl_weight
        self.adversarial_weight = adversarial_weight
        self.adversarial_start = adversarial_start

    def adversarial(self, step: int) -> bool:
        """Whether the adversarial term and the discriminator are active at this step (counted from 1)."""
        return self.adversarial_weight > 0 and step >= self.adversarial_start

    def reconstruction(self, images: torch.Tensor, reconstruction: torch.Tensor) -> dict[str, torch.Tensor]:
        """The two reconstruction terms, each a mean over values or images. Inputs fp32 [B, 3, H, W] in [-1, 1]."""
        terms = {"l1": (images - reconstruction).abs().mean()}
        if self.perceptual_weight > 0:
            terms["perceptual"] = self.perceptual(images, reconstruction).mean()
        return terms

    def total_reconstruction(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        """mean |x - x_hat| + perceptual_weight * mean distance: latent diffusion's nll over the values of an image."""
        return terms["l1"] + self.perceptual_weight * terms.get("perceptual", 0.0)

    def total(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        """What is minimised, of the terms of a step."""
        adversarial = terms.get("adversarial_weight", 0.0) * terms.get("adversarial", 0.0)
        return self.total_reconstruction(terms) + adversarial + terms.get("kl", 0.0)

    def scaled_kl(self, mean: torch.Tensor, std: torch.Tensor, values: int) -> torch.Tensor:
        """kl_weight * (KL summed over latents) / `values`, the number of values of an image (3 * H * W)."""
        return self.kl_weight * kl_divergence(mean, std).mean() / values

    def backward(
        self,
        images: torch.Tensor,
        reconstruction: torch.Tensor,
        mean: torch.Tensor,
        std: torch.Tensor,
        last_layer: torch.Tensor,
        discriminator: torch.nn.Module | None,
        part: Part | None = None,
    ) -> dict[str, torch.Tensor]:
        """Accumulates d L / d weights of the autoencoder and returns the terms, detached scalars.

        Args:
            images: x, fp32 [B, 3, H, W] in [-1, 1].
            reconstruction: x_hat, same shape, with its graph.
            mean, std: posterior [B, C, h, w], with their graph.
            last_layer: weight of the decoder's last convolution.
            discriminator: the patch discriminator, or None while the adversarial term is off.
            part: the rows of the batch that these are; None for all.
        """
        part = part or whole(images)
        terms, gradient = self.gradient(images, reconstruction, last_layer, discriminator, [part])
        terms["kl"] = self.backward_posterior(reconstruction, mean, std, gradient, part)
        return {name: term.detach() for name, term in {"loss": self.total(terms), **terms}.items()}

    def backward_posterior(
        self, reconstruction: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, gradient: torch.Tensor, part: Part
    ) -> torch.Tensor:
        """Passes the gradient at a reconstruction, and that of the KL term, through the autoencoder; the KL term."""
        kl = self.scaled_kl(mean, std, reconstruction[0].numel())
        torch.autograd.backward([reconstruction, part.weight * kl], [gradient.to(reconstruction.dtype), None])
        return kl.detach()

    def gradient(
        self,
        images: torch.Tensor,
        reconstruction: torch.Tensor,
        last_layer: torch.Tensor,
        discriminator: torch.nn.Module | None,
        parts: Sequence[Part],
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The reconstruction and adversarial terms, and their weighted gradient with regard to the reconstruction.

        The adaptive weight needs the gradients of both terms at the decoder's last layer. Each loss is differentiated
        only as far as the reconstruction; those gradients go through the last layer for the two norms and, combined,
        once through the whole autoencoder. So the perceptual network and the discriminator are passed backward once,
        not twice. Arguments as of :meth:`backward`, but for

        parts: of these rows, those that go through the perceptual network at once. The discriminator has all at once,
            for its batch norm, and is small.
        """

        def terms_and_loss(images: torch.Tensor, seen: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
            terms = self.reconstruction(images, seen)
            return terms, self.total_reconstruction(terms)

        terms, gradient = gradient_in_parts(terms_and_loss, parts, images, reconstruction)
        if discriminator is not None:
            seen = reconstruction.detach().float().requires_grad_(True)
            discriminator.requires_grad_(False)
            generator_loss = -patch_logits(discriminator, seen).mean()
            discriminator.requires_grad_(True)
            weight_of_rows = sum(part.weight for part in parts)
            adversarial_gradient = torch.autograd.grad(weight_of_rows * generator_loss, seen)[0]
            weight = self.adversarial_weight * adaptive_weight(
                reconstruction, last_layer, gradient, adversarial_gradient, images[0].numel()
            )
            gradient = gradient + weight * adversarial_gradient
            terms |= {"adversarial": generator_loss, "adversarial_weight": weight}
        return terms, gradient


class DecoderLoss:
    """Eq. 5: L_reconstruction + lambda_CE * CE(phi_img(x_hat), y), for the decoder alone.

    The paper gives lambda_CE = 1 without saying how its reconstruction is reduced. Here all terms are means; a sum over
    an image's values would make the classification term invisible. What share it has is a figure, not a guess: the
    terms hold "ce_ratio", the norm of its weighted gradient over that of the others, both at the decoder's last layer.

    Args:
        reconstruction: the reconstruction and adversarial terms, as in pre-training.
        ce_weight: lambda_CE.
        balance: "fixed" (the paper), or "adaptive": lambda_CE times the ratio of the two gradients' norms, as the
            adversarial term is weighted (VQGAN, arXiv 2012.09841, Eq. 7), so that "ce_ratio" is lambda_CE.

    Raises:
        ValueError: a negative weight or an unknown balance.
    """

    def __init__(self, reconstruction: AutoencoderLoss, ce_weight: float = 1.0, balance: str = "fixed") -> None:
        if ce_weight < 0:
            raise ValueError(f"--decoder#loss#ce_weight is {ce_weight}; it must be 0 or more")
        if balance not in ("fixed", "adaptive"):
            raise ValueError(f"--decoder#loss#balance is {balance!r}; it must be one of fixed, adaptive")
        self.reconstruction = reconstruction
        self.ce_weight = ce_weight
        self.balance = balance

    def backward(
        self,
        images: torch.Tensor,
        reconstruction: torch.Tensor,
        labels: torch.Tensor,
        classifier: torch.nn.Module,
        last_layer: torch.Tensor,
        discriminator: torch.nn.Module | None,
        parts: Sequence[Part] = (),
    ) -> dict[str, torch.Tensor]:
        """Accumulates d L / d weights of the decoder and returns the terms, detached scalars.

        Args:
            images, reconstruction, last_layer, discriminator: as of :meth:`AutoencoderLoss.backward`.
            labels: y, int64 [B].
            classifier: phi_img, frozen and in evaluation mode: images [B, 3, H, W] in [-1, 1] -> logits [B, classes].
            parts: as of :meth:`AutoencoderLoss.gradient`; none for all rows of the batch at once.
        """
        terms, gradient = self.gradient(
            images, reconstruction, labels, classifier, last_layer, discriminator, parts or [whole(images)]
        )
        torch.autograd.backward(reconstruction, gradient.to(reconstruction.dtype))
        return terms

    def gradient(
        self,
        images: torch.Tensor,
        reconstruction: torch.Tensor,
        labels: torch.Tensor,
        classifier: torch.nn.Module,
        last_layer: torch.Tensor,
        discriminator: torch.nn.Module | None,
        parts: Sequence[Part],
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The terms, detached, and their gradient with regard to the reconstruction; see :meth:`backward`."""

        def terms_and_loss(labels: torch.Tensor, seen: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
            loss = functional.cross_entropy(classifier(seen).float(), labels)
            return {"ce": loss}, loss

        terms, gradient = self.reconstruction.gradient(images, reconstruction, last_layer, discriminator, parts)
        loss = self.reconstruction.total(terms)
        if self.ce_weight > 0:
            ce_terms, ce_gradient = gradient_in_parts(terms_and_loss, parts, labels, reconstruction)
            terms |= ce_terms
            ratio = gradient_ratio(reconstruction, last_layer, ce_gradient, gradient)
            weight = self.ce_weight / ratio.clamp(min=1e-4) if self.balance == "adaptive" else self.ce_weight
            terms["ce_ratio"] = weight * ratio
            gradient = gradient + weight * ce_gradient
            loss = loss + weight * terms["ce"]
        return {name: term.detach() for name, term in {"loss": loss, **terms}.items()}, gradient


def whole(images: torch.Tensor) -> Part:
    """All rows of a batch."""
    return Part(0, len(images), len(images))


def gradient_in_parts(
    terms_and_loss: Callable[..., tuple[dict[str, torch.Tensor], torch.Tensor]],
    parts: Sequence[Part],
    given: torch.Tensor,
    reconstruction: torch.Tensor,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Terms of a loss of reconstructions, means over all rows, and its gradient there, each part of the rows by itself.

    Args:
        terms_and_loss: (rows of `given`, rows of reconstructions) -> terms and the loss, means over rows.
        parts: which rows of the batch these are, in order.
        given: [B, ...], what belongs to each reconstruction.
        reconstruction: [B, 3, H, W].

    Returns:
        the terms, and the part that these rows have in the gradient of the mean over the whole batch, [B, 3, H, W].
    """
    counts = [part.count for part in parts]
    seen = reconstruction.detach().float()
    total: dict[str, torch.Tensor] = {}
    gradients = []
    for part, rows, made in zip(parts, given.split(counts), seen.split(counts)):
        made = made.requires_grad_(True)
        terms, loss = terms_and_loss(rows, made)
        gradients.append(torch.autograd.grad(part.weight * loss, made)[0])
        total = add_means(total, terms, part.count / len(seen))
    return total, torch.cat(gradients)


def adaptive_weight(
    reconstruction: torch.Tensor,
    last_layer: torch.Tensor,
    gradient: torch.Tensor,
    adversarial_gradient: torch.Tensor,
    values: int,
) -> torch.Tensor:
    """Norm of the reconstruction gradient over that of the adversarial one, both at the last layer.

    Esser, Rombach & Ommer, VQGAN (arXiv 2012.09841) Eq. 7, with latent diffusion's 1e-4 in the divisor. There the
    reconstruction is a sum over an image's `values` and the ratio is cut at 1e4; here it is a mean, so the ratio is so
    many times smaller and cut at 1e4 / values: the same loss but for a common factor.
    """
    ratio = gradient_ratio(reconstruction, last_layer, gradient, adversarial_gradient)
    return ratio.clamp(0, 1e4 / values)


def gradient_ratio(
    reconstruction: torch.Tensor, last_layer: torch.Tensor, above: torch.Tensor, below: torch.Tensor
) -> torch.Tensor:
    """||d above|| / (||d below|| + 1e-4) at the last layer, of two gradients with regard to the reconstruction.

    The norms are those of the whole batch, whose gradient is the sum over processes.
    """
    norms = [
        summed(torch.autograd.grad(reconstruction, last_layer, side.to(reconstruction.dtype), retain_graph=True)[0])
        for side in (above, below)
    ]
    return (norms[0].float().norm() / (norms[1].float().norm() + 1e-4)).detach()


def patch_logits(discriminator: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Raw logits [B, 1, h, w] in fp32. MONAI's PatchDiscriminator returns every layer's output, logits last."""
    return discriminator(images)[-1].float()
