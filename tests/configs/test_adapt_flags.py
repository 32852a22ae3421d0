"""Each setting of the adaptation does what it says, and what is no setting, or no number, is refused at once."""

import json

import pytest
from helpers import flag_tests, root_cause
from monai.bundle import ConfigWorkflow

# Under these every component of the config is there, so that each flag has something to change.
EVERYTHING = {
    "pretrained_dir": "pretraining",
    "labels_per_class": None,
    "diffusion_method": "full",
    "target_dir": "/target",
    "pretraining_dir": "/patches",
}


def image(w):
    return w("image_classifier#trainer")


def judges(w):
    return w("judge#trainer")


def decoder(w):
    return w("decoder#trainer")


def latent(w):
    return w("train#trainer")


def diffusion(w):
    return w("diffusion#trainer")


def trainers(w):
    return [image(w), *judges(w), decoder(w), latent(w), diffusion(w)]


def classifiers(w):
    return [image(w), *judges(w), latent(w)]


def caches(w):
    return [
        w("latents"),
        *latent(w).measured.values(),
        diffusion(w).latents.unlabelled,
        diffusion(w).latents.pretraining,
    ]


def patches(w):
    return [w("labelled"), *(cache.patches for cache in caches(w)[-2:])]


def stores(w, name):
    return [part.store_arguments.get(name) for part in patches(w)]


def stains(w):
    """What varies stain at random while classifiers of images are trained."""
    return [trainer.data_loader.dataset.transform.transforms[0] for trainer in (image(w), *judges(w))]


def seeds(w):
    return [trainer.data_loader.step_sampler.seed for trainer in trainers(w)]


def all_are(values, expected):
    values = list(values)
    return len(values) > 0 and all(value == expected for value in values)


def shape(trainer, name):
    return trainer.architecture.keywords[name]


def widths(w):
    return [shape(judge, "block_inplanes") for judge in judges(w)]


def encoders(w):
    return [str(cache.autoencoder_file) for cache in caches(w)]


# Each setting a user may change, another value for it, and what then must have changed.
FLAGS = [
    ("dataset_dir", "/some/where", lambda w: w("labelled").dataset_dir == "/some/where"),
    ("test_dir", "/some/where", lambda w: w("labelled").test_dir == "/some/where"),
    ("pretrained_dir", "elsewhere", lambda w: str(w("pretrained").pretrained_dir) == "elsewhere"),
    ("output_dir", "elsewhere", lambda w: all_are((str(part.folder.path) for part in trainers(w)), "elsewhere")),
    ("output_dir", "elsewhere", lambda w: str(w("labelled").split_path) == "elsewhere/split.csv"),
    ("output_dir", "elsewhere", lambda w: all_are(encoders(w), "elsewhere/autoencoder.pt")),
    ("output_dir", "elsewhere", lambda w: all_are((str(t.handlers[-1].output_dir) for t in trainers(w)), "elsewhere")),
    ("output_dir", "elsewhere", lambda w: w("next_command").endswith("--adapted_dir elsewhere")),
    ("cache_dir", "elsewhere", lambda w: all_are((str(part.cache_dir) for part in patches(w)), "elsewhere")),
    ("cache_dir", "elsewhere", lambda w: all_are((str(cache.context.cache_dir) for cache in caches(w)), "elsewhere")),
    ("device", "cpu:0", lambda w: all_are((str(trainer.state.device) for trainer in trainers(w)), "cpu:0")),
    ("device", "cpu:0", lambda w: all_are((str(cache.device) for cache in caches(w)), "cpu:0")),
    ("precision", "bf16", lambda w: all_are((str(t.autocast_dtype) for t in trainers(w)), "torch.bfloat16")),
    ("seed", 70, lambda w: [trainer.seed for trainer in trainers(w)] == [70, 71, 71, 71, 70, 70, 70]),
    ("seed", 70, lambda w: seeds(w) == [70, 71, 71, 71, 72, 73, 74]),
    ("seed", 70, lambda w: all_are((getattr(part, "drawing", part).seed for part in patches(w)), 70)),
    ("split_file", "my.csv", lambda w: str(w("labelled").drawing.split_file) == "my.csv"),
    ("label_fraction", 0.3, lambda w: w("labelled").drawing.label_fraction == 0.3),
    ("labels_per_class", 6, lambda w: w("labelled").drawing.labels_per_class == 6),
    ("class_names", ["ADI", "LYM"], lambda w: w("labelled").drawing.class_names == ["ADI", "LYM"]),
    ("validation_share", 0.4, lambda w: w("labelled").drawing.validation_share == 0.4),
    ("maximum_rejected_share", 0.5, lambda w: all_are(stores(w, "maximum_rejected_share"), 0.5)),
    ("maximum_blank_share", 0.5, lambda w: all_are(stores(w, "maximum_blank_share"), 0.5)),
    ("class_level", -1, lambda w: w("labelled").drawing.class_level == -1),
    ("cache_gigabytes", 1, lambda w: all_are(stores(w, "cache_gigabytes"), 1)),
    ("judge_share", 0.5, lambda w: w("labelled").drawing.judge_share == 0.5),
    ("generated_per_class", 12, lambda w: w("labelled").generated_per_class == 12),
    ("generated_slide", 9, lambda w: w("labelled").generated_slide == 9),
    ("accumulate", 2, lambda w: w("context").accumulate == 2),
    ("activation_checkpointing", True, lambda w: w("context").activation_checkpointing),
    ("num_workers", 2, lambda w: all_are((trainer.data_loader.num_workers for trainer in trainers(w)), 2)),
    ("density_probability", 0.5, lambda w: all_are((stain.prob for stain in stains(w)), 0.5)),
    ("density_scale", 0.15, lambda w: all_are((stain.scale for stain in [*stains(w), w("latents").stain]), 0.15)),
    ("latent_orientations", 4, lambda w: [cache.orientations for cache in caches(w)] == [4, 1, 1, 1, 4, 4]),
    ("latents#stain_copies", 3, lambda w: [cache.stain_copies for cache in caches(w)] == [3, 0, 0, 0, 0, 0]),
    ("validation_interval", 3, lambda w: all_are((part.validation_interval for part in classifiers(w)), 3)),
    ("patience", 3, lambda w: all_are((trainer.best.patience for trainer in classifiers(w)), 3)),
    ("patience", None, lambda w: all_are((trainer.best.patience for trainer in classifiers(w)), None)),
    ("image_classifier_steps", 9, lambda w: image(w).steps == image(w).data_loader.step_sampler.steps == 9),
    ("judge_steps", 9, lambda w: all_are((judge.steps for judge in judges(w)), 9)),
    ("judge_steps", 9, lambda w: all_are((judge.data_loader.step_sampler.steps for judge in judges(w)), 9)),
    ("judge#trainer#batch_size", 6, lambda w: all_are((judge.data_loader.items_per_batch for judge in judges(w)), 6)),
    ("judge#architecture#block_inplanes", [4] * 4, lambda w: all_are(widths(w), [4] * 4)),
    ("judge#optimizer#lr", 1e-5, lambda w: all_are((j.make_optimizer.keywords["lr"] for j in judges(w)), 1e-5)),
    ("judge#trainer#ema_decay", 0.5, lambda w: all_are((judge.ema_decay for judge in judges(w)), 0.5)),
    ("decoder_steps", 9, lambda w: decoder(w).steps == decoder(w).data_loader.step_sampler.steps == 9),
    ("decoder_steps", 9, lambda w: decoder(w).cool_down == 4),
    ("decoder#trainer#cool_down", 1, lambda w: decoder(w).cool_down == 1),
    ("perceptual_network", "resnet18", lambda w: decoder(w).loss.reconstruction.perceptual.network == "resnet18"),
    ("perceptual_trunk", "alexnet", lambda w: decoder(w).loss.reconstruction.perceptual.trunk == "alexnet"),
    ("perceptual_weights", "w.pt", lambda w: decoder(w).loss.reconstruction.perceptual.weights == "w.pt"),
    ("perceptual_sha256", "ab", lambda w: decoder(w).loss.reconstruction.perceptual.given_sha256 == "ab"),
    ("latent_classifier_trunk", "encoder", lambda w: latent(w).architecture.func.__name__ == "EncoderClassifier"),
    ("latent_classifier_steps", 9, lambda w: latent(w).steps == latent(w).data_loader.step_sampler.steps == 9),
    ("half_unet#channels", [16, 32], lambda w: shape(latent(w), "channels") == [16, 32]),
    ("half_unet#dropout", 0.3, lambda w: shape(latent(w), "dropout") == 0.3),
    ("encoder_trunk#dropout", 0.3, lambda w: w("encoder_trunk").keywords["dropout"] == 0.3),
    ("train#trainer#maximum_timestep", 500, lambda w: latent(w).maximum_timestep == 500),
    ("train#trainer#calibrate", True, lambda w: latent(w).calibrate is True),
    ("diffusion_method", "low_rank", lambda w: diffusion(w).method == "low_rank"),
    ("diffusion#trainer#rank", 3, lambda w: diffusion(w).rank == 3),
    ("target_dir", "/other", lambda w: diffusion(w).latents.unlabelled.patches.dataset_dir == "/other"),
    ("target_dir", None, lambda w: diffusion(w).latents.unlabelled is None),
    ("pretraining_dir", "/other", lambda w: diffusion(w).latents.pretraining.patches.dataset_dir == "/other"),
    ("pretraining_dir", None, lambda w: diffusion(w).latents.pretraining is None),
    ("diffusion#latents#pretraining_share", 0.25, lambda w: diffusion(w).latents.pretraining_share == 0.25),
    ("diffusion_steps", 9, lambda w: diffusion(w).steps == diffusion(w).data_loader.step_sampler.steps == 9),
    ("diffusion#trainer#num_inference_steps", 3, lambda w: diffusion(w).num_inference_steps == 3),
    (
        "inference_batch_size",
        5,
        lambda w: all_are((part.context.inference_batch_size for part in caches(w) + trainers(w)), 5),
    ),
    ("checkpoint_interval", 3, lambda w: all_are((trainer.checkpoint_interval for trainer in trainers(w)), 3)),
    (
        "mlflow_tracking_uri",
        "file:///x",
        lambda w: all_are((trainer.handlers[-1].mlflow_tracking_uri for trainer in trainers(w)), "file:///x"),
    ),
]

test_each_flag_changes_what_it_says, test_every_setting_has_its_flag_test = flag_tests(
    "adapt.json", FLAGS, not_flags=["stages"], given=EVERYTHING
)


def test_without_data_the_demo_budget_holds_and_flags_still_win(bundle_root, tmp_path):
    demo = json.loads((bundle_root / "configs" / "demo_adapt.json").read_text())
    file = str(bundle_root / "configs" / "adapt.json")

    def settings(**given):
        made = ConfigWorkflow(config_file=file, bundle_root=str(bundle_root), output_dir=str(tmp_path), **given)
        made.initialize()
        return {name: made.parser.get_parsed_content(name) for name in demo}

    expected = {**demo, "labels_per_class": 20}
    assert settings() == expected
    given = {"decoder_steps": 3, "perceptual_network": "torchscript"}
    assert settings(**given) == {**expected, **given}
    # Another way to say how many labels are used replaces the demo's.
    for other in ({"label_fraction": 0.5}, {"split_file": "my.csv"}):
        assert settings(**other) == {**expected, "labels_per_class": None}
    real = settings(dataset_dir="/some/where")
    assert real["perceptual_network"] == "lpips" and real["labels_per_class"] is None
    assert all(real[name] > demo[name] for name in demo if name.endswith("_steps"))
    assert list(tmp_path.iterdir()) == []


COUNTS = [
    "image_classifier_steps", "judge_steps", "decoder_steps", "latent_classifier_steps", "diffusion_steps",
    "inference_batch_size", "diffusion#trainer#num_inference_steps", "checkpoint_interval", "validation_interval",
    "diffusion#trainer#rank", "decoder#trainer#batch_size",
]  # fmt: skip


@pytest.mark.parametrize(
    "flag, value",
    [(flag, 0) for flag in COUNTS] + [("decoder_steps", value) for value in (-1, True, "many", 2.5, None)],
)
def test_a_number_of_things_that_is_none_is_refused_at_once(workflow, tmp_path, flag, value):
    with pytest.raises(RuntimeError) as caught:
        workflow("adapt.json", output_dir=str(tmp_path / "out"), **{flag: value})
    assert str(root_cause(caught.value)) == f"--{flag} is {value!r}; it must be an integer of at least 1"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flag, meant",
    [
        ("decoder_step", "decoder_steps"),
        ("label_per_class", "labels_per_class"),
        ("pretraineddir", "pretrained_dir"),
        ("patch_size", None),  # the pre-training's, not this config's
        ("decoder#trianer", "decoder#trainer"),
        ("decoder_batch_size", None),  # --decoder#trainer#batch_size
    ],
)
def test_unknown_flags_are_refused_with_a_hint(workflow, tmp_path, flag, meant):
    with pytest.raises(RuntimeError) as caught:
        workflow("adapt.json", output_dir=str(tmp_path / "out"), **{flag: 5})
    message = str(root_cause(caught.value))
    assert f"nothing reads the setting --{flag}" in message
    if meant is not None:
        assert f"did you mean --{meant}?" in message
    assert list(tmp_path.iterdir()) == []


def test_the_diffusion_model_is_left_alone_by_default(workflow, tmp_path):
    made = workflow("adapt.json", output_dir=str(tmp_path)).parser.get_parsed_content
    assert made("diffusion#trainer") is None and not made("pretrained").adapts_diffusion
