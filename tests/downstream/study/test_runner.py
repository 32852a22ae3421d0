import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from bundle.data.split import SplitRow, write_split
from bundle.downstream.study import pools, training
from bundle.downstream.study.pools import LabelledSplit
from bundle.downstream.study.rows import choose_rows
from bundle.downstream.study.runner import Study
from bundle.downstream.study.training import Training
from bundle.runs.folder import RunFolder
from bundle.selection.table import SelectionRow, write_selection

CLASSES = ("A", "B")
CHAIN = {name: {} for name in ("pools", "adaptation", "diffusion", "from_scratch", "synthesis", "selection")}


class Configs:
    """Stands for the bundle's configs: writes what they would, without training."""

    def __init__(self):
        self.calls = []
        self.broken = set()
        self.kept = 1  # images that a selection keeps
        self.unused = 0  # the first tile that is unused

    def __call__(self, name, run_id="run", **settings):
        self.calls.append((name, run_id, settings))
        if self.broken & {name, settings.get("selection"), settings.get("ratio")}:
            raise RuntimeError("outer") from OSError("no space\nleft")
        folder = Path(settings["output_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        if name == "adapt.json" and "split_file" not in settings:
            write_split(folder / "split.csv", [SplitRow("a.png", f"{settings['seed']:064}", "A", "train")])
        if name == "select.json":
            self.select(folder / "selection.csv")
        if name == "classify.json":
            self.classify(folder, settings)

    def select(self, path):
        row = SelectionRow("A/A_0.png", "A", 0, 1, 0, 0, "A", 1, True, "kept", 50, 50)
        rows = [row._replace(file=f"A/A_{seed}.png", seed=seed) for seed in range(self.kept)]
        of_class = {"A": {50: 1}}
        facts = {"pool": "pool", "pool_hash": "a", "split": "b", "classes": ["A"], "ratios": [50]}
        write_selection(
            path, rows, {**facts, "labelled": {"A": 2}, "quotas": of_class, "shortfall": of_class, "settings": {}}
        )

    def classify(self, folder, settings):
        right = 4 + 2 * ("ratio" in settings) + (settings.get("selection") == "selective")
        with open(folder / "predictions.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "part", "class", "predicted", *CLASSES])
            for part, first in (("test", 0), ("unused", self.unused)):
                tiles = enumerate(range(first, first + 8))
                writer.writerows([f"{tile}.png", part, "A", "A" if k < right else "B", 1, 0] for k, tile in tiles)
        figures = {"accuracy": right / 8, "macro_f1": 0.5}
        (folder / "metrics.json").write_text(
            json.dumps({"classifier": {"test": figures, "unused": figures, "steps": settings["classifier_steps"]}})
        )


@pytest.fixture
def configs(monkeypatch):
    made = Configs()
    monkeypatch.setattr(training, "run_config", made)
    monkeypatch.setattr(pools, "run_config", made)
    return made


@pytest.fixture
def study(tmp_path, configs):
    adapted = tmp_path / "adapted"
    write_split(adapted / "split.csv", [SplitRow("a.png", "0" * 64, "A", "train")])

    def make(
        rows="real,guided_selective_50,guided_random_50", chain=CHAIN, pools=(), steps=100, split=None, **settings
    ):
        settings = {"variants": ["plain"], "seeds": 2, **settings}
        data = {"dataset_dir": "DATA", "test_dir": "TEST", "cache_dir": "CACHE", "patch_size": 32}
        return Study(
            RunFolder(tmp_path / "study"),
            choose_rows(rows, pools),
            seed=0,
            labelled=LabelledSplit(adapted, **(split or {})),
            training=Training(steps),
            data={**data, "device": "cpu", "precision": "fp32"},
            chain={**chain, "pools": {name: str(tmp_path / name) for name in pools}},
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
    # Four of eight tiles right without synthetic images, six with random ones, seven with selected ones.
    shown = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in table.splitlines() if "2 of 2" in line}
    columns = [0.875, 37.5, 37.5, 12.5]
    cells = shown["HistoDiffusion, selective 50 %"]
    assert [float(cells[place].split(" ")[0]) for place in (1, 2, 3, 5)] == columns and cells[4] == "+37.5, +37.5"
    cells = shown["HistoDiffusion, random 50 %"]
    assert cells[1] == "0.750" and cells[3] == "+25.0" and cells[5] == ""
    assert "There are no intervals" in table
    page = (tmp_path / "study" / "table.html").read_text()
    assert 'src="data:image/png;base64,' in page and page.count("src=") == 1
    lines = list(csv.DictReader(open(tmp_path / "study" / "results.csv")))
    assert len(lines) == 8 and {line["status"] for line in lines} == {"done"}
    assert {line["test_accuracy"] for line in lines} == {"0.5", "0.75", "0.875"}
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
    assert "random 50 % | failed: OSError: no space left |" in table
    assert "selective 50 % | 0.875" in table
    configs.broken, configs.calls = set(), []
    study().run()
    assert [settings["selection"] for name, _, settings in configs.calls if name == "classify.json"] == ["random"] * 2
    assert "failed" not in (tmp_path / "study" / "table.md").read_text()


def test_what_is_interrupted_goes_on_where_it_was(study, configs, tmp_path, monkeypatch):
    """However far it came, in the middle of a training or of a selection."""
    study().run()
    files = ("results.csv", "table.md", "table.html")
    whole = {name: (tmp_path / "study" / name).read_bytes() for name in files}
    shutil.rmtree(tmp_path / "study")
    configs.calls.clear()

    def call(name, run_id="run", **settings):
        call.left -= 1
        if not call.left:
            raise KeyboardInterrupt
        configs(name, run_id, **settings)

    for module in (training, pools):
        monkeypatch.setattr(module, "run_config", call)
    for left in (4, 2, 3, 1):  # the second stops in the selection, the last at once
        call.left = left
        with pytest.raises(KeyboardInterrupt):
            study().run()
    call.left = 100
    study().run()
    assert names(configs).count("classify.json") == 8, "none is run twice"
    assert {name: (tmp_path / "study" / name).read_bytes() for name in files} == whole


def test_a_broken_pool_is_tried_once(study, configs, tmp_path):
    configs.broken = {"inference.json"}
    study().run()
    assert names(configs).count("inference.json") == 1
    assert (tmp_path / "study" / "table.md").read_text().count("| failed: OSError") == 2


def test_nothing_works_is_an_error(study, configs):
    configs.broken = {"classify.json"}
    with pytest.raises(RuntimeError, match="every run failed.*no space left"):
        study("real").run()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 200}, "real/plain/seed_0 was run with --classifier_steps 25.*50.*--output_dir"),
        ({"chain": {**CHAIN, "synthesis": {"eta": 0}}}, "guided_selective_50/.*--synthesis {}.* {'eta': 0}"),
        ({"chain": {**CHAIN, "selection": {"gates": "distance"}}}, "--selection {}.*'distance'"),
        ({"chain": {**CHAIN, "from_scratch": {"ema_decay": 0.9}}}, None),  # no row here depends on it
        ({"chain": {**CHAIN, "diffusion": {"diffusion#trainer#rank": 4}}}, None),
        ({"split": {"vary": True}}, "--vary_split False.*True"),
    ],
)
def test_what_was_run_with_other_settings_is_refused_before_anything_runs(study, configs, changes, message):
    rows = "real,guided_selective_50"
    study(rows, seeds=1).run()
    configs.calls.clear()
    if message is None:
        study(rows, seeds=1, **changes).run()
    else:
        with pytest.raises(ValueError, match=message):
            study(rows, **changes).run()
    assert not configs.calls


def test_another_labelled_split_is_refused(study, configs, tmp_path):
    study("real", seeds=1).run()
    write_split(tmp_path / "adapted" / "split.csv", [SplitRow("b.png", "1" * 64, "A", "train")])
    with pytest.raises(ValueError, match="was run on the labelled split .*adapted/split.csv is .*--adapted_dir"):
        study("real", seeds=2).run()


def test_a_selection_that_changed_is_not_mixed_with_what_was_run(study, configs, tmp_path):
    rows = "gan_selective_100"
    study(rows, seeds=1, pools=["gan"]).run()
    study(rows, seeds=2, pools=["gan"]).run()
    assert {line["status"] for line in results(tmp_path)} == {"done"}, "the same selection made again is the same"
    configs.kept = 2
    study(rows, seeds=3, pools=["gan"]).run()
    failed = [line["status"] for line in results(tmp_path) if line["status"] != "done"]
    assert len(failed) == 1 and "selection.csv has changed since" in failed[0] and "--output_dir" in failed[0]


def results(tmp_path):
    return list(csv.DictReader(open(tmp_path / "study" / "results.csv")))


def test_more_seeds_extend_a_study(study, configs):
    study("real").run()
    configs.calls.clear()
    study("real", seeds=3).run()
    assert {settings["seed"] for _, _, settings in configs.calls} == {2}


def test_unknown_variant(study):
    for given in (["sepia"], "plain,sepia"):
        with pytest.raises(ValueError, match="--variants.*sepia"):
            study("real", variants=given)
    assert study("real", variants="plain, normalised").variants == ["plain", "normalised"]


def test_a_number_of_labels_where_none_are_drawn(study):
    with pytest.raises(ValueError, match="--labels_per_class 40 .*adapted/split.csv: leave it out, or give --vary_sp"):
        study("real", split={"labels_per_class": 40})
    assert study("real", split={"labels_per_class": None}).labelled.labels == {}


def test_a_split_for_each_seed(study, configs, tmp_path):
    rows = "real,adapted_diffusion_selective_100"
    study(rows, split={"vary": True, "labels_per_class": 4}).run()
    assert {line["status"] for line in results(tmp_path)} == {"done"}
    for seed in (0, 1):
        folder = tmp_path / "study" / "splits" / f"seed_{seed}"
        (drawn, _, first), (adapted, part, second) = [
            call for call in configs.calls if call[0] == "adapt.json" and str(folder) in call[2]["output_dir"]
        ]
        assert first["seed"] == second["seed"] == seed and "patch_size" not in first
        assert first["labels_per_class"] == 4 and "split_file" not in first and "label_fraction" not in first
        # An adaptation to a split that is there draws none.
        assert part == "diffusion" and "labels_per_class" not in second
        assert second["split_file"] == str(folder / "adapt" / "split.csv")
        for name in ("select.json", "classify.json"):
            found, *_ = [
                settings for used, _, settings in configs.calls if used == name and str(folder) in str(settings)
            ]
            assert found["split_file"] == str(folder / "adapt" / "split.csv") and found["split_seed"] == seed
    assert "a labelled subset of its own for each seed" in (tmp_path / "study" / "table.md").read_text()


def test_each_seed_of_its_own_split_has_other_unused_tiles(study, configs, tmp_path, monkeypatch):
    def call(name, run_id="run", **settings):
        configs.unused = 5 * settings["seed"] if name == "classify.json" else 0
        configs(name, run_id, **settings)

    monkeypatch.setattr(training, "run_config", call)
    study("real", split={"vary": True}).run()
    assert "real only, a quarter of the steps | 0.500 |" in (tmp_path / "study" / "table.md").read_text()


def test_a_broken_adaptation_is_tried_once(study, configs, tmp_path):
    configs.broken = {"adapt.json"}
    with pytest.raises(RuntimeError, match="every run failed"):
        study("real,oversampled", split={"vary": True}).run()
    assert names(configs) == ["adapt.json"] * 2  # of two seeds
    assert len(results(tmp_path)) == 6


def test_artefacts_of_another_adaptation_are_not_mixed(study, configs, tmp_path):
    (tmp_path / "adapted" / "decoder.pt").write_bytes(b"one")
    study("adapted_diffusion_selective_100", seeds=1).run()
    copied = tmp_path / "study" / "adapted_diffusion" / "decoder.pt"
    assert copied.read_bytes() == b"one"
    (tmp_path / "adapted" / "decoder.pt").write_bytes(b"two")
    study("adapted_diffusion_selective_100", seeds=2).run()
    assert copied.read_bytes() == b"one"
    failed = [line["status"] for line in results(tmp_path) if line["status"] != "done"]
    assert len(failed) == 1 and "decoder.pt is of another adaptation than" in failed[0]


def test_processes_of_a_torchrun_share_the_rows(study, configs, monkeypatch):
    """Each trains its own, as a process by itself; what several need is made once."""
    planned = [str(run["folder"]) for run in study().planned()]
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        configs.calls.clear()
        study().run()
        trained = [settings["output_dir"] for name, _, settings in configs.calls if name == "classify.json"]
        assert trained == planned[rank::2]
        assert "WORLD_SIZE" not in os.environ
    assert {run["status"] for run in map(study().recorded, study().planned())} == {training.DONE}
