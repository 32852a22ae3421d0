"""configs/study.json end to end on tiny patches: one row with synthetic images and its baseline."""

import csv
import json

import pytest
from conftest import TINY_CLASSIFICATION, TINY_SELECTION, TINY_SYNTHESIS
from helpers import ROOT
from monai.bundle import ConfigWorkflow

ROWS = "colour_histogram,guided_selective_50"


@pytest.fixture
def study(adapted, tmp_path):
    shared = ("patch_size", "device", "precision", "labels_per_class")

    def make(**settings):
        classification = {name: value for name, value in TINY_CLASSIFICATION.items() if name not in shared}
        given = {
            "adapted_dir": str(adapted),
            "output_dir": str(tmp_path / "study"),
            "patch_size": TINY_CLASSIFICATION["patch_size"],
            "device": "cpu",
            "precision": "fp32",
            "rows": ROWS,
            "variants": ["plain"],
            "seeds": 1,
            "num_candidates": 4,
            "classifier_steps": 4,
            "classification": {name: classification[name] for name in classification if name != "classifier_steps"},
            # A scorer of four steps is never confident; by distance alone some images pass.
            "selection": {**{n: value for n, value in TINY_SELECTION.items() if n not in shared}, "gates": "distance"},
            "synthesis": {name: value for name, value in TINY_SYNTHESIS.items() if name != "num_images"},
        } | settings
        workflow = ConfigWorkflow(str(ROOT / "configs" / "study.json"), bundle_root=str(ROOT), **given)
        workflow.initialize()
        return workflow

    return make


def test_one_command_makes_pool_selection_classifier_and_table(study, tmp_path):
    study().run()
    folder = tmp_path / "study"
    lines = {line["row"]: line for line in csv.DictReader(open(folder / "results.csv"))}
    assert set(lines) == {"real_equal_steps", "colour_histogram", "guided_selective_50"}
    assert all(line["status"] == "done" for line in lines.values()), lines
    for line in lines.values():
        assert 0 <= float(line["test_accuracy"]) <= 1 and 0 <= float(line["unused_balanced_accuracy"]) <= 1
    kept = int(lines["guided_selective_50"]["synthetic_images"])
    rows = list(csv.DictReader(open(folder / "selections" / "guided" / "selection.csv")))
    assert kept == sum(row["ratio"] == "50" for row in rows)
    assert lines["real_equal_steps"]["steps"] == lines["guided_selective_50"]["steps"] == "4"
    config = json.loads((folder / "config.json").read_text())
    assert config["rows"] == ROWS
    table = (folder / "table.md").read_text()
    assert "HistoDiffusion, selective 50 %" in table and "colour histogram" in table
    assert (folder / "table.html").read_text().count("<tr>") == 4
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    study().run()
    for path, time in done.items():
        assert "accuracy_by_ratio" in path.name or path.stat().st_mtime_ns == time, path


def test_bad_settings_are_refused(study):
    with pytest.raises(Exception) as found:
        study(rows="nonsense").run()
    cause = found.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert "nonsense" in str(cause) and "guided_selective_100" in str(cause)
