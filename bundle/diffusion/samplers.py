"""Samplers over explicit (t, t_next) pairs: pure functions of tensors, randomness passed in.

MONAI 1.6's DDIMScheduler spaces its timesteps by linspace but steps by T // n, so it lands between its own timesteps;
here each step names where it comes from and where it goes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bundle.diffusion.schedule import NoiseSchedule

SPACINGS = ("trailing", "leading", "linspace")
CLEAN = -1  # the "timestep" after the last step: z_0 itself, with alpha_bar = 1


def timestep_pairs(timesteps: int, steps: int, spacing: str = "trailing") -> list[tuple[int, int]]:
    """The noise levels a sampler visits, as (t, t_next) pairs ending in (t, -1), -1 being the clean latent.

    Args:
        timesteps: T of the schedule.
        steps: number of pairs, from 1 to T.
        spacing: "trailing" (starts at T - 1; Lin et al., arXiv 2305.08891, Table 2), "leading" (ends at 0) or
            "linspace" (both).

    Raises:
        ValueError: steps outside [1, T], or an unknown spacing.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"num_inference_steps is {steps}; it must lie between 1 and the {timesteps} training steps")
    if spacing == "trailing":
        times = [round(timesteps - i * timesteps / steps) - 1 for i in range(steps)]
    elif spacing == "leading":
        times = [i * timesteps // steps for i in reversed(range(steps))]
    elif spacing == "linspace":
        # A single step has no two ends: it starts from noise.
        times = [round((timesteps - 1) * (1 - i / max(steps - 1, 1))) for i in range(steps)]
    else:
        raise ValueError(f"spacing is {spacing!r}; it must be one of {SPACINGS}")
    return list(zip(times, [*times[1:], CLEAN]))


def start_latents(noise: torch.Tensor, schedule: NoiseSchedule, mean: torch.Tensor) -> torch.Tensor:
    """z_T about the mean that q(z_T) has: sqrt(alpha_bar_T) * mean + sqrt(1 - alpha_bar_T) * noise.

    The usual start, plain noise, takes q(z_T) for a unit Gaussian, but alpha_bar_T is 6.7e-4 and not zero. A channel of
    latents with a mean far from zero is then shifted as a whole, by as much as the noise's own average over it, and the
    network reads that as another stain (cf. Lin et al., arXiv 2305.08891, Section 3.1).

    Args:
        noise: standard normal [B, C, h, w].
        schedule: gives alpha_bar_T.
        mean: mean of each scaled channel, [C].
    """
    alpha_bar = schedule.alpha_bar[-1].item()
    return alpha_bar**0.5 * mean.reshape(1, -1, *[1] * (noise.ndim - 2)) + (1 - alpha_bar) ** 0.5 * noise


@torch.no_grad()
def sample_ddim(
    network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    latents: torch.Tensor,
    schedule: NoiseSchedule,
    steps: int = 50,
    spacing: str = "trailing",
    eta: float = 0.0,
    draw_noise: Callable[[tuple[int, ...]], torch.Tensor] | None = None,
    callback: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """DDIM, Song, Meng & Ermon (arXiv 2010.02502) Eq. 12 and 16, without clipping: latents have no range.

    Args:
        network: (z_t [B, ...], t int64 [B]) -> prediction of the schedule's type. It gets the original t.
        latents: z_T [B, ...], from :func:`start_latents`.
        schedule: the process the network was trained on.
        steps: number of network evaluations.
        spacing: see :func:`timestep_pairs`.
        eta: 0 is deterministic, 1 has DDPM's posterior variance.
        draw_noise: shape -> standard normal noise on the latents' device; needed only when eta > 0.
        callback: called with (number of steps done, z) after each step.

    Returns:
        z_0, same shape, still scaled as in training.
    """
    if eta > 0 and draw_noise is None:
        raise ValueError(f"eta is {eta}: a stochastic sampler needs draw_noise")
    pairs = timestep_pairs(schedule.timesteps, steps, spacing)
    alpha_bar = schedule.alpha_bar.tolist() + [1.0]  # index -1 is the clean latent
    times = torch.tensor([t for t, _ in pairs], device=latents.device)  # one transfer, none inside the loop
    for number, (t, t_next) in enumerate(pairs):
        at_t = times[number].expand(len(latents))
        now, then = alpha_bar[t], alpha_bar[t_next]
        epsilon = schedule.epsilon(network(latents, at_t).float(), latents, at_t)
        clean = (latents - (1 - now) ** 0.5 * epsilon) / now**0.5
        sigma = eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        latents = then**0.5 * clean + max(1 - then - sigma**2, 0.0) ** 0.5 * epsilon
        if sigma > 0:
            latents = latents + sigma * draw_noise(tuple(latents.shape))
        if callback is not None:
            callback(number + 1, latents)
    return latents
