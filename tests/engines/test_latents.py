"""The latent cache: right, encoded once, never stale, and surviving interruption."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from helpers import few_images
from PIL import Image

from bundle.artefacts import load_artefact, save_artefact
from bundle.data.latents import LatentCache, latent_statistics


def test_scaled_latents_have_unit_variance_and_decode_back(pretrained):
    """encode, scale, unscale, decode: the stored scale gives unit variance, and undoing it loses nothing."""
    autoencoder, facts = load_artefact(pretrained / "autoencoder.pt", "autoencoder")
    scale = facts["latent"]["scale"]
    paths = sorted((pretrained / "cache" / "generated_patches").rglob("*.png"))
    images = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths])
    with torch.no_grad():
        mean, std = autoencoder.encode(images.float() / 127.5 - 1)
        latents = mean + std * torch.randn_like(std)
        direct = autoencoder.decode(latents)
        there_and_back = autoencoder.decode((latents * scale) / scale)
    torch.testing.assert_close(there_and_back, direct, rtol=1e-3, atol=1e-4)
    # Estimated on two orientations of the training part, measured here on all patches.
    assert (latents * scale).std().item() == pytest.approx(1.0, rel=0.1)


def test_latent_statistics_by_hand():
    generator = np.random.default_rng(0)
    means = generator.normal([[[3.0]], [[-1.0]]], [[[2.0]], [[0.5]]], size=(4000, 2, 4, 4))
    stds = np.broadcast_to(np.array([0.5, 1.0]).reshape(2, 1, 1), means.shape)
    statistics = latent_statistics(np.stack([means, stds], 1).astype(np.float16))
    assert statistics["mean"] == pytest.approx([3.0, -1.0], abs=0.03)
    assert statistics["std"] == pytest.approx([(4 + 0.25) ** 0.5, (0.25 + 1) ** 0.5], rel=0.01)
    # All elements about their common mean 1: variance = mean of (4.25 + 2²) and (1.25 + 2²).
    assert statistics["scale"] == pytest.approx(((8.25 + 5.25) / 2) ** -0.5, rel=0.01)


def test_full_disk_while_encoding_is_an_error_and_not_a_signal(pretrained, workflow, tmp_path, monkeypatch):
    folder = tmp_path / "full"
    shutil.copytree(pretrained, folder)
    shutil.rmtree(next((folder / "cache").glob("latents_*")))

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="disk is full.*latents.npy.*--latent_orientations"):
        workflow(output_dir=str(folder)).parser.get_parsed_content("latents").prepare()
    assert not list((folder / "cache").rglob("*.npy.*")) and not list((folder / "cache").rglob("latents.npy"))


def test_another_autoencoders_latents_are_refused(pretrained, workflow, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(pretrained, folder)
    (folder / "diffusion_checkpoint.pt").unlink()
    (folder / "diffusion.pt").unlink()
    made = workflow(output_dir=str(folder), latent_channels=5)
    with pytest.raises(ValueError, match="latents of 3 channels, the diffusion model takes 5"):
        made.parser.get_parsed_content("diffusion#trainer").run()


def test_latents_are_encoded_once_and_a_changed_encoder_gets_its_own(pretrained, workflow, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    made = workflow(output_dir=str(folder))
    cache = made.parser.get_parsed_content("latents")
    monkeypatch.setattr(LatentCache, "encode", lambda *arguments: pytest.fail("encoded twice"))
    first = np.array(cache.prepare()._latents[:4])
    monkeypatch.undo()

    autoencoder, facts = load_artefact(folder / "autoencoder.pt", "autoencoder")
    with torch.no_grad():
        next(autoencoder.encoder.parameters()).mul_(1.5)
    save_artefact(folder / "autoencoder.pt", "autoencoder", autoencoder, data_fingerprint=facts["data_fingerprint"])
    again = workflow(output_dir=str(folder)).parser.get_parsed_content("latents").prepare()
    assert len(list((folder / "cache").glob("latents_*"))) == 2
    assert not np.allclose(first, again._latents[:4])


def test_interrupted_encoding_continues_to_the_same_cache(pretrained, workflow, tmp_path, monkeypatch):
    from bundle.data import latents

    expected = np.load(next((pretrained / "cache").glob("latents_*/latents.npy")))
    folder = tmp_path / "interrupted"
    shutil.copytree(pretrained, folder)
    shutil.rmtree(next((folder / "cache").glob("latents_*")))

    settings = {"output_dir": str(folder), "inference_batch_size": 1}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(latents, "write_json", interrupting(latents.write_json))
        workflow(**settings).parser.get_parsed_content("latents").prepare()
    progress = next((folder / "cache").glob("latents_*/progress.json"))
    assert json.loads(progress.read_text())["done"] == 50 < len(expected)
    workflow(**settings).parser.get_parsed_content("latents").prepare()
    np.testing.assert_allclose(np.load(progress.with_name("latents.npy")), expected, rtol=2e-3, atol=2e-3)

    progress.unlink()  # killed between the two files
    again = workflow(**settings).parser.get_parsed_content("latents").prepare()
    np.testing.assert_allclose(np.array(again._latents), expected, rtol=2e-3, atol=2e-3)


def interrupting(write):
    def write_then_stop(path, content):
        write(path, content)
        raise KeyboardInterrupt

    return write_then_stop


def test_the_same_patches_in_another_order_are_other_latents(pretrained, workflow, tmp_path):
    """Rows of the cache lie in the order of the files: a renamed file moves to another row."""
    data = tmp_path / "data"
    data.mkdir()
    few_images(data, 12)
    settings = {"dataset_dir": str(data), "perceptual_network": "random", "output_dir": str(tmp_path / "out")}
    first = workflow(**settings).parser.get_parsed_content("patches").prepare().fingerprint
    assert workflow(**settings).parser.get_parsed_content("patches").fingerprint == first
    (data / "0.png").rename(data / "zzz.png")
    assert workflow(**settings).parser.get_parsed_content("patches").fingerprint != first


def test_cached_latents_are_the_encoders_in_every_orientation(pretrained, workflow):
    made = workflow(output_dir=str(pretrained))
    cache = made.parser.get_parsed_content("latents").prepare()
    autoencoder, _ = load_artefact(pretrained / "autoencoder.pt", "autoencoder")
    patches = made.parser.get_parsed_content("patches")
    training = patches.training()
    image = torch.as_tensor(patches.store.image(int(training[1]))).float()[None] / 127.5 - 1
    with torch.no_grad():
        for place, oriented in ((1, image), (len(training) + 1, torch.rot90(image, 1, (-2, -1)))):
            mean, std = autoencoder.encode(oriented)
            item = cache.read(place)
            np.testing.assert_allclose(item["mean"], mean[0].numpy(), rtol=2e-3, atol=2e-3)
            np.testing.assert_allclose(item["std"], std[0].numpy(), rtol=2e-3, atol=2e-3)
