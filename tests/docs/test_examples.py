"""The example script, the tutorial and the Python of integration.md, run as they stand with tiny settings."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from candidates import write_labelled
from conftest import TINY, TINY_OF, TINY_SELECTION
from monai.networks.nets import DenseNet

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "train_classifier.py"
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
ADDED = re.compile(r"^ *# ---- added\n(.*?)^ *# ---- until here\n", re.DOTALL | re.MULTILINE)


def test_what_the_example_adds_is_short_and_the_rest_stands_without_it():
    text = EXAMPLE.read_text(encoding="utf-8")
    added = [line for block in ADDED.findall(text) for line in block.splitlines() if line.strip()]
    assert 20 < len(added) < 40
    plain = ADDED.sub("", text)
    assert "bundle." not in plain and "adapted_dir" not in plain.split('"""')[2]
    compile(plain, "plain", "exec")


def test_the_example_trains_with_selected_images_and_without(adapted, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("train_classifier", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    small = {"init_features": 8, "growth_rate": 4, "block_config": (1, 1)}
    monkeypatch.setattr(example, "DenseNet121", lambda *sizes: DenseNet(*sizes, **small))
    places = [str(adapted / "cache" / name) for name in ("generated_labelled", "generated_test")]
    common = [*places, "--epochs", "1", "--device", "cpu"]
    real = example.main(common)
    assert all(item["image"].startswith(places[0]) for item in real)
    tiny = {name: value for name, value in TINY_SELECTION.items() if name not in ("patch_size", "device", "ratios")}
    example.SCORER.update({**tiny, "gates": "distance", "scorer_view": "normalised"})
    flags = {"adapted_dir": adapted, "output_dir": tmp_path / "out", "num_images": 3}
    both = example.main([*common, *(str(part) for name, value in flags.items() for part in (f"--{name}", value))])
    synthetic = both[len(real) :]
    assert both[: len(real)] == real and synthetic
    for item in synthetic:
        path = Path(item["image"])
        assert path.is_file() and path.parent.parent == tmp_path / "out" / "pool"
        assert sorted(path.name for path in Path(places[0]).iterdir() if path.is_dir())[item["label"]] == item["class"]


RUN = """
import json, sys
cells = json.load(open({notebook!r}, encoding="utf-8"))["cells"]
found = {{}}
for cell in cells:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), found)
    if "parameters" in cell["metadata"].get("tags", []):
        found |= json.loads({given!r})
"""


def test_the_tutorial_holds_no_outputs_and_runs_from_top_to_bottom(tmp_path):
    """Without Jupyter: nothing in it needs more than Python."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "image/png" not in NOTEBOOK.read_text() and [cell["metadata"].get("tags") for cell in code[:1]] == [
        ["parameters"]
    ]
    settings = {
        "pretrain": TINY,
        "adapt": TINY_OF["adapt.json"],
        "inference": {**TINY_OF["inference.json"], "num_images": 4},
    }
    settings |= {
        "select": {**TINY_SELECTION, "gates": "distance", "ratios": [50]},
        "evaluate": TINY_OF["evaluate.json"],
    }
    classify = {name: value for name, value in TINY_OF["classify.json"].items() if name != "labels_per_class"}
    settings["classify"] = {name: value for name, value in classify.items() if name != "colour_control#work#trees"}
    given = {"bundle_root": str(ROOT), "folder": str(tmp_path / "tutorial"), "settings": settings}
    run = RUN.format(notebook=str(NOTEBOOK), given=json.dumps(given))
    done = subprocess.run([sys.executable, "-c", run], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    page = tmp_path / "tutorial" / "evaluate" / "report.html"
    assert page.stat().st_size > 10000 and "copies" in page.read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"tutorial"}


@pytest.fixture
def from_python(adapted, tmp_path, monkeypatch):
    """The blocks of the section, in a folder that looks like the bundle's root with an adaptation of its own."""
    text = (ROOT / "docs" / "explanation" / "integration.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text[text.index("## From Python") :], re.DOTALL)
    for name in ("bundle", "configs"):
        (tmp_path / name).symlink_to(ROOT / name, target_is_directory=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "adapt").symlink_to(adapted, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert len(blocks) == 5
    return dict(zip(("workflow", "load", "transforms", "selection", "losses"), blocks))


def test_a_workflow_from_python(from_python):
    found = {}
    exec(from_python["workflow"], found)
    assert (
        sorted(path.parent.name for path in Path("runs/from_python").rglob("pool/*/*.png")) == ["ADI"] * 2 + ["TUM"] * 2
    )
    assert found["workflow"].check_properties() == []


def test_weights_from_python(from_python, adapted, tmp_path):
    from bundle.models.adapted import AdaptedModels, save_packed

    zoo = tmp_path / "zoo" / "histodiffusion"
    zoo.mkdir(parents=True)
    for name in ("bundle", "configs"):
        (zoo / name).symlink_to(ROOT / name, target_is_directory=True)
    save_packed(AdaptedModels(adapted), zoo / "models")
    found = {}
    exec(from_python["load"], found)
    assert found["patches"].shape == (4, 3, 32, 32) and found["generator"].classes


def test_transforms_from_python(from_python, tmp_path):
    labelled = write_labelled(tmp_path)["dataset_dir"]
    found = {"files": sorted(map(str, Path(labelled).rglob("*.png")))[:3]}
    exec(from_python["transforms"], found)
    batch = next(iter(found["loader"]))["image"]
    assert batch.shape == (3, 3, 64, 64) and batch.min() >= -1 and batch.max() <= 1


def test_selection_from_python(from_python, workflow, adapted, tmp_path):
    split = {"split_file": str(adapted / "split.csv"), "output_dir": "runs/select", "pool_dir": "nowhere"}
    workflow("select.json", run_id="scorer", **split, gates="distance").run()
    settings = {name: value for name, value in TINY_SELECTION.items() if name not in ("maximum_rounds",)}
    code = from_python["selection"].replace(
        'output_dir="runs/select"', 'output_dir="runs/select", gates="distance", **tiny'
    )
    found = {"tiny": settings}
    exec(code, found)
    assert found["items"] and all(Path(item["image"]).is_file() for item in found["items"])


def test_losses_from_python(from_python, adapted):
    from bundle.models.artefacts import load_artefact

    autoencoder, _ = load_artefact(adapted / "autoencoder.pt", "autoencoder")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    found = {"autoencoder": autoencoder.requires_grad_(True), "images": images, "discriminator": None}
    exec(from_python["losses"], found)
    expected = found["terms"]["l1"] + 0.5 * found["terms"]["perceptual"] + found["terms"]["kl"]
    torch.testing.assert_close(found["terms"]["loss"], expected)
    assert all(weight.grad is not None for weight in autoencoder.decoder.parameters())
    shutil.rmtree("runs/from_python", ignore_errors=True)
