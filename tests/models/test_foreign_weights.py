"""Constructor arguments and weights of other packages' networks are read, and nothing is run for it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bundle.models.foreign_weights import read_arguments, read_weights

ARGUMENTS = {"spatial_dims": 2, "in_channels": 3, "num_channels": [8, 16], "norm_eps": 0.5}
CONFIG = {
    "spatial_dims": 2,
    "image_channels": "@colours",
    "colours": 3,
    "widths": [8, 16],
    "networks": {
        "autoencoder_def": {
            "_target_": "generative.networks.nets.AutoencoderKL",
            "spatial_dims": "@spatial_dims",
            "in_channels": "@image_channels",
            "num_channels": ["@widths#0", "@widths::1"],
            "norm_eps": 0.5,
        }
    },
}


@pytest.mark.parametrize(
    "where", ["text", "plain.json", "config.json", "config.json#networks#autoencoder_def", "a.yaml"]
)
def test_arguments_are_read_from_text_files_and_configs(tmp_path, where):
    (tmp_path / "plain.json").write_text(json.dumps(ARGUMENTS))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "a.yaml").write_text(json.dumps(CONFIG))
    given = json.dumps(ARGUMENTS) if where == "text" else str(tmp_path / where)
    assert read_arguments(given, "AutoencoderKL", "--autoencoder_arguments") == ARGUMENTS


def test_arguments_of_an_overlay_are_read_with_the_config_below_it(tmp_path):
    (tmp_path / "below.json").write_text(json.dumps(CONFIG))
    (tmp_path / "over.json").write_text(
        json.dumps({"unet": {"_target_": "DiffusionModelUNet", "in_channels": "@colours"}})
    )
    both = f"{tmp_path / 'below.json'},{tmp_path / 'over.json'}"
    assert read_arguments(both, "DiffusionModelUNet", "--flag") == {"in_channels": 3}
    with pytest.raises(ValueError, match="over.json: the arguments under 'unet' can't be read"):
        read_arguments(str(tmp_path / "over.json"), "DiffusionModelUNet", "--flag")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vae: &x\n  _target_: AutoencoderKL\n  inner: *x\n", "holds itself, as by an alias of YAML"),
        ("vae: {_target_: AutoencoderKL, in_channels: '@a'}\na: '@b'\nb: '@a'\n", "leads back to itself"),
        ("vae: !!python/object/apply:os.system ['touch harm']\n", "can't be read .*python/object/apply"),
        ("vae: !mine {_target_: AutoencoderKL}\n", "can't be read .*!mine"),
        ("vae: [\n", "can't be read"),
        ("- spatial_dims\n", "can't be read"),
        ("vae: {_target_: AutoencoderKL, in_channels: '@absent'}\n", "the arguments under 'vae' can't be read"),
    ],
)
def test_cyclic_tagged_and_broken_definitions_end_in_a_sentence(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"a.yaml.*{message}.*Give --flag as JSON") as caught:
        read_arguments(str(tmp_path / "a.yaml"), "AutoencoderKL", "--flag")
    assert "\n" not in str(caught.value) and not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": CONFIG["networks"], "b": CONFIG["networks"]}, r"defines 2 AutoencoderKL \(a::autoencoder_def, b::aut"),
        ({"batch": 4}, r"defines 0 AutoencoderKL \(none\)"),
        ({"a": {"_target_": "AutoencoderKL", "num_channels": "$[8] * 2"}}, r"'\$\[8\] \* 2' is an expression"),
        ("{broken", "can't be read .*Give --flag as JSON"),
        ([1, 2], "Give --flag as JSON"),
    ],
)
def test_arguments_that_cannot_be_read_are_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    for given in [str(path)] + [content] * isinstance(content, str):
        with pytest.raises(ValueError, match=message):
            read_arguments(given, "AutoencoderKL", "--flag")
    with pytest.raises(FileNotFoundError, match="--flag: there is no file"):
        read_arguments(str(tmp_path / "none.json"), "AutoencoderKL", "--flag")


class Opened(torch.nn.Module):
    """A module that would say so if it were unpickled."""

    def __setstate__(self, state):
        raise AssertionError("a pickled module was opened")


def test_weights_are_read_from_checkpoints_and_never_by_running_them(tmp_path):
    weights = {"a.weight": torch.ones(2), "a.bias": torch.zeros(1)}
    torch.save({"epoch": 3, "ema": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "many.pth")
    assert read_weights(tmp_path / "many.pth", "ema", "--entry").keys() == weights.keys()
    torch.save(weights, tmp_path / "one.pth")
    assert torch.equal(read_weights(tmp_path / "one.pth", None, "--entry")["a.weight"], torch.ones(2))
    with pytest.raises(
        ValueError, match="many.pth has no state dict by itself; it holds those of 'ema': name one with --e"
    ):
        read_weights(tmp_path / "many.pth", None, "--entry")
    with pytest.raises(ValueError, match="many.pth has no state dict 'epoch' by itself"):
        read_weights(tmp_path / "many.pth", "epoch", "--entry")
    torch.save(Opened(), tmp_path / "module.pth")
    (tmp_path / "torn.pth").write_bytes((tmp_path / "one.pth").read_bytes()[:100])
    save_file(weights, tmp_path / "one.safetensors")
    assert torch.equal(read_weights(tmp_path / "one.safetensors")["a.weight"], torch.ones(2))
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "one.safetensors").read_bytes()[:-4])
    for name in ("module.pth", "torn.pth", "torn.safetensors"):
        with pytest.raises(ValueError, match=f"{name} can't be read as weights .*torch.save\\(module.state_dict"):
            read_weights(tmp_path / name, None, "--entry")
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        read_weights(tmp_path / "none.pth", None, "--entry")
