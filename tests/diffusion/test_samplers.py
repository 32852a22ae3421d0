"""Samplers on Gaussian data, whose exact noise prediction and limit are known."""

import pytest
import torch

from bundle.diffusion.samplers import SPACINGS, sample_ddim, sample_dpm_solver_sde, start_latents, timestep_pairs
from bundle.diffusion.schedule import NoiseSchedule

MEAN, STD = 1.5, 0.6


def exact_network(schedule, mean=MEAN, std=STD):
    """E[epsilon | z_t] for z_0 ~ N(mean, std²): sqrt(1 - abar) (z_t - sqrt(abar) mean) / (abar std² + 1 - abar)."""

    def predict(noisy, timesteps):
        alpha_bar = schedule.alpha_bar[timesteps].float().reshape(-1, 1)
        variance = alpha_bar * std**2 + 1 - alpha_bar
        epsilon = (1 - alpha_bar).sqrt() * (noisy - alpha_bar.sqrt() * mean) / variance
        if schedule.prediction_type == "epsilon":
            return epsilon
        clean = (noisy - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()
        return alpha_bar.sqrt() * epsilon - (1 - alpha_bar).sqrt() * clean

    return predict


def noise_source(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 333, 999, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_pairs_chain_and_end_clean(steps, spacing):
    pairs = timestep_pairs(NoiseSchedule(), steps, spacing)
    assert len(pairs) == steps
    assert all(t_next == following for (_, t_next), (following, _) in zip(pairs, pairs[1:]))
    assert pairs[-1][1] == -1
    times = [t for t, _ in pairs]
    assert times == sorted(set(times), reverse=True) and 0 <= times[-1] and times[0] <= 999


@pytest.mark.parametrize(
    "spacing, first, last", [("trailing", 999, 4), ("leading", 995, 0), ("linspace", 999, 0), ("log_snr", 999, 0)]
)
def test_spacings_begin_and_end_where_they_say(spacing, first, last):
    pairs = timestep_pairs(NoiseSchedule(), 200, spacing)
    assert (pairs[0][0], pairs[-1][0]) == (first, last)


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "log_snr"])
def test_a_single_step_starts_from_noise(spacing):
    assert timestep_pairs(NoiseSchedule(), 1, spacing) == [(999, -1)]


@pytest.mark.parametrize("schedule", [NoiseSchedule(), NoiseSchedule(beta_end=0.0195)])
def test_log_snr_is_even_where_whole_t_allow(schedule):
    times = [t for t, _ in timestep_pairs(schedule, 25, "log_snr")]
    log_snr = (schedule.alpha_bar / (1 - schedule.alpha_bar)).log()
    even = (log_snr[0] - log_snr[999]) / 24
    sizes = log_snr[times].diff()
    assert all(abs(size - even) < 0.05 * even for size, t in zip(sizes, times[1:]) if t >= 40)
    # Where t is too coarse, each is taken once.
    assert timestep_pairs(schedule, 100, "log_snr")[-5:] == [(4, 3), (3, 2), (2, 1), (1, 0), (0, -1)]


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_steps_are_refused(steps):
    with pytest.raises(ValueError, match=str(steps)):
        timestep_pairs(NoiseSchedule(), steps)


def test_unknown_spacing_is_named():
    with pytest.raises(ValueError, match="quadratic"):
        timestep_pairs(NoiseSchedule(), 10, "quadratic")


@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_reaches_the_gaussian(eta, prediction_type):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    start = noise_source()((20000, 1))
    end = sample_ddim(
        exact_network(schedule), start, schedule, steps=250, eta=eta, draw_noise=noise_source(1) if eta else None
    )
    # 20,000 draws: standard error 0.004 of the mean, 0.003 of the standard deviation; the rest is discretisation.
    assert end.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert end.std().item() == pytest.approx(STD, abs=0.02)


def test_deterministic_path_is_the_exact_recursion():
    """For Gaussian data each DDIM step is affine in z, so the whole path can be worked out in scalars."""
    schedule = NoiseSchedule()
    slope, offset = 1.0, 0.0
    for t, t_next in timestep_pairs(NoiseSchedule(), 10):
        now = schedule.alpha_bar[t].item()
        then = schedule.alpha_bar[t_next].item() if t_next >= 0 else 1.0
        gain = (1 - now) ** 0.5 / (now * STD**2 + 1 - now)  # epsilon = gain * (z - sqrt(now) * mean)
        a = (then / now) ** 0.5 + ((1 - then) ** 0.5 - (then * (1 - now) / now) ** 0.5) * gain
        b = -((1 - then) ** 0.5 - (then * (1 - now) / now) ** 0.5) * gain * now**0.5 * MEAN
        slope, offset = a * slope, a * offset + b
    start = torch.linspace(-2, 2, 9).reshape(-1, 1)
    end = sample_ddim(exact_network(schedule), start, schedule, steps=10)
    torch.testing.assert_close(end, slope * start + offset, rtol=1e-4, atol=1e-4)


def test_full_stochastic_step_is_the_ddpm_posterior():
    """eta = 1 between neighbours has the mean and variance of q(z_{t-1} | z_t, z_0): Ho et al. Eq. 6 and 7."""
    schedule = NoiseSchedule()
    t = 500
    now, then = schedule.alpha_bar[t].item(), schedule.alpha_bar[t - 1].item()
    beta = 1 - now / then
    start = torch.randn(4, 1)
    states = []
    zero_noise = sample_ddim(
        exact_network(schedule), start, schedule, 1000, eta=1.0, draw_noise=torch.zeros,
        callback=lambda done, latents: states.append(latents),
    )  # fmt: skip
    assert torch.equal(zero_noise, states[-1])
    before, after = states[999 - t - 1], states[999 - t]  # the state at t, and the one at t - 1
    epsilon = exact_network(schedule)(before, torch.full((4,), t))
    clean = (before - (1 - now) ** 0.5 * epsilon) / now**0.5
    mean = then**0.5 * beta / (1 - now) * clean + (1 - beta) ** 0.5 * (1 - then) / (1 - now) * before
    torch.testing.assert_close(after, mean, rtol=1e-3, atol=1e-4)
    ones = []
    sample_ddim(
        exact_network(schedule), start, schedule, 1000, eta=1.0,
        draw_noise=lambda shape: torch.full(shape, 1.0 if len(ones) == 999 - t else 0.0),
        callback=lambda done, latents: ones.append(latents),
    )  # fmt: skip
    variance = (ones[999 - t] - states[999 - t]).square().mean().item()
    assert variance == pytest.approx((1 - then) / (1 - now) * beta, rel=1e-3)


def test_stochastic_sampling_needs_a_noise_source():
    with pytest.raises(ValueError, match="draw_noise"):
        sample_ddim(lambda z, t: z, torch.zeros(1, 1), NoiseSchedule(), eta=0.5)


def test_network_sees_the_original_timesteps():
    seen = []

    def network(noisy, timesteps):
        seen.append(timesteps.tolist())
        return noisy

    sample_ddim(network, torch.zeros(2, 1), NoiseSchedule(), steps=4)
    assert seen == [[999, 999], [749, 749], [499, 499], [249, 249]]


def test_start_takes_away_the_known_bias_of_the_mean():
    """Data N(20, 1): from plain noise the mean ends sqrt(alpha_bar_T) * 20 = 0.52 too low, else where it should."""
    schedule = NoiseSchedule()
    network = exact_network(schedule, mean=20.0, std=1.0)
    noise = noise_source()((4000, 1))
    right = start_latents(noise, schedule, torch.tensor([20.0]))
    ends = [sample_ddim(network, start, schedule, steps=250).mean().item() for start in (noise, right)]
    offset = noise.mean().item()  # std 1: the start's own average is carried to the end
    assert ends[0] - offset == pytest.approx(20 - 20 * 6.69e-4**0.5, abs=0.02)
    assert ends[1] - offset == pytest.approx(20, abs=0.02)


def test_start_by_hand():
    schedule = NoiseSchedule()
    alpha_bar = schedule.alpha_bar[-1].item()
    start = start_latents(torch.ones(2, 3, 1, 1), schedule, torch.tensor([0.0, 1.0, -10.0]))
    expected = [(1 - alpha_bar) ** 0.5 + alpha_bar**0.5 * mean for mean in (0.0, 1.0, -10.0)]
    assert start[1].flatten().tolist() == pytest.approx(expected, rel=1e-6)


def kept_variance(variances, steps, spacing, eta=1.0):
    """Variance of results over that of the data, for independent Gaussian coordinates of these variances.

    Each image of the batch gets a single unit of noise, of one of the draws, and zeros otherwise. The sampler is linear
    here, so the sum of squares is the exact variance.
    """
    schedule, units = NoiseSchedule(), iter(torch.eye(steps + 1))

    def unit(shape):
        return next(units)[:, None].expand(shape)

    network = exact_network(schedule, 0.0, variances.sqrt())
    start = unit((steps + 1, len(variances)))
    end = sample_dpm_solver_sde(network, start, schedule, steps, spacing, draw_noise=unit, eta=eta)
    return (end**2).sum(0) / variances


def test_few_steps_even_in_log_snr_keep_the_variance_of_every_scale():
    """Coordinates of small variance are fine texture, of large variance colour and layout. The few-step solver with
    linspace spacing, which is coarse where variances of 0.1 to 1 are decided, adds up to a sixth to them."""
    variances = torch.logspace(-1, 2, 13)
    assert (kept_variance(variances, 25, "log_snr") - 1).abs().max() < 0.035
    assert (kept_variance(variances, 35, "log_snr") - 1).abs().max() < 0.02
    assert (kept_variance(variances, 25, "log_snr", eta=1.4) - 1).abs().max() < 0.045
    assert 1.14 < kept_variance(variances, 25, "linspace").max() < 1.2
