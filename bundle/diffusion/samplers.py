"""Samplers over explicit (t, t_next) pairs: pure functions of tensors, randomness passed in.

MONAI 1.6's DDIMScheduler spaces its timesteps by linspace but steps by T // n, so it lands between its own timesteps,
and its DDPMScheduler always steps to t - 1; here each step names where it comes from and where it goes.

All samplers take the same arguments, and `SAMPLERS` names them. They call the network once a step with the original t,
clip nothing, since latents have no range, and never wait for the device between two steps: what they need of the
schedule are Python floats. They guide differently. A score that a classifier's gradient makes exact gives every sampler
the same limit; with g other than 1 it is in general the score of no distribution's diffusion, and a stochastic sampler
then ends elsewhere than a deterministic one, neither at p(z) p(y | z)^g.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from bundle.diffusion.schedule import NoiseSchedule

SPACINGS = ("trailing", "leading", "linspace", "log_snr")
CLEAN = -1  # the "timestep" after the last step: z_0 itself, with alpha_bar = 1

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# (z_t, t, sqrt(1 - alpha_bar_t), epsilon) -> g * gradient of log p(y | z_t), or None for no guidance at this t.
Guidance = Callable[[torch.Tensor, int, float, torch.Tensor], "torch.Tensor | None"]
DrawNoise = Callable[[tuple[int, ...]], torch.Tensor]
Callback = Callable[[int, torch.Tensor], None]


def timestep_pairs(schedule: NoiseSchedule, steps: int, spacing: str = "trailing") -> list[tuple[int, int]]:
    """The noise levels a sampler visits, as (t, t_next) pairs ending in (t, -1), -1 being the clean latent.

    Args:
        schedule: has T noise levels, and their signal-to-noise ratios.
        steps: number of pairs, from 1 to T.
        spacing: "trailing" (starts at T - 1; Lin et al., arXiv 2305.08891, Table 2), "leading" (ends at 0), "linspace"
            (both), or "log_snr": both, and between them even in the logarithm of the signal-to-noise ratio (Lu et al.,
            arXiv 2206.00927, Section 3.4) as far as whole t allow.

    Raises:
        ValueError: steps outside [1, T], or an unknown spacing.
    """
    timesteps = schedule.timesteps
    if not 1 <= steps <= timesteps:
        raise ValueError(f"--num_inference_steps is {steps}; it must lie between 1 and the {timesteps} training steps")
    if spacing == "trailing":
        times = [round(timesteps - i * timesteps / steps) - 1 for i in range(steps)]
    elif spacing == "leading":
        times = [i * timesteps // steps for i in reversed(range(steps))]
    elif spacing == "linspace":
        # A single step has no two ends: it starts from noise.
        times = [round((timesteps - 1) * (1 - i / max(steps - 1, 1))) for i in range(steps)]
    elif spacing == "log_snr":
        times = _even_in_log_snr(schedule, steps)
    else:
        raise ValueError(f"--spacing is {spacing!r}; it must be one of {', '.join(SPACINGS)}")
    return list(zip(times, [*times[1:], CLEAN]))


def _even_in_log_snr(schedule: NoiseSchedule, steps: int) -> list[int]:
    noise_to_signal = np.log(1 / schedule.alpha_bar.numpy(force=True) - 1)  # rises with t
    wanted = np.linspace(noise_to_signal[-1], noise_to_signal[0], steps)[::-1]  # one step starts from noise
    nearest = np.interp(wanted, noise_to_signal, np.arange(schedule.timesteps)).round()
    # Where even steps are shorter than one t, each takes the next t that is free.
    rank = np.arange(steps)
    times = np.maximum.accumulate(nearest - rank) + rank
    return np.minimum(times, schedule.timesteps - steps + rank)[::-1].astype(int).tolist()


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
def _run(
    network: Network,
    latents: torch.Tensor,
    schedule: NoiseSchedule,
    steps: int,
    spacing: str,
    guidance: Guidance | None,
    callback: Callback | None,
    advance: Callable[[float, float, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor],
) -> torch.Tensor:
    """The loop of all samplers.

    `advance` is one sampler's step: (alpha_bar at t, alpha_bar at t_next, z_t, epsilon, gradient) -> z at t_next.
    """
    pairs = timestep_pairs(schedule, steps, spacing)
    alpha_bar = schedule.alpha_bar.tolist() + [1.0]  # index -1 is the clean latent
    times = torch.tensor([t for t, _ in pairs], device=latents.device)  # one transfer, none inside the loop
    for number, (t, t_next) in enumerate(pairs):
        at_t = times[number].expand(len(latents))
        # Under autocast a network answers in half precision, in which the steps must not be summed.
        epsilon = schedule.epsilon(network(latents, at_t).to(latents.dtype), latents, at_t)
        gradient = None if guidance is None else guidance(latents, t, (1 - alpha_bar[t]) ** 0.5, epsilon)
        latents = advance(alpha_bar[t], alpha_bar[t_next], latents, epsilon, gradient)
        if callback is not None:
            callback(number + 1, latents)
    return latents


def _guided(
    latents: torch.Tensor, epsilon: torch.Tensor, gradient: torch.Tensor | None, alpha_bar: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Guided epsilon (Dhariwal & Nichol, arXiv 2105.05233, Algorithm 2) and the z_0 that it predicts."""
    sigma = (1 - alpha_bar) ** 0.5
    if gradient is not None:
        epsilon = epsilon - sigma * gradient
    return epsilon, (latents - sigma * epsilon) / alpha_bar**0.5


def sample_ddpm(
    network: Network,
    latents: torch.Tensor,
    schedule: NoiseSchedule,
    steps: int = 1000,
    spacing: str = "trailing",
    guidance: Guidance | None = None,
    draw_noise: DrawNoise | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Ancestral sampling: Ho, Jain & Abbeel (arXiv 2006.11239) Eq. 7, guided by Ye et al. (arXiv 2308.04020) Eq. 7-8.

    z_next = mu + Sigma * gradient + sqrt(Sigma) * noise, where mu and Sigma are those of q(z_next | z_t, z_0) for the
    pair (t, t_next) itself, so that fewer than T steps are another exact posterior and not a step to t - 1. The step to
    the clean latent has Sigma = 0: neither noise nor guidance, and a single step is unguided. Few steps guide too
    little: on Gaussian data 1000 steps move the mean by 0.98 of what an exact gradient asks, 200 by 0.94, 50 by 0.81.

    Args: as of :func:`sample_ddim`, but draw_noise is always needed.
    """
    if draw_noise is None:
        raise ValueError("DDPM is a stochastic sampler: it needs draw_noise")

    def advance(
        now: float, then: float, latents: torch.Tensor, epsilon: torch.Tensor, gradient: torch.Tensor | None
    ) -> torch.Tensor:
        beta = 1 - now / then  # of the pair
        variance = (1 - then) / (1 - now) * beta
        _, clean = _guided(latents, epsilon, None, now)
        latents = then**0.5 * beta / (1 - now) * clean + (now / then) ** 0.5 * (1 - then) / (1 - now) * latents
        if gradient is not None:
            latents = latents + variance * gradient
        if variance > 0:
            latents = latents + variance**0.5 * draw_noise(tuple(latents.shape))
        return latents

    return _run(network, latents, schedule, steps, spacing, guidance, callback, advance)


def sample_ddim(
    network: Network,
    latents: torch.Tensor,
    schedule: NoiseSchedule,
    steps: int = 50,
    spacing: str = "trailing",
    guidance: Guidance | None = None,
    draw_noise: DrawNoise | None = None,
    callback: Callback | None = None,
    eta: float = 0.0,
) -> torch.Tensor:
    """DDIM: Song, Meng & Ermon (arXiv 2010.02502) Eq. 12 and 16, guided by Dhariwal & Nichol (arXiv 2105.05233)
    Algorithm 2: epsilon - sqrt(1 - alpha_bar_t) * gradient.

    With eta = 1 an unguided step is DDPM's. A guided one moves further: by beta / sqrt(1 - beta) times the gradient,
    where DDPM takes Sigma = beta (1 - alpha_bar_next) / (1 - alpha_bar_t), beta being that of the pair. The two agree
    for small steps except near the clean latent, where DDPM's shift ends at 0.

    Args:
        network: (z_t [B, ...], t int64 [B]) -> prediction of the schedule's type. It gets the original t.
        latents: z_T [B, ...], from :func:`start_latents`.
        schedule: the process the network was trained on.
        steps: number of network evaluations, from 1 to T.
        spacing: see :func:`timestep_pairs`.
        guidance: a :class:`bundle.diffusion.guidance.ClassifierGuidance` or what can be called like it; None for none.
        draw_noise: shape -> standard normal noise on the latents' device; needed only when eta > 0.
        callback: called with (number of steps done, z) after each step.
        eta: 0 is deterministic, 1 has DDPM's posterior variance.

    Returns:
        z_0, same shape, still scaled as in training.

    Raises:
        ValueError: steps outside [1, T], an unknown spacing, eta outside [0, 1], or no draw_noise where it is needed.
    """
    _check_eta("ddim", eta, draw_noise)

    def advance(
        now: float, then: float, latents: torch.Tensor, epsilon: torch.Tensor, gradient: torch.Tensor | None
    ) -> torch.Tensor:
        epsilon, clean = _guided(latents, epsilon, gradient, now)
        sigma = eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        latents = then**0.5 * clean + max(1 - then - sigma**2, 0.0) ** 0.5 * epsilon
        if sigma > 0:
            latents = latents + sigma * draw_noise(tuple(latents.shape))
        return latents

    return _run(network, latents, schedule, steps, spacing, guidance, callback, advance)


def sample_dpm_solver(
    network: Network,
    latents: torch.Tensor,
    schedule: NoiseSchedule,
    steps: int = 20,
    spacing: str = "trailing",
    guidance: Guidance | None = None,
    draw_noise: DrawNoise | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """DPM-Solver++(2M): Lu et al. (arXiv 2211.01095) Algorithm 2, on the z_0 predicted by the guided epsilon.

    Deterministic, second order in h, the step of lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)). Two steps are
    first order, that is, DDIM's: the first, which has no step before it, and the one to the clean latent, where lambda
    is infinite and z_0 is the last prediction. The last step leaves most of the error with "trailing" spacing, which
    takes it from t = T / steps - 1; of few steps "linspace" makes the most. Unlike in Algorithm 2, the weight 1 / (2 r)
    of the multistep term, r being the last step's h over this one's, is at most 1, see :func:`_multistep`.

    Args: as of :func:`sample_ddim`; draw_noise is not used.
    """
    return sample_dpm_solver_sde(network, latents, schedule, steps, spacing, guidance, draw_noise, callback, eta=0.0)


def sample_dpm_solver_sde(
    network: Network,
    latents: torch.Tensor,
    schedule: NoiseSchedule,
    steps: int = 20,
    spacing: str = "trailing",
    guidance: Guidance | None = None,
    draw_noise: DrawNoise | None = None,
    callback: Callback | None = None,
    eta: float = 1.0,
) -> torch.Tensor:
    """SDE-DPM-Solver++(2M): the multistep solver of the diffusion SDE of Lu et al. (arXiv 2211.01095), on the z_0
    predicted by the guided epsilon.

    The stochastic sibling of :func:`sample_dpm_solver`: each step draws new noise, as DDIM does with eta = 1, which a
    first-order step of it is. New noise mends what an imperfect network got wrong at higher noise. How much is new is
    free: Xue et al. (arXiv 2309.05019), Section 4, have an SDE with the same q(z_t) for every tau, here eta. It forgets
    exp(-eta² h) of the noise in z_t and takes (1 - exp(-(1 + eta²) h)) of the new z_0.

    Args: as of :func:`sample_ddim`, but eta may be any number from 0 up: 0 is deterministic, :func:`sample_dpm_solver`,
        1 the diffusion SDE; above 1 each step renews still more of the noise.

    Raises:
        ValueError: as of :func:`sample_ddim`; eta below 0 or not finite.
    """
    _check_eta("sde_dpm_solver++", eta, draw_noise)

    def step(latents: torch.Tensor, ahead: torch.Tensor, now: float, then: float, decay: float) -> torch.Tensor:
        kept = decay ** (eta**2)  # exp(-eta² h), of the noise in z_t
        latents = ((1 - then) / (1 - now)) ** 0.5 * kept * latents + then**0.5 * (1 - decay * kept) * ahead
        if eta > 0 and then < 1:
            latents = latents + ((1 - then) * (1 - kept**2)) ** 0.5 * draw_noise(tuple(latents.shape))
        return latents

    return _run(network, latents, schedule, steps, spacing, guidance, callback, _multistep(step))


def _multistep(step: Callable[[torch.Tensor, torch.Tensor, float, float, float], torch.Tensor]) -> Callable:
    """An `advance` for :func:`_run` that extrapolates z_0 by the last two predictions.

    D = x_i + min(1 / (2 r), 1) (x_i - x_{i-1}), with x the predictions and r = h_{i-1} / h_i. Algorithm 2 of Lu et al.
    (arXiv 2211.01095) has no minimum; the departure is in docs/explanation/paper.md.

    `step` is (z_t, D, alpha_bar at t, alpha_bar at t_next, exp(-h)) -> z at t_next, D being z_0 extrapolated to the
    middle of the step.
    """
    previous = last_size = None  # the last step's prediction of z_0, and its h

    def advance(
        now: float, then: float, latents: torch.Tensor, epsilon: torch.Tensor, gradient: torch.Tensor | None
    ) -> torch.Tensor:
        nonlocal previous, last_size
        _, clean = _guided(latents, epsilon, gradient, now)
        decay = (now / (1 - now) * (1 - then) / then) ** 0.5  # exp(-h)
        size = -math.log(decay) if decay > 0 else math.inf  # h, infinite on the way to the clean latent
        ahead = clean
        if previous is not None and size < math.inf:
            # Few steps that end at t = 0 end with a long h after a short one. Unlimited, 1 / (2 r) is then 2 and more,
            # and overshoots: on Gaussian data 20 linspace steps are then no better than DDIM's. Trailing spacing does
            # not meet the limit below 180 of 1000 steps, and beyond that only where rounding makes t uneven.
            ahead = clean + min(size / (2 * last_size), 1.0) * (clean - previous)
        previous, last_size = clean, size
        return step(latents, ahead, now, then, decay)

    return advance


def check_eta(sampler: str, eta: float) -> None:
    """Raises: ValueError: an eta that this sampler can't have."""
    highest = HIGHEST_ETA.get(sampler, 1.0)
    if not (0 <= eta <= highest and eta < math.inf):
        limits = "be 0 or more" if highest == math.inf else f"lie between 0 and {highest:g}"
        raise ValueError(f"--eta is {eta}; that of {sampler} must {limits}")


def _check_eta(sampler: str, eta: float, draw_noise: DrawNoise | None) -> None:
    check_eta(sampler, eta)
    if eta > 0 and draw_noise is None:
        raise ValueError(f"--eta is {eta}: a stochastic sampler needs draw_noise")


HIGHEST_ETA = {"ddim": 1.0, "sde_dpm_solver++": math.inf}  # the other samplers have no eta
SAMPLERS = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpm_solver++": sample_dpm_solver,
    "sde_dpm_solver++": sample_dpm_solver_sde,
}
