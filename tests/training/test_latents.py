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

from bundle.diffusion.latent_scale import LatentScale
from bundle.models.artefacts import load_artefact, save_artefact
from bundle.runs.context import RunContext
from bundle.training.latents import LatentCache, latent_statistics


def test_scaled_latents_have_unit_variance_and_decode_back(pretrained):
    """encode, scale, unscale, decode: the stored scale gives unit variance, and undoing it loses nothing."""
    autoencoder, facts = load_artefact(pretrained / "autoencoder.pt", "autoencoder")
    latent = LatentScale.read(facts["latent"])
    paths = sorted((pretrained / "cache" / "generated_patches").rglob("*.png"))
    images = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths])
    with torch.no_grad():
        mean, std = autoencoder.encode(images.float() / 127.5 - 1)
        latents = mean + std * torch.randn_like(std)
        direct = autoencoder.decode(latents)
        there_and_back = autoencoder.decode(latent.unscaled(latent.scaled(latents)))
    torch.testing.assert_close(there_and_back, direct, rtol=1e-3, atol=1e-4)
    # Estimated on two orientations of the training part, measured here on all patches.
    scaled = latent.scaled(latents)
    assert scaled.std().item() == pytest.approx(1.0, rel=0.1) and scaled.mean((0, 2, 3)).abs().max() < 0.1


def test_latent_statistics_by_hand():
    generator = np.random.default_rng(0)
    means = generator.normal([[[3.0]], [[-1.0]]], [[[2.0]], [[0.5]]], size=(4000, 2, 4, 4))
    stds = np.broadcast_to(np.array([0.5, 1.0]).reshape(2, 1, 1), means.shape)
    statistics = latent_statistics(np.stack([means, stds], 1).astype(np.float16))
    assert statistics["mean"] == pytest.approx([3.0, -1.0], abs=0.03)
    assert statistics["std"] == pytest.approx([(4 + 0.25) ** 0.5, (0.25 + 1) ** 0.5], rel=0.01)
    assert statistics["centre"] == statistics["mean"]
    assert statistics["scale"] == pytest.approx(((4.25 + 1.25) / 2) ** -0.5, rel=0.01)
    as_they_are = latent_statistics(np.stack([means, stds], 1).astype(np.float16), centred=False)
    # All elements about their common mean 1: variance = mean of (4.25 + 2²) and (1.25 + 2²).
    assert as_they_are["scale"] == pytest.approx(((8.25 + 5.25) / 2) ** -0.5, rel=0.01)
    assert "centre" not in as_they_are


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
    from bundle.training import latents

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


class FewPatches:
    """Four labelled patches, the upper half of each empty glass: what LatentCache needs of labelled patches."""

    labels = np.array([2, 0, 1, 1])
    fingerprint = "few patches"

    def part(self, name):
        return self

    def prepare(self):
        return self

    def __len__(self):
        return 4

    def read(self, index):
        # The last two are the same picture.
        pixels = np.random.default_rng(min(index, 2)).integers(40, 220, (3, 32, 32), np.uint8)
        pixels[:, :16] = 255
        return {"image": torch.from_numpy(pixels), "label": int(self.labels[index])}


def stained(cache_dir, output_dir="none", batch_size=32, **settings):
    settings = {"orientations": 2, "stain_copies": 2, "density_scale": 0.4, **settings}
    context = RunContext(output_dir, cache_dir=cache_dir, inference_batch_size=batch_size)
    return LatentCache(FewPatches(), context, **settings)


def test_variants_are_the_orientations_as_it_is_then_of_each_stain_copy(tmp_path):
    cache, patches = stained(tmp_path), FewPatches()
    assert cache.variants == 6
    for place in range(4):
        plain, turned, first, first_turned, second, second_turned = (
            cache.image(variant * 4 + place) for variant in range(6)
        )
        assert plain.dtype == torch.uint8 and torch.equal(plain, patches.read(place)["image"])
        for upright, other in ((plain, turned), (first, first_turned), (second, second_turned)):
            assert torch.equal(other, torch.rot90(upright, 1, (-2, -1)))
        for copy in (first, second):
            assert (copy[:, :16] == 255).all(), "empty glass was stained"
        factors = density_factors(plain, first) + density_factors(plain, second)
        assert all(0.59 < factor < 1.41 for factor in factors)
        assert max(factors) - min(factors) > 0.1, "neither copy nor channel is varied"
        assert np.abs(np.subtract(factors[:3], factors[3:])).max() > 0.02, "both copies are varied alike"
    # The same picture at two places isn't varied alike.
    assert torch.equal(cache.image(2), cache.image(3)) and not torch.equal(cache.image(8 + 2), cache.image(8 + 3))


def density_factors(plain, copy):
    """By what factor each channel's optical density differs; that this is all the difference there is, but rounding."""
    before, after = (-np.log((picture.numpy().reshape(3, -1).astype(float) + 1) / 256) for picture in (plain, copy))
    factors = (before * after).sum(1) / (before**2).sum(1)
    expected = 256 * np.exp(-factors[:, None] * before) - 1
    assert np.abs(expected - copy.numpy().reshape(3, -1)).max() < 1.0
    return factors.tolist()


def test_stain_copies_are_the_same_whenever_and_in_whatever_order_they_are_made(tmp_path):
    first, again = stained(tmp_path / "first"), stained(tmp_path / "again")
    pictures = [first.image(index) for index in range(24)]
    np.random.seed(5)
    assert all(torch.equal(again.image(index), pictures[index]) for index in reversed(range(24)))


def test_cached_latents_of_a_stain_copy_are_the_encoders(pretrained, tmp_path):
    cache = stained(tmp_path, pretrained, batch_size=5).prepare()
    autoencoder, _ = load_artefact(pretrained / "autoencoder.pt", "autoencoder")
    assert len(cache) == 24
    for index in range(24):
        with torch.no_grad():
            mean, std = autoencoder.encode(cache.image(index)[None].float() / 127.5 - 1)
        item = cache.read(index)
        np.testing.assert_allclose(item["mean"], mean[0].numpy(), rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(item["std"], std[0].numpy(), rtol=2e-3, atol=2e-3)
        assert item["label"] == FewPatches.labels[index % 4]
    # The copies' latents differ by more than half precision, so that the comparison above tells them apart.
    assert np.abs(cache.read(0)["mean"] - cache.read(8)["mean"]).max() > 0.01
    means, labels = cache.means()
    assert labels.tolist() == [2, 0, 1, 1]
    np.testing.assert_array_equal(means[3].numpy(), cache.read(3)["mean"])


def test_stain_copies_belong_to_their_patch_in_a_real_run(pretrained, adapted, workflow):
    made = workflow("adapt.json", output_dir=str(adapted), pretrained_dir=str(pretrained))
    cache, part = (made.parser.get_parsed_content("latents").prepare(), made.parser.get_parsed_content("labelled"))
    part = part.part("train")
    autoencoder, _ = load_artefact(adapted / "autoencoder.pt", "autoencoder")
    assert len(cache) == 4 * len(part) > 0  # two orientations, as it is and once varied
    for index in (1, 2 * len(part) + 1, 4 * len(part) - 1):
        with torch.no_grad():
            mean, _ = autoencoder.encode(cache.image(index)[None].float() / 127.5 - 1)
        np.testing.assert_allclose(cache.read(index)["mean"], mean[0].numpy(), rtol=2e-3, atol=2e-3)
        assert cache.read(index)["label"] == part.labels[index % len(part)]


def test_each_stain_setting_has_its_own_cache(pretrained, tmp_path):
    def folders(**settings):
        stained(tmp_path, pretrained, **settings).prepare()
        return len(list(tmp_path.glob("latents_*")))

    assert folders() == folders() == 1
    assert folders(density_scale=0.2) == 2
    assert folders(stain_copies=1) == 3
    assert folders(orientations=1) == 4
    # Without copies there is no stain to vary.
    assert folders(stain_copies=0) == folders(stain_copies=0, density_scale=0.2) == 5


def test_negative_stain_copies_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--latents#stain_copies is -1; it must be 0 or more"):
        stained(tmp_path, stain_copies=-1)
