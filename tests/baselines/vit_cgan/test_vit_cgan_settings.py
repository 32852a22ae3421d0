"""Each setting of configs/vit_cgan.json does what it says, and what is no setting, or no number, is refused at once."""

import json
from pathlib import Path

import pytest
from helpers import ROOT, build_elsewhere, by_name, flag_tests, root_cause
from monai.bundle import ConfigParser, ConfigWorkflow

CONFIG = str(ROOT / "configs" / "vit_cgan.json")


def trainer(w):
    return w("train#trainer")


def generator(w, name):
    return trainer(w).generator_architecture.keywords[name]


def discriminator(w, name):
    return trainer(w).architecture.keywords[name]


def weighting(w, kind, **settings):
    made = trainer(w).make_weighting(names=["real", "generated"])
    return type(made).__name__ == kind and vars(made).items() >= settings.items()


def address(w):
    """Where the tracking handler reports to."""
    return [
        vars(handler)["mlflow_tracking_uri"]
        for handler in trainer(w).handlers
        if hasattr(handler, "mlflow_tracking_uri")
    ]


def handed_on(w, name):
    """A setting as `synthesis` gives it to configs/baseline_inference.json."""
    return w(f"synthesis::0::{name}")


def drawn(w, *names):
    """Settings of how labelled images are divided."""
    return [getattr(w("labelled").drawing, name) for name in names]


# Each setting a user may change, another value for it, and what then must have changed.
FLAGS = [
    ("dataset_dir", "/some/where", lambda w: w("labelled").dataset_dir == "/some/where"),
    ("test_dir", "/some/where", lambda w: w("labelled").test_dir == "/some/where"),
    ("output_dir", "elsewhere", lambda w: str(trainer(w).folder.path) == "elsewhere"),
    ("output_dir", "elsewhere", lambda w: str(w("labelled").split_path) == "elsewhere/split.csv"),
    ("output_dir", "elsewhere", lambda w: handed_on(w, "baseline_dir") == "elsewhere"),
    ("cache_dir", "elsewhere", lambda w: str(w("labelled").cache_dir) == "elsewhere"),
    ("device", "cpu:0", lambda w: str(trainer(w).state.device) == "cpu:0" == handed_on(w, "device")),
    ("precision", "bf16", lambda w: str(trainer(w).autocast_dtype) == "torch.bfloat16"),
    ("seed", 70, lambda w: trainer(w).seed == 70 == trainer(w).data_loader.step_sampler.seed == handed_on(w, "seed")),
    ("patch_size", 48, lambda w: w("labelled").patch_size == 48),
    ("normalise_stain", True, lambda w: w("labelled").store_arguments.get("normalise_stain") is True),
    ("split_file", "my.csv", lambda w: str(w("labelled").drawing.split_file) == "my.csv"),
    ("label_fraction", 0.3, lambda w: drawn(w, "label_fraction", "split_file") == [0.3, None]),
    ("labels_per_class", 6, lambda w: drawn(w, "labels_per_class", "split_file") == [6, None]),
    ("labelled#validation_share", 0.4, lambda w: w("labelled").drawing.validation_share == 0.4),
    ("split_seed", 7, lambda w: w("labelled").drawing.seed == 7),
    ("class_names", ["ADI", "LYM"], lambda w: w("labelled").drawing.class_names == ["ADI", "LYM"]),
    ("maximum_rejected_share", 0.5, lambda w: w("labelled").store_arguments.get("maximum_rejected_share") == 0.5),
    ("maximum_blank_share", 0.5, lambda w: w("labelled").store_arguments.get("maximum_blank_share") == 0.5),
    ("class_level", -1, lambda w: w("labelled").drawing.class_level == -1),
    ("cache_gigabytes", 1, lambda w: w("labelled").store_arguments.get("cache_gigabytes") == 1),
    ("generated_per_class", 12, lambda w: w("labelled").generated_per_class == 12),
    ("generated_slide", 9, lambda w: w("labelled").generated_slide == 9),
    ("num_workers", 2, lambda w: trainer(w).data_loader.num_workers == 2),
    ("train#generator#dimensions", [64, 32], lambda w: generator(w, "dimensions") == [64, 32]),
    ("vit_cgan_steps", 9, lambda w: trainer(w).steps == 9 == trainer(w).data_loader.step_sampler.steps),
    ("vit_cgan_steps", 10, lambda w: trainer(w).selection.start == 2),
    ("vit_cgan_batch_size", 6, lambda w: trainer(w).data_loader.items_per_batch == 6),
    ("generator_learning_rate", 1e-5, lambda w: trainer(w).make_generator_optimizer.keywords["lr"] == 1e-5),
    ("discriminator_learning_rate", 1e-5, lambda w: trainer(w).make_optimizer.keywords["lr"] == 1e-5),
    ("augmentation", "cutout", lambda w: trainer(w).augmentation.kinds == ["cutout"]),
    ("loss_weighting", "fixed", lambda w: weighting(w, "LossWeighting")),
    ("loss_weighting", "dynamic_average", lambda w: weighting(w, "DynamicAverageWeighting", interval=100)),
    ("loss_weighting", "gradient_norm", lambda w: weighting(w, "GradientNormWeighting", alpha=1.5, rate=0.01)),
    ("weighting#options#uncertainty#rate", 0.5, lambda w: weighting(w, "UncertaintyWeighting", rate=0.5)),
    ("weighting#options#dynamic_average#interval", 7, lambda w: weighting(w, "DynamicAverageWeighting", interval=7)),
    ("weighting#options#gradient_norm#alpha", 0.7, lambda w: weighting(w, "GradientNormWeighting", alpha=0.7)),
    ("train#selection#start", 7, lambda w: trainer(w).selection.start == 7),
    ("validation_interval", 7, lambda w: trainer(w).validation_interval == 7),
    ("picture_interval", 7, lambda w: trainer(w).picture_interval == 7),
    ("train#trainer#maximum_unused", 7, lambda w: trainer(w).maximum_unused == 7),
    ("inference_batch_size", 7, lambda w: w("context").inference_batch_size == 7),
    ("inference_batch_size", 7, lambda w: handed_on(w, "inference_batch_size") == 7),
    ("checkpoint_interval", 7, lambda w: trainer(w).checkpoint_interval == 7),
    ("mlflow_tracking_uri", "file:///x", lambda w: address(w) == ["file:///x"]),
    ("pool_dir", "elsewhere", lambda w: handed_on(w, "dataset_dir") == "elsewhere"),
    ("classes", "TUM", lambda w: handed_on(w, "classes") == "TUM"),
    ("num_images", 7, lambda w: handed_on(w, "num_images") == 7),
    ("truncation", 0.7, lambda w: handed_on(w, "truncation") == 0.7),
]  # fmt: skip
# Settings that mean nothing without these.
BESIDE = {
    "weighting#options#dynamic_average#interval": {"loss_weighting": "dynamic_average"},
    "weighting#options#gradient_norm#alpha": {"loss_weighting": "gradient_norm"},
}

test_each_flag_changes_what_it_says, test_every_setting_has_its_flag_test = flag_tests(
    "vit_cgan.json", FLAGS, beside=BESIDE
)


def test_the_large_preset_only_changes_values_and_fits_together():
    file = str(ROOT / "configs" / "large_vit_cgan.json")
    values = json.loads((ROOT / "configs" / "large_vit_cgan.json").read_text())
    known = ConfigParser(json.loads(Path(CONFIG).read_text()))
    assert all(
        name in known or name in by_name(known.get()) for name in values
    ), "an overlay would add an item that nothing reads"
    made = ConfigWorkflow(config_file=[CONFIG, file], bundle_root=str(ROOT))
    made.initialize()
    w = made.parser.get_parsed_content
    assert generator(w, "dimensions") == [384, 192, 96] and trainer(w).steps == 50000
    trainer(w).generator_architecture(num_classes=2, side=w("patch_size"))
    trainer(w).architecture(num_classes=2, side=w("patch_size"))


COUNTS = [
    "patch_size", "vit_cgan_steps", "vit_cgan_batch_size", "validation_interval", "picture_interval",
    "train#losses#penalty_interval", "weighting#options#dynamic_average#interval",
    "inference_batch_size", "checkpoint_interval", "num_images",
]  # fmt: skip


@pytest.mark.parametrize("flag, value", [*((flag, 0) for flag in COUNTS), ("vit_cgan_steps", 2.5)])
def test_a_number_of_things_that_is_none_is_refused_at_once(content, tmp_path, flag, value):
    with pytest.raises(RuntimeError) as caught:
        content("vit_cgan.json", output_dir=str(tmp_path / "out"), **{flag: value})
    assert str(root_cause(caught.value)) == f"--{flag} is {value!r}; it must be an integer of at least 1"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flag, meant",
    [("vit_cgan_step", "vit_cgan_steps"), ("loss_weightings", "loss_weighting"), ("pretrained_dir", None)],
)
def test_unknown_flags_are_refused_with_a_hint(content, flag, meant):
    with pytest.raises(RuntimeError) as caught:
        content("vit_cgan.json", **{flag: 5})
    message = str(root_cause(caught.value))
    assert f"nothing reads the setting --{flag}" in message
    assert meant is None or f"did you mean --{meant}?" in message


def test_an_unknown_weighting_is_refused(content):
    with pytest.raises(RuntimeError) as caught:
        content("vit_cgan.json", loss_weighting="uncertain")("weighting")
    assert "must be one of uncertainty, dynamic_average, gradient_norm, fixed" in str(root_cause(caught.value))


def test_nothing_is_read_or_written_before_it_runs(tmp_path):
    build_elsewhere(CONFIG, ("train#trainer", "labelled"), tmp_path)
