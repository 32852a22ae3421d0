"""The settings of configs/read.json: each does what it says, and the command line prepares a reading."""

import pytest
from candidates import fill_pool, keys
from compared import write_real
from conftest import TINY_READING
from helpers import ROOT, build_elsewhere, flag_tests
from processes import run_python

from bundle.reading.sealed import read_sealed

CONFIG = str(ROOT / "configs" / "read.json")


def store(w, name):
    return w("labelled").store_arguments.get(name)


# Each setting a user may change, another value for it, and what then must have changed.
FLAGS = [
    ("selection_file", "s.csv", lambda w: str(w("reading").augmented.selection_file) == "s.csv"),
    ("selection_file", "s.csv", lambda w: w("reading").pool is None),
    ("ratio", 50, lambda w: w("augmented").ratio == 50),
    ("selection", "random", lambda w: w("augmented").selection == "random"),
    ("pool_dir", "/some/where", lambda w: str((w("pool") or w("augmented")).__dict__.get("folder")) == "/some/where"),
    ("third_pool_dir", "other", lambda w: str(getattr(w("reading").third_pool, "folder", "")) == "other"),
    ("reconstructed", True, lambda w: w("reading").models is not None),
    ("adapted_dir", "elsewhere", lambda w: str(w("labelled").drawing.split_file) == "elsewhere/split.csv"),
    ("dataset_dir", "/some/where", lambda w: w("labelled").dataset_dir == "/some/where"),
    ("test_dir", "/some/where", lambda w: w("labelled").test_dir == "/some/where"),
    ("split_file", "my.csv", lambda w: str(w("labelled").drawing.split_file) == "my.csv"),
    ("output_dir", "elsewhere", lambda w: str(w("reading").folder.path) == "elsewhere"),
    ("output_dir", "elsewhere", lambda w: str(w("reading").key_dir) == "elsewhere_key"),
    ("output_dir", "elsewhere", lambda w: "read.py elsewhere" in w("run::0::next_command")),
    ("key_dir", "secret", lambda w: str(w("reading").key_dir) == "secret"),
    ("cache_dir", "elsewhere", lambda w: str(w("labelled").cache_dir) == "elsewhere"),
    ("device", "cpu:0", lambda w: str(w("context").device) == "cpu:0"),
    ("seed", 70, lambda w: w("reading").context.seed == 70),
    ("part", "unused", lambda w: w("reading").part == "unused"),
    ("part", "unused", lambda w: "test" not in w("labelled").drawing.wanted),
    ("per_class", 7, lambda w: w("reading").per_class == 7),
    ("jpeg_quality", 0, lambda w: w("reading").jpeg_quality == 0),
    ("patch_size", 48, lambda w: w("labelled").patch_size == w("pool").patch_size == 48),
    ("normalise_stain", True, lambda w: store(w, "normalise_stain") is True),
    ("class_names", ["ADI", "LYM"], lambda w: w("labelled").drawing.class_names == ["ADI", "LYM"]),
    ("class_level", -1, lambda w: w("labelled").drawing.class_level == -1),
    ("maximum_rejected_share", 0.5, lambda w: store(w, "maximum_rejected_share") == 0.5),
    ("maximum_blank_share", 0.5, lambda w: store(w, "maximum_blank_share") == 0.5),
    ("cache_gigabytes", 1, lambda w: store(w, "cache_gigabytes") == 1),
    ("generated_per_class", 12, lambda w: w("labelled").generated_per_class == 12),
    ("generated_slide", 9, lambda w: w("labelled").generated_slide == 9),
    ("split_seed", 3, lambda w: w("labelled").drawing.seed == 3),
    ("mlflow_tracking_uri", "file:///x", lambda w: w("reading").context.mlflow_tracking_uri == "file:///x"),
]
NEEDS_SELECTION = dict.fromkeys(("ratio", "selection"), {"selection_file": "s.csv"})

test_each_flag_changes_what_it_says, test_every_setting_has_its_flag_test = flag_tests(
    "read.json", FLAGS, beside=NEEDS_SELECTION
)


def test_what_a_third_arm_is_made_of(content):
    made = content("read.json", reconstructed=True, adapted_dir="mine", device="meta")("reading").models
    assert str(made.adapted_dir) == "mine" and str(made.device) == "meta"
    assert content("read.json", third_pool_dir="other", patch_size=48)("third_pool").patch_size == 48


def test_defaults_are_those_documented(content):
    made = content("read.json")("reading")
    assert (made.part, made.per_class, made.jpeg_quality) == ("test", 10, 90)
    assert str(made.pool.folder) == "runs/synthesis/pool" and made.third_pool is made.models is None


def test_it_is_built_from_anywhere(tmp_path):
    """Without data and pool, from another folder, and nothing is written."""
    build_elsewhere(CONFIG, ("evaluator",), tmp_path)


def test_the_command_line(tmp_path):
    given = {**write_real(tmp_path), "pool_dir": str(fill_pool(tmp_path / "pool", keys(3)))}
    settings = {**TINY_READING, **given, "bundle_root": str(ROOT), "per_class": 3, "output_dir": "runs/reading"}

    def run(**more):
        flags = [part for name, value in {**settings, **more}.items() for part in (f"--{name}", str(value))]
        return run_python("-m", "monai.bundle", "run", "training", "--config_file", CONFIG, *flags, cwd=tmp_path)

    found = run()
    assert found.returncode == 0, found.stderr[-2000:]
    assert f"next: python {ROOT}/scripts/read.py runs/reading" in found.stdout
    assert len(read_sealed(tmp_path / "runs/reading").pictures) == 2 * 3 * 3
    assert (tmp_path / "runs/reading_key/key.json").is_file()
    found = run(per_class=4, output_dir="runs/more")
    assert "the pool" in found.stderr and "--per_class 4 needs 4: lower it, or make more" in found.stderr[-600:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "there is no nowhere/reading.json: nowhere is no prepared reading. Prepare one"),
        (("nowhere", "--result"), "nowhere is no prepared reading"),
    ],
)
def test_the_tool_says_what_is_missing(tmp_path, arguments, message):
    run = run_python(ROOT / "scripts" / "read.py", *arguments, cwd=tmp_path)
    assert run.returncode == 1 and message in run.stderr and "Traceback" not in run.stderr
