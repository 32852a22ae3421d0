"""Classifiers trained elsewhere as rows of the study: what is shown of them, and which are refused."""

import csv
import json
from pathlib import Path

import pytest

from bundle.data.split import SplitRow, write_split
from bundle.downstream.study import training
from bundle.downstream.study.finished import finished_runs
from bundle.downstream.study.pools import LabelledSplit
from bundle.downstream.study.rows import choose_rows
from bundle.downstream.study.runner import Study
from bundle.downstream.study.training import Training
from bundle.runs.folder import RunFolder

CHAIN = {name: {} for name in ("pools", "adaptation", "diffusion", "from_scratch", "synthesis", "selection")}
PLAIN = {False: "plain"}


def split(folder, labelled="a.png", tests=8):
    rows = [SplitRow(labelled, f"{ord(labelled[0]):064x}", "A", "train")]
    write_split(
        folder / "split.csv", rows + [SplitRow(f"{tile}.png", f"{tile:064x}", "A", "test") for tile in range(tests)]
    )


def results(folder, right, tiles=8):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "part", "class", "predicted"])
        writer.writerows([f"{tile}.png", "test", "A", "A" if tile < right else "B"] for tile in range(tiles))
    figures = {"test": {"accuracy": right / tiles, "macro_f1": 0.5}, "steps": 70}
    (folder / "metrics.json").write_text(json.dumps({"classifier": figures}))


@pytest.fixture
def finished(tmp_path):
    """Makes the folder of a finished training."""

    def make(name="gan", right=6, seed=0, tiles=8, **config):
        folder = tmp_path / name
        results(folder, right, tiles)
        split(folder)
        (folder / "config.json").write_text(json.dumps({"seed": seed, **config}))
        return str(folder)

    split(tmp_path / "adapted")
    return make


@pytest.fixture
def study(tmp_path, monkeypatch):
    def run_config(name, run_id="run", **settings):
        assert name == "classify.json"
        results(Path(settings["output_dir"]), right=4)

    monkeypatch.setattr(training, "run_config", run_config)

    def make(vary=False, **settings):
        given = {"variants": "plain", "seeds": 2, "training": Training(100), **settings}
        given |= {"data": {"dataset_dir": "DATA", "patch_size": 32}, "chain": CHAIN}
        labelled = LabelledSplit(tmp_path / "adapted", vary)
        return Study(RunFolder(tmp_path / "study"), choose_rows("real"), seed=0, labelled=labelled, **given)

    return make


def test_a_finished_training_is_a_row_compared_with_real_images_of_its_seed(study, finished, tmp_path):
    folders = [finished("first", right=6, seed=0), finished("second", right=7, seed=1)]
    study(classifiers={"gan": folders}).run()
    table = (tmp_path / "study" / "table.md").read_text()
    cells = next(line.split(" | ") for line in table.splitlines() if "gan, its own classifier" in line)
    assert cells[1] == "0.812"  # 13 of 16 right
    assert cells[2] == "+31.2" and cells[3] == "" and "2 of 2" in cells[-1]
    lines = [line for line in csv.DictReader(open(tmp_path / "study" / "results.csv")) if line["row"] != "real"]
    assert [(line["row"], line["seed"], line["test_accuracy"], line["steps"]) for line in lines] == [
        ("gan_classifier", "0", "0.75", "70"),
        ("gan_classifier", "1", "0.875", "70"),
    ]


def test_it_stands_with_the_images_it_was_trained_on(study, finished, tmp_path):
    study(classifiers={"gan": finished(normalise_stain=True)}, variants="plain,normalised", seeds=1).run()
    lines = list(csv.DictReader(open(tmp_path / "study" / "results.csv")))
    assert [line["variant"] for line in lines if line["row"] == "gan_classifier"] == ["normalised"]
    plain, normalised = (tmp_path / "study" / "table.md").read_text().split("Macenko-normalised")
    assert "gan, its own" not in plain and "gan, its own" in normalised


def test_what_does_not_belong_is_refused(finished, tmp_path):
    split_file = tmp_path / "adapted" / "split.csv"
    good = finished()
    assert len(finished_runs({"gan": good}, PLAIN, split_file)) == 1
    with pytest.raises(ValueError, match="have the same seed"):
        finished_runs({"gan": [good, finished("again")]}, PLAIN, split_file)
    with pytest.raises(ValueError, match="of another of the --variants"):
        finished_runs({"gan": finished("normalised", normalise_stain=True)}, PLAIN, split_file)
    with pytest.raises(ValueError, match="measured on 7 test tiles, and .* lists 8, of which 7 are the same"):
        finished_runs({"gan": finished("fewer", tiles=7)}, PLAIN, split_file)
    with pytest.raises(ValueError, match="must be letters"):
        finished_runs({"../gan": good}, PLAIN, split_file)
    for name in ("metrics.json", "predictions.csv", "split.csv", "config.json"):
        broken = Path(finished(f"without_{name}"))
        (broken / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"has no {name}"):
            finished_runs({"gan": broken}, PLAIN, split_file)
    untested = Path(finished("untested"))
    (untested / "metrics.json").write_text('{"classifier": {"validation": {}}}')
    with pytest.raises(ValueError, match="no classifier measured on test tiles"):
        finished_runs({"gan": untested}, PLAIN, split_file)
    other = Path(finished("other"))
    split(other, labelled="b.png")
    with pytest.raises(ValueError, match="trained on other labelled images than those of .*--split_file"):
        finished_runs({"gan": other}, PLAIN, split_file)


def test_it_is_refused_before_anything_is_trained(study, finished, tmp_path):
    with pytest.raises(ValueError, match="measured on 7 test tiles"):
        study(classifiers={"gan": finished(tiles=7)}).run()
    assert not (tmp_path / "study" / "runs").exists()
    with pytest.raises(ValueError, match="--vary_split"):
        study(classifiers={"gan": finished()}, vary=True)
