"""Bad input, broken numbers, full disks, changed settings: a clear error, and nothing lost."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import changed_settings, few_images, root_cause
from processes import start_python, wait_for

from bundle.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "stage, change, named",
    [
        ("autoencoder", {"autoencoder_learning_rate": 1e-4}, "--autoencoder_learning_rate is 0.001, .* is 0.0001"),
        ("diffusion", {"diffusion#trainer#loss_type": "l1"}, "--diffusion#trainer#loss_type is mse, .* is l1"),
    ],
)
def test_changed_settings_refuse_to_resume(pretrained, workflow, tmp_path, stage, change, named):
    folder = tmp_path / "changed"
    shutil.copytree(pretrained, folder)
    kept = (folder / f"{stage}_checkpoint.pt").read_bytes()
    with pytest.raises(RuntimeError) as caught:
        workflow(output_dir=str(folder), diffusion_steps=8, **change).run()
    message = str(root_cause(caught.value))
    assert re.search(f"{stage}_checkpoint.pt can't be continued: its {named}. Give the former setting", message)
    assert (folder / f"{stage}_checkpoint.pt").read_bytes() == kept


@pytest.mark.parametrize(
    "change, named",
    [
        ({"diffusion_learning_rate": 1e-4}, {"--diffusion_learning_rate"}),
        ({"diffusion_batch_size": 5}, {"--diffusion_batch_size", "batch size"}),
        ({"diffusion#trainer#loss_type": "l1"}, {"--diffusion#trainer#loss_type"}),
        ({"diffusion#trainer#min_snr_gamma": 5.0}, {"--diffusion#trainer#min_snr_gamma"}),
        ({"diffusion#trainer#ema_decay": 0.5}, {"--diffusion#trainer#ema_decay"}),
        ({"noise_schedule#beta_end": 0.0195}, {"--noise_schedule#beta_end"}),
        ({"diffusion#trainer#warm_up": 5}, {"--diffusion#trainer#warm_up"}),
        ({"diffusion_architecture#num_head_channels": 16}, {"--diffusion_architecture#num_head_channels"}),
        ({"latent_orientations": 3}, {"--latent_orientations"}),
        ({"diffusion_steps": 8, "inference_batch_size": 3, "num_workers": 1, "picture_interval": 2}, set()),
    ],
)
def test_what_decides_how_the_diffusion_model_is_trained(pretrained, workflow, change, named):
    trainers = [
        workflow(output_dir=str(pretrained), **given).parser.get_parsed_content("diffusion#trainer")
        for given in ({}, change)
    ]
    for trainer in trainers:
        trainer.prepare()
    assert changed_settings(*trainers) == named


@pytest.mark.parametrize(
    "change, named",
    [
        ({"autoencoder_steps": 8}, {"number of steps"}),
        ({"autoencoder_steps": 8, "train#trainer#cool_down": 0}, {"number of steps", "--train#trainer#cool_down"}),
        ({"seed": 1}, {"seed", "--seed", "data"}),
        ({"autoencoder_channels": [16, 32]}, {"--autoencoder_channels"}),
        ({"autoencoder_learning_rate": 1e-4}, {"--autoencoder_learning_rate"}),
        ({"autoencoder_batch_size": 5}, {"--autoencoder_batch_size", "batch size"}),
        ({"autoencoder_loss#adversarial_weight": 0.1}, {"--autoencoder_loss#adversarial_weight"}),
        ({"autoencoder_loss#adversarial_start": 2}, {"--autoencoder_loss#adversarial_start"}),
        ({"discriminator_architecture#num_layers_d": 1}, {"--discriminator_architecture#num_layers_d"}),
        ({"stain_augmentation": 0.5}, {"--stain_augmentation"}),
        ({"precision": "bf16"}, {"precision"}),
        ({"generated_per_class": 3}, {"data"}),
        ({"inference_batch_size": 3, "num_workers": 1, "val_interval": 2, "picture_interval": 2}, set()),
    ],
)
def test_what_decides_how_the_autoencoder_is_trained(workflow, tmp_path, change, named):
    trainers = []
    for number, given in enumerate(({}, change)):
        folders = {"output_dir": str(tmp_path / "run"), "cache_dir": str(tmp_path / f"cache_{number}")}
        trainers.append(workflow(**folders, **given).parser.get_parsed_content("train#trainer"))
        trainers[-1].prepare()
    assert changed_settings(*trainers) == named


def test_second_run_into_the_same_folder_is_refused(workflow, tmp_path):
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from bundle.runs.folder import RunFolder; held = RunFolder({str(tmp_path / 'run')!r}); held.open()\n"
        f"open({str(tmp_path / 'held')!r}, 'w').close()\n"
        "time.sleep(60)"
    )
    holder = start_python("-c", code)
    try:
        wait_for(tmp_path / "held", holder)
        with pytest.raises(RuntimeError) as caught:
            workflow(output_dir=str(tmp_path / "run")).run()
        message = str(root_cause(caught.value))
        assert "another run is writing to" in message and str(tmp_path / "run") in message
    finally:
        holder.kill()
        holder.wait()
    folder = RunFolder(tmp_path / "run")
    folder.open()  # a killed process holds nothing
    folder.close()


def test_broken_losses_stop_before_the_checkpoint(workflow, tmp_path):
    made = workflow(output_dir=str(tmp_path))
    trainer = made.parser.get_parsed_content("train#trainer")
    backward = trainer.loss.backward

    def broken(*arguments):
        terms = backward(*arguments)
        return {**terms, "l1": terms["l1"] * float("nan")} if trainer.state.iteration == 4 else terms

    trainer.loss.backward = broken
    with pytest.raises(FloatingPointError, match="autoencoder: not finite at step 4.*l1.*--precision fp32"):
        trainer.run()
    assert torch.load(tmp_path / "autoencoder_checkpoint.pt", weights_only=True)["step"] == 2
    assert not (tmp_path / "autoencoder.pt").exists()


@pytest.mark.parametrize(
    "tensor_of, named",
    [
        (lambda trainer: next(trainer.autoencoder.parameters()), "weights of the autoencoder"),
        (
            lambda trainer: next(iter(trainer.autoencoder_optimizer.state.values()))["exp_avg_sq"],
            "moments of the autoencoder_optimizer",
        ),
    ],
)
def test_broken_weights_or_moments_stop_before_the_checkpoint(workflow, tmp_path, tensor_of, named):
    """A finite loss may have a gradient that isn't, and a moment may overflow while the weights don't yet show it."""
    made = workflow(output_dir=str(tmp_path))
    trainer = made.parser.get_parsed_content("train#trainer")
    step = trainer.autoencoder_optimizer.step

    def broken():
        step()
        if trainer.state.iteration == 4:
            with torch.no_grad():
                tensor_of(trainer).fill_(float("inf"))

    trainer.autoencoder_optimizer.step = broken
    with pytest.raises(FloatingPointError, match=f"not finite at step 4: {named}"):
        trainer.run()
    assert torch.load(tmp_path / "autoencoder_checkpoint.pt", weights_only=True)["step"] == 2


def test_full_disk_while_saving_keeps_the_last_checkpoint(workflow, tmp_path, monkeypatch):
    made = workflow(output_dir=str(tmp_path))
    trainer = made.parser.get_parsed_content("train#trainer")
    save = torch.save

    def full(content, file):
        save(content, file)
        if "checkpoint" in Path(file.name).name and content["step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="disk is full.*autoencoder_checkpoint.pt"):
        trainer.run()
    assert torch.load(tmp_path / "autoencoder_checkpoint.pt", weights_only=True)["step"] == 2
    assert not [name for name in os.listdir(tmp_path) if ".tmp" in name]


@pytest.mark.parametrize(
    "prepare, named",
    [
        (lambda folder: folder / "nowhere", "nowhere"),
        (lambda folder: folder, "images"),
        (lambda folder: (folder / "notes.txt").write_text("x") and folder, "images"),
        (lambda folder: few_images(folder, 3), "fewer than the batch of 4"),
    ],
    ids=["no folder", "empty folder", "no images", "fewer than a batch"],
)
def test_bad_data_is_named(workflow, tmp_path, prepare, named):
    (tmp_path / "data").mkdir()
    folder = prepare(tmp_path / "data")
    made = workflow(dataset_dir=str(folder), perceptual_network="random", output_dir=str(tmp_path / "out"))
    with pytest.raises(RuntimeError) as caught:
        made.run()
    assert named in str(root_cause(caught.value))


def test_missing_perceptual_weights_stop_before_anything_is_read(workflow, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no_cache"))
    few_images(tmp_path, 8)
    made = workflow(dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"))
    assert made.check_properties() == []
    with pytest.raises(RuntimeError) as caught:
        made.run()
    assert "--perceptual_weights" in str(root_cause(caught.value))
    assert not (tmp_path / "out" / "cache").exists()


@pytest.mark.parametrize(
    "settings", [{"validation_slides": []}, {"validation_slides": ["slide_00", "slide_01", "slide_02"]}]
)
def test_holding_out_nothing_or_everything_is_refused(pretrained, workflow, settings):
    with pytest.raises(ValueError, match="would be held out.*--validation_slides"):
        workflow(output_dir=str(pretrained), **settings).parser.get_parsed_content("patches").prepare()
