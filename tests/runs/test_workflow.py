"""The config as MONAI runs it: found from anywhere, checked, and nothing done before it is asked for."""

import json
import os
import re
import sys

import pytest
from helpers import flags_of, flags_with_a_row
from monai.bundle import ConfigWorkflow
from processes import run_python


def test_check_properties_finds_nothing_missing_from_anywhere(bundle_root, tmp_path, monkeypatch):
    """In a process of its own, where the package is on no path but the one `initialize` sees to."""
    code = (
        "from monai.bundle import ConfigWorkflow\n"
        f"w = ConfigWorkflow(config_file=r'{bundle_root / 'configs' / 'pretrain.json'}', workflow_type='train', "
        f"bundle_root=r'{bundle_root}')\n"
        "w.initialize()\n"
        "missing = w.check_properties()\n"
        "assert missing == [], missing\n"
        "assert w.max_epochs == 1 and w.trainer is not None\n"
    )
    before = set(os.listdir(tmp_path))
    run = run_python("-c", code, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert set(os.listdir(tmp_path)) == before, "merely instantiating wrote something"


def test_nothing_is_written_before_the_run(workflow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = workflow(output_dir=str(tmp_path / "out"))
    assert made.check_properties() == []
    for name in ("train#trainer", "validate#evaluator", "diffusion#trainer", "latents", "patches"):
        made.parser.get_parsed_content(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flag, hint",
    [
        ("autoencoder_step", "autoencoder_steps"),
        ("datasetdir", "dataset_dir"),
        ("nosuch_flag", None),
        ("train#trianer", "train#trainer"),
    ],
)
def test_unknown_flags_are_refused_with_a_hint(workflow, tmp_path, flag, hint):
    with pytest.raises(RuntimeError) as caught:
        workflow(output_dir=str(tmp_path), **{flag: 5})
    message = str(root_cause(caught.value))
    assert f"nothing reads the setting --{flag}" in message and (
        f"did you mean --{hint}" in message if hint else "did you mean" not in message
    )


@pytest.mark.parametrize("given", [["--validation_share", "None"], ["--train#trainer#cool_down=None"]])
def test_none_on_the_command_line_is_what_was_meant(workflow, tmp_path, monkeypatch, given):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which a command line has changed
    monkeypatch.setattr(sys, "argv", ["/monai/bundle/__main__.py", "run", *given])
    made = workflow(output_dir=str(tmp_path), validation_share=0.5)
    assert made.parser[given[0].removeprefix("--").removesuffix("=None")] is None


@pytest.mark.parametrize("text", ["false", "True"])
def test_truth_values_typed_as_text_are_refused(workflow, tmp_path, text):
    """A command line hands `--flag false` over as text, and any text counts as true."""
    with pytest.raises(RuntimeError) as caught:
        workflow(output_dir=str(tmp_path), normalise_stain=text)
    named = f"--normalise_stain is the text '{text}': write {text.capitalize()}"
    assert named in str(root_cause(caught.value))


def root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"patch_size": 30}, "patch_size is 30.*multiple of 4"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"autoencoder_steps": 0}, "autoencoder_steps is 0"),
        ({"diffusion_steps": -1}, "diffusion_steps is -1"),
        ({"diffusion_steps": "many"}, "diffusion_steps is 'many'"),
        ({"num_inference_steps": 1001}, "num_inference_steps is 1001.*at most the 1000"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"picture_interval": 0}, "picture_interval is 0"),
        ({"diffusion_batch_size": 0}, "diffusion_batch_size is 0"),
        ({"diffusion_steps": None}, "diffusion_steps is None"),
        ({"val_interval": True}, "val_interval is True"),
    ],
)
def test_impossible_sizes_are_refused_at_once(workflow, tmp_path, settings, named):
    with pytest.raises(RuntimeError) as caught:
        workflow(output_dir=str(tmp_path), **settings)
    assert re.search(named, str(root_cause(caught.value)))


def trainers(w):
    return [w("train#trainer"), w("diffusion#trainer")]


# Each setting a user may change, another value for it, and what then must have changed.
FLAGS = [
    ("dataset_dir", "/some/where", lambda w: w("patches").dataset_dir == "/some/where"),
    ("output_dir", "elsewhere", lambda w: str(w("train#trainer").folder.path) == "elsewhere"),
    ("cache_dir", "elsewhere/cache", lambda w: str(w("patches").cache_dir) == "elsewhere/cache"),
    ("device", "cpu:0", lambda w: str(w("train#trainer").state.device) == str(w("latents").device) == "cpu:0"),
    ("precision", "bf16", lambda w: "bfloat16" in str(w("train#trainer").autocast_dtype)),
    ("seed", 7, lambda w: w("train#trainer").seed == w("patches").seed == w("diffusion#trainer").seed == 7),
    ("patch_size", 64, lambda w: w("patches").patch_size == 64),
    ("validation_slides", ["slide_01"], lambda w: w("patches").validation_slides == ["slide_01"]),
    ("validation_share", 0.2, lambda w: w("patches").validation_share == 0.2),
    ("maximum_rejected_share", 0.5, lambda w: w("patches").store_arguments["maximum_rejected_share"] == 0.5),
    ("maximum_blank_share", 0.5, lambda w: w("patches").store_arguments["maximum_blank_share"] == 0.5),
    (
        "output_dir",
        "elsewhere",
        lambda w: str(w("patches").store_arguments["blank_picture"]) == "elsewhere/pictures/blank_patches.png",
    ),
    ("cache_gigabytes", 1, lambda w: w("patches").store_arguments["cache_gigabytes"] == 1),
    ("normalise_stain", True, lambda w: w("patches").store_arguments["normalise_stain"] is True),
    ("stain_augmentation", 0.5, lambda w: w("train#preprocessing").transforms[0].prob == 0.5),
    ("generated_per_class", 3, lambda w: w("patches").generated_per_class == 3),
    ("generated_slides", 4, lambda w: w("patches").generated_slides == 4),
    ("num_workers", 2, lambda w: [one.data_loader.num_workers for one in trainers(w)] == [2, 2]),
    ("autoencoder_steps", 9, lambda w: w("train#trainer").steps == w("train#trainer").state.epoch_length == 9),
    ("autoencoder_batch_size", 6, lambda w: w("train#trainer").data_loader.items_per_batch == 6),
    ("autoencoder_channels", [16, 32], lambda w: w("autoencoder_network").definition["channels"] == [16, 32]),
    (
        "autoencoder_architecture#with_encoder_nonlocal_attn",
        True,
        lambda w: w("autoencoder_network").definition["with_encoder_nonlocal_attn"] is True,
    ),
    ("autoencoder_learning_rate", 1e-5, lambda w: w("train#trainer").scheduler.base_lrs == [1e-5]),
    ("autoencoder_learning_rate", 1e-5, lambda w: learning_rates(w("train#trainer").discriminator_optimizer) == [1e-5]),
    ("train#trainer#cool_down", 2, lambda w: w("train#trainer").scheduler.lr_lambdas[0](3) == 0.5),
    ("latent_channels", 5, lambda w: w("autoencoder_network").definition["latent_channels"] == 5),
    ("latent_channels", 5, lambda w: w("diffusion_network").definition["in_channels"] == 5),
    ("norm_groups", 2, lambda w: w("diffusion_network").definition["norm_num_groups"] == 2),
    ("perceptual_network", "resnet18", lambda w: w("autoencoder_loss").perceptual.network == "resnet18"),
    ("perceptual_trunk", "alexnet", lambda w: w("autoencoder_loss").perceptual.trunk == "alexnet"),
    ("perceptual_weights", "w.pt", lambda w: w("autoencoder_loss").perceptual.weights == "w.pt"),
    ("perceptual_sha256", "ab", lambda w: w("autoencoder_loss").perceptual.given_sha256 == "ab"),
    ("autoencoder_loss#adversarial_start", 77, lambda w: w("autoencoder_loss").adversarial_start == 77),
    ("discriminator_architecture#channels", 8, lambda w: w("discriminator").definition["channels"] == 8),
    ("latent_orientations", 4, lambda w: w("latents").orientations == 4),
    ("diffusion_steps", 9, lambda w: w("diffusion#trainer").steps == 9),
    ("diffusion_batch_size", 6, lambda w: w("diffusion#trainer").data_loader.items_per_batch == 6),
    ("diffusion_channels", [32, 64], lambda w: w("diffusion_network").definition["channels"] == [32, 64]),
    (
        "diffusion_architecture#attention_levels",
        [True, True],
        lambda w: w("diffusion_network").definition["attention_levels"] == [True, True],
    ),
    ("diffusion_learning_rate", 1e-5, lambda w: w("diffusion#trainer").scheduler.base_lrs == [1e-5]),
    (
        "diffusion#trainer#warm_up",
        4,
        lambda w: w("diffusion#trainer").scheduler.lr_lambdas[0](2) == pytest.approx(0.5, abs=1e-5),
    ),
    ("diffusion#trainer#loss_type", "l1", lambda w: w("diffusion#trainer").loss_type == "l1"),
    ("diffusion#trainer#ema_decay", 0.5, lambda w: w("diffusion#trainer").ema.decay == 0.5),
    ("noise_schedule#prediction_type", "v", lambda w: w("noise_schedule").prediction_type == "v"),
    ("noise_schedule#timesteps", 500, lambda w: w("noise_schedule").timesteps == 500),
    ("diffusion#trainer#eta", 0.5, lambda w: w("diffusion#trainer").eta == 0.5),
    ("num_inference_steps", 3, lambda w: w("diffusion#trainer").num_inference_steps == 3),
    (
        "inference_batch_size",
        5,
        lambda w: w("context").inference_batch_size == w("validate#dataloader").batch_size == 5,
    ),
    ("checkpoint_interval", 3, lambda w: w("train#trainer").checkpoint_interval == 3),
    (
        "picture_interval",
        3,
        lambda w: [w("train#handlers")[1].interval, w("diffusion#trainer").handlers[1].interval] == [3, 3],
    ),
    ("val_interval", 3, lambda w: w("train#handlers")[0].interval == 3),
    (
        "mlflow_tracking_uri",
        "file:///x",
        lambda w: [one.handlers[-1].mlflow_tracking_uri for one in trainers(w)] == ["file:///x"] * 2,
    ),
]


def learning_rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize(
    "flag, value, changed", FLAGS, ids=[f"{flag}-{number}" for number, (flag, *_) in enumerate(FLAGS)]
)
def test_each_flag_changes_what_it_says(workflow, tmp_path, flag, value, changed):
    settings = {"output_dir": str(tmp_path), "perceptual_network": "random", flag: value}
    made = workflow(**settings)
    assert changed(made.parser.get_parsed_content)


def test_every_setting_has_its_flag_test():
    assert flags_of("pretrain.json") - {"network_def"} == flags_with_a_row(FLAGS, "pretrain.json")


def test_without_data_the_demo_budget_holds_and_flags_still_win(bundle_root, tmp_path):
    demo = json.loads((bundle_root / "configs" / "demo.json").read_text())
    file = str(bundle_root / "configs" / "pretrain.json")

    def settings(**given):
        made = ConfigWorkflow(config_file=file, bundle_root=str(bundle_root), output_dir=str(tmp_path), **given)
        made.initialize()
        return {name: made.parser.get_parsed_content(name) for name in demo}

    assert settings() == demo
    assert settings(autoencoder_steps=3) == {**demo, "autoencoder_steps": 3}
    real = settings(dataset_dir="/some/where")
    assert real["perceptual_network"] == "lpips" and real["autoencoder_steps"] > 10 * demo["autoencoder_steps"]


def test_overlay_of_the_paper_builds_its_networks(bundle_root, tmp_path):
    import torch

    files = [str(bundle_root / "configs" / name) for name in ("pretrain.json", "paper.json")]
    given = {
        "bundle_root": str(bundle_root),
        "dataset_dir": "/some/where",
        "output_dir": str(tmp_path),
        "device": "meta",
    }
    made = ConfigWorkflow(config_file=files, **given)
    made.initialize()
    with torch.device("meta"):  # sizes without the memory
        autoencoder = made.parser.get_parsed_content("autoencoder_network")
        diffusion = made.parser.get_parsed_content("diffusion_network")
    assert len(autoencoder.encoder.blocks) > 0 and autoencoder.definition["channels"] == [128, 256, 512]
    # LDM-4's UNet: 274.1 M parameters; MONAI's blocks differ a little.
    assert sum(parameter.numel() for parameter in diffusion.parameters()) / 1e6 == pytest.approx(274, rel=0.05)


def test_demo_as_an_overlay_is_accepted(bundle_root, tmp_path):
    files = [str(bundle_root / "configs" / name) for name in ("pretrain.json", "demo.json")]
    given = {"bundle_root": str(bundle_root), "dataset_dir": "/some/where", "output_dir": str(tmp_path)}
    made = ConfigWorkflow(config_file=files, **given)
    made.initialize()
    assert made.parser.get_parsed_content("perceptual_network") == "random"
