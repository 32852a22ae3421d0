"""From seeds to images: one noise for a seed, one guidance for an image, whatever the batch and the sampler."""

import pytest
import torch

from bundle.diffusion.guidance import ClassifierGuidance
from bundle.diffusion.samplers import SAMPLERS
from bundle.diffusion.sampling import LatentModels, Sampling, sample_from_noise, sample_images
from bundle.diffusion.schedule import NoiseSchedule

LATENT = {"scale": 0.5, "mean": [1.0, -2.0]}
LABELS = torch.tensor([0, 1, 1, 0, 1])
SCALES = torch.tensor([0.0, 0.0, 3.0, 3.0, 1.0])


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.9))

    def forward(self, noisy, timesteps):
        return self.gain * noisy * (timesteps / 1000).sqrt().reshape(-1, 1, 1, 1)


class Autoencoder(torch.nn.Module):
    definition = {"channels": [8, 8]}  # halves once

    def decode(self, latents):
        return torch.cat([latents, latents[:, :1]], dim=1).repeat_interleave(2, 2).repeat_interleave(2, 3) / 10


def classifier(noisy, timesteps):
    side = noisy.mean((1, 2, 3))
    return torch.stack([-side, side], dim=1)


MODELS = LatentModels(Network(), Autoencoder(), NoiseSchedule(), LATENT, 8)


def images(seeds, guidance_for=None, batch_size=32, **options):
    sampling = Sampling(**{"steps": 6, "spacing": "leading", **options})
    return sample_images(MODELS, seeds, sampling, batch_size, guidance_for=guidance_for)


def guided(part):
    return ClassifierGuidance(classifier, LABELS[part], SCALES[part] * 50)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_depends_on_its_seed_and_guidance_only(sampler):
    seeds = [3, 3, 3, 3, 7]
    whole = images(seeds, sampler=sampler, guidance_for=guided)
    assert whole.shape == (5, 3, 8, 8) and whole.dtype == torch.float32 and whole.abs().max() <= 1
    parts = []

    def guided_and_noted(part):
        parts.append((part.start, part.stop))
        return guided(part)

    torch.testing.assert_close(images(seeds, sampler=sampler, guidance_for=guided_and_noted, batch_size=2), whole)
    assert parts == [(0, 2), (2, 4), (4, 5)]
    # One seed, so one noise: with a scale of zero the label doesn't matter, else the class moves the picture its way.
    assert torch.equal(whole[0], whole[1])
    assert whole[2].mean() > whole[0].mean() + 1e-3 and whole[3].mean() < whole[0].mean() - 1e-3
    torch.testing.assert_close(whole[:1], images([3], sampler=sampler))


def test_default_is_the_unguided_stochastic_ddim():
    made = sample_images(MODELS, [1, 2], Sampling(5))
    assert torch.equal(made, images([1, 2], steps=5, spacing="trailing", eta=1.0, guidance_for=lambda part: None))
    assert not torch.equal(made, images([1, 2], steps=5, spacing="trailing", eta=0.0))


def test_start_is_about_the_mean_of_the_scaled_latents():
    """z_T of noise 1 in every value: sqrt(alpha_bar_T) * scale * mean + sqrt(1 - alpha_bar_T), as of scaled data."""
    states = []
    noise = torch.ones(1, 2, 4, 4)
    sample_from_noise(MODELS, noise, Sampling(1, eta=0.0), callback=lambda done, z: states.append(z))
    alpha_bar = MODELS.schedule.alpha_bar[-1].item()
    start = [alpha_bar**0.5 * 0.5 * mean + (1 - alpha_bar) ** 0.5 for mean in (1.0, -2.0)]
    torch.testing.assert_close(states[0], torch.tensor(start).reshape(1, 2, 1, 1).expand(1, 2, 4, 4))


def test_unknown_sampler_is_named():
    with pytest.raises(ValueError, match="'plms'.*ddpm"):
        images([1], sampler="plms")
