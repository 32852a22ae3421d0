"""Classifier guidance: the scaled gradient of log p(y | z_t, t) that a sampler adds to its step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


class ClassifierGuidance:
    """g times the gradient of log p(y | z_t, t) with respect to z_t, for one batch (Dhariwal & Nichol,
    arXiv 2105.05233, Section 4; Ye et al., arXiv 2308.04020, Eq. 7).

    A sampler passes t as a plain integer, so that the interval is decided without waiting for the device.

    Args:
        classifier: (z_t [B, ...], t int64 [B]) -> logits [B, K]. It gets the original t, 0 to T - 1. A module must be
            in evaluation mode; its parameters are frozen here, for good.
        labels: the class y of each image, int64 [B], on the latents' device.
        scale: g >= 0, one for all or a tensor [B] on their device. A float 0 never calls the classifier.
        interval: lowest and highest t with guidance, both included (cf. Kynkäänniemi et al., arXiv 2404.07724, who
            state theirs in noise levels). None: every t.
        maximum_norm: upper limit of the ratio g sqrt(1 - alpha_bar_t) |gradient| / |epsilon| of an image: a larger
            gradient keeps its direction and is shortened. None: no limit.
        temperature: what the logits are divided by, > 0.
        ratios: a list that receives (t, ratio of each image before the limit [B]) at each guided step. The tensors stay
            on the device; read them after sampling, since reading waits for it.

    Raises:
        ValueError: a negative or non-finite setting, an empty interval, labels that are not int64 [B], or a classifier
            in training mode.
    """

    def __init__(
        self,
        classifier: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        labels: torch.Tensor,
        scale: float | torch.Tensor,
        interval: tuple[int, int] | None = None,
        maximum_norm: float | None = None,
        temperature: float = 1.0,
        ratios: list[tuple[int, torch.Tensor]] | None = None,
    ) -> None:
        if labels.ndim != 1 or labels.dtype != torch.int64 or not len(labels):
            raise ValueError(f"labels are {labels.dtype} {list(labels.shape)}; guidance needs int64 [B], one an image")
        scales = torch.as_tensor(scale)
        if scales.ndim and scales.shape != labels.shape:
            raise ValueError(f"scale has the shape {list(scales.shape)}; it must be one number or one for each label")
        if not (scales.isfinite() & (scales >= 0)).all():
            raise ValueError(f"--guidance_scale is {scale}; it must be finite and not negative")
        if interval is not None and not 0 <= interval[0] <= interval[1]:
            raise ValueError(f"--guidance_interval is {interval}; it must satisfy 0 <= lowest <= highest t")
        if maximum_norm is not None and not 0 < maximum_norm < math.inf:
            raise ValueError(f"--guidance_maximum_norm is {maximum_norm}; it must be positive and finite, or None")
        if not 0 < temperature < math.inf:
            raise ValueError(f"--guidance_temperature is {temperature}; it must be positive and finite")
        if isinstance(classifier, torch.nn.Module):
            if classifier.training:
                raise ValueError("the classifier is in training mode, where its gradient is random; call eval() first")
            classifier.requires_grad_(False)
        self.classifier = classifier
        self.labels = labels
        self.scale = scale
        self.interval = interval
        self.maximum_norm = maximum_norm
        self.temperature = temperature
        self.ratios = ratios
        # Read now: inside the sampling loop it would make the host wait.
        self.lowest_label, self.highest_label = labels.min().item(), labels.max().item()

    def __call__(self, latents: torch.Tensor, t: int, sigma: float, epsilon: torch.Tensor) -> torch.Tensor | None:
        """The scaled gradient at z_t, or None where there is no guidance.

        Args:
            latents: z_t [B, ...].
            t: the noise level, the same for all images.
            sigma: sqrt(1 - alpha_bar_t).
            epsilon: the predicted noise, same shape as the latents; only the limit and the ratios use it.

        Returns:
            g * gradient, shape and type of the latents, detached.

        Raises:
            RuntimeError: inside torch.inference_mode, where nothing can be differentiated.
            ValueError: another number of images than labels, or labels that the classifier doesn't have.
        """
        if isinstance(self.scale, (int, float)) and self.scale == 0:
            return None
        if self.interval is not None and not self.interval[0] <= t <= self.interval[1]:
            return None
        gradient = self.log_probability_gradient(latents, t)
        per_image = (-1, *[1] * (latents.ndim - 1))
        gradient = gradient * (self.scale.reshape(per_image) if torch.is_tensor(self.scale) else self.scale)
        if self.ratios is not None or self.maximum_norm is not None:
            tiny = torch.finfo(gradient.dtype).tiny  # an epsilon of zero must not turn a gradient of zero into NaN
            ratio = sigma * gradient.flatten(1).norm(dim=1) / epsilon.flatten(1).norm(dim=1).clamp(min=tiny)
            if self.ratios is not None:
                self.ratios.append((t, ratio))
            if self.maximum_norm is not None:
                gradient = gradient * (self.maximum_norm / ratio).clamp(max=1).reshape(per_image)
        return gradient.to(latents.dtype)

    def log_probability_gradient(self, latents: torch.Tensor, t: int) -> torch.Tensor:
        """The gradient of log p(y | z_t, t) with respect to z_t, in fp32 at least: bf16 would lose the small ones."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError("guidance needs a gradient and torch.inference_mode forbids it; use torch.no_grad")
        if len(latents) != len(self.labels):
            raise ValueError(f"{len(latents)} images but {len(self.labels)} labels")
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
            return self.gradient(latents, torch.full((len(latents),), t, dtype=torch.int64, device=latents.device))

    def gradient(self, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The gradient at z_t, both fp32 [B, ...], for t int64 [B]."""
        return self.differentiate(self.classifier, latents, timesteps, self.labels)

    def differentiate(
        self,
        classifier: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """:meth:`gradient` as a function of all that it is computed from."""
        with torch.enable_grad():
            noisy = latents.detach().requires_grad_()
            logits = classifier(noisy, timesteps)
            if not 0 <= self.lowest_label <= self.highest_label < logits.shape[1]:
                raise ValueError(
                    f"labels lie between {self.lowest_label} and {self.highest_label}, but the classifier has "
                    f"{logits.shape[1]} classes, numbered from 0"
                )
            log_probabilities = (logits / self.temperature).log_softmax(dim=1)
            # Images don't see each other, so the gradient of the sum holds each image's own.
            chosen = log_probabilities.gather(1, labels[:, None]).sum()
            return torch.autograd.grad(chosen, noisy)[0]
