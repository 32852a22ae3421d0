"""network_def of synthesis as one module: what it computes, and MONAI's own commands on it."""

import pytest
import torch
from monai.bundle import ckpt_export, onnx_export
from monai.data import load_net_with_metadata
from processes import run_python

from bundle.models.adapted import AdaptedModels, save_packed
from bundle.runs.randomness import ImageNoise
from bundle.synthesis.generator import PatchGenerator
from bundle.synthesis.inferers import GuidedLatentInferer

SEEDS = [4, 5, 6]
SHAPE = (3, 16, 16)
# Measured on a CPU with one thread, networks of 64 px patches, 3 steps: unguided 0, guided 4.8e-6 of [-1, 1] in
# TorchScript; unguided 3.1e-6 in onnxruntime.
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def models(adapted):
    return AdaptedModels(adapted).prepare()


@pytest.fixture(scope="module")
def packed(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "models"
    save_packed(models, folder)
    return folder


@pytest.mark.parametrize("name", [None, "TUM"])
def test_it_is_the_inferers_sampling_from_the_same_noise(adapted, models, name):
    settings = {"guidance_maximum_norm": 0.5, "guidance_interval": [0, 900]}
    guided = GuidedLatentInferer(100.0, num_inference_steps=7, **settings)  # steps and sampler of its own
    generator = PatchGenerator(adapted, num_inference_steps=4, name=name, inferer=guided)
    with torch.no_grad():
        made = generator(ImageNoise(SEEDS, "cpu")((3, *SHAPE)))
    assert made.shape == (3, 3, 32, 32) and made.dtype == torch.float32 and made.abs().max() <= 1
    scale = 0.0 if name is None else 100.0
    inferer = GuidedLatentInferer(scale, "dpm_solver++", 4, "linspace", precision="fp32", **settings)
    label = models.classes.index(name or "ADI")
    assert torch.equal(made, inferer(SEEDS, models, torch.full((3,), label)))
    other = inferer(SEEDS, models, torch.full((3,), (label + 1) % 9))
    assert torch.equal(made, other) == (name is None), "only guidance sees the class"


def test_unguided_it_takes_noise_of_any_size(adapted):
    assert PatchGenerator(adapted, num_inference_steps=1)(torch.randn(2, 3, 8, 12)).shape == (2, 3, 16, 24)


@pytest.mark.parametrize(
    "settings, shape, message",
    [
        ({}, (1, 4, 16, 16), r"the noise has the shape \[1, 4, 16, 16\]; the generator takes \[B, 3, h, w\]"),
        ({}, (3, 16, 16), r"the noise has the shape \[3, 16, 16\]"),
        ({"name": "XYZ"}, (1, *SHAPE), "--generator_class is 'XYZ'; the model knows ADI, BACK, DEB"),
        ({"num_inference_steps": 1001}, (1, *SHAPE), "1001; it must lie between 1 and the 1000"),
    ],
)
def test_what_cannot_be_made_is_refused(adapted, settings, shape, message):
    with pytest.raises(ValueError, match=message):
        PatchGenerator(adapted, **settings)(torch.randn(shape))


def test_no_steps_are_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="--network_def#num_inference_steps is 0"):
        PatchGenerator("/nowhere", num_inference_steps=0)


VERIFY = """
import os
from monai.bundle import verify_net_in_out
for folder, root in (({above!r}, {name!r}), ({root!r}, ".")):  # above first, where Python doesn't find the bundle
    os.chdir(folder)
    settings = {{"meta_file": f"{{root}}/configs/metadata.json", "config_file": f"{{root}}/configs/inference.json"}}
    settings |= {{"bundle_root": root, "device": "cpu", "network_def#num_inference_steps": 1}}
    verify_net_in_out("network_def", adapted_dir=f"{{root}}/models/adapt", **settings)
try:
    verify_net_in_out("network_def", adapted_dir="/nowhere", **settings)
except FileNotFoundError as error:
    assert "--adapted_dir /nowhere has no autoencoder.pt" in str(error) and "configs/adapt.json" in str(error)
    print("refused")
"""


def test_monai_verifies_it_by_the_metadata_from_the_root_and_from_above(bundle_root, tmp_path):
    """With the weights of the repository, which the metadata describe; and without any it says what to do."""
    code = VERIFY.format(above=str(bundle_root.parent), name=bundle_root.name, root=str(bundle_root))
    run = run_python("-c", code, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("data shape of network is verified with no error") == 2
    assert run.stdout.strip().endswith("refused")


def exported(bundle_root, packed, path, command, **settings):
    command(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(packed / "model.pt"),
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        config_file=str(bundle_root / "configs" / "inference.json"),
        bundle_root=str(bundle_root),
        use_trace=True,
        input_shape=[1, *SHAPE],
        adapted_dir=str(packed),
        device="cpu",
        **{"network_def#num_inference_steps": 2},
        guidance_scale=100.0,
        **settings,
    )
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [None, "TUM"])
def test_the_torchscript_file_gives_the_same_patches(bundle_root, packed, tmp_path, name):
    """By ckpt_export on one model.pt; another batch size is taken unguided only."""
    path = exported(bundle_root, packed, tmp_path / "model.ts", ckpt_export, generator_class=name)
    traced, metadata, _ = load_net_with_metadata(str(path), map_location="cpu")
    assert metadata["network_data_format"]["inputs"]["image"]["format"] == "latent"
    inferer = GuidedLatentInferer(100.0)
    generator = PatchGenerator(packed, num_inference_steps=2, name=name, inferer=inferer)
    unguided = PatchGenerator(packed, num_inference_steps=2)
    with torch.no_grad():
        for seed in SEEDS:
            noise = ImageNoise([seed], "cpu")((1, *SHAPE))
            made = traced(noise)
            torch.testing.assert_close(made, generator(noise), rtol=0, atol=TOLERANCE)
            assert name is None or (made - unguided(noise)).abs().max() > 100 * TOLERANCE
        if name is None:
            noise = torch.randn(2, *SHAPE)
            torch.testing.assert_close(traced(noise), generator(noise), rtol=0, atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore")
def test_the_onnx_file_gives_the_same_patches_unguided(bundle_root, packed, tmp_path):
    import onnxruntime

    options = {"converter_kwargs": {"dynamo": False}}  # the exporter through torch.export takes minutes
    path = exported(bundle_root, packed, tmp_path / "model.onnx", onnx_export, **options)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    noise = torch.randn(1, *SHAPE)
    (found,) = session.run(None, {session.get_inputs()[0].name: noise.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(
            torch.tensor(found), PatchGenerator(packed, num_inference_steps=2)(noise), rtol=0, atol=TOLERANCE
        )
    with pytest.raises(
        NotImplementedError, match="does not go into ONNX: leave out --generator_class TUM.*TorchScript"
    ):
        exported(bundle_root, packed, tmp_path / "guided.onnx", onnx_export, generator_class="TUM", **options)
