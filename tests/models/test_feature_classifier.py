"""A linear layer on the features of any trunk: against timm itself, with its weights and without."""

import pytest
import safetensors.torch
import timm
import torch
from monai.networks.nets import ResNet

from bundle.models.artefacts import load_artefact, save_artefact
from bundle.models.feature_classifier import FeatureClassifier, known_model

SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
VIT = {"trunk": "vit_tiny_patch16_224", "num_classes": 4, "side": 32, "arguments": SMALL}
RESNET = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [8] * 4, "spatial_dims": 2, "n_input_channels": 3}


def made(**changes):
    torch.manual_seed(0)
    return FeatureClassifier(**{**VIT, **changes}).eval()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(1)


def resnet(**changes):
    return made(trunk="ResNet", arguments=RESNET, **changes)


@pytest.mark.parametrize("make, features", [(made, 24), (resnet, 8)])
def test_logits_are_a_linear_function_of_features(make, features):
    network, images = make(), torch.rand(3, 3, 32, 32) * 2 - 1
    found = network.features(images)
    assert found.shape == (3, features)
    torch.testing.assert_close(network(images), found @ network.head.weight.T + network.head.bias)
    none = make(num_classes=0)
    torch.testing.assert_close(none(images), none.features(images))


def test_the_trunk_is_timms_and_sees_colours_as_its_weights_did():
    """0.485, 0.456, 0.406 and so on for ImageNet's convolutional networks, 0.5 for this vision transformer."""
    images = torch.rand(2, 3, 64, 64)
    for name, mean, std in (
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("vit_tiny_patch16_224", (0.5,) * 3, (0.5,) * 3),
        ("vit_tiny_patch16_224.augreg_in21k", (0.5,) * 3, (0.5,) * 3),
    ):
        network = made(trunk=name, side=64, arguments={})
        seen = (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        torch.testing.assert_close(network.features(images * 2 - 1), network.trunk(seen), rtol=1e-4, atol=1e-5)


def test_a_tag_brings_its_own_colours():
    assert known_model("vit_base_patch16_224").mean == (0.5, 0.5, 0.5)
    assert known_model("vit_base_patch16_224.dino").mean == (0.485, 0.456, 0.406)


def test_monais_resnet_sees_images_as_they_are():
    network, images = resnet(), torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(network.features(images), network.trunk(images))
    assert isinstance(network.trunk, ResNet) and isinstance(network.trunk.fc, torch.nn.Identity)


def test_images_are_resized_where_the_trunk_takes_another_size():
    network = made(input_side=64)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert network.trunk.pos_embed.shape[1] == 1 + 64 // 8 * 64 // 8
    larger = torch.nn.functional.interpolate(images, size=(64, 64), mode="bicubic", antialias=True).clamp(-1, 1)
    torch.testing.assert_close(network.features(images), network.trunk(larger))
    assert made().trunk.pos_embed.shape[1] == 1 + 4 * 4
    with pytest.raises(ValueError, match=r"the images are \(64, 64\), the network takes 32 x 32"):
        network(torch.zeros(1, 3, 64, 64))


def test_only_training_drops_features():
    network, images = made(dropout=0.5), torch.rand(2, 3, 32, 32)
    assert torch.equal(network(images), network(images))
    network.dropout.train()
    assert not torch.equal(network(images), network(images))


def test_it_is_rebuilt_from_its_file(tmp_path):
    network = made(dropout=0.1)
    network.definition = {"_target_": "FeatureClassifier", **VIT, "dropout": 0.1}
    save_artefact(tmp_path / "classifier.pt", "classifier", network)
    again, _ = load_artefact(tmp_path / "classifier.pt", "classifier")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(network(images), again(images)) and again.dropout.p == 0.1


def published(path, name="vit_tiny_patch16_224", **arguments):
    torch.manual_seed(2)
    model = timm.create_model(name, num_classes=7, **{"img_size": 32, **SMALL, **arguments})
    save = safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save
    save(model.state_dict(), path)
    return model


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_of_a_file_replace_the_trunks_and_leave_the_head(tmp_path, name):
    model, network = published(tmp_path / name), made()
    head = network.head.weight.clone()
    network.load_trunk(tmp_path / name)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(
        network.features(images * 2 - 1),
        model.eval().forward_head(model.forward_features(images * 2 - 1), pre_logits=True),
    )
    assert torch.equal(network.head.weight, head)


def test_the_embedding_of_another_image_size_is_resampled(tmp_path):
    model, network = published(tmp_path / "larger.pth", img_size=64), made()
    network.load_trunk(tmp_path / "larger.pth")
    expected = timm.layers.resample_abs_pos_embed(model.pos_embed, [4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(network.trunk.pos_embed, expected)


def test_convolutional_weights_load_as_well(tmp_path):
    torch.manual_seed(2)
    model = timm.create_model("resnet18", num_classes=7)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "resnet.pth")
    network = made(trunk="resnet18", arguments={})
    network.load_trunk(tmp_path / "resnet.pth")
    assert torch.equal(network.trunk.layer4[1].conv2.weight, model.layer4[1].conv2.weight)


def test_weights_that_do_not_fit_are_refused_before_any_is_copied(tmp_path):
    published(tmp_path / "wider.pth", embed_dim=48)
    network = made()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match="wider.pth has other weights than this trunk: .* such as cls_token"):
        network.load_trunk(tmp_path / "wider.pth")
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="broken.pth can't be read as weights"):
        network.load_trunk(tmp_path / "broken.pth")
    with pytest.raises(FileNotFoundError, match="there are no weights '.*absent.pth'"):
        network.load_trunk(tmp_path / "absent.pth")


def test_a_file_that_would_run_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="trap.pth can't be read as weights"):
        made().load_trunk(tmp_path / "trap.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"trunk": "vit_tinny_patch16_224"},
            "timm has no model 'vit_tinny_patch16_224'; similar: vit_tiny_patch16_224",
        ),
        ({"trunk": "hf_hub:someone/something"}, "timm has no model 'hf_hub:someone/something'$"),
        ({"trunk": "resnet18.nobody"}, "timm has no weights 'resnet18.nobody': it has .*resnet18.a1_in1k"),
        ({"trunk": "densenet"}, "timm has no model 'densenet'; similar: .*densenet121"),
        ({"arguments": {"pretrained": True}}, "'pretrained' can't be an argument of the trunk"),
        ({"arguments": {"checkpoint_path": "w.pt"}}, "'checkpoint_path' can't be an argument"),
        ({"arguments": {"num_classes": 3}}, "'num_classes' can't be an argument"),
        ({"arguments": {"colour": "red"}}, "vit_tiny_patch16_224 refuses its arguments .*colour"),
        ({"arguments": {**SMALL, "num_heads": 5}}, "vit_tiny_patch16_224 refuses its arguments"),
    ],
)
def test_refusals_name_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_nothing_is_downloaded(monkeypatch):
    import socket

    def connect(*arguments):
        raise AssertionError("a network connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", connect)
    made(trunk="vit_tiny_patch16_224.augreg_in21k", arguments={})
