"""Running a config from within: which, with what, and what a setting may not be."""

import json

import pytest
from helpers import ROOT

from bundle.runs.chain import command, is_inert, run_config


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.5,
        "runs/adapt",
        "",
        "a$b",
        "mail@home",
        "50 %",
        ["a", 1, None],
        ("a", [2]),
        {"a": {"b": [1]}},
        {},
    ],
)
def test_plain_values_are_inert(value):
    assert is_inert(value)


@pytest.mark.parametrize(
    "value",
    [
        "$print(1)",
        " $print(1)",
        "\n@seed",
        "@seed",
        "%configs/adapt.json#seed",
        ["a", ["$print(1)"]],
        {"a": "$print(1)"},
        {"_target_": "os.system"},
        {1: 2},
        {"a": {"_target_": "os.system"}},
        object(),
        print,
        b"a",
        {"a"},
    ],
)
def test_what_monai_would_evaluate_is_not(value):
    assert not is_inert(value)


@pytest.mark.parametrize("value", ["$open('made', 'w')", {"_target_": "builtins.open", "file": "made", "mode": "w"}])
def test_what_a_file_says_is_never_evaluated(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--dataset_dir is .*: only plain values can be handed on to classify.json"):
        run_config("classify.json", dataset_dir=value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_config_is_refused_with_those_there_are(tmp_path):
    for name in ("selected.json", "../configs/adapt.json", str(tmp_path / "adapt.json")):
        with pytest.raises(ValueError, match="the bundle has adapt.json, baseline_inference.json, classify.json"):
            run_config(name)


def test_a_config_runs_as_by_a_command_line(tmp_path, monkeypatch):
    """From another folder; with its own errors, and the settings kept in its config.json."""
    from conftest import TINY_CLASSIFICATION

    monkeypatch.chdir(tmp_path)
    run_config("classify.json", **TINY_CLASSIFICATION, output_dir="run")
    executed = json.loads((tmp_path / "run" / "config.json").read_text())
    assert executed["classifier_steps"] == 4 and executed["trunk_arguments"]["depth"] == 1
    assert (tmp_path / "run" / "classifier.pt").is_file()
    with pytest.raises(RuntimeError) as caught:
        run_config("classify.json", **TINY_CLASSIFICATION, output_dir="run", classifier_step=3)
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert "did you mean --classifier_steps?" in str(error)


def test_another_part_of_a_config_can_be_run(tmp_path):
    from conftest import TINY_CLASSIFICATION

    run_config("classify.json", "colour_control", **TINY_CLASSIFICATION, output_dir=str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["colour_control"]["trees"] == 5
    assert not (tmp_path / "run" / "classifier.pt").exists()


def test_a_command_is_one_for_the_current_folder(monkeypatch, tmp_path):
    """Relative in the bundle's root, as in the documents; with all that it needs anywhere else."""
    monkeypatch.chdir(ROOT)
    assert command("adapt.json", seed=3, test_dir=None) == (
        "python -m monai.bundle run --config_file configs/adapt.json --seed 3"
    )
    assert command("report.py", "runs/evaluate") == "python scripts/report.py runs/evaluate"
    monkeypatch.chdir(tmp_path)
    assert command("adapt.json", "training") == (
        f"python -m monai.bundle run training --config_file {ROOT}/configs/adapt.json --bundle_root {ROOT}"
    )
    assert command("report.py", "runs/evaluate") == f"python {ROOT}/scripts/report.py runs/evaluate"
