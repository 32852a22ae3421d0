"""Between the autoencoder's latents and those of diffusion: by hand, and as older weights have it."""

import pytest
import torch

from bundle.diffusion.latent_scale import LatentScale

LATENTS = torch.tensor([[5.0, 7.0], [-1.0, 1.0]]).reshape(1, 2, 1, 2)


def test_centred_latents_by_hand():
    latent = LatentScale.read({"scale": 0.5, "mean": [6.0, 0.0], "std": [1.0, 1.0], "centre": [6.0, 0.0]})
    scaled = latent.scaled(LATENTS)
    assert scaled.flatten().tolist() == [-0.5, 0.5, -0.5, 0.5]
    assert torch.equal(latent.unscaled(scaled), LATENTS) and not latent.scaled_mean().any()
    assert latent.facts() == {"latent_scale": 0.5, "latent_centre": [6.0, 0.0]}


def test_weights_from_before_the_centre_are_read_as_they_were_trained():
    latent = LatentScale.read({"scale": 0.3, "mean": [6.0, -2.0]})
    assert torch.equal(latent.scaled(LATENTS), 0.3 * LATENTS)
    assert torch.equal(latent.unscaled(LATENTS), LATENTS / 0.3)
    assert latent.scaled_mean().tolist() == pytest.approx([1.8, -0.6])
    assert latent.facts() == {"latent_scale": 0.3}
