"""Each setting of both StyleGAN2 configs changes something; presets are settings."""

import json

import pytest
from helpers import flag_tests, root_cause


def trainer(w):
    return w("train#trainer")


def loader(w):
    return trainer(w).data_loader


def architectures(w, name):
    return [part.keywords[name] for part in (trainer(w).generator_class, trainer(w).discriminator_class)]


def handed_on(w, name):
    """A setting as `synthesis` gives it to configs/baseline_inference.json."""
    return w(f"synthesis::0::{name}")


# Each setting a user may change, another value for it, and what then must have changed.
FLAGS = [
    ("dataset_dir", "/some/where", lambda w: w("labelled").dataset_dir == "/some/where"),
    ("output_dir", "elsewhere", lambda w: str(w("context").folder.path) == "elsewhere"),
    ("output_dir", "elsewhere", lambda w: str(w("labelled").split_path) == "elsewhere/split.csv"),
    ("output_dir", "elsewhere", lambda w: handed_on(w, "baseline_dir") == "elsewhere"),
    ("output_dir", "elsewhere", lambda w: handed_on(w, "dataset_dir") == "elsewhere/pool"),
    ("cache_dir", "elsewhere", lambda w: str(w("labelled").cache_dir) == "elsewhere"),
    ("device", "cpu:0", lambda w: str(trainer(w).state.device) == "cpu:0"),
    ("device", "cpu:0", lambda w: handed_on(w, "device") == "cpu:0"),
    ("precision", "bf16", lambda w: str(trainer(w).autocast_dtype) == "torch.bfloat16"),
    ("seed", 7, lambda w: trainer(w).seed == loader(w).step_sampler.seed == 7),
    ("seed", 7, lambda w: handed_on(w, "seed") == 7),
    ("patch_size", 32, lambda w: w("labelled").patch_size == 32),
    ("normalise_stain", True, lambda w: w("labelled").store_arguments.get("normalise_stain") is True),
    ("split_file", "my.csv", lambda w: str(w("labelled").drawing.split_file) == "my.csv"),
    ("label_fraction", 0.3, lambda w: w("labelled").drawing.label_fraction == 0.3),
    (
        "labels_per_class",
        6,
        lambda w: w("labelled").drawing.labels_per_class == 6 and w("labelled").drawing.split_file is None,
    ),
    ("labelled#validation_share", 0.4, lambda w: w("labelled").drawing.validation_share == 0.4),
    ("split_seed", 5, lambda w: w("labelled").drawing.seed == 5),
    ("class_names", ["ADI", "LYM"], lambda w: w("labelled").drawing.class_names == ["ADI", "LYM"]),
    ("maximum_rejected_share", 0.5, lambda w: w("labelled").store_arguments.get("maximum_rejected_share") == 0.5),
    ("maximum_blank_share", 0.5, lambda w: w("labelled").store_arguments.get("maximum_blank_share") == 0.5),
    ("class_level", -1, lambda w: w("labelled").drawing.class_level == -1),
    ("cache_gigabytes", 1, lambda w: w("labelled").store_arguments.get("cache_gigabytes") == 1),
    ("generated_per_class", 12, lambda w: w("labelled").generated_per_class == 12),
    ("generated_slide", 9, lambda w: w("labelled").generated_slide == 9),
    ("num_workers", 2, lambda w: loader(w).num_workers == 2),
    ("geometry", "none", lambda w: type(w("train#preprocessing").transforms[0]).__name__ == "Identityd"),
    ("channels", [8, 8], lambda w: architectures(w, "channels") == [[8, 8], [8, 8]]),
    ("train#generator#latent_channels", 9, lambda w: trainer(w).generator_class.keywords["latent_channels"] == 9),
    ("train#generator#style_channels", 9, lambda w: trainer(w).generator_class.keywords["style_channels"] == 9),
    ("stylegan2_steps", 9, lambda w: trainer(w).steps == loader(w).step_sampler.steps == 9),
    ("stylegan2_batch_size", 8, lambda w: loader(w).items_per_batch == 8),
    ("stylegan2_learning_rate", 1e-4, lambda w: trainer(w).make_optimizer.keywords["lr"] == 1e-4),
    ("stylegan2_batch_size", 8, lambda w: trainer(w).regularisation.r1_weight == 0.0002 * 64**2 / 8),
    ("r1_weight", 5.0, lambda w: trainer(w).regularisation.r1_weight == 5.0),
    ("train#trainer#label_ramp", [3, 5], lambda w: trainer(w).label_ramp == [3, 5]),
    ("train#augmentation#target", None, lambda w: trainer(w).augmentation.target is None),
    ("train#trainer#watch_interval", 7, lambda w: trainer(w).watch_interval == 7),
    ("picture_interval", 7, lambda w: trainer(w).handlers[1].interval == 7),
    (
        "inference_batch_size",
        7,
        lambda w: w("context").inference_batch_size == handed_on(w, "inference_batch_size") == 7,
    ),
    ("checkpoint_interval", 7, lambda w: trainer(w).checkpoint_interval == 7),
    ("mlflow_tracking_uri", "file:///x", lambda w: trainer(w).handlers[-1].mlflow_tracking_uri == "file:///x"),
    ("pool_dir", "/my/pool", lambda w: handed_on(w, "dataset_dir") == "/my/pool"),
    ("classes", "TUM", lambda w: handed_on(w, "classes") == "TUM"),
    ("num_images", 3, lambda w: handed_on(w, "num_images") == 3),
    ("truncation", 0.7, lambda w: handed_on(w, "truncation") == 0.7),
]

OF_SYNTHESIS = [
    ("baseline", "vit_cgan", lambda w: w("network_def").title == "ViT-cGAN"),
    ("baseline", "vit_cgan", lambda w: str(w("network_def").baseline_dir) == "runs/vit_cgan"),
    ("baseline_dir", "elsewhere", lambda w: str(w("network_def").baseline_dir) == "elsewhere"),
    ("baseline_dir", "elsewhere", lambda w: str(w("pool").folder) == "elsewhere/pool"),
    ("output_dir", "elsewhere", lambda w: str(w("context").folder.path) == "elsewhere"),
    ("dataset_dir", "elsewhere", lambda w: str(w("pool").folder) == "elsewhere"),
    ("device", "cpu:0", lambda w: str(w("network_def").device) == str(w("evaluator").state.device) == "cpu:0"),
    ("precision", "bf16", lambda w: w("inferer").precision == "bf16"),
    ("classes", "TUM", lambda w: w("dataset").asked == "TUM"),
    ("num_images", 3, lambda w: w("dataset").num_images == 3),
    ("seed", 7, lambda w: w("dataset").seed == 7),
    ("inference_batch_size", 7, lambda w: w("evaluator").data_loader.batch_size == 7),
    ("png_threads", 2, lambda w: w("pool").threads == 2),
    ("truncation", 0.7, lambda w: w("inferer").truncation == 0.7),
    ("mlflow_tracking_uri", "file:///x", lambda w: w("context").mlflow_tracking_uri == "file:///x"),
]
test_each_flag_changes_what_it_says, test_every_setting_has_its_flag_test = flag_tests(
    "stylegan2.json", FLAGS, also=["channels"]
)
test_each_flag_of_synthesis_changes_what_it_says, test_every_setting_of_synthesis_has_its_flag_test = flag_tests(
    "baseline_inference.json", OF_SYNTHESIS, not_flags=["inference"]
)


@pytest.mark.parametrize("overlay", ["paper_stylegan2.json", "strong_stylegan2.json"])
def test_the_presets_change_settings_and_build(content, bundle_root, overlay):
    from bundle.baselines.stylegan2.networks import check_channels

    values = json.loads((bundle_root / "configs" / overlay).read_text())
    w = content(["stylegan2.json", overlay])
    assert {name: w(name) for name in values if name != "num_workers"} | {
        "num_workers": w("context").num_workers
    } == values
    check_channels(w("patch_size"), w("channels"))
    assert w("stylegan2_batch_size") % w("train#discriminator#group") == 0
    images = w("stylegan2_steps") * w("stylegan2_batch_size")
    if overlay.startswith("paper"):
        assert images == pytest.approx(100 * 5000, abs=64) and w("train#trainer").augmentation.target is None
        assert (w("stylegan2_batch_size"), w("stylegan2_learning_rate")) == (64, 2e-4)
    else:
        assert images == 5_000_000 and [step * 64 for step in w("train#trainer").label_ramp] == [2_000_000, 4_000_000]


@pytest.mark.parametrize(
    "flag",
    [
        "stylegan2_steps",
        "stylegan2_batch_size",
        "train#regularisation#r1_interval",
        "train#regularisation#path_interval",
        "num_images",
    ],
)
def test_a_number_of_things_that_is_none_is_refused(content, flag):
    with pytest.raises(RuntimeError) as caught:
        content("stylegan2.json", **{flag: 0})
    assert str(root_cause(caught.value)) == f"--{flag} is 0; it must be an integer of at least 1"


@pytest.mark.parametrize(
    "config, settings, message",
    [
        ("stylegan2.json", {"stylegan2_step": 5}, "did you mean --stylegan2_steps?"),
        ("baseline_inference.json", {"guidance_scale": 5}, "nothing reads the setting --guidance_scale"),
    ],
)
def test_unknown_flags_are_refused(content, config, settings, message):
    with pytest.raises(RuntimeError) as caught:
        content(config, **settings)
    assert message in str(root_cause(caught.value))


@pytest.mark.parametrize(
    "settings, message",
    [({"baseline": "biggan"}, "--baseline is 'biggan'"), ({"truncation": 2.0}, "--truncation is 2.0")],
)
def test_impossible_synthesis_is_refused(content, settings, message):
    with pytest.raises(RuntimeError) as caught:
        content("baseline_inference.json", **settings)("evaluator")
    assert message in str(root_cause(caught.value))
