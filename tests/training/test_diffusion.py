"""What networks are trained on: samples of the cached posteriors, scaled and noised, whose moments are known.

The trainers' methods run on stand-ins that have only what the step's inputs are made of.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from bundle.diffusion.latent_scale import LatentScale
from bundle.diffusion.schedule import NoiseSchedule
from bundle.training.decoder import DecoderTrainer
from bundle.training.diffusion import LatentDiffusionTrainer
from bundle.training.latent_classifier import LatentClassifierTrainer

MEAN, STD, SCALE, CENTRE = 1.0, 2.0, 0.5, 0.25
LATENT = LatentScale(SCALE, (CENTRE,) * 3, (MEAN,) * 3)
SCALED = SCALE * (MEAN - CENTRE)
SHAPE = (40, 3, 32, 32)
BATCH = {"mean": torch.full(SHAPE, MEAN), "std": torch.full(SHAPE, STD)}
STATE = SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_moments(values, mean, variance):
    """Each item's independent normal values have this mean and variance (numbers or [B]), to five standard errors."""
    values = values.double().flatten(1)
    mean, variance = (torch.as_tensor(moment, dtype=torch.float64).expand(len(values)) for moment in (mean, variance))
    assert ((values.mean(1) - mean).abs() < 5 * (variance / values.shape[1]).sqrt()).all()
    assert ((values.var(1) - variance).abs() < 5 * variance * (2 / values.shape[1]) ** 0.5).all()


def assert_noised(noisy, timesteps, schedule):
    """z_t ~ N(sqrt(a) s (mean - centre), a s² std² + 1 - a), a being alpha_bar_t; t is drawn from the whole range."""
    alpha_bar = schedule.alpha_bar[timesteps]
    assert_moments(noisy, alpha_bar.sqrt() * SCALED, alpha_bar * (SCALE * STD) ** 2 + 1 - alpha_bar)
    assert timesteps.min() < 200 and timesteps.max() >= 800


@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
def test_diffusion_sees_scaled_samples_of_the_posterior(prediction_type):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    trainer = SimpleNamespace(latent=LATENT, schedule=schedule, state=STATE)
    noisy, timesteps, target = LatentDiffusionTrainer.draw(trainer, BATCH)
    assert_noised(noisy, timesteps, schedule)
    # z_t and the target have z_0 between them, and that is N(s (mean - centre), s² std²).
    alpha_bar = schedule.alpha_bar[timesteps].reshape(-1, 1, 1, 1)
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    clean = (noisy - sigma * target) / signal if prediction_type == "epsilon" else signal * noisy - sigma * target
    assert_moments(clean, SCALED, (SCALE * STD) ** 2)


def test_latent_classifier_sees_scaled_samples_of_the_posterior():
    schedule = NoiseSchedule()
    trainer = SimpleNamespace(
        pretrained=SimpleNamespace(latent=LATENT),
        schedule=schedule,
        state=STATE,
        bound=schedule.timesteps,
        autocast=nullcontext,
        network=None,
        inferer=lambda noisy, network, timesteps: (noisy, timesteps),
    )
    assert_noised(*LatentClassifierTrainer.train_logits(trainer, BATCH), schedule)


class Decoded(Exception):
    """Ends the decoder's step where its input is known."""


def test_decoder_sees_unscaled_samples_of_the_posterior():
    def decode(latents):
        raise Decoded(latents)

    autoencoder = SimpleNamespace(decode=decode)
    trainer = SimpleNamespace(
        autoencoder=autoencoder, state=STATE, autocast=nullcontext, drawing=lambda part: nullcontext()
    )
    with pytest.raises(Decoded) as decoded:
        DecoderTrainer.decode(trainer, None, BATCH)
    assert_moments(*decoded.value.args, MEAN, STD**2)
