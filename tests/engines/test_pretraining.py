"""The two stages end to end on tiny patches: contract, resume, refusals."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bundle.artefacts import load_artefact
from bundle.data.latents import latent_statistics
from bundle.data.marks import read_marks

ROOT = Path(__file__).resolve().parents[2]


def root_cause(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return error


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
    assert facts["fingerprint"] == diffusion_facts["autoencoder_fingerprint"]
    assert diffusion_facts["schedule"]["beta_end"] == 0.0155
    latents = torch.randn(1, autoencoder.definition["latent_channels"], 16, 16)
    assert diffusion(latents, torch.tensor([10])).shape == latents.shape
    assert autoencoder.decode(latents / facts["latent"]["scale"]).shape == (1, 3, 32, 32)


def test_averaged_and_raw_weights_are_both_kept(pretrained):
    content = torch.load(pretrained / "diffusion.pt", weights_only=True)
    assert content["weights"].keys() == content["raw_weights"].keys()
    assert any(not torch.equal(content["weights"][name], content["raw_weights"][name]) for name in content["weights"])


def test_scaled_latents_have_unit_variance_and_decode_back(pretrained):
    """encode, scale, unscale, decode: the stored scale gives unit variance, and undoing it loses nothing."""
    autoencoder, facts = load_artefact(pretrained / "autoencoder.pt", "autoencoder")
    scale = facts["latent"]["scale"]
    paths = sorted((pretrained / "cache" / "generated_patches").rglob("*.png"))
    images = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths])
    with torch.no_grad():
        mean, std = autoencoder.encode(images.float() / 127.5 - 1)
        latents = mean + std * torch.randn_like(std)
        direct = autoencoder.decode(latents)
        there_and_back = autoencoder.decode((latents * scale) / scale)
    torch.testing.assert_close(there_and_back, direct, rtol=1e-3, atol=1e-4)
    # Estimated on two orientations of the training part, measured here on all patches.
    assert (latents * scale).std().item() == pytest.approx(1.0, rel=0.1)


def test_latent_statistics_by_hand():
    generator = np.random.default_rng(0)
    means = generator.normal([[[3.0]], [[-1.0]]], [[[2.0]], [[0.5]]], size=(4000, 2, 4, 4))
    stds = np.broadcast_to(np.array([0.5, 1.0]).reshape(2, 1, 1), means.shape)
    statistics = latent_statistics(np.stack([means, stds], 1).astype(np.float16))
    assert statistics["mean"] == pytest.approx([3.0, -1.0], abs=0.03)
    assert statistics["std"] == pytest.approx([(4 + 0.25) ** 0.5, (0.25 + 1) ** 0.5], rel=0.01)
    # All elements about their common mean 1: variance = mean of (4.25 + 2²) and (1.25 + 2²).
    assert statistics["scale"] == pytest.approx(((8.25 + 5.25) / 2) ** -0.5, rel=0.01)


def test_finished_stages_are_not_run_twice(pretrained, workflow, tmp_path):
    folder = tmp_path / "pretrain"
    shutil.copytree(pretrained, folder)
    before = {name: (folder / name).read_bytes() for name in ("autoencoder.pt", "diffusion.pt", "samples.png")}
    shutil.rmtree(next((folder / "cache").glob("latents_*")))  # only training needs it
    workflow(output_dir=str(folder)).run()
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert not list((folder / "cache").glob("latents_*"))


def test_saved_config_is_the_executed_one_and_runs_again(pretrained):
    config = json.loads((pretrained / "config.json").read_text())
    assert config["autoencoder_steps"] == 4 and config["patch_size"] == 32 and config["perceptual_network"] == "random"
    assert config["autoencoder_architecture"]["_target_"] == "AutoencoderKL"


def states(folder):
    files = ("autoencoder_checkpoint.pt", "diffusion_checkpoint.pt", "autoencoder.pt", "diffusion.pt")
    return {name: torch.load(folder / name, weights_only=True) for name in files if (folder / name).is_file()}


def assert_equal(left, right, place=""):
    if isinstance(left, dict):
        assert left.keys() == right.keys(), place
        for name in left.keys() - {"seconds"}:
            assert_equal(left[name], right[name], f"{place}/{name}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), place
        for number, (one, other) in enumerate(zip(left, right)):
            assert_equal(one, other, f"{place}/{number}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), f"{place} differs"
    else:
        assert left == right, place


RUN = """
import sys, time
sys.path.insert(0, {root!r})
sys.path.insert(0, {tests!r})
from conftest import TINY
from monai.bundle import ConfigWorkflow
from ignite.engine import Events
from bundle.engines.stage import StageTrainer

save = StageTrainer.save_checkpoint
def save_and_wait(self):
    save(self)
    if self.stage == {stage!r} and self.state.iteration == 2:
        open({flag!r}, "w").close()
        time.sleep(60)
StageTrainer.save_checkpoint = save_and_wait
workflow = ConfigWorkflow(config_file={config!r}, bundle_root={root!r}, **{{**TINY, "output_dir": {folder!r}}})
workflow.initialize()
workflow.run()
"""


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_half_kill_half_is_the_whole(pretrained, workflow, tmp_path, stage):
    """4 steps = 2 steps, kill -9, 2 steps, bit for bit: weights, averages, optimisers, artefacts, pictures."""
    folder, flag = tmp_path / "killed", tmp_path / "flag"
    code = RUN.format(
        root=str(ROOT), tests=str(ROOT / "tests"), stage=stage, flag=str(flag), folder=str(folder),
        config=str(ROOT / "configs" / "pretrain.json"),
    )  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert flag.exists(), errors.decode()[-2000:]
    assert torch.load(folder / f"{stage}_checkpoint.pt", weights_only=True)["step"] == 2

    workflow(output_dir=str(folder)).run()
    expected, found = states(pretrained), states(folder)
    assert len(expected) == 4
    assert_equal(expected, found)
    assert (folder / "samples.png").read_bytes() == (pretrained / "samples.png").read_bytes()


def test_more_steps_continue_where_the_budget_ended(pretrained, workflow, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(pretrained, folder)
    workflow(output_dir=str(folder), diffusion_steps=6).run()
    assert torch.load(folder / "diffusion_checkpoint.pt", weights_only=True)["step"] == 6
    whole = tmp_path / "whole"
    workflow(output_dir=str(whole), diffusion_steps=6).run()
    assert_equal(states(whole)["diffusion.pt"], states(folder)["diffusion.pt"])


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 1}, "seed|data"),
        ({"autoencoder_channels": [16, 32]}, "architecture"),
        ({"autoencoder_learning_rate": 1e-4}, "learning rate is .0.001., this run's is .0.0001."),
        ({"autoencoder_batch_size": 5}, "batch size is 4, this run's is 5"),
        ({"adversarial_weight": 0.1}, "loss"),
        ({"stain_augmentation": 0.5}, "stain augmentation is 0.0, this run's is 0.5"),
        ({"precision": "bf16"}, "precision is float32, this run's is bfloat16"),
        ({"generated_per_class": 3}, "generated with|data"),
    ],
)
def test_changed_settings_refuse_to_resume(pretrained, workflow, tmp_path, change, named):
    folder = tmp_path / "changed"
    shutil.copytree(pretrained, folder)
    kept = (folder / "autoencoder_checkpoint.pt").read_bytes()
    with pytest.raises(RuntimeError) as caught:
        workflow(output_dir=str(folder), autoencoder_steps=8, **change).run()
    assert re.search(named, str(root_cause(caught.value)))
    assert (folder / "autoencoder_checkpoint.pt").read_bytes() == kept


def test_second_run_into_the_same_folder_is_refused(workflow, tmp_path):
    from bundle.run_folder import RunFolder

    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from bundle.run_folder import RunFolder; held = RunFolder({str(tmp_path)!r}); held.open()\n"
        "print('held', flush=True)\n"
        "time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(RuntimeError) as caught:
            workflow(output_dir=str(tmp_path)).run()
        assert "another run is writing to" in str(root_cause(caught.value)) and str(tmp_path) in str(
            root_cause(caught.value)
        )
    finally:
        holder.kill()
        holder.wait()
    folder = RunFolder(tmp_path)
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


def test_full_disk_while_saving_keeps_the_last_checkpoint(workflow, tmp_path, monkeypatch):
    made = workflow(output_dir=str(tmp_path))
    trainer = made.parser.get_parsed_content("train#trainer")
    save = torch.save

    def full(content, path):
        save(content, path)
        if "checkpoint" in Path(path).name and content["step"] == 4:
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


def few_images(folder, count):
    for number in range(count):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)).save(
            folder / f"{number}.png"
        )
    return folder


def test_missing_perceptual_weights_stop_before_anything_is_read(workflow, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no_cache"))
    few_images(tmp_path, 8)
    made = workflow(dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"))
    assert made.check_properties() == []
    with pytest.raises(RuntimeError) as caught:
        made.run()
    assert "--perceptual_weights" in str(root_cause(caught.value))
    assert not (tmp_path / "out" / "cache").exists()


def test_another_autoencoders_latents_are_refused(pretrained, workflow, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(pretrained, folder)
    (folder / "diffusion_checkpoint.pt").unlink()
    (folder / "diffusion.pt").unlink()
    made = workflow(output_dir=str(folder), latent_channels=5)
    with pytest.raises(ValueError, match="latents of 3 channels, the diffusion model takes 5"):
        made.parser.get_parsed_content("diffusion#trainer").run()


def test_latents_are_encoded_once_and_a_changed_encoder_gets_its_own(pretrained, workflow, tmp_path, monkeypatch):
    from bundle.artefacts import save_artefact
    from bundle.data.latents import LatentCache

    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    made = workflow(output_dir=str(folder))
    cache = made.parser.get_parsed_content("latents")
    monkeypatch.setattr(LatentCache, "encode", lambda *arguments: pytest.fail("encoded twice"))
    first = np.array(cache.prepare()._latents[:4])
    monkeypatch.undo()

    autoencoder, facts = load_artefact(folder / "autoencoder.pt", "autoencoder")
    with torch.no_grad():
        next(autoencoder.encoder.parameters()).mul_(1.5)
    save_artefact(folder / "autoencoder.pt", "autoencoder", autoencoder, data_fingerprint=facts["data_fingerprint"])
    again = workflow(output_dir=str(folder)).parser.get_parsed_content("latents").prepare()
    assert len(list((folder / "cache").glob("latents_*"))) == 2
    assert not np.allclose(first, again._latents[:4])


def test_cached_latents_are_the_encoders_in_every_orientation(pretrained, workflow):
    made = workflow(output_dir=str(pretrained))
    cache = made.parser.get_parsed_content("latents").prepare()
    autoencoder, _ = load_artefact(pretrained / "autoencoder.pt", "autoencoder")
    patches = made.parser.get_parsed_content("patches")
    training = patches.training()
    image = torch.as_tensor(patches.store.image(int(training[1]))).float()[None] / 127.5 - 1
    with torch.no_grad():
        for place, oriented in ((1, image), (len(training) + 1, torch.rot90(image, 1, (-2, -1)))):
            mean, std = autoencoder.encode(oriented)
            item = cache.read(place)
            np.testing.assert_allclose(item["mean"], mean[0].numpy(), rtol=2e-3, atol=2e-3)
            np.testing.assert_allclose(item["std"], std[0].numpy(), rtol=2e-3, atol=2e-3)


def test_held_out_slides_are_never_trained_on(pretrained, workflow):
    made = workflow(output_dir=str(pretrained))
    patches = made.parser.get_parsed_content("patches").prepare()
    groups = np.array(patches.store.groups)
    held_out = set(groups[patches.validation()])
    assert held_out and not held_out & set(groups[patches.training()])
    chosen = workflow(output_dir=str(pretrained), validation_slides="slide_02").parser.get_parsed_content("patches")
    assert set(np.array(chosen.prepare().store.groups)[chosen.validation()]) == {"slide_02"}
    wrong = workflow(output_dir=str(pretrained), validation_slides="slide_09").parser.get_parsed_content("patches")
    with pytest.raises(ValueError, match="slide_09.*slide_00"):
        wrong.prepare()
