"""Each setting of configs/classify.json does what it says, and what is no setting, or no number, is refused at once."""

import json

import pytest
from helpers import ROOT, build_elsewhere, flag_tests, root_cause
from monai.bundle import ConfigWorkflow

CONFIG = str(ROOT / "configs" / "classify.json")


def trainer(w):
    return w("train#trainer")


def shape(w, name):
    return trainer(w).architecture.keywords[name]


def transforms(w):
    return trainer(w).data_loader.dataset.transform.transforms


def normalised(w):
    """How many transforms normalise the stain of what is measured, and of what the colour control sees."""
    return [
        len(seen.transforms)
        for seen in (trainer(w).preprocessing.transforms[0], w("colour_control#work").preprocessing)
    ]


def both(w, name):
    return {getattr(stage, name) for stage in (trainer(w), w("colour_control#work"))}


# Each setting a user may change, another value for it, and what then must have changed.
FLAGS = [
    ("dataset_dir", "/some/where", lambda w: w("labelled").dataset_dir == "/some/where"),
    ("test_dir", "/some/where", lambda w: w("labelled").test_dir == "/some/where"),
    ("output_dir", "elsewhere", lambda w: str(w("context").folder.path) == "elsewhere"),
    ("output_dir", "elsewhere", lambda w: str(w("labelled").split_path) == "elsewhere/split.csv"),
    ("output_dir", "elsewhere", lambda w: str(trainer(w).handlers[-1].output_dir) == "elsewhere"),
    ("output_dir", "elsewhere", lambda w: {str(folder.path) for folder in both(w, "folder")} == {"elsewhere"}),
    ("cache_dir", "elsewhere", lambda w: str(w("labelled").cache_dir) == "elsewhere"),
    ("device", "cpu:0", lambda w: str(trainer(w).state.device) == "cpu:0"),
    ("precision", "bf16", lambda w: str(trainer(w).autocast_dtype) == "torch.bfloat16"),
    ("seed", 70, lambda w: both(w, "seed") == {70} and trainer(w).data_loader.step_sampler.seed == 70),
    ("patch_size", 48, lambda w: w("labelled").patch_size == 48 and transforms(w)[3].dropper.spatial_size == 7),
    ("normalise_stain", True, lambda w: w("augmented").normalise_stain is True and normalised(w) == [1, 1]),
    ("split_file", "my.csv", lambda w: str(w("labelled").drawing.split_file) == "my.csv"),
    (
        "label_fraction",
        0.3,
        lambda w: w("labelled").drawing.label_fraction == 0.3 and w("labelled").drawing.split_file is None,
    ),
    (
        "labels_per_class",
        6,
        lambda w: w("labelled").drawing.labels_per_class == 6 and w("labelled").drawing.split_file is None,
    ),
    ("labelled#validation_share", 0.4, lambda w: w("labelled").drawing.validation_share == 0.4),
    ("split_seed", 7, lambda w: w("labelled").drawing.seed == 7),
    ("class_names", ["ADI", "LYM"], lambda w: w("labelled").drawing.class_names == ["ADI", "LYM"]),
    ("maximum_rejected_share", 0.5, lambda w: w("labelled").store_arguments.get("maximum_rejected_share") == 0.5),
    ("maximum_blank_share", 0.5, lambda w: w("labelled").store_arguments.get("maximum_blank_share") == 0.5),
    ("class_level", -1, lambda w: w("labelled").drawing.class_level == -1),
    ("cache_gigabytes", 1, lambda w: w("labelled").store_arguments.get("cache_gigabytes") == 1),
    ("generated_per_class", 12, lambda w: w("labelled").generated_per_class == 12),
    ("generated_slide", 9, lambda w: w("labelled").generated_slide == 9),
    ("accumulate", 2, lambda w: trainer(w).context.accumulate == 2),
    ("num_workers", 2, lambda w: trainer(w).data_loader.num_workers == 2),
    ("selection_file", "s.csv", lambda w: str(trainer(w).augmented.selection_file) == "s.csv"),
    ("ratio", 200, lambda w: w("augmented").ratio == 200),
    ("selection", "random", lambda w: w("augmented").selection == "random"),
    ("pool_dir", "elsewhere", lambda w: str(w("augmented").pool_dir) == "elsewhere"),
    ("synthetic_share", 0.5, lambda w: w("augmented").synthetic_share == 0.5),
    ("real_repeats", 4, lambda w: w("augmented").real_repeats == 4),
    ("train#preprocessing#transforms#1#_disabled_", True, lambda w: len(transforms(w)) == 3),
    ("density_probability", 0.5, lambda w: transforms(w)[0].prob == 0.5),
    ("density_scale", 0.15, lambda w: transforms(w)[0].scale == 0.15),
    ("erasing_probability", 0.5, lambda w: transforms(w)[3].prob == 0.5),
    ("train#trainer#mixup_alpha", 0.8, lambda w: trainer(w).mixup_alpha == 0.8),
    ("train#trainer#cutmix_alpha", 1.0, lambda w: trainer(w).cutmix_alpha == 1.0),
    ("train#trainer#label_smoothing", 0.3, lambda w: trainer(w).label_smoothing == 0.3),
    ("trunk", "resnet18", lambda w: shape(w, "trunk") == "resnet18"),
    ("trunk_arguments", {}, lambda w: shape(w, "arguments") == {}),
    ("trunk_weights", "w.pt", lambda w: trainer(w).trunk_weights == "w.pt"),
    ("train#architecture#input_side", 224, lambda w: shape(w, "input_side") == 224),
    ("train#architecture#dropout", 0.3, lambda w: shape(w, "dropout") == 0.3),
    ("classifier_steps", 9, lambda w: trainer(w).steps == trainer(w).data_loader.step_sampler.steps == 9),
    ("classifier_steps", 9, lambda w: trainer(w).make_schedule.keywords["t_total"] == 9),
    ("train#trainer#batch_size", 6, lambda w: trainer(w).data_loader.items_per_batch == 6),
    ("train#optimizer#lr", 1e-5, lambda w: trainer(w).make_optimizer.keywords["lr"] == 1e-5),
    (
        "train#optimizer#lr",
        1e-5,
        lambda w: trainer(w).make_schedule.keywords["end_lr"] == pytest.approx(1e-7, abs=1e-12),
    ),
    ("train#optimizer#weight_decay", 0.01, lambda w: trainer(w).make_optimizer.keywords["weight_decay"] == 0.01),
    ("train#schedule#warmup_steps", 7, lambda w: trainer(w).make_schedule.keywords["warmup_steps"] == 7),
    ("train#trainer#ema_decay", 0.5, lambda w: trainer(w).ema_decay == 0.5),
    ("validation_interval", 3, lambda w: trainer(w).validation_interval == 3),
    ("patience", 3, lambda w: trainer(w).best.patience == 3),
    ("colour_control#work#trees", 9, lambda w: w("colour_control#work").trees == 9),
    ("maximum_unused", 100, lambda w: both(w, "maximum_unused") == {100}),
    ("inference_batch_size", 5, lambda w: trainer(w).context.inference_batch_size == 5),
    ("checkpoint_interval", 3, lambda w: trainer(w).checkpoint_interval == 3),
    ("mlflow_tracking_uri", "file:///x", lambda w: trainer(w).handlers[-1].mlflow_tracking_uri == "file:///x"),
]
# Settings that mean nothing without these, or whose place the tiny settings take.
BESIDE = {
    **dict.fromkeys(("ratio", "selection", "pool_dir", "synthetic_share"), {"selection_file": "selection.csv"}),
    "split_file": {"labels_per_class": None},
    "label_fraction": {"labels_per_class": None},
    "trunk_arguments": {},
}

test_each_flag_changes_what_it_says, test_every_setting_has_its_flag_test = flag_tests(
    "classify.json", FLAGS, also=["trunk_arguments"], beside=BESIDE
)


def test_the_command_of_the_adaptation_is_followed_by_this_one_without_flags():
    """By default it reads the split that the adaptation writes by default."""
    made = ConfigWorkflow(config_file=CONFIG, bundle_root=str(ROOT))
    made.initialize()
    other = ConfigWorkflow(config_file=str(ROOT / "configs" / "adapt.json"), bundle_root=str(ROOT))
    other.initialize()
    adapted = other.parser.get_parsed_content("labelled")
    labelled = made.parser.get_parsed_content("labelled")
    assert labelled.drawing.split_file == adapted.split_path and labelled.drawing.seed == adapted.drawing.seed
    for name in ("generated_per_class", "generated_slide"):
        assert getattr(labelled, name) == getattr(adapted, name)
    pretrain = json.loads((ROOT / "configs" / "pretrain.json").read_text())
    assert labelled.patch_size == pretrain["patch_size"]


@pytest.mark.parametrize("steps, warm_up", [(1000, 50), (250, 12), (10, 0)])
def test_the_warm_up_is_a_share_of_the_steps(steps, warm_up):
    """Else a short training, such as the study's with fewer steps, would end before it has warmed up."""
    made = ConfigWorkflow(config_file=CONFIG, bundle_root=str(ROOT), classifier_steps=steps)
    made.initialize()
    assert trainer(made.parser.get_parsed_content).make_schedule.keywords["warmup_steps"] == warm_up


def test_the_papers_settings_are_its_own():
    made = ConfigWorkflow(config_file=[CONFIG, str(ROOT / "configs" / "paper_classify.json")], bundle_root=str(ROOT))
    made.initialize()
    w = made.parser.get_parsed_content
    images = 5000
    assert shape(w, "trunk") == "vit_base_patch16_224" and shape(w, "input_side") == 224
    assert trainer(w).data_loader.items_per_batch == 128 and trainer(w).make_optimizer.keywords["lr"] == 1e-4
    assert trainer(w).steps == 200 * (images // 128)
    assert trainer(w).make_schedule.keywords["warmup_steps"] == 5 * (images // 128)
    assert (trainer(w).mixup_alpha, trainer(w).cutmix_alpha, trainer(w).label_smoothing) == (0.8, 1.0, 0.1)
    assert transforms(w)[3].prob == 0.25 and trainer(w).make_optimizer.keywords["weight_decay"] == 0.05


COUNTS = [
    "patch_size", "classifier_steps", "train#trainer#batch_size", "validation_interval", "colour_control#work#trees",
    "inference_batch_size", "checkpoint_interval",
]  # fmt: skip


@pytest.mark.parametrize("flag, value", [*((flag, 0) for flag in COUNTS), ("classifier_steps", 2.5)])
def test_a_number_of_things_that_is_none_is_refused_at_once(workflow, tmp_path, flag, value):
    with pytest.raises(RuntimeError) as caught:
        workflow("classify.json", output_dir=str(tmp_path / "out"), **{flag: value})
    assert str(root_cause(caught.value)) == f"--{flag} is {value!r}; it must be an integer of at least 1"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flag, meant",
    [
        ("ratios", "ratio"),
        ("selected_file", "selection_file"),
        ("mixup_alpha", "train#trainer#mixup_alpha"),
        ("pretrained_dir", None),
        ("judge_steps", None),
        ("validation_share", None),
    ],
)
def test_unknown_flags_are_refused_with_a_hint(workflow, tmp_path, flag, meant):
    with pytest.raises(RuntimeError) as caught:
        workflow("classify.json", output_dir=str(tmp_path / "out"), **{flag: 5})
    message = str(root_cause(caught.value))
    assert f"nothing reads the setting --{flag}" in message
    assert meant is None or f"did you mean --{meant}?" in message


def test_nothing_is_read_or_written_before_it_runs(tmp_path):
    """From another folder, as MONAI's own tools do; both run ids are built."""
    build_elsewhere(CONFIG, ("train#trainer", "colour_control#evaluator", "labelled"), tmp_path)
