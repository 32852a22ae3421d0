"""The settings of configs/evaluate.json: each does what it says, and impossible ones are refused at once."""

import json

import pytest
from compared import write_compared
from conftest import TINY_EVALUATION
from helpers import ROOT, build_elsewhere, flag_tests, root_cause
from monai.bundle import ConfigWorkflow
from processes import run_python

CONFIG = str(ROOT / "configs" / "evaluate.json")


def store(w, name):
    return w("labelled").store_arguments.get(name)


# Each setting a user may change, another value for it, and what then must have changed.
FLAGS = [
    ("selection_file", "s.csv", lambda w: str(w("dataset").augmented.selection_file) == "s.csv"),
    ("selection_file", "s.csv", lambda w: w("dataset").pool is None),
    ("ratio", 50, lambda w: w("augmented").ratio == 50),
    ("selection", "random", lambda w: w("augmented").selection == "random"),
    ("pool_dir", "/some/where", lambda w: str((w("pool") or w("augmented")).__dict__.get("folder")) == "/some/where"),
    ("adapted_dir", "elsewhere", lambda w: str(w("network_def").adapted_dir) == "elsewhere"),
    ("adapted_dir", "elsewhere", lambda w: str(w("labelled").drawing.split_file) == "elsewhere/split.csv"),
    ("adapted_dir", "elsewhere", lambda w: "--adapted_dir elsewhere" in w("run::0::next_command")),
    ("dataset_dir", "/some/where", lambda w: w("labelled").dataset_dir == "/some/where"),
    ("test_dir", "/some/where", lambda w: w("labelled").test_dir == "/some/where"),
    ("pretraining_dir", "/patches", lambda w: getattr(w("dataset").pretraining, "dataset_dir", None) == "/patches"),
    ("split_file", "my.csv", lambda w: str(w("labelled").drawing.split_file) == "my.csv"),
    ("output_dir", "elsewhere", lambda w: str(w("evaluation").folder.path) == "elsewhere"),
    ("output_dir", "elsewhere", lambda w: str(w("labelled").split_path) == "elsewhere/split.csv"),
    ("output_dir", "elsewhere", lambda w: "report.py elsewhere" in w("run::0::next_command")),
    ("cache_dir", "elsewhere", lambda w: str(w("labelled").cache_dir) == "elsewhere"),
    ("device", "cpu:0", lambda w: str(w("network_def").device) == "cpu:0"),
    ("seed", 70, lambda w: w("dataset").seed == w("evaluation").seed == 70),
    ("reference", "validation", lambda w: w("dataset").parts["reference"] == "validation"),
    ("reference", "unused", lambda w: "test" not in w("labelled").drawing.wanted),
    ("floor", "halves", lambda w: w("dataset").parts["floor"] == "halves"),
    ("held_out", "test", lambda w: w("dataset").parts["held out"] == "test"),
    (
        "held_out",
        "test",
        lambda w: w("labelled").drawing.wanted.count("test") == 1 and "test" == w("dataset").parts["held out"],
    ),
    ("maximum_training", 7, lambda w: w("dataset").maximum_training == 7),
    ("sections", ["stain"], lambda w: w("evaluation").sections == ["stain"]),
    ("extractors", ["judge_colour"], lambda w: w("evaluation").extractors.names == ["judge_colour"]),
    ("scorer_dir", "elsewhere", lambda w: str(w("network_def").scorer_dir) == "elsewhere"),
    ("extractor", "virchow2", lambda w: w("network_def").names == ["judge_grey", "judge_colour", "virchow2"]),
    ("extractor_weights", "b.bin", lambda w: w("network_def").settings[-1] == {"name": "uni2-h", "weights": "b.bin"}),
    ("microns_per_pixel", 0.5, lambda w: w("evaluation").microns_per_pixel == 0.5),
    ("draws", 7, lambda w: w("evaluation").draws == 7),
    ("frechet_draws", 7, lambda w: w("evaluation").frechet_draws == 7),
    ("patch_size", 48, lambda w: w("labelled").patch_size == w("network_def").side == w("pool").patch_size == 48),
    ("normalise_stain", True, lambda w: store(w, "normalise_stain") is True),
    ("class_names", ["ADI", "LYM"], lambda w: w("labelled").drawing.class_names == ["ADI", "LYM"]),
    ("class_level", -1, lambda w: w("labelled").drawing.class_level == -1),
    ("maximum_rejected_share", 0.5, lambda w: store(w, "maximum_rejected_share") == 0.5),
    ("maximum_blank_share", 0.5, lambda w: store(w, "maximum_blank_share") == 0.5),
    ("cache_gigabytes", 1, lambda w: store(w, "cache_gigabytes") == 1),
    ("generated_per_class", 12, lambda w: w("labelled").generated_per_class == 12),
    ("generated_slide", 9, lambda w: w("labelled").generated_slide == 9),
    ("split_seed", 3, lambda w: w("labelled").drawing.seed == 3),
    ("inference_batch_size", 5, lambda w: w("context").inference_batch_size == w("network_def").batch_size == 5),
    ("mlflow_tracking_uri", "file:///x", lambda w: w("evaluation").context.mlflow_tracking_uri == "file:///x"),
]
BESIDE = dict.fromkeys(("ratio", "selection"), {"selection_file": "s.csv"})
BESIDE |= dict.fromkeys(("extractor", "extractor_weights"), {"extractor": "uni2-h", "extractor_weights": "a.bin"})
OF_PRETRAINING = {"patch_size": 48, "cache_dir": "elsewhere", "normalise_stain": True, "cache_gigabytes": 1}

test_each_flag_changes_what_it_says, test_every_setting_has_its_flag_test = flag_tests(
    "evaluate.json", FLAGS, also=["extractors"], beside=BESIDE
)


def test_the_patches_of_the_pretraining_are_read_as_the_labelled_ones(content):
    shares = {"maximum_rejected_share": 0.5, "maximum_blank_share": 0.6}
    made = content("evaluate.json", pretraining_dir="/patches", **OF_PRETRAINING, **shares)("pretraining")
    assert (made.patch_size, str(made.cache_dir), made.normalise_stain, made.cache_gigabytes) == (
        48,
        "elsewhere",
        True,
        1,
    )
    assert (made.maximum_rejected_share, made.maximum_blank_share) == (0.5, 0.6)


def test_where_a_selection_has_its_pool_can_be_said(content):
    given = {"selection_file": "s.csv"}
    assert content("evaluate.json", **given)("augmented").pool_dir is None
    assert str(content("evaluate.json", **given, pool_dir="moved")("augmented").pool_dir) == "moved"


def test_defaults_are_those_documented(content):
    made = content("evaluate.json")
    assert made("evaluation").sections == ["fidelity", "stain", "nuclei", "copies", "agreement"]
    assert made("network_def").names == ["judge_grey", "judge_colour"]
    assert made("dataset").parts == {"reference": "test", "floor": "unused", "held out": "unused"}
    assert made("labelled").drawing.wanted == ("train", "validation", "test", "unused")
    assert str(made("pool").folder) == "runs/synthesis/pool" and made("pretraining") is None


def test_it_is_built_from_anywhere(tmp_path):
    """Without data, pool and weights, from another folder, and nothing is written."""
    build_elsewhere(CONFIG, ("evaluator",), tmp_path)


COUNTS = ["patch_size", "draws", "frechet_draws", "maximum_training", "inference_batch_size"]


@pytest.mark.parametrize(
    "flag, value, message",
    [(name, 0, f"--{name} is 0; it must be an integer of at least 1") for name in COUNTS]
    + [("pool_di", "x", "nothing reads the setting --pool_di (did you mean --pool_dir?)")],
)
def test_impossible_settings_are_refused_at_once(tmp_path, flag, value, message):
    given = {"bundle_root": str(ROOT), "output_dir": str(tmp_path / "out"), flag: value}
    made = ConfigWorkflow(config_file=CONFIG, **given)
    with pytest.raises(RuntimeError) as caught:
        made.initialize()
    assert message in str(root_cause(caught.value)) and list(tmp_path.iterdir()) == []


def test_the_command_line(tmp_path):
    """From another folder; names alone, and a dictionary as one types it."""
    given = write_compared(tmp_path)
    own = "['judge_grey',{'name':'mine','trunk':'test_vit','weights':'absent.safetensors'}]"
    settings = {**TINY_EVALUATION, **given, "bundle_root": str(ROOT), "output_dir": "runs/evaluate"}

    def run(**more):
        flags = [part for name, value in {**settings, **more}.items() for part in (f"--{name}", str(value))]
        return run_python("-m", "monai.bundle", "run", "training", "--config_file", CONFIG, *flags, cwd=tmp_path)

    found = run(extractors=own, sections="stain")
    assert found.returncode and "the extractor mine has no weights at 'absent.safetensors'" in found.stderr[-600:]
    found = run(extractors="judge_grey,judge_colour", sections="stain,agreement")
    assert found.returncode == 0, found.stderr[-2000:]
    content = json.loads((tmp_path / "runs/evaluate/evaluation.json").read_text())
    assert content["settings"]["sections"] == ["stain", "agreement"] and len(content["extractors"]) == 2
    assert "The judge agrees, in grey" in found.stdout
    assert f"next: python {ROOT}/scripts/report.py runs/evaluate --adapted_dir {given['adapted_dir']}" in found.stdout
