"""Perceptual distances: from local weights only, and meaning what they say."""

import lpips
import pytest
import torch
from torchvision.models import vgg16

from bundle.models.perceptual import PerceptualDistance
from bundle.runs.sums import file_sha256


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """A VGG-16 state dict with seeded random weights, laid out as torchvision's file is."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vgg.pth"
    torch.save(vgg16(weights=None).features.state_dict(prefix="features."), path)
    return path


def test_missing_lpips_weights_name_the_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="--perceptual_weights"):
        PerceptualDistance("lpips").load()
    with pytest.raises(FileNotFoundError, match="--perceptual_network random"):
        PerceptualDistance("lpips", tmp_path / "nothing.pth").load()


def test_lpips_is_the_packages_own_with_our_backbone(vgg_file):
    ours = PerceptualDistance("lpips", vgg_file)
    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    state = torch.load(vgg_file, weights_only=True)
    for number in range(1, 6):
        part = getattr(theirs.net, f"slice{number}")
        part.load_state_dict({name: state[f"features.{name}"] for name in part.state_dict()})
    first, second = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(ours(first, second), theirs(first, second).flatten())
    assert ours(first, first).abs().max().item() == 0.0


def test_another_networks_file_is_refused(tmp_path):
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="not a torchvision VGG-16"):
        PerceptualDistance("lpips", other).load()


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


def test_only_the_published_weights_may_be_called_lpips(vgg_file):
    distance = PerceptualDistance("lpips", vgg_file).load()
    assert distance.name == "lpips with other weights" and len(distance.describe()["sha256"]) == 64
    distance.sha256 = "397923af" + "0" * 56
    assert distance.name == "lpips"


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
