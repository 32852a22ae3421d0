"""What MONAI's apps look for in each config: found after `initialize()`, from the bundle root and from above it."""

import json
import os
from pathlib import Path

import pytest
from processes import run_python

ROOT = Path(__file__).resolve().parents[2]
# The workflow type of each config, and what MONAI's engines and datasets are there.
STAGES = {
    "tile.json": (None, {}),
    "pretrain.json": ("train", {"trainer": "AutoencoderTrainer", "evaluator": "SupervisedEvaluator"}),
    "adapt.json": ("train", {"trainer": "LatentClassifierTrainer"}),
    "select.json": ("train", {"trainer": "FinalScorerTrainer"}),
    "classify.json": ("train", {"trainer": "DownstreamTrainer"}),
    "inference.json": ("infer", {"evaluator": "SupervisedEvaluator", "network_def": "PatchGenerator"}),
    "evaluate.json": ("evaluation", {"evaluator": "StageEngine", "dataset": "Comparison", "inferer": "SimpleInferer"}),
    "read.json": (None, {}),
    "study.json": (None, {}),
    "stylegan2.json": ("train", {"trainer": "StyleGAN2Trainer"}),
    "vit_cgan.json": ("train", {"trainer": "VitCganTrainer"}),
    "baseline_inference.json": ("infer", {"evaluator": "SupervisedEvaluator", "network_def": "BaselineGenerator"}),
}
CODE = """
import json, os, sys
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from monai.inferers import Inferer
from torch.utils.data import Dataset

root, stages = json.loads(sys.argv[1])
inside = os.path.basename(root)
places = ((root, ".", "configs"), (os.path.dirname(root), inside, os.path.join(inside, "configs")))
for folder, bundle_root, configs in places:
    os.chdir(folder)
    for name, (kind, types) in stages.items():
        w = ConfigWorkflow(os.path.join(configs, name), workflow_type=kind, logging_file=False, bundle_root=bundle_root)
        w.initialize()
        assert w.check_properties() == [], (folder, name, w.check_properties())
        assert os.path.samefile(w.parser.get_parsed_content("bundle_root"), root)
        found = {one: type(getattr(w, one)).__name__ for one in types}
        assert found == types, found
        if kind == "train":
            assert isinstance(w.trainer, Engine) and w.max_epochs == 1
            assert w.trainer.inferer is w.train_inferer and isinstance(w.train_inferer, Inferer)
            assert w.trainer.data_loader.dataset is w.train_dataset and isinstance(w.train_dataset, Dataset)
        elif kind:
            assert isinstance(w.evaluator, Engine) and isinstance(w.dataset, Dataset)
print("all", len(stages))
"""


def test_every_stage_has_its_properties_from_anywhere(tmp_path):
    """In a process of its own, where the package is on no path but the one `initialize` sees to."""
    before = set(os.listdir(ROOT))
    run = run_python("-c", CODE, json.dumps([str(ROOT), STAGES]), cwd=tmp_path)
    assert run.returncode == 0 and f"all {len(STAGES)}" in run.stdout, run.stderr[-2000:]
    assert set(os.listdir(ROOT)) == before, "merely building wrote something"


TRACKED = """
import json, sys
from monai.bundle import ConfigWorkflow

root, stages = json.loads(sys.argv[1])
for name, part in stages.items():
    w = ConfigWorkflow(f"{root}/configs/{name}", bundle_root=root, tracking="mlflow", logging_file=False,
                       tracking_uri="sqlite:///mlflow.db",  # one for all: each new one takes seconds
                       workflow_type="train" if part == "trainer" else "infer")
    w.initialize()
    assert w.check_properties() == [] and getattr(w, part) is not None, name
"""


def test_monais_tracking_finds_a_place_for_its_handler_in_each(tmp_path):
    """`--tracking mlflow` puts one into the list of handlers, and where there is none a list into the engine."""
    engines = {name: "trainer" if "trainer" in types else "evaluator" for name, (_, types) in STAGES.items() if types}
    run = run_python("-c", TRACKED, json.dumps([str(ROOT), engines]), cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parametrize("name", STAGES)
def test_the_documentation_names_the_type_of_each(name):
    text = (ROOT / "docs" / "explanation" / "integration.md").read_text(encoding="utf-8")
    kind = STAGES[name][0]
    row = next(line for line in text.splitlines() if line.startswith("| ") and f"`{name}`" in line.split("|")[1])
    assert row.split("|")[2].strip() == (f"`{kind}`" if kind else "none (`workflow_type=None`)")
