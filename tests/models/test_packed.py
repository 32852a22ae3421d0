"""The networks of synthesis in one file, as the Model Zoo has them."""

import json
import shutil

import pytest
import torch
from monai.networks.utils import copy_model_state

from bundle.models.adapted import AdaptedModels, save_packed
from bundle.synthesis.generator import PatchGenerator
from bundle.synthesis.inferers import GuidedLatentInferer


@pytest.fixture(scope="module")
def original(adapted):
    return AdaptedModels(adapted).prepare()


@pytest.fixture(scope="module")
def packed(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "models"
    save_packed(original, folder)
    return folder


@pytest.fixture
def copied(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "models")


def test_the_same_networks_facts_and_images(original, packed):
    assert sorted(path.name for path in packed.iterdir()) == ["definition.json", "model.pt"]
    read = AdaptedModels(packed).prepare()
    assert read.fingerprint == original.fingerprint and read.facts == original.facts
    expected = original.state_dict()
    assert expected.keys() == read.state_dict().keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read.state_dict().items())
    make = GuidedLatentInferer(num_inference_steps=2, precision="fp32")
    labels = torch.tensor([3, 8])
    assert torch.equal(make([0, 1], read, labels), make([0, 1], original, labels))


def test_model_pt_is_a_state_dict_of_the_whole_module(original, packed, tmp_path):
    """As MONAI's loaders take it: plain tensors, before anything was prepared."""
    state = torch.load(packed / "model.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    assert {name.split(".")[0] for name in state} == {"autoencoder", "diffusion", "classifier"}
    changed = {name: tensor + 1 for name, tensor in state.items()}
    for load in (lambda network: network.load_state_dict(changed), lambda network: copy_model_state(network, changed)):
        network = PatchGenerator(packed)
        load(network)
        assert all(torch.equal(tensor, changed[name]) for name, tensor in network.state_dict().items())


def test_half_precision_is_only_how_they_are_stored(original, tmp_path):
    save_packed(original, tmp_path, half=True)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["diffusion.out.0.weight"].dtype == torch.float16
    for name, tensor in AdaptedModels(tmp_path).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, original.state_dict()[name].half().float()), name


def test_the_same_bytes_twice(original, packed, tmp_path):
    save_packed(original, tmp_path)
    for name in ("model.pt", "definition.json"):
        assert (tmp_path / name).read_bytes() == (packed / name).read_bytes()


def test_the_decoder_is_the_one_that_was_packed(adapted, packed, tmp_path):
    with pytest.raises(ValueError, match="--decoder is 'pretrained', but .*model.pt holds .*'adapted'.*--adapted_dir"):
        AdaptedModels(packed, decoder="pretrained").prepare()
    before = AdaptedModels(adapted, decoder="pretrained").prepare()
    save_packed(before, tmp_path)
    read = AdaptedModels(tmp_path, decoder="pretrained").prepare()
    latents = torch.randn(1, 3, 16, 16)
    assert torch.equal(read.decode(latents), before.decode(latents)) and read.fingerprint == before.fingerprint
    with pytest.raises(ValueError, match="--decoder is 'adapted', but .*'pretrained'"):
        AdaptedModels(tmp_path).prepare()


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (
            lambda f: (f / "model.pt").unlink(),
            FileNotFoundError,
            "without .*model.pt: get the weights .*download_large",
        ),
        (lambda f: (f / "definition.json").unlink(), FileNotFoundError, "without .*definition.json.*unpack the bundle"),
        (lambda f: (f / "model.pt").write_bytes(b"half"), ValueError, "model.pt can't be read as weights"),
        (
            lambda f: torch.save({"x": torch.ones(1)}, f / "model.pt"),
            ValueError,
            "model.pt is not the file that .*json",
        ),
        (lambda f: torch.save(torch.nn.Linear(1, 1), f / "model.pt"), ValueError, "can't be read as weights .*eights"),
        (lambda f: (f / "definition.json").write_text("{"), ValueError, "definition.json can't be read"),
        (lambda f: (f / "definition.json").write_text("{}"), ValueError, "definition.json can't be read .*'format'"),
    ],
)
def test_what_is_not_whole_is_refused(copied, spoil, error, message):
    spoil(copied)
    with pytest.raises(error, match=message):
        AdaptedModels(copied).prepare()


def test_another_format_and_another_class_are_refused(copied):
    path = copied / "definition.json"
    definition = json.loads(path.read_text())
    path.write_text(json.dumps({**definition, "format": "other/2"}))
    with pytest.raises(
        ValueError, match="definition.json has the format 'other/2', expected 'histodiffusion-models/1'"
    ):
        AdaptedModels(copied).prepare()
    definition["networks"]["diffusion"]["definition"]["_target_"] = "os.system"
    path.write_text(json.dumps(definition))
    with pytest.raises(ValueError, match="'os.system' is not one of the networks"):
        AdaptedModels(copied).prepare()
