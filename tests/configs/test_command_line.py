"""The commands of the README as a user types them: the first in a new process, the others in forks of this one."""

import json
import re

import pytest
import torch
from conftest import ROOT, TINY
from processes import run_python

from bundle.models.artefacts import fingerprint, load_artefact, read_artefact


def monai_bundle(folder, *arguments, fresh=False):
    settings = {**TINY, "bundle_root": ROOT}
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return run_python("-m", "monai.bundle", "run", *arguments, *flags, cwd=folder, fresh=fresh)


@pytest.fixture(scope="module")
def finished(bundle_root, tmp_path_factory):
    """A run by `run training` from a folder that is not the bundle's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    config = str(bundle_root / "configs" / "pretrain.json")
    return folder, monai_bundle(folder, "training", "--config_file", config, fresh=True), config


def test_runs_from_any_folder_and_says_where_everything_is(finished):
    folder, run, _ = finished
    assert run.returncode == 0, run.stderr[-3000:]
    said = run.stdout + run.stderr
    for name in ("samples.png", "autoencoder.pt", "diffusion.pt", "metrics.json", "config.json"):
        assert f"runs/pretrain/{name}" in said and (folder / "runs" / "pretrain" / name).stat().st_size > 0
    assert "not tissue" in said
    assert re.search(r"54 patches from 1 source.*rejected: 0 of 54", said, re.DOTALL)
    assert re.search(
        rf"next: python -m monai\.bundle run --config_file {ROOT}/configs/adapt.json --pretrained_dir runs/pretrain"
        rf" --bundle_root {ROOT}\n",
        said,
    )
    assert re.search(r"autoencoder: .*\d+%.*<", said), "no progress bar with remaining time"
    assert "run training" in json.loads((folder / "runs" / "pretrain" / "metrics.json").read_text())["command"]


def test_plain_run_is_the_same_and_finds_it_done(finished):
    folder, _, config = finished
    before = (folder / "runs" / "pretrain" / "diffusion.pt").stat().st_mtime_ns
    again = monai_bundle(folder, "--config_file", config)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "finished before" in again.stdout + again.stderr
    assert (folder / "runs" / "pretrain" / "diffusion.pt").stat().st_mtime_ns == before


def test_one_stage_by_its_name(bundle_root, tmp_path):
    run = monai_bundle(tmp_path, "autoencoder", "--config_file", str(bundle_root / "configs" / "pretrain.json"))
    assert run.returncode == 0, run.stderr[-3000:]
    assert (tmp_path / "runs" / "pretrain" / "autoencoder.pt").is_file()
    assert not (tmp_path / "runs" / "pretrain" / "diffusion.pt").exists()


@pytest.mark.parametrize(
    "flags, last",
    [
        (("--nosuch_flag", "5"), "ValueError: nothing reads the setting --nosuch_flag"),
        (("--dataset_dir", "/nowhere/at/all", "--perceptual_network", "random"), "/nowhere/at/all"),
    ],
)
def test_the_last_line_of_an_error_is_its_cause(bundle_root, tmp_path, flags, last):
    run = monai_bundle(tmp_path, "training", "--config_file", str(bundle_root / "configs" / "pretrain.json"), *flags)
    assert run.returncode != 0
    assert last in run.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "runs" / "pretrain" / "autoencoder.pt").exists()


def test_small_copies_load_and_belong_together(finished, bundle_root, tmp_path):
    folder, _, _ = finished
    target = tmp_path / "models"
    script = bundle_root / "scripts" / "publish_weights.py"
    run = run_python(script, folder / "runs" / "pretrain", target, "--commit", "abc", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    autoencoder, facts = load_artefact(target / "autoencoder.pt", "autoencoder")
    diffusion, diffusion_facts = load_artefact(target / "diffusion.pt", "diffusion")
    assert diffusion_facts["autoencoder_fingerprint"] == facts["fingerprint"]
    assert "raw_weights" not in diffusion_facts
    halves = torch.load(target / "autoencoder.pt", weights_only=True)["weights"]
    assert facts["fingerprint"] == fingerprint(halves) and halves["quant_conv_mu.conv.weight"].dtype == torch.float16
    assert next(autoencoder.parameters()).dtype == torch.float32  # rebuilt ready to compute with
    original, _ = load_artefact(folder / "runs" / "pretrain" / "diffusion.pt", "diffusion")
    latents, times = torch.randn(2, 3, 16, 16), torch.tensor([5, 500])
    torch.testing.assert_close(diffusion(latents, times), original(latents, times), rtol=0.02, atol=0.02)
    origin = json.loads((target / "origin.json").read_text())
    assert "monai.bundle run training" in origin["command"] and origin["commit"] == "abc"


def test_published_adaptation_belongs_together_and_is_used_like_the_original(
    bundle_root, pretrained, adapted, workflow, tmp_path
):
    for run, target in ((pretrained, tmp_path / "pretrain"), (adapted, tmp_path / "adapt")):
        run_python(bundle_root / "scripts" / "publish_weights.py", run, target).check_returncode()
    autoencoder = read_artefact(tmp_path / "adapt" / "autoencoder.pt", "autoencoder")
    # The same rounding of the same weights, so the copies fit each other across the two folders too.
    assert (
        autoencoder["fingerprint"]
        == read_artefact(tmp_path / "pretrain" / "autoencoder.pt", "autoencoder")["fingerprint"]
    )
    classifier = read_artefact(tmp_path / "adapt" / "image_classifier.pt", "image_classifier")
    decoder = read_artefact(tmp_path / "adapt" / "decoder.pt", "decoder")
    assert decoder["image_classifier_fingerprint"] == classifier["fingerprint"]
    for content in (
        classifier,
        decoder,
        read_artefact(tmp_path / "adapt" / "latent_classifier.pt", "latent_classifier"),
    ):
        assert content["autoencoder_fingerprint"] == autoencoder["fingerprint"]
        assert all(
            tensor.dtype == torch.float16 for tensor in content["weights"].values() if tensor.is_floating_point()
        )
    assert (tmp_path / "adapt" / "split.csv").read_bytes() == (adapted / "split.csv").read_bytes()
    settings = {"output_dir": str(tmp_path / "again"), "pretrained_dir": str(tmp_path / "pretrain")}
    workflow("adapt.json", **settings).parser.get_parsed_content("image_classifier")
    assert (tmp_path / "again" / "image_classifier.pt").is_file()
