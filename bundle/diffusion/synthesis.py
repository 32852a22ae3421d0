"""From seeds to images, without guidance."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from bundle.diffusion.samplers import sample_ddim, start_latents
from bundle.diffusion.schedule import NoiseSchedule
from bundle.randomness import ImageNoise


@torch.no_grad()
def sample_unguided(
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
) -> torch.Tensor:
    """Images of the given seeds; an image depends on its own seed only.

    Args:
        network: the diffusion model, in evaluation mode.
        autoencoder: its autoencoder, on the same device.
        schedule: the process the network was trained on.
        latent: "scale" and the "mean" of each channel, as `autoencoder.pt` keeps them.
        patch_size: pixels a side.
        seeds: one an image.
        steps, eta: of DDIM.
        batch_size: images at once.
        autocast: context the network runs in; decoding is in fp32, since near white bf16 has only half the levels of an
            8-bit picture.

    Returns:
        fp32 [len(seeds), 3, patch_size, patch_size] in [-1, 1], on the CPU.
    """
    device = next(network.parameters()).device
    side = patch_size // 2 ** (len(autoencoder.definition["channels"]) - 1)
    mean = latent["scale"] * torch.tensor(latent["mean"], device=device)
    images = []
    for start in range(0, len(seeds), batch_size):
        noise = ImageNoise(seeds[start : start + batch_size], device)
        latents = start_latents(noise((len(noise), len(mean), side, side)), schedule, mean)
        with autocast():
            latents = sample_ddim(network, latents, schedule, steps=steps, eta=eta, draw_noise=noise)
        images.append(autoencoder.decode(latents / latent["scale"]).clamp(-1, 1).cpu())
    return torch.cat(images)
