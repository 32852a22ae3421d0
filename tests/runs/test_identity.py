"""What a resumed run must share with the one it continues is read off the config: no setting can be forgotten."""

import pytest
from helpers import ROOT, root_cause
from monai.bundle import ConfigWorkflow

from bundle.runs.identity import LEFT_OUT, stage_settings

# A stage's config and section, a setting below it, another value, and the name under which a refusal shows it.
COUNTED = [
    ("pretrain.json", "autoencoder", "autoencoder_learning_rate", 1e-5, None),
    ("pretrain.json", "autoencoder", "autoencoder_loss#kl_weight", 1e-3, None),
    ("pretrain.json", "autoencoder", "discriminator_architecture#channels", 8, None),
    ("pretrain.json", "autoencoder", "stain_augmentation", 0.5, None),
    ("pretrain.json", "autoencoder", "train#preprocessing#transforms#1#prob", 0.5, None),
    ("pretrain.json", "autoencoder", "train#optimizer#betas", [0.9, 0.99], None),
    ("pretrain.json", "autoencoder", "perceptual_network", "random", None),
    ("pretrain.json", "autoencoder", "perceptual_trunk", "alexnet", None),
    ("pretrain.json", "diffusion", "noise_schedule#prediction_type", "v_prediction", None),
    ("pretrain.json", "diffusion", "diffusion_channels", [32, 64], None),
    ("pretrain.json", "diffusion", "diffusion#trainer#min_snr_gamma", 5.0, None),
    ("pretrain.json", "diffusion", "diffusion#optimizer#weight_decay", 0.5, None),
    ("pretrain.json", "diffusion", "latent_orientations", 4, None),
    ("adapt.json", "image_classifier", "density_probability", 0.5, None),
    ("adapt.json", "image_classifier", "image_classifier#architecture#dropout", 0.5, None),
    ("adapt.json", "image_classifier", "image_classifier#trainer#batch_size", 6, None),
    ("adapt.json", "judge", "density_scale", 0.1, "--judge#trainer#density"),
    ("adapt.json", "judge", "judge#architecture#norm#1#num_groups", 4, "--judge#architecture#norm#1#num_groups"),
    ("adapt.json", "decoder", "decoder#loss#ce_weight", 0.5, None),
    ("adapt.json", "decoder", "perceptual_trunk", "alexnet", None),
    ("adapt.json", "decoder", "latents#stain_copies", 3, None),
    ("adapt.json", "latent_classifier", "half_unet#channels", [16, 32], None),
    ("adapt.json", "latent_classifier", "latent_classifier_trunk", "encoder", None),
    ("adapt.json", "latent_classifier", "patience", None, None),
    ("adapt.json", "diffusion", "diffusion#trainer#rank", 3, None),
    ("adapt.json", "diffusion", "diffusion#latents#pretraining_share", 0.5, None),
    ("select.json", "scorer", "scorer_view", "grey", None),
    ("select.json", "scorer", "train#trainer#passes", 7, None),
    ("select.json", "scorer", "scorer_arguments", {"layers": [1, 1, 1, 2]}, "--train#architecture#arguments"),
    ("classify.json", "classifier", "train#preprocessing#transforms#1#_disabled_", True, None),
    ("classify.json", "classifier", "erasing_probability", 0.5, None),
    ("classify.json", "classifier", "density_scale", 0.1, None),
    ("classify.json", "classifier", "train#trainer#mixup_alpha", 0.5, None),
    ("classify.json", "classifier", "trunk_arguments", {"depth": 2}, "--trunk_arguments#depth"),
    ("stylegan2.json", "stylegan2", "r1_weight", 5.0, None),
    ("stylegan2.json", "stylegan2", "geometry", "none", None),
    ("stylegan2.json", "stylegan2", "train#augmentation#target", 0.1, None),
    ("vit_cgan.json", "vit_cgan", "augmentation", "cutout", None),
    ("vit_cgan.json", "vit_cgan", "loss_weighting", "fixed", None),
    ("vit_cgan.json", "vit_cgan", "train#generator#depths", [1, 1], None),
]
# Where and how fast things are computed, how long, what is only looked at, and data that have a fingerprint.
NOT_COUNTED = [
    ("pretrain.json", "autoencoder", {"autoencoder_steps": 9, "checkpoint_interval": 3, "num_workers": 2}),
    ("pretrain.json", "autoencoder", {"picture_interval": 2, "val_interval": 2, "inference_batch_size": 5}),
    ("pretrain.json", "autoencoder", {"dataset_dir": "/some/where", "cache_gigabytes": 1, "device": "cpu:0"}),
    ("pretrain.json", "autoencoder", {"mlflow_tracking_uri": "file:///x", "cache_dir": "elsewhere"}),
    ("pretrain.json", "autoencoder", {"diffusion_learning_rate": 1e-5, "diffusion_channels": [32, 64]}),
    ("pretrain.json", "diffusion", {"diffusion_steps": 9, "num_inference_steps": 3, "diffusion#trainer#eta": 0.5}),
    ("pretrain.json", "diffusion", {"stain_augmentation": 0.5, "autoencoder_learning_rate": 1e-5}),
    ("adapt.json", "judge", {"pretrained_dir": "elsewhere", "labels_per_class": 6, "judge_steps": 9}),
    ("adapt.json", "decoder", {"perceptual_weights": "w.pt", "decoder#loss#ce_weight": 0.1}),
    ("classify.json", "classifier", {"pool_dir": "elsewhere", "trunk_weights": "w.pt", "split_seed": 3}),
]


@pytest.fixture
def settings(tmp_path):
    """What a stage's identity takes from a config that is given settings."""

    def make(config, stage, **given):
        if (config, stage) == ("adapt.json", "diffusion"):
            given["diffusion_method"] = "low_rank"
        files = [str(ROOT / "configs" / config)]
        common = {"bundle_root": str(ROOT), "output_dir": str(tmp_path), "precision": "fp32", "device": "cpu"}
        common["dataset_dir"] = "labelled"  # without one the demo's settings hold
        made = ConfigWorkflow(files, logging_file=False, **{**common, **given})
        made.initialize()
        return stage_settings(made.parser, stage)

    return make


@pytest.mark.parametrize("config, stage, flag, value, named", COUNTED, ids=[f"{c[1]}-{c[2]}" for c in COUNTED])
def test_a_changed_setting_below_a_stage_changes_its_identity_and_is_named(settings, config, stage, flag, value, named):
    before, after = settings(config, stage), settings(config, stage, **{flag: value})
    differing = {name for name in {**before, **after} if before.get(name) != after.get(name)}
    assert (named or f"--{flag}") in differing


@pytest.mark.parametrize("config, stage, given", NOT_COUNTED)
def test_what_does_not_decide_how_it_trains_does_not(settings, config, stage, given):
    assert settings(config, stage) == settings(config, stage, **given)


def test_a_removed_item_is_noticed(workflow, tmp_path):
    made = workflow(output_dir=str(tmp_path)).parser
    before = stage_settings(made, "autoencoder")
    del made["train"]["preprocessing"]["transforms"][0]
    made.ref_resolver.reset()
    assert stage_settings(made, "autoencoder") != before


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_nothing_that_is_left_out_is_in_it_and_all_is_plain(settings, stage):
    found = settings("pretrain.json", stage)
    assert len(found) > 20 and not {name.lstrip("-").split("#")[-1] for name in found} & LEFT_OUT
    plain = (int, float, str, bool, list, dict, type(None))
    assert all(isinstance(value, plain) for value in found.values()), "a checkpoint is loaded as weights only"


@pytest.mark.parametrize(
    "stage, flag, before, now",
    [
        ("image_classifier", "image_classifier#optimizer#lr", 0.0005, 0.001),
        ("judge_colour", "judge#optimizer#weight_decay", 0.05, 0.1),
        ("decoder", "decoder#loss#ce_weight", 0.1, 0.7),
        ("latent_classifier", "half_unet#dropout", 0.1, 0.2),
    ],
)
def test_the_whole_refusal(workflow, pretrained, adapted, stage, flag, before, now):
    """Setting by its flag, both values, the file and the way out."""
    given = {"output_dir": str(adapted), "pretrained_dir": str(pretrained)}
    with pytest.raises(Exception) as caught:
        workflow("adapt.json", **given, **{flag: now}).run()
    assert str(root_cause(caught.value)) == (
        f"{adapted / stage}_checkpoint.pt can't be continued: its --{flag} is {before}, this run's is {now}. Give the "
        "former setting, or another --output_dir"
    )
