"""The two stages end to end on tiny patches: contract, resume, what is kept."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY
from helpers import assert_equal, kill_stage, root_cause, states

from bundle.data.hashes import read_hashes
from bundle.data.marks import read_marks
from bundle.diffusion.latent_scale import LatentScale
from bundle.models.artefacts import load_artefact


def test_output_contract(pretrained):
    metrics = json.loads((pretrained / "metrics.json").read_text())
    assert {"psnr", "ssim", "lpips", "seconds", "patches_per_second"} <= metrics["autoencoder"].keys()
    assert {"scale", "mean", "std"} <= metrics["latent"].keys()
    assert {"loss", "seconds", "patches_per_second"} <= metrics["diffusion"].keys()
    assert metrics["autoencoder"]["lpips"] is None, "a random network's distance must not be called LPIPS"
    assert metrics["autoencoder"]["perceptual_network"] == "random"
    assert metrics["autoencoder"]["built_in_patches"] is True
    assert 0 < metrics["diffusion"]["loss"] < 5
    for name in ("samples.png", "autoencoder.pt", "diffusion.pt", "config.json"):
        assert (pretrained / name).is_file()
    assert len(read_hashes(pretrained / "image_hashes.txt")) == 9 * 2 * 3, "every patch, the held-out ones too"
    pictures = {path.name for path in (pretrained / "pictures").iterdir()}
    assert {"training_input.png", "reconstructions_000004.png", "samples_000004.png"} <= pictures
    assert list((pretrained / "tensorboard").rglob("events.out*"))
    assert not list(pretrained.rglob("*.tmp*"))


def test_samples_are_marked_as_synthetic(pretrained):
    marks = read_marks(pretrained / "samples.png")
    assert marks["SyntheticData"] == "YES" and marks["DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert marks["TrainedOn"] == "built-in generated patches"
    assert read_marks(pretrained / "pictures" / "training_input.png") == {}


def test_artefacts_carry_all_that_sampling_needs(pretrained):
    autoencoder, facts = load_artefact(pretrained / "autoencoder.pt", "autoencoder")
    diffusion, diffusion_facts = load_artefact(pretrained / "diffusion.pt", "diffusion")
    assert facts["patch_size"] == diffusion_facts["patch_size"] == 32
    assert facts["latent"]["scale"] == diffusion_facts["latent_scale"]
    assert facts["latent"]["centre"] == diffusion_facts["latent_centre"] == facts["latent"]["mean"]
    assert facts["fingerprint"] == diffusion_facts["autoencoder_fingerprint"]
    assert diffusion_facts["schedule"]["beta_end"] == 0.0155
    latents = torch.randn(1, autoencoder.definition["latent_channels"], 16, 16)
    assert diffusion(latents, torch.tensor([10])).shape == latents.shape
    assert autoencoder.decode(LatentScale.read(facts["latent"]).unscaled(latents)).shape == (1, 3, 32, 32)


def test_averaged_and_raw_weights_are_both_kept(pretrained):
    content = torch.load(pretrained / "diffusion.pt", weights_only=True)
    assert content["weights"].keys() == content["raw_weights"].keys()
    assert any(not torch.equal(content["weights"][name], content["raw_weights"][name]) for name in content["weights"])


def test_finished_stages_are_not_run_twice(pretrained, workflow, tmp_path):
    folder = tmp_path / "pretrain"
    shutil.copytree(pretrained, folder)
    before = {name: (folder / name).read_bytes() for name in ("autoencoder.pt", "diffusion.pt", "samples.png")}
    shutil.rmtree(next((folder / "cache").glob("latents_*")))  # only training needs it
    workflow(output_dir=str(folder)).run()
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert not list((folder / "cache").glob("latents_*"))


def test_saved_config_is_the_executed_one_and_runs_again(pretrained, tmp_path):
    from monai.bundle import ConfigWorkflow

    config = json.loads((pretrained / "config.json").read_text())
    assert config["autoencoder_steps"] == 4 and config["patch_size"] == 32 and config["perceptual_network"] == "random"
    assert config["autoencoder_architecture"]["_target_"] == "AutoencoderKL"
    again = ConfigWorkflow(config_file=str(pretrained / "config.json"), output_dir=str(tmp_path / "again"))
    again.initialize()
    again.run()
    assert_equal(states(pretrained), states(tmp_path / "again"))


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_half_kill_half_is_the_whole(pretrained, workflow, tmp_path, stage):
    """4 steps = 3, kill -9, on from the checkpoint of step 2, bit for bit: weights, averages, optimisers, pictures."""
    folder = tmp_path / "killed"
    # The one stage that is killed in a new process; every other in a child of this one.
    kill_stage(stage, "pretrain.json", TINY, folder, tmp_path / "flag", fresh=stage == "autoencoder")
    workflow(output_dir=str(folder)).run()
    expected, found = states(pretrained), states(folder)
    assert len(expected) == 4
    assert_equal(expected, found)
    assert (folder / "samples.png").read_bytes() == (pretrained / "samples.png").read_bytes()


def test_a_stage_killed_while_finishing_is_finished(pretrained, workflow, tmp_path):
    """The artefact comes last: without it, or with an older one, metrics and pictures are made again."""
    folder = tmp_path / "unfinished"
    shutil.copytree(pretrained, folder)
    (folder / "diffusion.pt").unlink()
    (folder / "samples.png").unlink()
    (folder / "metrics.json").write_text("{}")
    old = torch.load(folder / "autoencoder.pt", weights_only=True)
    torch.save({**old, "steps": 2}, folder / "autoencoder.pt")
    workflow(output_dir=str(folder)).run()
    assert_equal(states(pretrained), states(folder))
    assert (folder / "samples.png").read_bytes() == (pretrained / "samples.png").read_bytes()
    found, expected = (json.loads((path / "metrics.json").read_text()) for path in (folder, pretrained))
    assert found["latent"] == expected["latent"] and found["autoencoder"]["psnr"] == expected["autoencoder"]["psnr"]


def test_more_steps_continue_where_the_budget_ended(pretrained, workflow, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(pretrained, folder)
    workflow(output_dir=str(folder), diffusion_steps=6).run()
    assert torch.load(folder / "diffusion_checkpoint.pt", weights_only=True)["step"] == 6
    whole = tmp_path / "whole"
    workflow(output_dir=str(whole), diffusion_steps=6).run()
    assert_equal(states(whole)["diffusion.pt"], states(folder)["diffusion.pt"])


def test_checkpoints_of_an_ended_run_may_be_deleted(pretrained, workflow, tmp_path):
    folder = tmp_path / "tidied"
    shutil.copytree(pretrained, folder)
    for path in folder.glob("*_checkpoint.pt"):
        path.unlink()
    before = (folder / "diffusion.pt").read_bytes()
    workflow(output_dir=str(folder)).run()
    assert (folder / "diffusion.pt").read_bytes() == before and not list(folder.glob("*_checkpoint.pt"))
    with pytest.raises(RuntimeError) as caught:
        workflow(output_dir=str(folder), diffusion_steps=6).run()
    assert "has 4 steps, 6 are asked for" in str(root_cause(caught.value))
    assert (folder / "diffusion.pt").read_bytes() == before


def test_leftovers_of_a_killed_save_are_removed(pretrained, workflow, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(pretrained, folder)
    (folder / ".diffusion_checkpoint.123.tmp.pt").write_text("half")
    workflow(output_dir=str(folder)).run()
    assert not list(folder.glob(".*tmp*"))


@pytest.mark.parametrize(
    "options",
    [
        {"noise_schedule#prediction_type": "v", "diffusion#trainer#min_snr_gamma": 5.0},
        {"diffusion#trainer#loss_type": "l1", "diffusion#trainer#maximum_gradient_norm": None},
    ],
    ids=["v, min-SNR", "l1, no clipping"],
)
def test_options_of_the_diffusion_loss_train_and_sample(pretrained, workflow, tmp_path, options):
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    for name in ("diffusion.pt", "diffusion_checkpoint.pt", "samples.png"):
        (folder / name).unlink()
    workflow(output_dir=str(folder), **options).run()
    _, facts = load_artefact(folder / "diffusion.pt", "diffusion")
    assert facts["schedule"]["prediction_type"] == options.get("noise_schedule#prediction_type", "epsilon")
    assert (folder / "samples.png").read_bytes() != (pretrained / "samples.png").read_bytes()


def test_training_learns(workflow, tmp_path):
    """Some hundred steps on built-in patches: both losses fall far below their start."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {
        "autoencoder_steps": 120,
        "train#trainer#cool_down": 0,
        "autoencoder_loss#adversarial_start": 1000,
        "diffusion_steps": 120,
    }
    settings |= {"autoencoder_learning_rate": 2e-3, "diffusion_learning_rate": 2e-3, "diffusion#trainer#warm_up": 5}
    settings |= {"checkpoint_interval": 120, "picture_interval": 120, "val_interval": 120}
    workflow(output_dir=str(tmp_path), **settings).run()
    for stage, tag, share in (("autoencoder", "l1", 0.5), ("diffusion", "loss", 0.7)):
        values = [
            event.value for event in EventAccumulator(str(tmp_path / "tensorboard" / stage)).Reload().Scalars(tag)
        ]
        assert np.mean(values[-20:]) < share * np.mean(values[:5]), (stage, values[:5], values[-20:])
