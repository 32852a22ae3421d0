"""Weights of monai-generative compute the same in MONAI core, and load into the bundle by one command."""

import ast
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from generative.networks import nets as generative_nets
from helpers import ROOT, assert_equal, few_images
from monai.networks import nets
from processes import run_python

sys.path.insert(0, str(ROOT / "scripts"))

import convert_monai_generative as converter  # noqa: E402

from bundle.data.hashes import read_hashes  # noqa: E402
from bundle.models.artefacts import load_artefact  # noqa: E402
from bundle.models.pretrained import PretrainedModels  # noqa: E402
from bundle.runs.folder import RunFolder  # noqa: E402

SCRIPT = ROOT / "scripts" / "convert_monai_generative.py"
AUTOENCODER = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 3,
    "num_channels": [8, 16],
    "attention_levels": [False, False],
    "num_res_blocks": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
}
CONFIG = {"widths": [8, 16], "vae": {"_target_": "AutoencoderKL", **AUTOENCODER, "num_channels": "@widths"}}
UNET = {
    "spatial_dims": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_channels": [8, 16],
    "attention_levels": [False, True],
    "num_res_blocks": 1,
    "num_head_channels": 8,
    "norm_num_groups": 4,
}
AUTOENCODERS = {
    "no attention": {},
    "attention in the middle": {"with_encoder_nonlocal_attn": True, "with_decoder_nonlocal_attn": True},
    "attention at several levels": {
        "num_channels": [8, 8, 16],
        "attention_levels": [True, False, True],
        "num_res_blocks": [1, 2, 1],
        "with_decoder_nonlocal_attn": True,
        "norm_eps": 1e-2,
    },
}
UNETS = {
    "attention at the bottom": {},
    "attention at all levels": {
        "num_channels": [8, 16, 16],
        "attention_levels": [True, True, True],
        "num_res_blocks": [1, 2, 1],
        "num_head_channels": [4, 8, 16],
    },
    "residual blocks that resize": {"resblock_updown": True, "norm_eps": 1e-2, "with_conditioning": False},
    "no attention but in the middle": {"attention_levels": [False, False], "upcast_attention": True},
}


def network_of(name, arguments, seed=0):
    """A network of monai-generative none of whose weights is 0, as after a training."""
    network = getattr(generative_nets, name)(**arguments).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5)
    return network


@torch.no_grad()
def outputs(network):
    """Of the same noise, in single precision."""
    generator = torch.Generator().manual_seed(1)
    if hasattr(network, "encode"):
        images = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
        mean, std = network.encode(images)
        return [mean, std, network.decode(torch.randn(mean.shape, generator=generator))]
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    return [network(latents, torch.tensor(times)) for times in ([0, 0], [1, 500], [999, 37])]


@pytest.mark.parametrize(
    ("name", "base", "changes"),
    [
        *(("AutoencoderKL", AUTOENCODER, changes) for changes in AUTOENCODERS.values()),
        *(("DiffusionModelUNet", UNET, changes) for changes in UNETS.values()),
    ],
    ids=[*AUTOENCODERS, *UNETS],
)
def test_the_same_input_gives_the_same_output(name, base, changes):
    arguments = {**base, **changes}
    theirs = network_of(name, arguments)
    side = 32 if name == "AutoencoderKL" else 8
    ours, difference = converter.convert(name, arguments, theirs.state_dict(), "a.pth", side)
    assert type(ours) is getattr(nets, name) and not ours.training and difference < 1e-12
    for one, other in zip(outputs(theirs), outputs(ours)):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "arguments"), [("AutoencoderKL", AUTOENCODER), ("DiffusionModelUNet", UNET)])
def test_the_projection_that_is_never_applied_must_stay_so(name, arguments):
    """monai-generative's attention has `proj_attn` weights that its forward leaves out; core's loader applies them."""
    arguments = {**arguments, **AUTOENCODERS["attention in the middle"]} if name == "AutoencoderKL" else arguments
    theirs = network_of(name, arguments)
    applied = getattr(nets, name)(**{("channels" if k == "num_channels" else k): v for k, v in arguments.items()})
    applied.load_old_state_dict(dict(theirs.state_dict()))
    assert max((one - other).abs().max() for one, other in zip(outputs(theirs), outputs(applied.eval()))) > 1e-2


def test_another_network_than_the_weights_were_made_for_would_be_noticed(monkeypatch):
    """The converter compares before it writes, whatever core's loader did."""
    monkeypatch.setattr(nets.DiffusionModelUNet, "load_old_state_dict", lambda network, weights: None)
    with pytest.raises(ValueError, match="a.pth: MONAI core's DiffusionModelUNet computes something else"):
        converter.convert("DiffusionModelUNet", UNET, network_of("DiffusionModelUNet", UNET).state_dict(), "a.pth", 8)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("AutoencoderKL", {"num_channels": [8, 8]}, r"a.pth was made for another .* tensors differ .*not \{"),
        ("AutoencoderKL", {"channels": [8, 16]}, "refuses its arguments .*channels"),
        ("AutoencoderKL", {"in_channels": 1}, "in_channels=1 can't be converted: .*in_channels=3"),
        ("AutoencoderKL", {"use_convtranspose": True}, "use_convtranspose=True can't be converted"),
        ("AutoencoderKL", {"norm_num_groups": 3}, "refuses its arguments .*norm_num_groups"),
        ("AutoencoderKL", {"num_channels": {"a": [8]}}, "refuses its arguments"),
        ("AutoencoderKL", {"num_channels": [2**40, 2**40]}, "refuses its arguments"),
        ("DiffusionModelUNet", {"with_conditioning": True, "cross_attention_dim": 8}, "with_conditioning=True can't"),
        ("DiffusionModelUNet", {"num_class_embeds": 7}, "num_class_embeds=7 can't"),
        ("DiffusionModelUNet", {"spatial_dims": 3}, "spatial_dims=3 can't"),
        ("DiffusionModelUNet", {"out_channels": None}, "refuses its arguments"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(name, change, message):
    base = AUTOENCODER if name == "AutoencoderKL" else UNET
    weights = network_of(name, base).state_dict()
    with pytest.raises(ValueError, match=message):
        converter.convert(name, {**base, **change}, weights, "a.pth", 32)


def test_missing_and_foreign_weights_are_named():
    weights = network_of("DiffusionModelUNet", UNET).state_dict()
    with pytest.raises(ValueError, match=r"1 tensors differ \(out.2.conv.bias: file None, network \(4,\)\)"):
        converter.convert(
            "DiffusionModelUNet", UNET, {k: v for k, v in weights.items() if k != "out.2.conv.bias"}, "a", 8
        )
    with pytest.raises(ValueError, match=r"1 tensors differ \(head.weight: file \(2,\), network None\)"):
        converter.convert("DiffusionModelUNet", UNET, {**weights, "head.weight": torch.zeros(2)}, "a", 8)
    with pytest.raises(ValueError, match="can't take inputs of 5 x 5: change --patch_size"):
        converter.convert("DiffusionModelUNet", UNET, weights, "a", 5)


def test_another_range_of_intensities_is_taken_into_the_weights():
    """Exactly in decoding; in encoding all but the border, where the zero padding has another meaning."""
    theirs = network_of("AutoencoderKL", AUTOENCODER)
    ours, _ = converter.convert("AutoencoderKL", AUTOENCODER, theirs.state_dict(), "a.pth", 32)
    converter.to_signed_range(ours, 0.0, 1.0)
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close((ours.decode(latents) + 1) / 2, theirs.decode(latents), rtol=1e-5, atol=1e-5)
        one, other = theirs.encoder.blocks[0](images), ours.encoder.blocks[0](images * 2 - 1)
    torch.testing.assert_close(other[..., 1:-1, 1:-1], one[..., 1:-1, 1:-1], rtol=1e-5, atol=1e-5)
    assert (other - one).abs().max() > 0.01


class Reconstructor(torch.nn.Module):
    """Gives images back that are in [0, 1], as an autoencoder trained on such would; knows no others."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode(self, images):
        return images.clamp(0, 1), images

    def decode(self, latents):
        return latents


def test_the_range_that_the_autoencoder_was_trained_on_is_noticed():
    patches = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert converter.require_range(Reconstructor(), patches, 0.0, 1.0) == float("inf")
    with pytest.raises(ValueError, match=r"images in \[0, 1\] with inf dB: .*Give --intensity_range 0 1"):
        converter.require_range(Reconstructor(), patches, -1.0, 1.0)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """(folder, output folder, flags, networks) of one run of the command."""
    folder = tmp_path_factory.mktemp("converted")
    (folder / "tiles").mkdir()
    few_images(folder / "tiles", 8)
    networks = network_of("AutoencoderKL", AUTOENCODER), network_of("DiffusionModelUNet", UNET, seed=1)
    torch.save(networks[0].state_dict(), folder / "autoencoder.pth")
    torch.save({"step": 1, "ema": {f"module.{k}": v for k, v in networks[1].state_dict().items()}}, folder / "unet.pth")
    (folder / "train.json").write_text(json.dumps(CONFIG))
    flags = {
        "output_dir": folder / "out",
        "dataset_dir": folder / "tiles",
        "patch_size": 32,
        "autoencoder_weights": folder / "autoencoder.pth",
        "autoencoder_arguments": folder / "train.json",
        "diffusion_weights": folder / "unet.pth",
        "diffusion_entry": "ema",
        "diffusion_arguments": json.dumps(UNET),
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0015,
        "beta_end": 0.0195,
        "prediction_type": "v",
        "latent_scale": 0.9,
    }
    run = run_python(*command(flags, "--trained_on_dataset"), cwd=folder)
    return folder, folder / "out", flags, networks, run


def command(flags, *further):
    given = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return [str(SCRIPT), *given, *further]


def run_here(flags, monkeypatch, *further):
    """The command without the time that a process of its own takes to start."""
    monkeypatch.setattr(sys, "argv", command(flags, *further))
    converter.main()


def test_one_command_makes_what_an_adaptation_starts_from(converted, tmp_path):
    folder, out, _, networks, run = converted
    assert run.returncode == 0, run.stderr[-2000:]
    assert "configs/adapt.json --decoder#loss#reconstruction#adversarial_weight 0" in run.stdout
    assert "pretraining_overlap" not in run.stdout
    for kind, theirs in zip(("autoencoder", "diffusion"), networks):
        ours, facts = load_artefact(out / f"{kind}.pt", kind)
        for one, other in zip(outputs(theirs), outputs(ours)):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    pretrained = PretrainedModels(out, RunFolder(tmp_path / "adapt")).prepare()
    assert (pretrained.patch_size, pretrained.latent_channels, pretrained.latent_side) == (32, 4, 16)
    assert pretrained.latent.scale == 0.9 and pretrained.normalise_stain is False
    assert pretrained.schedule().describe() == {
        "timesteps": 1000,
        "beta_start": 0.0015,
        "beta_end": 0.0195,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v",
    }
    assert len(pretrained.image_hashes()) == 8 and len(read_hashes(out / "image_hashes.txt")) == 8
    assert (out / "samples.png").is_file()


def test_latents_are_measured_on_the_patches(converted):
    """Against the definition, by monai-generative's own encoder: variance of mean + std * noise over all patches."""
    folder, out, _, (theirs, _), _ = converted
    from bundle.data.patches import TrainingPatches

    patches = TrainingPatches(str(folder / "tiles"), out / "cache", 32).prepare()
    part = patches.part("training")
    images = torch.stack([torch.as_tensor(part.read(index)["image"]) for index in range(len(part))]) / 127.5 - 1
    with torch.no_grad():
        mean, std = theirs.encode(images)
    latent = load_artefact(out / "autoencoder.pt", "autoencoder")[1]["latent"]
    np.testing.assert_allclose(latent["mean"], mean.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    variance = mean.var((0, 2, 3), unbiased=False) + (std**2).mean((0, 2, 3))
    np.testing.assert_allclose(latent["std"], variance.sqrt(), rtol=1e-4)
    assert latent["count"] == len(part)


def test_the_same_command_again_gives_the_same_and_other_weights_are_refused(converted, monkeypatch):
    folder, out, flags, networks, _ = converted

    def found():
        weights = {name: torch.load(out / name, weights_only=True) for name in ("autoencoder.pt", "diffusion.pt")}
        return {**weights, **{name: (out / name).read_bytes() for name in ("samples.png", "metrics.json")}}

    before = found()
    run_here(flags, monkeypatch, "--trained_on_dataset")
    assert_equal(found(), before)
    torch.save(network_of("DiffusionModelUNet", UNET, seed=5).state_dict(), folder / "other.pth")
    del flags["diffusion_entry"]
    with pytest.raises(SystemExit, match="the diffusion differs: .*diffusion.pt has .*, this conversion has"):
        run_here({**flags, "diffusion_weights": folder / "other.pth"}, monkeypatch)
    assert_equal(found(), before)


def test_an_autoencoder_alone_is_one_to_train_a_diffusion_model_on(converted, workflow, monkeypatch, capsys):
    folder, _, flags, *_ = converted
    out = folder / "alone"
    own = {name: value for name, value in flags.items() if not name.startswith(("diffusion", "latent_scale"))}
    run_here({**own, "output_dir": out}, monkeypatch)
    assert "run diffusion --config_file configs/pretrain.json" in capsys.readouterr().out
    latent = load_artefact(out / "autoencoder.pt", "autoencoder")[1]["latent"]
    settings = {"output_dir": str(out), "dataset_dir": str(folder / "tiles"), "latent_channels": 4}
    made = workflow(**settings, diffusion_steps=1)
    made.run_id = "diffusion"
    made.run()
    pretrained = PretrainedModels(out, RunFolder(folder / "adapt")).prepare()
    assert pretrained.latent.scale == latent["scale"] != 0.9 and pretrained.image_hashes() is None


def test_what_the_weights_do_not_say_must_be_given(converted):
    folder, _, flags, *_ = converted
    given = {"latent_scale": None, "timesteps": 1000, "prediction_type": "epsilon", "intensity_range": [-1.0, 1.0]}
    given |= {**flags, "output_dir": folder / "none", "autoencoder_entry": None}
    for change, message in (
        ({"beta_schedule": None, "beta_end": None}, "--diffusion_weights needs --beta_schedule, --beta_end as well"),
        ({"latent_scale": -1.0}, "--latent_scale is -1.0; it must be a positive number"),
        ({"intensity_range": [1.0, 0.0]}, r"--intensity_range is \[1.0, 0.0\]; the first must be the lower"),
    ):
        with pytest.raises(ValueError, match=message):
            converter.run(SimpleNamespace(**{**given, **change}))
    assert not (folder / "none").exists()


def test_nothing_else_imports_monai_generative():
    """So that the bundle stands on MONAI core, and the Zoo needs no further package."""
    importing = set()
    for path in [
        *ROOT.glob("*.py"),
        *(file for room in ("bundle", "scripts", "tests") for file in (ROOT / room).rglob("*.py")),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "generative" for name in names):
                importing.add(path.relative_to(ROOT).as_posix())
    assert importing == {"scripts/convert_monai_generative.py", "tests/scripts/test_convert_monai_generative.py"}
    for config in (ROOT / "configs").glob("*.json"):
        assert not re.search(r"\bgenerative\.\w|monai.generative", config.read_text(encoding="utf-8")), config
    assert "monai-generative" in (ROOT / "requirements.txt").read_text()
