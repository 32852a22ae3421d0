"""configs/proof.json end to end on built-in patches, with a tiny trunk of random weights."""

import csv
import json

import pytest
import timm
import torch
from helpers import ROOT, root_cause
from monai.bundle import ConfigWorkflow
from safetensors.torch import save_file

from bundle.data.generated import CLASSES, generate_patch
from bundle.data.split import read_split
from bundle.synthesis.pool import Pool

SIDE = 32


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proof")
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), folder / "trunk.safetensors")
    with Pool(folder / "pool", {"generator": "gan", "model": "a" * 64, "settings": {}}) as pool:
        for name in CLASSES:
            for seed in range(4):
                pool.add(name, seed, generate_patch(name, 12, seed, SIDE))
    return {
        "output_dir": str(folder / "run"),
        "cache_dir": str(folder / "cache"),
        "tiles#generated_per_class": 4,
        "patch_size": SIDE,
        "pictures#pool_size": SIDE,
        "trunk": "test_resnet",
        "trunk_weights": str(folder / "trunk.safetensors"),
        "device": "cpu",
        "precision": "fp32",
        "labels_per_class": [2, 3],
        "draws": 2,
        "rows": "real,stain,shuffled_only,gan_nearest_100,gan_rare",
        "own_rows": {"shuffled_only": {"copies": "blocks", "kind": "control"}},
        "rare_class": "TUM",
        "rare_labels": 1,
        "copies": 1,
        "pools": {"gan": {"dir": str(folder / "pool")}},
    }


@pytest.fixture
def proof(given):
    def make(**settings):
        workflow = ConfigWorkflow(str(ROOT / "configs" / "proof.json"), bundle_root=str(ROOT), **{**given, **settings})
        workflow.initialize()
        return workflow

    return make


@pytest.fixture(scope="module")
def done(given, tmp_path_factory):
    workflow = ConfigWorkflow(str(ROOT / "configs" / "proof.json"), bundle_root=str(ROOT), **given)
    workflow.initialize()
    workflow.run()
    return type(tmp_path_factory.getbasetemp())(given["output_dir"])


def lines(folder, name="results.csv"):
    return list(csv.DictReader(open(folder / name)))


def test_one_command_measures_every_row(done):
    found = {(line["labels"], line["name"]): line for line in lines(done)}
    assert {amount for amount, _ in found} == {"2", "3", "TUM 1, others 3"}
    assert sum(name == "gan_rare" for _, name in found) == 1
    for line in found.values():
        assert 0 <= float(line["accuracy, low"]) <= float(line["accuracy"]) <= float(line["accuracy, high"]) <= 1
        assert line["runs"] == "2 of 2" and line["status"].startswith("exploratory")
    for amount, count in (("2", 2), ("3", 3)):
        assert int(found[amount, "gan_nearest_100"]["synthetic images"]) == count * len(CLASSES)
        assert found[amount, "gan_nearest_100"]["base"] in ("real", "stain")
        assert [line["gain over the best control"] for line in found.values()].count("the best control") == 3
    table = (done / "table.md").read_text()
    assert "No primary contrast was declared" in table and "slides that gave no label" in table
    assert "its generator's further labels: not known" in table
    assert (done / "label_curve.png").is_file() and "<img" in (done / "table.html").read_text()
    assert {line["slide"] for line in lines(done, "slides.csv")} == {"slide_09", "slide_10"}


def test_the_same_command_finds_everything_and_another_setting_is_refused(done, proof):
    runs = {path: path.stat().st_mtime_ns for path in done.glob("runs/**/*.npz")}
    before = (done / "results.csv").read_bytes()
    next(iter(runs)).unlink()
    proof().run()
    again = {path: path.stat().st_mtime_ns for path in done.glob("runs/**/*.npz")}
    assert again.keys() == runs.keys() and sum(again[path] != runs[path] for path in runs) == 1
    assert (done / "results.csv").read_bytes() == before
    with pytest.raises(RuntimeError) as caught:
        proof(head_c=0.1).run()
    assert "was made with other backbone" in str(root_cause(caught.value))
    with pytest.raises(RuntimeError) as caught:
        proof(declared=str(ROOT / "configs" / "proof.json")).run()
    assert "comes after runs were made" in str(root_cause(caught.value))


def test_the_declared_contrast_is_marked(proof, tmp_path, done):
    """With a generator that saw other labels, which is said."""
    study = tmp_path / "study.json"
    primary = {"backbone": "test_resnet_frozen", "labels": 2, "row": "gan_random_100", "against": "real"}
    study.write_text(json.dumps({"primary": primary, "draws": 1, "folds": 1, "seed": 0}))
    given = {"labels_per_class": [2], "rare_class": None, "draws": 1, "rows": "real,stain,gan_random_100"}
    proof(**given, declared=str(study), output_dir=str(tmp_path / "out")).run()
    status = {line["name"]: line for line in lines(tmp_path / "out")}
    assert status["gan_random_100"]["status"].startswith("primary") and status["gan_random_100"]["against"] == "real"
    assert status["real"]["status"] == status["stain"]["status"] == "exploratory"
    notes = (tmp_path / "out" / "table.md").read_text()
    assert "gan\\_random\\_100 against real" in notes or "gan_random_100 against real" in notes
    assert "saw other labels than its control had" in notes


def test_labels_of_each_split_are_written_for_adaptations(proof, tmp_path):
    workflow = proof(output_dir=str(tmp_path / "out"), draws=1, labels_per_class=[2], rare_class=None, rows="real")
    workflow.parser.get_parsed_content("write_splits")
    rows = read_split(tmp_path / "out" / "splits" / "2" / "fold_0_draw_0.csv")
    assert len(rows) == 2 * len(CLASSES) and {row.part for row in rows} == {"train", "validation"}


def test_networks_that_train_and_folds(proof, tmp_path):
    """Mixup and a pool at half of the batch; nothing of a training is left behind."""
    scratch = {"steps": 2, "batch_size": 4, "trunk": "test_resnet", "side": SIDE, "arguments": {}}
    own = {"half": {"pool": "gan", "share": 0.5, "balanced": True}}
    settings = {"backbones": "scratch", "training_of": {"scratch": scratch}, "rows": "real,mixup,half", "own_rows": own}
    given = {"labels_per_class": [2], "draws": 1, "rare_class": None, "folds": 3, "output_dir": str(tmp_path / "out")}
    proof(**settings, **given).run()
    found = {line["name"]: line for line in lines(tmp_path / "out")}
    assert set(found) == {"real", "mixup", "half"} and found["half"]["runs"] == "3 of 3"
    assert not list((tmp_path / "out").rglob("*.pt"))
    assert {line["set"] for line in lines(tmp_path / "out", "slides.csv")} == {"labelled", "test"}


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"trunk_weights": "none.safetensors"},
            "--trunk_weights: none.safetensors, of the trunk test_resnet, is missing",
        ),
        ({"trunk": "test_vit"}, "has other weights than this trunk"),
        ({"rows": "real,tint"}, "--rows asks for tint, which needs more: give --pretraining_dir"),
        ({"rows": "none"}, "--rows asks for none; there are real"),
        ({"base": "shuffled"}, "--base is 'shuffled'; it must be a baseline"),
        ({"backbones": "thawed"}, "--backbones is"),
        ({"copies": 0}, "--copies is 0"),
        ({"trunk": "test_resnet,test_vit"}, "--trunk_weights gives 1 for 2 trunks"),
        ({"own_rows": {"x": {"treatment": "blur"}}}, "--own_rows: x has 'treatment'; a row has"),
        ({"own_rows": {"x": {"copies": "sharpen"}}}, "there is no treatment 'sharpen'"),
        ({"own_rows": {"x": {"share": 2, "pool": "gan"}}}, "x has share 2"),
        ({"own_rows": {"x": {"pool": "none"}}}, "takes the pool 'none', which --pools doesn't name"),
        ({"test_dir": "labelled=somewhere"}, "--test_dir names the set 'labelled'"),
        ({"pools": {"gan": {"path": "x"}}}, "--pools: gan has 'path'"),
    ],
)
def test_what_can_not_be_measured_is_refused(proof, tmp_path, settings, message):
    with pytest.raises((RuntimeError, ValueError, FileNotFoundError)) as caught:
        proof(**{"output_dir": str(tmp_path / "out"), **settings}).run()
    assert message in str(root_cause(caught.value))
