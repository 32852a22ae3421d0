"""Perceptual distances: from local weights only, and meaning what they say."""

from dataclasses import replace

import lpips
import pytest
import torch
from safetensors.torch import save_file

from bundle.models import perceptual
from bundle.models.perceptual import PerceptualDistance, trunk_shapes
from bundle.runs.sums import file_sha256


@pytest.fixture(scope="module")
def trunk_files(tmp_path_factory):
    """State dicts of both trunks with seeded random weights, named as torchvision names them."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    for trunk in ("vgg16", "alexnet"):
        # Scaled so that activations neither vanish nor grow.
        state = {
            name: torch.randn(shape, generator=generator) * (2 / max(1, shape[1:].numel())) ** 0.5
            for name, shape in trunk_shapes(trunk).items()
        }
        torch.save({**state, "classifier.6.bias": torch.zeros(1000)}, folder / f"{trunk}.pth")
        save_file(state, folder / f"{trunk}.safetensors")
    return folder


@pytest.fixture(scope="module")
def vgg_file(trunk_files):
    return trunk_files / "vgg16.pth"


def test_missing_lpips_weights_name_the_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="--perceptual_weights"):
        PerceptualDistance("lpips").load()
    with pytest.raises(FileNotFoundError, match="--perceptual_network random"):
        PerceptualDistance("lpips", tmp_path / "nothing.pth").load()


@pytest.mark.parametrize("trunk, net", [("vgg16", "vgg"), ("alexnet", "alex")])
def test_lpips_is_the_packages_own_with_our_trunk(trunk_files, trunk, net):
    ours = PerceptualDistance("lpips", trunk_files / f"{trunk}.safetensors", trunk=trunk)
    theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    state = torch.load(trunk_files / f"{trunk}.pth", weights_only=True)
    for number in range(1, 6):
        part = getattr(theirs.net, f"slice{number}")
        part.load_state_dict({name: state[f"features.{name}"] for name in part.state_dict()})
    first, second = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(ours(first, second), theirs(first, second).flatten())
    assert ours(first, first).abs().max().item() == 0.0


def test_each_trunk_has_its_own_file_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for trunk, file in (("vgg16", "vgg16-397923af.pth"), ("alexnet", "alexnet-owt-7be5be79.pth")):
        with pytest.raises(FileNotFoundError, match=f"{file}.*get_weights.py"):
            PerceptualDistance("lpips", trunk=trunk).load()


def test_weights_of_another_trunk_or_network_are_refused(trunk_files, tmp_path):
    for trunk, other in (("vgg16", "alexnet"), ("alexnet", "vgg16")):
        with pytest.raises(
            ValueError, match=rf"{other}.pth holds the trunk {other}.*give --perceptual_trunk {other}.*lpips-{trunk}"
        ):
            PerceptualDistance("lpips", trunk_files / f"{other}.pth", trunk=trunk).load()
    state = torch.load(trunk_files / "alexnet.pth", weights_only=True)
    del state["features.10.weight"], state["features.10.bias"]
    torch.save(state, tmp_path / "part.pth")
    torch.save({"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}, tmp_path / "resnet.pth")
    for file, trunk, said in (
        ("part.pth", "alexnet", "2 of the 10 .* such as features.10.weight, features.10.bias"),
        ("resnet.pth", "vgg16", "26 of the 26"),
    ):
        with pytest.raises(ValueError, match=f"{file} is not torchvision's {trunk}: {said}.*lpips-{trunk}") as caught:
            PerceptualDistance("lpips", tmp_path / file, trunk=trunk).load()
        assert "\n" not in str(caught.value)


def test_a_trunk_that_means_nothing_is_refused():
    with pytest.raises(ValueError, match="--perceptual_trunk is 'vgg19'; it must be one of vgg16, alexnet"):
        PerceptualDistance("lpips", trunk="vgg19").load()
    with pytest.raises(
        ValueError, match="--perceptual_trunk alexnet is of --perceptual_network lpips, and that is 'ra"
    ):
        PerceptualDistance("random", trunk="alexnet").load()


def test_random_features_are_the_same_everywhere_and_see_texture():
    first, second = PerceptualDistance("random"), PerceptualDistance("random")
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1)
    assert torch.equal(first(images, blurred), second(images, blurred))
    assert first(images, blurred).shape == (4,) and (first(images, blurred) > 0.1).all()
    assert first(images, images).abs().max().item() == 0.0


def test_torchscript_network_by_path(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    path = tmp_path / "features.ts"
    torch.jit.script(network).save(str(path))
    distance = PerceptualDistance("torchscript", path, file_sha256(path).upper())
    first, second = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    units = [lpips.normalize_tensor(network(images)) for images in (first, second)]
    expected = (units[0] - units[1]).square().sum(1).mean((1, 2))
    torch.testing.assert_close(distance(first, second), expected)


def test_a_torchscript_module_runs_only_with_its_own_sum(tmp_path, monkeypatch):
    path = tmp_path / "features.ts"
    path.write_bytes(b"a program")
    opened = []
    monkeypatch.setattr(torch.jit, "load", lambda *given, **more: opened.append(given))
    with pytest.raises(
        ValueError, match=r"features.ts, lacks --perceptual_sha256 \(a TorchScript file is a program that"
    ):
        PerceptualDistance("torchscript", path).load()
    with pytest.raises(ValueError, match="features.ts has the SHA-256 .*, and 00 was given.*it was not opened"):
        PerceptualDistance("torchscript", path, "00").load()
    assert not opened
    monkeypatch.undo()
    with pytest.raises(ValueError, match="features.ts can't be read as a TorchScript module"):
        PerceptualDistance("torchscript", path, file_sha256(path)).load()


class Foreign:
    """A class that nobody else knows."""


def cyclic():
    found = {}
    found["itself"] = found
    return found


@pytest.mark.parametrize("network", ["lpips", "resnet10t"])
@pytest.mark.parametrize(
    "content",
    [Foreign(), [1, 2], {"a": 3}, cyclic(), {}, {3: torch.zeros(1)}, b"no file"],
    ids=["pickle", "list", "numbers", "cyclic", "empty", "no names", "bytes"],
)
def test_files_of_something_else_end_in_a_sentence(tmp_path, network, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match="weights.pth") as caught:
        PerceptualDistance(network, path).load()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_network_of_the_hub_is_not_looked_for(tmp_path):
    (tmp_path / "weights.pth").touch()
    with pytest.raises(ValueError, match="timm has no model 'hf_hub:someone/else'"):
        PerceptualDistance("hf_hub:someone/else", tmp_path / "weights.pth").load()


@pytest.mark.parametrize("trunk, name", [("vgg16", "lpips"), ("alexnet", "lpips (alexnet)")])
def test_only_the_published_weights_may_be_called_lpips(trunk_files, monkeypatch, trunk, name):
    distance = PerceptualDistance("lpips", trunk_files / f"{trunk}.pth", trunk=trunk).load()
    assert distance.name == f"{name} with other weights" and distance.describe()["trunk"] == trunk
    with monkeypatch.context() as patch:
        published = replace(perceptual.TRUNKS[trunk], tensors=distance.describe()["sha256"])
        patch.setitem(perceptual.TRUNKS, trunk, published)
        assert distance.name == name
    distance.sha256 = perceptual.TRUNKS[trunk].file[-12:-4] + "0" * 56
    assert distance.name == name, "torchvision's file stands for itself"


def test_a_trunk_is_the_same_in_any_form_of_file(trunk_files):
    made = [
        PerceptualDistance("lpips", trunk_files / f"alexnet.{end}", trunk="alexnet") for end in ("pth", "safetensors")
    ]
    assert made[0].describe() == made[1].describe() and made[0].sha256 != made[1].sha256


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
def test_timm_network_by_path(tmp_path, name):
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=9)  # a classifier of nine tissues
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    distance = PerceptualDistance(name, path)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert (distance(images, images.flip(-1)) > 0).all() and distance(images, images).max().item() == 0.0
    features = distance.features(images)
    assert all(part.ndim == 4 and len(part) == 2 for part in features) and len(features) > 1
    with pytest.raises(FileNotFoundError, match=name):
        PerceptualDistance(name).load()


def test_a_network_without_feature_maps_is_refused(tmp_path):
    path = tmp_path / "classifier.ts"
    torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))).save(str(path))
    with pytest.raises(ValueError, match=r"shape \(1, 3\).*leave its pooling and head out"):
        PerceptualDistance("torchscript", path, file_sha256(path))(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))


def test_distance_is_frozen_and_stays_in_evaluation_mode():
    distance = PerceptualDistance("random").load().train()
    assert not distance.training and not any(parameter.requires_grad for parameter in distance.parameters())
