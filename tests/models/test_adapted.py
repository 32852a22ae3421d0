"""The networks of an adaptation, as synthesis gets them: put together, checked, frozen."""

import shutil

import pytest
import torch

from bundle.models.adapted import AdaptedModels
from bundle.models.artefacts import load_artefact, read_artefact

KINDS = ("autoencoder", "decoder", "diffusion", "latent_classifier")


@pytest.fixture
def copied(adapted, tmp_path):
    """A folder with nothing but what synthesis needs."""
    for kind in KINDS:
        shutil.copyfile(adapted / f"{kind}.pt", tmp_path / f"{kind}.pt")
    return tmp_path


def change(folder, kind, **facts):
    path = folder / f"{kind}.pt"
    torch.save({**torch.load(path, weights_only=True), **facts}, path)


def test_parts_and_facts(copied, pretrained):
    models = AdaptedModels(copied).prepare()
    parts = {kind: read_artefact(copied / f"{kind}.pt", kind) for kind in KINDS}
    expected = {**parts["autoencoder"]["weights"], **parts["decoder"]["weights"]}
    for network, weights in (
        (models.autoencoder, expected),
        (models.diffusion, parts["diffusion"]["weights"]),  # the average, not the raw ones
        (models.classifier, parts["latent_classifier"]["weights"]),
    ):
        assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert models.classes == parts["latent_classifier"]["classes"] and len(models.classes) == 9
    assert models.schedule.describe() == parts["diffusion"]["schedule"]
    assert models.latent["scale"] == parts["autoencoder"]["latent"]["scale"] and models.patch_size == 32
    assert models.prepare() is models


@pytest.mark.parametrize("kind, fact", [("autoencoder", "patch_size"), ("diffusion", "schedule")])
def test_a_file_that_lacks_a_fact_is_refused(copied, kind, fact):
    path = copied / f"{kind}.pt"
    content = torch.load(path, weights_only=True)
    del content[fact]
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"{copied} is incomplete or made by something else .KeyError.'{fact}'"):
        AdaptedModels(copied).prepare()


def test_nothing_is_read_before_it_is_needed_and_it_stays_in_evaluation_mode(tmp_path, copied):
    from monai.networks import eval_mode

    AdaptedModels(tmp_path / "nowhere").to("cpu").eval()
    models = AdaptedModels(copied)
    with eval_mode(models):
        models.prepare()
    models.train()
    assert not any(module.training for module in models.modules())
    assert models.to("meta").device.type == models.diffusion.conv_in.conv.weight.device.type == "meta"


def test_as_network_def_it_maps_images_to_images_of_the_metadatas_shape(copied, pretrained):
    images = torch.rand(2, 3, 8, 16) * 2 - 1
    made = AdaptedModels(copied).eval()(images)
    assert made.shape == images.shape and made.dtype == torch.float32 and made.abs().max() <= 1
    before = AdaptedModels(copied, decoder="pretrained")(images)
    autoencoder, _ = load_artefact(pretrained / "autoencoder.pt", "autoencoder")
    with torch.no_grad():
        expected = autoencoder.decode(autoencoder.encode(images)[0]).clamp(-1, 1)
    torch.testing.assert_close(before, expected)
    assert not torch.equal(made, before)


def test_decoding_takes_latents_as_diffusion_has_them(copied):
    models = AdaptedModels(copied).prepare()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    latents = models.autoencoder.encode(images)[0]
    torch.testing.assert_close(models.decode(models.latent_scale.scaled(latents)), models(images))


def test_fingerprint_changes_with_whatever_changes_pixels(copied):
    found = {"adapted": AdaptedModels(copied).prepare().fingerprint}
    assert AdaptedModels(copied).prepare().fingerprint == found["adapted"]
    found["pretrained"] = AdaptedModels(copied, decoder="pretrained").prepare().fingerprint
    for kind in ("decoder", "diffusion", "latent_classifier"):
        change(copied, kind, fingerprint=f"another {kind}")
        found[kind] = AdaptedModels(copied).prepare().fingerprint
    latent = read_artefact(copied / "autoencoder.pt", "autoencoder")["latent"]
    change(copied, "autoencoder", latent={**latent, "mean": [0.0, 0.0, 0.0]})
    found["mean"] = AdaptedModels(copied).prepare().fingerprint
    change(copied, "autoencoder", latent={**latent, "mean": [0.0, 0.0, 0.0], "centre": [9.0, 9.0, 9.0]})
    for kind in ("diffusion", "latent_classifier"):
        change(copied, kind, latent_centre=[9.0, 9.0, 9.0])
    found["centre"] = AdaptedModels(copied).prepare().fingerprint
    assert len(set(found.values())) == len(found)
    change(copied, "latent_classifier", temperature=2.0)  # a setting of the sampling, not a weight
    assert AdaptedModels(copied).prepare().fingerprint == found["centre"]


def test_decoder_as_pretrained_needs_no_adapted_one(copied):
    (copied / "decoder.pt").unlink()
    assert AdaptedModels(copied, decoder="pretrained").prepare().classes
    with pytest.raises(ValueError, match="--decoder is 'best'; it must be one of adapted, pretrained"):
        AdaptedModels(copied, decoder="best")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_part_names_the_command(copied, kind):
    (copied / f"{kind}.pt").unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {kind}.pt.*configs/adapt.json"):
        AdaptedModels(copied).prepare()


@pytest.mark.parametrize(
    "kind, facts, message",
    [
        (
            "diffusion",
            {"autoencoder_fingerprint": "abc"},
            "autoencoder fingerprint differs.*autoencoder.pt.*diffusion.pt",
        ),
        ("diffusion", {"latent_scale": 7.0}, "latent scale differs.*autoencoder.pt has 0.*diffusion.pt has 7.0"),
        ("diffusion", {"latent_centre": [0.0]}, "latent centre differs.*diffusion.pt has .0.0."),
        ("diffusion", {"patch_size": 64}, "patch size differs.*autoencoder.pt has 32.*diffusion.pt has 64"),
        ("decoder", {"autoencoder_fingerprint": "abc"}, "autoencoder fingerprint differs.*decoder.pt has abc"),
        ("decoder", {"classes": ["TUM"]}, "classes differs.*latent_classifier.pt has .*decoder.pt has .'TUM'"),
        ("latent_classifier", {"autoencoder_fingerprint": "abc"}, "latent_classifier.pt has abc"),
        ("latent_classifier", {"latent_scale": 7.0}, "latent scale differs.*latent_classifier.pt has 7.0"),
        ("latent_classifier", {"schedule": {}}, "schedule differs.*diffusion.pt has .*latent_classifier.pt has"),
        ("autoencoder", {"format": "other/1"}, "autoencoder.pt is not an artefact of this bundle"),
    ],
)
def test_parts_of_different_runs_are_refused_with_both_named(copied, kind, facts, message):
    change(copied, kind, **facts)
    with pytest.raises(ValueError, match=message):
        AdaptedModels(copied).prepare()


def test_compile_is_asked_of_the_two_networks_of_each_step(copied, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    AdaptedModels(copied).prepare()
    assert compiled == []
    models = AdaptedModels(copied, compile=True).prepare()
    assert compiled == [models.diffusion, models.classifier]
