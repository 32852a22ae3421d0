"""configs/metadata.json against the Model Zoo's schema."""

import json
from pathlib import Path

import jsonschema
import torch

from bundle.models.adapted import AdaptedModels
from bundle.synthesis.generator import PatchGenerator

# MONAI's official schema of 2024-07-25, Apache-2.0, byte for byte (md5 06954cad2cc5d3784e72077ac76f0fc8).
SCHEMA = Path(__file__).parents[1] / "resources" / "meta_schema_20240725.json"


def test_metadata_is_valid(bundle_root):
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    jsonschema.validate(metadata, json.loads(SCHEMA.read_text()))
    assert metadata["version"] in metadata["changelog"]


def one_item(tensor):
    """A batch of one, as the metadata describe it, with n = 4."""
    shape = [eval(str(side), {"n": 4}) for side in tensor["spatial_shape"]]
    if tensor["format"] == "timesteps":
        return torch.full((1,), tensor["value_range"][1], dtype=getattr(torch, tensor["dtype"]))
    return torch.rand(1, tensor["num_channels"], *shape, dtype=getattr(torch, tensor["dtype"]))


def test_every_network_is_described_as_it_is(bundle_root):
    """Shapes, types and ranges of all networks, with the weights of the repository."""
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    generator = PatchGenerator(bundle_root / "models" / "adapt", num_inference_steps=1).prepare()
    networks = {
        "network": generator,
        "autoencoder": lambda image: AdaptedModels.forward(generator, image),
        "diffusion": generator.diffusion,
        "classifier": generator.classifier,
    }
    described = {name.removesuffix("_data_format") for name in metadata if name.endswith("_data_format")}
    assert described == networks.keys()
    for name, network in networks.items():
        form = metadata[f"{name}_data_format"]
        with torch.no_grad():
            made = network(*(one_item(tensor) for tensor in form["inputs"].values()))
        expected = one_item(form["outputs"]["pred"])
        assert (made.shape, made.dtype) == (expected.shape, expected.dtype), name
        if form["outputs"]["pred"]["format"] == "RGB":
            assert form["outputs"]["pred"]["value_range"] == [-1, 1] and made.abs().max() <= 1
    classes = metadata["classifier_data_format"]["outputs"]["pred"]["channel_def"]
    assert list(classes.values()) == generator.classes and list(classes) == [str(n) for n in range(len(classes))]
    assert metadata["diffusion_data_format"]["inputs"]["timesteps"]["value_range"] == [
        0,
        generator.maximum_timestep - 1,
    ]


def test_monais_own_check_accepts_it(bundle_root, tmp_path):
    from monai.bundle import verify_metadata

    copy = tmp_path / "schema.json"
    copy.write_bytes(SCHEMA.read_bytes())
    verify_metadata(
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        filepath=str(copy),
        hash_val="06954cad2cc5d3784e72077ac76f0fc8",
    )
