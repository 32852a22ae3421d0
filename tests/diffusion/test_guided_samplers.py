"""Guided samplers on Gaussian data: against closed forms, and each against its own moments worked out by hand."""

import math
from functools import cache, partial

import pytest
import torch
from gaussians import (
    COVARIANCE,
    EYE,
    MEAN,
    GaussianClassifier,
    affine_map,
    gradient_map,
    guided_data,
    marginal,
    noise_prediction,
    result,
    signal_and_noise,
)
from torch.utils._python_dispatch import TorchDispatchMode

from bundle.diffusion.guidance import ClassifierGuidance
from bundle.diffusion.samplers import (
    SPACINGS,
    sample_ddim,
    sample_ddpm,
    sample_dpm_solver,
    sample_dpm_solver_sde,
    timestep_pairs,
)
from bundle.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()
STOCHASTIC = {
    "ddpm": sample_ddpm,
    "ddim, eta 0.5": partial(sample_ddim, eta=0.5),
    "ddim, eta 1": partial(sample_ddim, eta=1.0),
    "sde_dpm_solver++": sample_dpm_solver_sde,
    "sde_dpm_solver++, eta 0.5": partial(sample_dpm_solver_sde, eta=0.5),
    "sde_dpm_solver++, eta 1.5": partial(sample_dpm_solver_sde, eta=1.5),
}
SECOND_AND_FIRST = ("sde_dpm_solver++", "ddim, eta 1")
SAMPLERS = {**STOCHASTIC, "ddim, eta 0": sample_ddim, "dpm_solver++": sample_dpm_solver}


def guide(kind, scale, count, **options):
    return ClassifierGuidance(
        GaussianClassifier(SCHEDULE, kind), torch.zeros(count, dtype=torch.int64), scale, **options
    )


@cache
def sampled(name, steps, kind="tilt", scale=0.0, spacing="trailing"):
    """The affine map of a guided sampler."""

    def run(start, draw_noise):
        guidance = guide(kind, scale, len(start))
        return SAMPLERS[name](noise_prediction(SCHEDULE), start, SCHEDULE, steps, spacing, guidance, draw_noise)

    return affine_map(run, steps - 1 if name in STOCHASTIC else 0)


def errors(maps, kind, scale, start=None):
    """Distance of mean and covariance from p(z_0) p(y | z_0)^scale, in units of its size.

    Without `start` the sampler starts from that distribution's own q(z_T), so that only the sampler is judged.
    """
    mean, covariance = guided_data(kind, scale)
    got_mean, got_covariance = result(maps, *(start or marginal(SCHEDULE, 999, mean, covariance)))
    size = covariance.diagonal().sum().sqrt()
    return ((got_mean - mean).norm() / size).item(), ((got_covariance - covariance).norm() / covariance.norm()).item()


@pytest.mark.parametrize("kind, scale", [("tilt", 0.0), ("tilt", 1.0), ("tilt", 5.0), ("likelihood", 1.0)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_converges_to_the_closed_form(name, kind, scale):
    """A tilt for every g, a Gaussian likelihood for g = 1: there the guided score is that of a distribution.

    What is left at 1000 steps is their number: the error falls as 1 / steps.
    """
    coarse = errors(sampled(name, 200, kind, scale), kind, scale)
    fine = errors(sampled(name, 1000, kind, scale), kind, scale)
    # With eta 1.5 part of the error cancels at 200 steps, so that these are better than their number.
    assert fine[1] < 0.02 and fine[1] < coarse[1] / (3 if name.endswith("eta 1.5") else 3.5)
    if name == "ddpm":  # its shift, Sigma times the gradient, falls short by a part that also goes as 1 / steps
        assert fine[0] < 0.01 * max(scale, 1.0) and fine[0] <= max(coarse[0] / 3.5, 1e-10)
    else:  # the mean of a Gaussian stays on its path at any number of steps
        assert fine[0] < 1e-8 and coarse[0] < 1e-8


def test_few_ddpm_steps_guide_too_little():
    """At 50 steps DDPM's mean moves by four fifths of what the tilt asks.

    The others' moves by all of it, but for the start, which knows nothing of the tilt.
    """
    shift = guided_data("tilt", 1.0)[0] - MEAN
    moved = {}
    for name in SAMPLERS:
        ends = [result(sampled(name, 50, "tilt", scale), MEAN, EYE)[0] for scale in (0.0, 1.0)]
        moved[name] = ((ends[1] - ends[0]) @ shift / shift.square().sum()).item()
    assert moved["ddpm"] == pytest.approx(0.81, abs=0.01)
    for name in set(SAMPLERS) - {"ddpm"}:
        assert 0.97 < moved[name] <= 1.0


def recursion(name, steps, spacing, kind, scale):
    """Mean and covariance of a sampler's result from N(0, I), step by step from the papers' formulas.

    None of it is shared with the bundle: DDPM by its score form, DDIM in one line of z and epsilon, DPM-Solver++ as an
    affine map of (z_t, previous z_0).
    """
    eta = 0.0 if name == "dpm_solver++" else float(name.partition("eta ")[2] or 1.0)
    mean, covariance = torch.zeros(6, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.float64)
    covariance[:3, :3] = EYE
    last_h = None
    for t, t_next in timestep_pairs(SCHEDULE, steps, spacing):
        (signal, sigma), (signal_next, sigma_next) = signal_and_noise(SCHEDULE, t), signal_and_noise(SCHEDULE, t_next)
        mean_t, covariance_t = marginal(SCHEDULE, t)
        score = -torch.linalg.inv(covariance_t)  # times (z - mean_t)
        tilt, tilt_offset = (scale * part for part in gradient_map(SCHEDULE, t, kind))
        guided, guided_offset = score + tilt, -score @ mean_t + tilt_offset  # the guided score
        ratio = signal / signal_next
        beta = 1 - ratio**2
        move, offset = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
        spread = 0.0
        if name == "ddpm":
            spread = beta * sigma_next**2 / sigma**2
            move[:3, :3] = (EYE + beta * score) / ratio + spread * tilt
            offset[:3] = -beta / ratio * score @ mean_t + spread * tilt_offset
        elif name.startswith("ddim"):
            spread = eta**2 * beta * sigma_next**2 / sigma**2
            epsilon = (sigma_next**2 - spread) ** 0.5 - sigma / ratio
            move[:3, :3] = EYE / ratio - epsilon * sigma * guided
            offset[:3] = -epsilon * sigma * guided_offset
        else:
            clean, clean_offset = (EYE + sigma**2 * guided) / signal, sigma**2 * guided_offset / signal
            if t_next == -1:
                gain, past, keep = 1.0, 0.0, 0.0
                h = math.inf
            else:
                h = math.log(signal_next / sigma_next) - math.log(signal / sigma)
                past = 0.0 if last_h is None else min(1 / (2 * last_h / h), 1.0)
                gain, keep = -signal_next * math.expm1(-(1 + eta**2) * h), math.exp(-(eta**2) * h) * sigma_next / sigma
                spread = -(sigma_next**2) * math.expm1(-2 * eta**2 * h)
            move[:3, :3] = keep * EYE + gain * (1 + past) * clean
            move[:3, 3:] = -gain * past * EYE
            offset[:3] = gain * (1 + past) * clean_offset
            move[3:, :3], offset[3:] = clean, clean_offset
            last_h = h
        mean = move @ mean + offset
        covariance = move @ covariance @ move.T
        covariance[:3, :3] += spread * EYE
    return mean[:3], covariance[:3, :3]


@pytest.mark.parametrize("kind, scale", [("tilt", 3.0), ("likelihood", 0.3), ("likelihood", 4.0)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_moments_are_the_samplers_own(name, kind, scale):
    for steps in (1, 2, 30):
        for spacing in SPACINGS:
            got = result(sampled(name, steps, kind, scale, spacing), torch.zeros_like(MEAN), EYE)
            torch.testing.assert_close(got, recursion(name, steps, spacing, kind, scale), rtol=1e-8, atol=1e-8)
    got = result(sampled(name, 1000, kind, scale), torch.zeros_like(MEAN), EYE)
    torch.testing.assert_close(got, recursion(name, 1000, "trailing", kind, scale), rtol=1e-8, atol=1e-8)


def test_other_scales_end_elsewhere_and_stochastic_samplers_elsewhere_again():
    """A Gaussian likelihood at g = 4: nobody reaches p(z) p(y | z)^4, and the two families differ for good."""
    found = {name: errors(sampled(name, 1000, "likelihood", 4.0), "likelihood", 4.0) for name in SAMPLERS}
    for name in ("ddpm", "ddim, eta 1", "sde_dpm_solver++"):
        assert found[name] == pytest.approx((0.22, 0.285), abs=0.03)
    for name in ("ddim, eta 0", "dpm_solver++"):
        assert found[name] == pytest.approx((0.56, 0.67), abs=0.03)


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ values.sqrt().diag() @ vectors.T


@pytest.mark.parametrize("name", ["ddpm", "ddim, eta 1", "ddim, eta 0", "dpm_solver++", "sde_dpm_solver++"])
def test_plain_noise_leaves_the_known_bias(name):
    """N(0, I) lacks sqrt(alpha_bar_T) times the guided mean: the whole of it reaches the end through the slope.

    The probability flow keeps 2.6% of a standard deviation for each one of the mean, the reverse diffusion forgets all
    but alpha_bar_T = 6.7e-4 of it.
    """
    maps = sampled(name, 1000, "tilt", 2.0)
    mean, covariance = guided_data("tilt", 2.0)
    signal, _ = signal_and_noise(SCHEDULE, 999)
    marginal_covariance = marginal(SCHEDULE, 999)[1]
    if name in STOCHASTIC:
        slope = signal * covariance @ torch.linalg.inv(marginal_covariance)
    else:
        slope = root(covariance) @ torch.linalg.inv(root(marginal_covariance))
    torch.testing.assert_close(maps[1], slope, rtol=0.02, atol=0.02 * slope.abs().max().item())
    start = torch.zeros_like(MEAN), EYE
    ideal = result(maps, *marginal(SCHEDULE, 999, mean, covariance))[0]
    torch.testing.assert_close(result(maps, *start)[0] - ideal, -maps[1] @ (signal * mean), rtol=1e-9, atol=1e-9)
    bias = errors(maps, "tilt", 2.0, start)[0]
    if name == "ddim, eta 1":
        assert bias < 1e-3
    if name not in STOCHASTIC:
        assert bias == pytest.approx(0.0232, abs=0.0005)


def start_noise(count=64, seed=0):
    return torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noise_source(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", SAMPLERS)
def test_scale_zero_is_the_unguided_sampler_exactly(name):
    def run(guidance):
        return SAMPLERS[name](
            noise_prediction(SCHEDULE), start_noise(), SCHEDULE, 25, guidance=guidance, draw_noise=noise_source()
        )

    unguided = run(None)
    assert torch.equal(run(guide("likelihood", 0.0, 64)), unguided)
    per_image = run(guide("likelihood", torch.tensor([0.0, 2.0]).repeat(32), 64))
    assert torch.equal(per_image[::2], unguided[::2]) and not torch.equal(per_image[1::2], unguided[1::2])


def test_ddim_with_eta_1_is_ddpm_when_unguided():
    for steps in (1000, 50):  # not only between neighbours: the posterior is that of the pair
        ends = [
            sampler(noise_prediction(SCHEDULE), start_noise(), SCHEDULE, steps, draw_noise=noise_source())
            for sampler in (sample_ddpm, partial(sample_ddim, eta=1.0))
        ]
        torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-10)


def test_guided_shifts_of_one_step():
    """What the docstring of sample_ddim says: Sigma g for DDPM, beta / sqrt(1 - beta) g for DDIM with eta = 1."""
    network, start = noise_prediction(SCHEDULE), start_noise(4)
    for sampler, by_hand in (
        (sample_ddpm, lambda beta, now, then: beta * (1 - then) / (1 - now)),
        (partial(sample_ddim, eta=1.0), lambda beta, now, then: beta / (1 - beta) ** 0.5),
    ):
        states = {}
        for scale in (0.0, 1.0):
            kept = states[scale] = []
            guidance = guide("tilt", scale, 4, interval=(499, 499))  # one of ten steps
            sampler(network, start, SCHEDULE, 10, "trailing", guidance, noise_source(), lambda done, z: kept.append(z))
        now, then = SCHEDULE.alpha_bar[499].item(), SCHEDULE.alpha_bar[399].item()
        gradient = gradient_map(SCHEDULE, 499, "tilt")[1].expand(4, 3)
        torch.testing.assert_close(states[1.0][5] - states[0.0][5], by_hand(1 - now / then, now, then) * gradient)


def flow(start, t, t_next, mean=MEAN, covariance=COVARIANCE):
    """The probability flow from t to t_next: a Gaussian's marginals, one carried into the other."""
    (mean_t, covariance_t), (mean_next, covariance_next) = (
        marginal(SCHEDULE, at, mean, covariance) for at in (t, t_next)
    )
    return mean_next + (start - mean_t) @ torch.linalg.inv(root(covariance_t)) @ root(covariance_next)


def slopes(sampler, counts, guided):
    """Orders measured between successive numbers of steps from t = 999 to t = 249, three quarters of the way."""
    mean = guided_data("tilt", 3.0 if guided else 0.0)[0]
    exact = flow(start_noise(), 999, 249, mean)
    distances = []
    for steps in counts:
        states = []
        guidance = guide("tilt", 3.0, 64) if guided else None
        sampler(
            noise_prediction(SCHEDULE),
            start_noise(),
            SCHEDULE,
            steps,
            guidance=guidance,
            callback=lambda done, z: states.append(z),
        )
        distances.append((states[steps * 3 // 4 - 1] - exact).norm().item())
    pairs = zip(zip(counts, distances), zip(counts[1:], distances[1:]))
    return [math.log(one / two) / math.log(more / few) for (few, one), (more, two) in pairs]


@pytest.mark.parametrize("guided", [False, True])
def test_order_of_the_few_step_solver(guided):
    counts = (20, 40, 100, 200, 500, 1000)
    first, second = slopes(sample_ddim, counts, guided), slopes(sample_dpm_solver, counts, guided)
    assert all(0.97 < slope < 1.02 for slope in first)
    assert all(1.95 < slope < 2.15 for slope in second) and second[-1] == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("spacing, gain", [("trailing", 1.7), ("leading", 5.0), ("linspace", 5.0)])
def test_few_step_solver_is_closer_than_ddim(spacing, gain):
    """The whole way at 20 steps. Trailing spacing gains least: its last step, in first order, begins at t = 49."""
    distances = []
    for sampler in (sample_ddim, sample_dpm_solver):
        end = sampler(noise_prediction(SCHEDULE), start_noise(), SCHEDULE, 20, spacing)
        begin = timestep_pairs(SCHEDULE, 20, spacing)[0][0]
        distances.append((end - flow(start_noise(), begin, -1)).norm().item())
    assert distances[0] > gain * distances[1]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_prediction_of_the_clean_latent(name, spacing):
    start = start_noise()
    end = SAMPLERS[name](noise_prediction(SCHEDULE), start, SCHEDULE, 1, spacing, draw_noise=noise_source())
    t = timestep_pairs(SCHEDULE, 1, spacing)[0][0]
    signal, sigma = signal_and_noise(SCHEDULE, t)
    epsilon = noise_prediction(SCHEDULE)(start, torch.full((64,), t))
    torch.testing.assert_close(end, (start - sigma * epsilon) / signal)


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_in_the_loop_waits_for_the_device(name):
    """Reading a number off a tensor makes a GPU's host wait; on the CPU the read can at least be seen."""
    read = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                read.append(function)
            return function(*args, **(kwargs or {}))

    guidance = ClassifierGuidance(
        lambda z, t: z * t[:, None], torch.zeros(4, dtype=torch.int64), 1.0, (100, 900), maximum_norm=0.5, ratios=[]
    )
    with Watch():
        assert torch.ones(1).item() and read.pop()  # it does see one
        SAMPLERS[name](
            lambda z, t: z,
            torch.ones(4, 3),
            NoiseSchedule(prediction_type="v"),
            20,
            guidance=guidance,
            draw_noise=torch.randn,
        )
    assert len(guidance.ratios) == 16 and not read


@pytest.mark.parametrize("name", SAMPLERS)
def test_impossible_requests_are_refused(name):
    run = partial(SAMPLERS[name], lambda z, t: z, torch.zeros(1, 3), SCHEDULE, draw_noise=torch.randn)
    for steps in (0, -1, 1001):
        with pytest.raises(ValueError, match=str(steps)):
            run(steps)
    with pytest.raises(ValueError, match="quadratic"):
        run(10, "quadratic")


@pytest.mark.parametrize("sampler", [sample_ddpm, sample_dpm_solver_sde])
def test_stochastic_samplers_need_a_noise_source(sampler):
    with pytest.raises(ValueError, match="draw_noise"):
        sampler(lambda z, t: z, torch.zeros(1, 3), SCHEDULE)


def test_the_first_step_of_the_stochastic_solver_is_ddims():
    """First order, so DDIM's with eta = 1, noise and all; later steps extrapolate and differ."""
    states = {}
    for sampler in (sample_dpm_solver_sde, partial(sample_ddim, eta=1.0)):
        kept = states[sampler] = []
        guidance = guide("tilt", 2.0, 4)
        sampler(
            noise_prediction(SCHEDULE),
            start_noise(4),
            SCHEDULE,
            10,
            guidance=guidance,
            draw_noise=noise_source(),
            callback=lambda done, z: kept.append(z),
        )
    one, other = states.values()
    torch.testing.assert_close(one[0], other[0], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(one[1], other[1])


def test_few_stochastic_steps_are_closer_in_second_order():
    """Covariance at 20 steps, against the data's: the stochastic solver's error is a fraction of DDIM's with eta 1."""
    solver, ddim = (errors(sampled(name, 20, spacing="linspace"), "tilt", 0.0)[1] for name in SECOND_AND_FIRST)
    assert solver < 0.6 * ddim


@pytest.mark.parametrize(
    "sampler, eta",
    [(sample_ddim, -0.1), (sample_ddim, 1.1), (sample_ddim, math.nan)]
    + [(sample_dpm_solver_sde, eta) for eta in (-0.1, math.inf, math.nan)],
)
def test_impossible_eta_is_refused(sampler, eta):
    with pytest.raises(ValueError, match=f"--eta is {eta}"):
        sampler(lambda z, t: z, torch.zeros(1, 3), SCHEDULE, eta=eta, draw_noise=torch.randn)
