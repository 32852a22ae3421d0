"""A glance at real tissue: the pipeline reads it, holds a slide out, and learns from it."""

import json


def test_real_patches_train(workflow, real_data, tmp_path):
    settings = {
        "dataset_dir": str(real_data / "pretrain"),
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
    workflow(output_dir=str(tmp_path), **settings).run()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["autoencoder"]["validation_slides"] == ["lung-squamous-cell-carcinoma__HE4"]
    assert metrics["autoencoder"]["built_in_patches"] is False
    assert metrics["autoencoder"]["training_patches"] > 5000
    # A constant grey gives about 15 dB; sixty steps must see more than that.
    assert metrics["autoencoder"]["psnr"] > 18
