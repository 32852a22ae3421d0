"""configs/study.json end to end on tiny patches: pools, selections, classifiers and the table, of each kind of row."""

import csv
import json
import re

import pytest
from conftest import TINY, TINY_ADAPTATION, TINY_CLASSIFICATION, TINY_SELECTION, TINY_SYNTHESIS
from helpers import ROOT, by_name, root_cause
from monai.bundle import ConfigWorkflow
from processes import fork_what_is_spawned

from bundle.data.generated import CLASSES as GENERATED_CLASSES
from bundle.data.generated import generate_patch
from bundle.data.guards import require_no_synthetic
from bundle.data.split import read_split
from bundle.synthesis.pool import Pool

ROWS = "colour_histogram,guided_selective_50"


# Flags of the study itself, which it hands on.
SHARED = ("patch_size", "device", "precision", "labels_per_class", "generated_per_class", "num_images")


def without_shared(settings, *others):
    return {name: value for name, value in settings.items() if name not in (*SHARED, *others)}


@pytest.fixture
def study(adapted, pretrained, tmp_path):
    def make(**settings):
        given = {
            "adapted_dir": str(adapted),
            "pretrained_dir": str(pretrained),
            "output_dir": str(tmp_path / "study"),
            "patch_size": TINY_CLASSIFICATION["patch_size"],
            "study#data#generated_per_class": TINY_CLASSIFICATION["generated_per_class"],
            "device": "cpu",
            "precision": "fp32",
            "rows": ROWS,
            "variants": "plain",
            "seeds": 1,
            "num_candidates": 4,
            "classifier_steps": 4,
            "classification": without_shared(TINY_CLASSIFICATION, "classifier_steps"),
            # A scorer of four steps is never confident; by distance alone some images pass.
            "selection": {**without_shared(TINY_SELECTION), "gates": "distance"},
            "synthesis": without_shared(TINY_SYNTHESIS),
            "adaptation": without_shared(TINY_ADAPTATION),
            "from_scratch": without_shared(TINY, "generated_slides"),
        } | settings
        workflow = ConfigWorkflow(str(ROOT / "configs" / "study.json"), bundle_root=str(ROOT), **given)
        workflow.initialize()
        return workflow

    return make


def results(folder):
    return {(line["row"], int(line["seed"])): line for line in csv.DictReader(open(folder / "results.csv"))}


def test_one_command_makes_pool_selection_classifier_and_table(study, tmp_path):
    study().run()
    folder = tmp_path / "study"
    lines = {row: line for (row, _), line in results(folder).items()}
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


@pytest.mark.slow
def test_several_runs_at_a_time_come_to_the_same(study, tmp_path, monkeypatch):
    fork_what_is_spawned(monkeypatch)
    rows = "real,real_equal_steps,oversampled"
    one, several = tmp_path / "one", tmp_path / "several"
    study(rows=rows, output_dir=str(one)).run()
    study(rows=rows, output_dir=str(several), parallel_runs=2).run()
    figures = [{name: {**line, "seconds": None} for name, line in results(folder).items()} for folder in (one, several)]
    assert len(figures[0]) == 3 and figures[0] == figures[1]


@pytest.mark.slow
def test_models_of_other_origins_on_the_same_split(study, adapted, pretrained, tmp_path):
    """Without fine-tuning, without pre-training and with an adapted diffusion model: each its own pool."""
    kinds = ("pretrained_decoder", "from_scratch", "adapted_diffusion")
    study(rows=",".join(f"{kind}_selective_100" for kind in kinds)).run()
    folder = tmp_path / "study"
    lines = results(folder)
    assert len(lines) == 4 and all(line["status"] == "done" for line in lines.values()), lines
    found = {path.parts[-3]: json.loads(path.read_text())["identity"] for path in folder.rglob("pool.json")}
    assert set(found) == set(kinds) and len({identity["model"] for identity in found.values()}) == 3
    split = {(row.file, row.part) for row in read_split(adapted / "split.csv")}
    for run in ("from_scratch/adapt", "adapted_diffusion"):
        assert {(row.file, row.part) for row in read_split(folder / run / "split.csv")} == split
    # The models from scratch saw the labelled training images alone, which still say that they are no tissue.
    images = sorted((folder / "from_scratch" / "images").iterdir())
    train = {row.sha256 for row in read_split(adapted / "split.csv") if row.part == "train"}
    assert {image.stem for image in images} == train and require_no_synthetic(images)
    assert not (folder / "from_scratch" / "images.unfinished").exists()
    for name in ("decoder.pt", "latent_classifier.pt"):
        assert (folder / "adapted_diffusion" / name).read_bytes() == (adapted / name).read_bytes()


def test_a_pool_of_another_generator(study, tmp_path):
    """By its path; it is selected from like the study's own and left as it is."""
    folder = tmp_path / "gan"
    with Pool(folder, {"generator": "gan", "model": "a" * 64, "settings": {}}) as pool:
        for name in GENERATED_CLASSES:
            for seed in range(4):
                pool.add(name, seed, generate_patch(name, 7, seed, TINY_CLASSIFICATION["patch_size"]))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    study(rows="gan_selective_100", pools={"gan": str(folder)}).run()
    line = results(tmp_path / "study")["gan_selective_100", 0]
    assert line["status"] == "done" and int(line["synthetic_images"]) > 0 and line["pool"] == "gan"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not (tmp_path / "study" / "pools").exists()


@pytest.mark.slow
def test_each_seed_on_labels_of_its_own(study, tmp_path):
    """Built-in patches, of which each seed then has its own as well."""
    rows = "adapted_diffusion_selective_100"
    study(rows=rows, seeds=2, vary_split=True, labels_per_class=4, adapted_dir="unused").run()
    folder = tmp_path / "study"
    lines = results(folder)
    assert len(lines) == 4 and all(line["status"] == "done" for line in lines.values()), lines
    splits = {seed: {line["split"] for (_, of), line in lines.items() if of == seed} for seed in (0, 1)}
    assert len(splits[0]) == len(splits[1]) == 1 and splits[0] != splits[1]
    for seed in (0, 1):
        rows = read_split(folder / "splits" / f"seed_{seed}" / "adapt" / "split.csv")
        assert sum(row.part in ("train", "validation") for row in rows) == 4 * 9
    assert "a labelled subset of its own for each seed" in (folder / "table.md").read_text()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rows": "nonsense"}, "nonsense.*guided_selective_100"),
        ({"variants": "sepia"}, "--variants is .*sepia"),
        ({"labels_per_class": 4}, "--labels_per_class 4 says .*--vary_split True"),
        ({"pools": {"guided": "there"}}, "--pools names one 'guided'"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"vary_splits": True}, "did you mean --vary_split"),
    ],
)
def test_bad_settings_are_refused(study, settings, message):
    with pytest.raises(Exception) as found:
        study(**settings).run()
    assert re.search(message, str(root_cause(found.value)), re.DOTALL), root_cause(found.value)


CHANGED = {
    "dataset_dir": "labelled",
    "test_dir": "test",
    "adapted_dir": "adapted",
    "pretrained_dir": "pretrained",
    "pretraining_dir": "unlabelled",
    "output_dir": "study",
    "cache_dir": "cache",
    "patch_size": 128,
    "device": "meta",
    "precision": "bf16",
    "rows": "real",
    "pools": {"gan": "runs/gan"},
    "classifiers": {"gan": "runs/gan"},
    "variants": "normalised",
    "seeds": 2,
    "seed": 5,
    "vary_split": True,
    "parallel_runs": 2,
    "labels_per_class": 3,
    "label_fraction": 0.5,
    "num_candidates": 9,
    "classifier_steps": 9,
    "perceptual_network": "torchscript",
    "classification": {"train#trainer#label_smoothing": 0.2},
    "selection": {"distance": "cosine"},
    "synthesis": {"eta": 0.5},
    "adaptation": {"decoder_steps": 9},
    "diffusion": {"diffusion#trainer#rank": 4},
    "from_scratch": {"ema_decay": 0.9},
}
BELOW = {
    "study#data#class_names": "ADI,TUM",
    "study#data#class_level": -1,
    "study#data#maximum_rejected_share": 0.5,
    "study#data#generated_per_class": 7,
    "study#data#generated_slide": 9,
    "study#training#strong_stain#density_probability": 0.1,
    "study#training#strong_stain#density_scale": 0.1,
}
NOT_FLAGS = {
    "description", "imports", "bundle_root", "initialize", "study", "run", "training",
}  # fmt: skip


def facts(study):
    content = {name: value for name, value in vars(study).items() if name not in ("folder", "_made")}
    return json.dumps({**content, "folder": str(study.folder.path)}, default=repr, sort_keys=True)


def built(**settings):
    workflow = ConfigWorkflow(str(ROOT / "configs" / "study.json"), bundle_root=str(ROOT), **settings)
    workflow.initialize()
    return workflow.parser.get_parsed_content("study")


def test_every_flag_reaches_the_study():
    assert set(CHANGED) == set(json.loads((ROOT / "configs" / "study.json").read_text())) - NOT_FLAGS
    for name, value in (CHANGED | BELOW).items():
        others = {"vary_split": True} if name in ("labels_per_class", "label_fraction") else {}
        assert facts(built(**others, **{name: value})) != facts(built(**others)), name


def test_what_is_handed_on_are_flags_of_the_configs_it_goes_to():
    made = built(dataset_dir="labelled")
    contents = {name: json.loads((ROOT / "configs" / f"{name}.json").read_text()) for name in CONFIGS}
    flags = {name: content.keys() | by_name(content) for name, content in contents.items()}
    assert set(made.data) <= flags["classify"] and set(made.data) - {"test_dir"} <= flags["select"]
    assert set(made.data) - {"patch_size"} | set(made.chain["diffusion"]) <= flags["adapt"]
    assert set(made.chain["adaptation"]) <= flags["adapt"]
    assert set(made.chain["synthesis"]) | {"device", "precision"} <= flags["inference"]
    assert set(made.chain["from_scratch"]) | {"device", "precision", "patch_size"} <= flags["pretrain"]
    assert made.chain["from_scratch"]["perceptual_network"] == "lpips"
    assert built().chain["from_scratch"]["perceptual_network"] == "random", "built-in patches need no weights"


CONFIGS = ("adapt", "classify", "inference", "pretrain", "select")
