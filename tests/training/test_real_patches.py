"""A glance at real tissue: the pipeline reads it, holds a slide out, and learns from it."""

import json

import pytest


@pytest.mark.parametrize("slides, patches", [("lung-*", 800), ("*", 5000)])
@pytest.mark.slow
def test_real_patches_train(workflow, real_data, tmp_path, slides, patches):
    (tmp_path / "slides").mkdir()
    for folder in (real_data / "pretrain").glob(slides):
        (tmp_path / "slides" / folder.name).symlink_to(folder)
    settings = {
        "dataset_dir": str(tmp_path / "slides"),
        "perceptual_network": "random",
        "validation_slides": "lung-squamous-cell-carcinoma__HE4",
        "autoencoder_steps": 60,
        "autoencoder_batch_size": 8,
        "autoencoder_learning_rate": 2e-3,
        "autoencoder_loss#adversarial_start": 1000,
        "diffusion_steps": 2,
        "latent_orientations": 1,
        "checkpoint_interval": 60,
        "picture_interval": 60,
        "val_interval": 60,
    }
    workflow(output_dir=str(tmp_path / "run"), **settings).run()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["autoencoder"]["validation_slides"] == ["lung-squamous-cell-carcinoma__HE4"]
    assert metrics["autoencoder"]["built_in_patches"] is False
    assert metrics["autoencoder"]["training_patches"] > patches
    # A constant grey gives about 15 dB; sixty steps must see more than that.
    assert metrics["autoencoder"]["psnr"] > 18
