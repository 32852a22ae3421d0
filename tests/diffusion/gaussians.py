"""Gaussian data: exact noise predictions, two classifiers with exact gradients, and what a sampler does to a Gaussian.

z_0 ~ N(mean, covariance) in three dimensions, not isotropic, in float64. With an exact prediction and a gradient that
is affine in z every sampler is an affine map of its start and its noise, so its result has a mean and a covariance that
need no drawing. What belongs to a timestep is worked out once for all samplers.
"""

from functools import cache

import torch

MEAN = torch.tensor([1.5, -0.7, 0.3], dtype=torch.float64)
_axes = torch.linalg.qr(torch.tensor([[1.0, 2.0, 0.5], [-0.3, 1.0, 2.0], [1.0, 0.1, 1.0]], dtype=torch.float64)).Q
COVARIANCE = _axes @ torch.diag(torch.tensor([2.0, 0.6, 0.2], dtype=torch.float64)) @ _axes.T
EYE = torch.eye(3, dtype=torch.float64)
TILT = torch.tensor([0.8, 0.4, -1.1], dtype=torch.float64)  # w of p(y | z_0) ~ exp(w z_0)
# p(y | z_0) ~ exp(-(z_0 - centre) precision (z_0 - centre) / 2)
CENTRE = torch.tensor([0.2, 0.9, -0.4], dtype=torch.float64)
PRECISION = torch.tensor([[1.2, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 0.9]], dtype=torch.float64)


@cache
def signal_and_noise(schedule, t):
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at t, as numbers; t = -1 is the clean latent."""
    alpha_bar = schedule.alpha_bar[t].item() if t >= 0 else 1.0
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


@cache
def marginal(schedule, t, mean=MEAN, covariance=COVARIANCE):
    """Mean and covariance of q(z_t)."""
    signal, sigma = signal_and_noise(schedule, t)
    return signal * mean, signal**2 * covariance + sigma**2 * EYE


def noise_prediction(schedule):
    """The network: E[epsilon | z_t] = sigma (signal² covariance + sigma² I)^-1 (z_t - signal mean)."""

    @cache
    def inverse(t):
        return torch.linalg.inv(marginal(schedule, t)[1])

    def predict(noisy, timesteps):
        t = timesteps[0].item()
        return signal_and_noise(schedule, t)[1] * (noisy - marginal(schedule, t)[0]) @ inverse(t)

    return predict


@cache
def clean_given_noisy(schedule, t):
    """(slope, offset, covariance) of p(z_0 | z_t), whose mean is slope z_t + offset."""
    signal, _ = signal_and_noise(schedule, t)
    mean, covariance = marginal(schedule, t)
    slope = signal * COVARIANCE @ torch.linalg.inv(covariance)
    return slope, MEAN - slope @ mean, COVARIANCE - signal * slope @ COVARIANCE


@cache
def blurred_precision(schedule, t):
    """The likelihood's precision, blurred by what z_t leaves open about z_0."""
    return torch.linalg.inv(torch.linalg.inv(PRECISION) + clean_given_noisy(schedule, t)[2])


class GaussianClassifier(torch.nn.Module):
    """log p(y = 0 | z_t, t) exact up to a constant, through logits.

    Class 0 is so rare (e^-1000) that the probability of class 1 is 1 in float64, so log_softmax leaves class 0's logit
    as it is. That is the only way in which a softmax over classes can be a tilt or a Gaussian without a normaliser that
    depends on z.
    """

    def __init__(self, schedule, kind):
        super().__init__()
        self.schedule, self.kind = schedule, kind
        self.tilt = torch.nn.Parameter(TILT.clone())
        self.centre = torch.nn.Parameter(CENTRE.clone())
        self.calls = []
        self.eval()

    def forward(self, noisy, timesteps):
        t = timesteps[0].item()
        self.calls.append(t)
        slope, offset, _ = clean_given_noisy(self.schedule, t)
        clean = noisy @ slope.T + offset
        if self.kind == "tilt":  # E[exp(w z_0) | z_t]
            logit = clean @ self.tilt
        else:
            blurred = blurred_precision(self.schedule, t)
            logit = -((clean - self.centre) @ blurred * (clean - self.centre)).sum(1) / 2
        return torch.stack([logit - 1000, torch.zeros_like(logit)], dim=1)


@cache
def gradient_map(schedule, t, kind):
    """(slope, offset) of the gradient of log p(y | z_t) = slope z_t + offset, worked out by hand."""
    slope, offset, _ = clean_given_noisy(schedule, t)
    if kind == "tilt":
        return torch.zeros_like(EYE), slope.T @ TILT
    blurred = blurred_precision(schedule, t)
    return -slope.T @ blurred @ slope, -slope.T @ blurred @ (offset - CENTRE)


def guided_data(kind, scale):
    """Mean and covariance of p(z_0) p(y | z_0)^scale."""
    if kind == "tilt":
        return MEAN + scale * COVARIANCE @ TILT, COVARIANCE
    precision = torch.linalg.inv(COVARIANCE)
    covariance = torch.linalg.inv(precision + scale * PRECISION)
    return covariance @ (precision @ MEAN + scale * PRECISION @ CENTRE), covariance


def affine_map(run, draws):
    """(constant, start, noises) of z_0 = constant + start z_T + sum of noises[k] xi_k, read off unit vectors.

    Args:
        run: (start [B, 3], draw_noise) -> end [B, 3].
        draws: how often it draws noise.
    """
    size = 4 + 3 * draws
    start = torch.zeros(size, 3, dtype=torch.float64)
    start[1:4] = EYE
    drawn = 0

    def draw_noise(shape):
        nonlocal drawn
        noise = torch.zeros(shape, dtype=torch.float64)
        noise[4 + 3 * drawn : 7 + 3 * drawn] = EYE
        drawn += 1
        return noise

    end = run(start, draw_noise)
    assert drawn == draws
    constant = end[0]
    slopes = (end[1:] - constant).reshape(-1, 3, 3).transpose(1, 2)
    return constant, slopes[0], slopes[1:]


def result(maps, mean, covariance):
    """Mean and covariance at the end of an affine map, for a start with the given ones."""
    constant, start, noises = maps
    spread = (noises @ noises.transpose(1, 2)).sum(0)
    return constant + start @ mean, start @ covariance @ start.T + spread
