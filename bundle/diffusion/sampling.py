"""From seeds to images, with or without guidance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from bundle.diffusion.latent_scale import LatentScale
from bundle.diffusion.samplers import HIGHEST_ETA, SAMPLERS, Callback, DrawNoise, Guidance, start_latents
from bundle.diffusion.schedule import NoiseSchedule
from bundle.runs.randomness import ImageNoise


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How an image is sampled.

    Args:
        steps: network evaluations.
        eta: of "ddim" and "sde_dpm_solver++"; the other samplers have none.
        sampler: one of `SAMPLERS`.
        spacing: see `bundle.diffusion.samplers.timestep_pairs`.

    Raises:
        ValueError: an unknown sampler.
    """

    steps: int = 50
    eta: float = 1.0
    sampler: str = "ddim"
    spacing: str = "trailing"

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"--sampler is {self.sampler!r}; it must be one of {', '.join(SAMPLERS)}")

    def __call__(
        self,
        network: torch.nn.Module,
        latents: torch.Tensor,
        schedule: NoiseSchedule,
        guidance: Guidance | None = None,
        draw_noise: DrawNoise | None = None,
        callback: Callback | None = None,
    ) -> torch.Tensor:
        """Scaled z_0 of scaled z_T, both [B, C, h, w]; see `bundle.diffusion.samplers`."""
        options = {"eta": self.eta} if self.sampler in HIGHEST_ETA else {}
        options |= {"guidance": guidance, "draw_noise": draw_noise, "callback": callback}
        return SAMPLERS[self.sampler](network, latents, schedule, self.steps, self.spacing, **options)


@dataclasses.dataclass(frozen=True)
class LatentModels:
    """What images are sampled with; `bundle.models.adapted.AdaptedModels` has all of it, too.

    Args:
        diffusion: the diffusion model, in evaluation mode.
        autoencoder: its autoencoder, on the same device.
        schedule: the process the diffusion model was trained on.
        latent: what `LatentScale.read` takes, as `autoencoder.pt` keeps it.
        patch_size: pixels a side.
    """

    diffusion: torch.nn.Module
    autoencoder: torch.nn.Module
    schedule: NoiseSchedule
    latent: dict[str, Any]
    patch_size: int


@torch.no_grad()
def sample_images(
    models: LatentModels,
    seeds: list[int],
    sampling: Sampling = Sampling(),
    batch_size: int = 32,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    guidance_for: Callable[[slice], Guidance | None] | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Images of the given seeds; an image depends on its own seed and guidance only.

    Args:
        models: LatentModels, or what has the same attributes.
        seeds: one an image. The same seed has the same noise wherever it stands, so that repeating it with other
            guidance shows what the guidance does.
        sampling: how.
        batch_size: images at once.
        autocast: context the network runs in; the classifier of the guidance and decoding are in fp32, since near white
            bf16 has only half the levels of an 8-bit picture.
        guidance_for: the slice of `seeds` in a batch -> the guidance of these images, or None.
        callback: called with (number of steps done, z) for each batch before its first step and after each step.

    Returns:
        fp32 [len(seeds), 3, patch_size, patch_size] in [-1, 1], on the CPU.

    Raises:
        ValueError: an unknown spacing, or an impossible number of steps.
    """
    device = next(models.diffusion.parameters()).device
    side = models.patch_size // 2 ** (len(models.autoencoder.definition["channels"]) - 1)
    images = []
    for start in range(0, len(seeds), batch_size):
        batch = slice(start, min(start + batch_size, len(seeds)))
        noise = ImageNoise(seeds[batch], device)
        made = sample_from_noise(
            models,
            noise((len(noise), len(models.latent["mean"]), side, side)),
            sampling,
            autocast,
            guidance=None if guidance_for is None else guidance_for(batch),
            draw_noise=noise,
            callback=callback,
        )
        images.append(made.cpu())
    return torch.cat(images)


@torch.no_grad()
def sample_from_noise(
    models: LatentModels,
    noise: torch.Tensor,
    sampling: Sampling = Sampling(),
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    guidance: Guidance | None = None,
    draw_noise: DrawNoise | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Images of one batch of noise: start, sampler, decoder.

    Args:
        models, sampling, autocast: as of :func:`sample_images`.
        noise: standard normal [B, C, h, w], what z_T is made of.
        guidance: of these images, or None.
        draw_noise: see `bundle.diffusion.samplers.sample_ddim`; the deterministic samplers need none.
        callback: called with (number of steps done, z) before the first step and after each step.

    Returns:
        fp32 [B, 3, S, S] in [-1, 1], on the device of the noise.

    Raises:
        ValueError: an unknown spacing, or an impossible number of steps.
    """
    latent = LatentScale.read(models.latent)
    latents = start_latents(noise, models.schedule, latent.scaled_mean().to(noise.device))
    if callback is not None:
        callback(0, latents)
    with autocast():
        latents = sampling(models.diffusion, latents, models.schedule, guidance, draw_noise, callback)
    return models.autoencoder.decode(latent.unscaled(latents)).clamp(-1, 1)
