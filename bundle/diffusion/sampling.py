"""From seeds to images, with or without guidance."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from bundle.diffusion.samplers import HIGHEST_ETA, SAMPLERS, Callback, DrawNoise, Guidance, start_latents
from bundle.diffusion.schedule import NoiseSchedule
from bundle.runs.randomness import ImageNoise


@torch.no_grad()
def sample_images(
    network: torch.nn.Module,
    autoencoder: torch.nn.Module,
    schedule: NoiseSchedule,
    latent: dict,
    patch_size: int,
    seeds: list[int],
    steps: int = 50,
    eta: float = 1.0,
    batch_size: int = 32,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    sampler: str = "ddim",
    spacing: str = "trailing",
    guidance_for: Callable[[slice], Guidance | None] | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Images of the given seeds; an image depends on its own seed and guidance only.

    Args:
        network: the diffusion model, in evaluation mode.
        autoencoder: its autoencoder, on the same device.
        schedule: the process the network was trained on.
        latent: "scale" and the "mean" of each channel, as `autoencoder.pt` keeps them.
        patch_size: pixels a side.
        seeds: one an image. The same seed has the same noise wherever it stands, so that repeating it with other
            guidance shows what the guidance does.
        steps: network evaluations.
        eta: of "ddim" and "sde_dpm_solver++"; the other samplers have none.
        batch_size: images at once.
        autocast: context the network runs in; the classifier of the guidance and decoding are in fp32, since near white
            bf16 has only half the levels of an 8-bit picture.
        sampler: one of `SAMPLERS`.
        spacing: see `timestep_pairs`.
        guidance_for: the slice of `seeds` in a batch -> the guidance of these images, or None.
        callback: called with (number of steps done, z) for each batch before its first step and after each step.

    Returns:
        fp32 [len(seeds), 3, patch_size, patch_size] in [-1, 1], on the CPU.

    Raises:
        ValueError: an unknown sampler or spacing, or an impossible number of steps.
    """
    device = next(network.parameters()).device
    side = patch_size // 2 ** (len(autoencoder.definition["channels"]) - 1)
    images = []
    for start in range(0, len(seeds), batch_size):
        batch = slice(start, min(start + batch_size, len(seeds)))
        noise = ImageNoise(seeds[batch], device)
        made = sample_from_noise(
            network,
            autoencoder,
            schedule,
            latent,
            noise((len(noise), len(latent["mean"]), side, side)),
            steps=steps,
            eta=eta,
            autocast=autocast,
            sampler=sampler,
            spacing=spacing,
            guidance=None if guidance_for is None else guidance_for(batch),
            draw_noise=noise,
            callback=callback,
        )
        images.append(made.cpu())
    return torch.cat(images)


@torch.no_grad()
def sample_from_noise(
    network: torch.nn.Module,
    autoencoder: torch.nn.Module,
    schedule: NoiseSchedule,
    latent: dict,
    noise: torch.Tensor,
    steps: int = 50,
    eta: float = 1.0,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    sampler: str = "ddim",
    spacing: str = "trailing",
    guidance: Guidance | None = None,
    draw_noise: DrawNoise | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Images of one batch of noise: start, sampler, decoder.

    Args:
        noise: standard normal [B, C, h, w], what z_T is made of.
        guidance: of these images, or None.
        draw_noise: see `sample_ddim`; the deterministic samplers need none.
        callback: called with (number of steps done, z) before the first step and after each step.
        others: as of :func:`sample_images`.

    Returns:
        fp32 [B, 3, S, S] in [-1, 1], on the device of the noise.

    Raises:
        ValueError: an unknown sampler or spacing, or an impossible number of steps.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler is {sampler!r}; it must be one of {tuple(SAMPLERS)}")
    options = {"eta": eta} if sampler in HIGHEST_ETA else {}
    latents = start_latents(noise, schedule, latent["scale"] * torch.tensor(latent["mean"], device=noise.device))
    if callback is not None:
        callback(0, latents)
    with autocast():
        latents = SAMPLERS[sampler](
            network,
            latents,
            schedule,
            steps,
            spacing,
            guidance=guidance,
            draw_noise=draw_noise,
            callback=callback,
            **options,
        )
    return autoencoder.decode(latents / latent["scale"]).clamp(-1, 1)
