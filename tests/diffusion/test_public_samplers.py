"""The samplers against public ones, wherever those step between the timesteps that they visit.

MONAI's DDPMScheduler does so at all T steps only, its DDIMScheduler where T // steps is the distance between timesteps.
"""

import diffusers
import pytest
import torch
from gaussians import GaussianClassifier, noise_prediction
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from bundle.diffusion.guidance import ClassifierGuidance
from bundle.diffusion.samplers import sample_ddim, sample_ddpm, sample_dpm_solver, sample_dpm_solver_sde, timestep_pairs
from bundle.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()
NETWORK = noise_prediction(SCHEDULE)
BETAS = {"beta_start": 0.0015, "beta_end": 0.0155}


def start_noise():
    return torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def draw_noise(generator):
    return lambda shape: torch.randn(shape, dtype=torch.float64, generator=generator)


def guidance(scale):
    return ClassifierGuidance(GaussianClassifier(SCHEDULE, "likelihood"), torch.zeros(16, dtype=torch.int64), scale)


def steps_of(scheduler, scale=0.0, variance_noise=None, **options):
    """Runs a public scheduler, whose step takes (prediction, t, z); guided as DDIM is, through the prediction.

    Args:
        variance_noise: draws the noise of each step, for a scheduler that is given it rather than a generator.
    """
    latents, guide = start_noise(), guidance(scale)
    for t in scheduler.timesteps.tolist():
        if variance_noise is not None:
            options["variance_noise"] = variance_noise(latents.shape)
        epsilon = NETWORK(latents, torch.full((16,), t))
        sigma = (1 - SCHEDULE.alpha_bar[t].item()) ** 0.5
        gradient = guide(latents, t, sigma, epsilon)
        if gradient is not None:
            epsilon = epsilon - sigma * gradient
        stepped = scheduler.step(epsilon, t, latents, **options)
        latents = stepped[0] if isinstance(stepped, tuple) else stepped.prev_sample
    return latents


def close(ours, theirs):
    # Their tables are fp32, 1e-5 wrong near the clean latent.
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-3, atol=1e-3)


def test_monai_ddpm():
    theirs = steps_of(
        DDPMScheduler(1000, "scaled_linear_beta", clip_sample=False, **BETAS),
        generator=torch.Generator().manual_seed(1),
    )
    noise = draw_noise(torch.Generator().manual_seed(1))
    close(sample_ddpm(NETWORK, start_noise(), SCHEDULE, 1000, draw_noise=noise), theirs)


@pytest.mark.parametrize("scale", [0.0, 3.0])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_monai_ddim(eta, scale):
    theirs = steps_of(
        DDIMScheduler(1000, "scaled_linear_beta", clip_sample=False, **BETAS),
        scale,
        eta=eta,
        generator=torch.Generator().manual_seed(1),
    )
    noise = draw_noise(torch.Generator().manual_seed(1))
    close(sample_ddim(NETWORK, start_noise(), SCHEDULE, 1000, "linspace", guidance(scale), noise, eta=eta), theirs)


def made(scheduler_class, steps, **options):
    scheduler = scheduler_class(num_train_timesteps=1000, beta_schedule="scaled_linear", **BETAS, **options)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("steps", [1, 10, 30, 200])
def test_diffusers_respaced_ddpm(steps):
    scheduler = made(
        diffusers.DDPMScheduler, steps, timestep_spacing="trailing", variance_type="fixed_small", clip_sample=False
    )
    assert scheduler.timesteps.tolist() == [t for t, _ in timestep_pairs(SCHEDULE, steps)]
    theirs = steps_of(scheduler, generator=torch.Generator().manual_seed(1))
    noise = draw_noise(torch.Generator().manual_seed(1))
    close(sample_ddpm(NETWORK, start_noise(), SCHEDULE, steps, draw_noise=noise), theirs)


@pytest.mark.parametrize("scale", [0.0, 3.0])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", [1, 10, 200])
def test_diffusers_ddim(steps, spacing, eta, scale):
    scheduler = made(diffusers.DDIMScheduler, steps, timestep_spacing=spacing, set_alpha_to_one=True, clip_sample=False)
    theirs = steps_of(scheduler, scale, eta=eta, generator=torch.Generator().manual_seed(1))
    noise = draw_noise(torch.Generator().manual_seed(1))
    close(sample_ddim(NETWORK, start_noise(), SCHEDULE, steps, spacing, guidance(scale), noise, eta=eta), theirs)


@pytest.mark.parametrize("scale", [0.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
def test_diffusers_dpm_solver(steps, scale):
    scheduler = made(
        diffusers.DPMSolverMultistepScheduler,
        steps,
        timestep_spacing="trailing",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    assert scheduler.timesteps.tolist() == [t for t, _ in timestep_pairs(SCHEDULE, steps)]
    close(
        sample_dpm_solver(NETWORK, start_noise(), SCHEDULE, steps, guidance=guidance(scale)), steps_of(scheduler, scale)
    )


@pytest.mark.parametrize("scale", [0.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
def test_diffusers_stochastic_dpm_solver(steps, scale):
    scheduler = made(
        diffusers.DPMSolverMultistepScheduler,
        steps,
        timestep_spacing="trailing",
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    # Theirs draws fp32 noise whatever the latents are, and from one seed that is other noise than fp64: give both one.
    theirs = steps_of(scheduler, scale, draw_noise(torch.Generator().manual_seed(1)))
    noise = draw_noise(torch.Generator().manual_seed(1))
    close(
        sample_dpm_solver_sde(NETWORK, start_noise(), SCHEDULE, steps, guidance=guidance(scale), draw_noise=noise),
        theirs,
    )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.4])
@pytest.mark.parametrize("steps", [2, 5, 20, 200])
def test_diffusers_first_step_of_any_eta(steps, eta):
    """SA-Solver (Xue et al., arXiv 2309.05019) has the same eta, as tau. Its later steps have other multistep terms,
    but the first, of first order, is the same update: what is kept of z_t, taken of z_0 and drawn anew."""
    scheduler = made(diffusers.SASolverScheduler, steps, timestep_spacing="trailing", tau_func=lambda t: eta)
    start, t = start_noise(), SCHEDULE.timesteps - 1
    assert scheduler.timesteps[0] == t
    generator = torch.Generator().manual_seed(1)
    theirs = scheduler.step(NETWORK(start, torch.full((16,), t)), t, start, generator).prev_sample
    ours = []
    noise = draw_noise(torch.Generator().manual_seed(1))
    sample_dpm_solver_sde(
        NETWORK,
        start,
        SCHEDULE,
        steps,
        draw_noise=noise,
        eta=eta,
        callback=lambda number, latents: ours.append(latents),
    )
    close(ours[0], theirs)
