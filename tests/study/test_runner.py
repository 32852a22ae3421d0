import csv
import json

import pytest

from bundle.data.split import SplitRow, write_split
from bundle.run_folder import RunFolder
from bundle.study import pools, runner
from bundle.study.rows import choose_rows
from bundle.study.runner import Study

CLASSES = ("A", "B")
CHAIN = {name: {} for name in ("pools", "adaptation", "diffusion", "pretraining", "synthesis", "selection")}


class Configs:
    """Stands for the bundle's configs: writes what classify.json would, without training."""

    def __init__(self):
        self.calls = []
        self.broken = set()

    def __call__(self, name, run_id="run", **settings):
        self.calls.append((name, run_id, settings))
        if self.broken & {name, settings.get("selection"), settings.get("ratio")}:
            raise RuntimeError("outer") from OSError("no space left")
        if name != "classify.json":
            return
        from pathlib import Path

        folder = Path(settings["output_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        right = 6 if settings.get("ratio") else 4
        with open(folder / "predictions.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "part", "class", "predicted", *CLASSES])
            for part in ("test", "unused"):
                writer.writerows([f"{k}.png", part, "A", "A" if k < right else "B", 1, 0] for k in range(8))
        figures = {"accuracy": right / 8, "macro_f1": 0.5}
        (folder / "metrics.json").write_text(
            json.dumps({"classifier": {"test": figures, "unused": figures, "steps": settings["classifier_steps"]}})
        )


@pytest.fixture
def configs(monkeypatch):
    made = Configs()
    monkeypatch.setattr(runner, "run_config", made)
    monkeypatch.setattr(pools, "run_config", made)
    return made


@pytest.fixture
def study(tmp_path, configs):
    adapted = tmp_path / "adapted"
    write_split(adapted / "split.csv", [SplitRow("a.png", "0" * 64, "A", "train")])

    def make(rows="real,guided_selective_50,guided_random_50", **settings):
        settings = {
            "variants": ["plain"],
            "seeds": 2,
            "steps": 100,
            "classification": {},
            "strong_stain": {},
        } | settings
        data = {"dataset_dir": "DATA", "test_dir": "TEST"}
        return Study(
            RunFolder(tmp_path / "study"),
            choose_rows(rows),
            seed=0,
            adapted_dir=adapted,
            data=data,
            chain=CHAIN,
            **settings,
        )

    return make


def names(configs):
    return [name for name, _, _ in configs.calls]


def test_runs_each_row_once_and_writes_the_table(study, configs, tmp_path):
    study().run()
    assert names(configs).count("classify.json") == 8  # three rows and their baseline, two seeds
    assert names(configs).count("inference.json") == names(configs).count("select.json") == 1
    steps = {
        settings["output_dir"]: settings["classifier_steps"]
        for name, _, settings in configs.calls
        if "seed" in settings
    }
    assert {path.split("/")[-3]: number for path, number in steps.items()} == {
        "real": 25,
        "real_equal_steps": 100,
        "guided_selective_50": 100,
        "guided_random_50": 100,
    }
    table = (tmp_path / "study" / "table.md").read_text()
    assert "HistoDiffusion, selective 50 % | 0.750 (" in table
    assert "+25.0 (" in table and "2 of 2" in table and "not new slides" in table
    lines = list(csv.DictReader(open(tmp_path / "study" / "results.csv")))
    assert len(lines) == 8 and {line["status"] for line in lines} == {"done"}
    assert {line["test_accuracy"] for line in lines} == {"0.5", "0.75"}
    assert (tmp_path / "study" / "accuracy_by_ratio.png").is_file()
    configs.calls.clear()
    study().run()
    assert not configs.calls  # all was found again


def test_the_first_seed_of_all_rows_comes_first(study, configs):
    study("real,oversampled").run()
    assert [settings["seed"] for name, _, settings in configs.calls] == [0, 0, 0, 1, 1, 1]


def test_a_failed_row_is_shown_and_run_again(study, configs, tmp_path):
    configs.broken = {"random"}
    study().run()
    table = (tmp_path / "study" / "table.md").read_text()
    assert "random 50 % | failed: OSError: no space left" in table
    assert "selective 50 % | 0.750" in table
    configs.broken, configs.calls = set(), []
    study().run()
    assert [settings["selection"] for name, _, settings in configs.calls if name == "classify.json"] == ["random"] * 2
    assert "failed" not in (tmp_path / "study" / "table.md").read_text()


def test_a_broken_pool_is_tried_once(study, configs, tmp_path):
    configs.broken = {"inference.json"}
    study().run()
    assert names(configs).count("inference.json") == 1
    assert (tmp_path / "study" / "table.md").read_text().count("| failed: OSError") == 2


def test_nothing_works_is_an_error(study, configs):
    configs.broken = {"classify.json"}
    with pytest.raises(RuntimeError, match="every run failed.*no space left"):
        study("real").run()


def test_other_settings_are_refused(study, configs):
    study("real").run()
    with pytest.raises(ValueError, match="--classifier_steps 25.*50.*--output_dir"):
        study("real", steps=200).run()


def test_more_seeds_extend_a_study(study, configs):
    study("real").run()
    configs.calls.clear()
    study("real", seeds=3).run()
    assert {settings["seed"] for _, _, settings in configs.calls} == {2}


def test_unknown_variant(study):
    with pytest.raises(ValueError, match="--variants.*sepia"):
        study("real", variants=["sepia"])


def test_a_split_for_each_seed(study, configs, tmp_path, monkeypatch):
    adapted = []

    def adapt(name, run_id="run", **settings):
        if name == "adapt.json":
            write_split(
                tmp_path / "study" / "splits" / f"seed_{settings['seed']}" / "adapt" / "split.csv",
                [SplitRow("a.png", "0" * 64, "A", "train")],
            )
            adapted.append(settings["seed"])
        else:
            Configs.__call__(configs, name, run_id, **settings)

    monkeypatch.setattr(runner, "run_config", adapt)
    study("real", vary_split=True).run()
    assert set(adapted) == {0, 1}
    splits = [settings["split_file"] for name, _, settings in configs.calls if name == "classify.json"]
    assert any("seed_0/adapt/split.csv" in path for path in splits) and any("seed_1" in path for path in splits)
    assert "a labelled subset of its own for each seed" in (tmp_path / "study" / "table.md").read_text()
