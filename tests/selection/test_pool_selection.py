"""Selecting from a pool whose right answers are known; having it extended; what is written."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from candidates import CLASSES, SIDE, candidate, fill_pool, keys, write_labelled
from helpers import root_cause
from PIL import Image

from bundle.data.hashes import pixel_hash
from bundle.data.loader import read_images
from bundle.data.marks import read_marks
from bundle.data.split import fingerprint_split, read_split
from bundle.runs.tables import write_rows
from bundle.selection.scorer import Scorer
from bundle.selection.scores import normalise
from bundle.selection.table import read_selection
from bundle.synthesis.stored_pool import StoredPool


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())["selection"]


def by_file(folder):
    return {row.file: row for row in read_selection(folder / "selection.csv")[0]}


def test_images_of_another_class_are_found_and_the_rest_fill_the_quotas(selected):
    rows, facts = read_selection(selected.folder / "selection.csv")
    assert [(row.label, row.seed) for row in rows] == [(name, seed) for name in CLASSES for seed in range(16)]
    assert all((row.reason == "other class") == (row.seed % 4 == 3) for row in rows)
    # 12 of each class pass, the nearer half is 6: all of 67 % of the 6 labels that train, short of 2 for 133 %.
    for name in CLASSES:
        own = [row for row in rows if row.label == name]
        assert sorted(row.rank for row in own if row.rank) == list(range(1, 13))
        assert [row.ratio for row in sorted(own, key=lambda row: row.rank or 99)] == [67] * 4 + [133] * 2 + [None] * 10
        assert sorted(row.random_ratio or 0 for row in own) == [0] * 10 + [67] * 4 + [133] * 2
    assert facts["quotas"] == {name: {67: 4, 133: 8} for name in CLASSES}
    assert facts["shortfall"] == {name: {67: 0, 133: 2} for name in CLASSES}
    assert facts["labelled"] == {name: 6 for name in CLASSES} and facts["classes"] == list(CLASSES)
    assert facts["pool"] == selected.given["pool_dir"]
    assert facts["pool_hash"] == StoredPool(facts["pool"], SIDE).prepare().hash
    assert facts["split"] == fingerprint_split(read_split(selected.given["split_file"]))
    settings = facts["settings"]
    assert len(settings["scorer"]) == 64 and settings["gates"] == "both" and settings["dropout_passes"] == 3


def test_what_readers_rejected_is_left_out_and_counted(selected, tmp_path, capsys):
    pool = StoredPool(selected.given["pool_dir"], SIDE).prepare()
    nearest = [next(row.file for row in by_file(selected.folder).values() if row.rank == 1 and row.label == "ADI")]
    digest = pixel_hash(pool.read("ADI", int(nearest[0].split("_")[1].removesuffix(".png"))))
    table = write_rows(tmp_path / "rejected.csv", [("file", "pool_hash", "sha256"), (nearest[0], pool.hash, digest)])
    folder = selected(tmp_path / "run", exclude=str(table))
    rows, facts = read_selection(folder / "selection.csv")
    assert [row.file for row in rows if row.reason == "excluded"] == nearest and facts["settings"]["excluded"] == 1
    assert figures(folder)["classes"]["ADI"]["reasons"]["excluded"] == 1
    assert "not used, as readers rejected them: 1" in capsys.readouterr().out
    table.write_text(table.read_text().replace("ADI_", "ADI_9"))
    with pytest.raises(RuntimeError) as caught:
        selected(tmp_path / "run", exclude=str(table))
    assert "line 2" in str(root_cause(caught.value))


def test_distances_are_to_the_centroids_of_real_training_images(selected, workflow):
    """Computed once more from the scorer's features, with numpy."""
    made = workflow("select.json", **{**selected.given, "output_dir": str(selected.folder)})
    selector = made.parser.get_parsed_content("selector")
    scorer, train = selector.scorer.prepare(), selector.labelled.part("train")
    features = normalise(scorer.score(read_images(train))[1]).numpy()
    centroids = [features[train.labels == number].mean(0) for number in range(3)]
    found = by_file(selected.folder)
    for name, seed in keys(16):
        image = torch.from_numpy(candidate(name, seed)).permute(2, 0, 1)[None]
        probabilities, feature = scorer.score(image)
        feature = feature[0].double().numpy() / np.linalg.norm(feature[0].double().numpy())
        distances = [((feature - centroid) ** 2).sum() for centroid in centroids]
        row = found[f"{name}/{name}_{seed}.png"]
        assert row.distance == pytest.approx(distances[CLASSES.index(name)], abs=1e-5)
        assert row.nearest == CLASSES[int(np.argmin(distances))]
        assert row.probability == pytest.approx(probabilities[0, CLASSES.index(name)].item(), abs=1e-5)
        assert row.entropy == pytest.approx(-(probabilities[0] * probabilities[0].log()).sum().item(), abs=1e-5)


def test_metrics_say_what_became_of_each_class(selected):
    found = figures(selected.folder)
    assert found["classes"]["TUM"] == {
        "candidates": 16,
        "acceptance": 0.375,
        "kept": {"67": 4, "133": 6},
        "shortfall": {"67": 0, "133": 2},
        "reasons": {"far half": 6, "kept": 6, "other class": 4},
        "entropy_limit": found["classes"]["TUM"]["entropy_limit"],
    }
    assert 0 < found["classes"]["TUM"]["entropy_limit"] < np.log(3)
    assert found["unreadable"] == {} and found["rounds"] == [] and found["seconds"] > 0
    config = json.loads((selected.folder / "config.json").read_text())
    assert config["pool_dir"] == selected.given["pool_dir"] and config["ratios"] == [67, 133]


def test_the_picture_shows_kept_and_rejected_images_of_the_pool(selected):
    """Patches of 32 enlarged by 4, with a gap: rows of 136 pixels, names at the left."""
    path = selected.folder / "selection.png"
    assert read_marks(path)["ModelHash"] == "a" * 64 and read_marks(path)["SyntheticData"] == "YES"
    sheet = np.asarray(Image.open(path))
    left = sheet.shape[1] - 8 * 136
    assert sheet.shape[0] == 26 + 6 * 136 and 60 < left < 200
    rows = sorted(
        (row for row in by_file(selected.folder).values() if row.label == "STR"), key=lambda row: row.rank or 0
    )
    shown = {"kept": [row.seed for row in rows if row.kept], "rejected": [3, 7, 11, 15]}
    for number, seeds in enumerate(shown.values()):
        for column in range(8):
            cell = sheet[26 + (2 + number) * 136 :, left + column * 136 :][:128:4, :128:4]
            expected = candidate("STR", seeds[column]) if column < len(seeds) else np.full((SIDE, SIDE, 3), 255)
            np.testing.assert_array_equal(cell, expected)


def test_the_same_command_again_gives_the_same_files(selected, tmp_path):
    again = selected(tmp_path / "again")
    for name in ("selection.csv", "selection.json", "selection.png"):
        assert (again / name).read_bytes() == (selected.folder / name).read_bytes(), name


def test_selections_may_share_their_scorers(selected, workflow, tmp_path):
    """One after the other in one process, as a study makes them; the folder is given back, also after an error."""
    before = {path: path.stat().st_mtime_ns for path in selected.folder.glob("scorer*.pt")}
    given = {**selected.given, "scorer_dir": str(selected.folder)}
    with pytest.raises(RuntimeError):
        workflow("select.json", **{**given, "output_dir": str(tmp_path / "no"), "pool_dir": str(tmp_path)}).run()
    for name in ("one", "other"):
        workflow("select.json", **{**given, "output_dir": str(tmp_path / name)}).run()
        table = (tmp_path / name / "selection.csv").read_bytes()
        assert table == (selected.folder / "selection.csv").read_bytes()
        assert not list((tmp_path / name).glob("scorer*"))
    assert {path: path.stat().st_mtime_ns for path in selected.folder.glob("scorer*.pt")} == before


def test_broken_images_are_named_counted_and_left_out(selected, tmp_path, capsys):
    pool = fill_pool(tmp_path / "pool", keys(16))
    (pool / "TUM/TUM_2.png").write_bytes(b"")
    content = (pool / "ADI/ADI_15.png").read_bytes()  # the one that is looked into before scorers are trained
    (pool / "ADI/ADI_15.png").write_bytes(content[:200])
    folder = selected(tmp_path / "run", pool_dir=str(pool))
    expected, found = by_file(selected.folder), by_file(folder)
    assert expected.keys() - found.keys() == {"TUM/TUM_2.png", "ADI/ADI_15.png"}
    # The random control is another draw, and places behind the missing ones move up.
    assert found["STR/STR_0.png"] == expected["STR/STR_0.png"]
    assert set(figures(folder)["unreadable"]) == {"TUM_2", "ADI_15"}
    assert figures(folder)["classes"]["TUM"]["candidates"] == 15
    said = capsys.readouterr().out
    assert all(
        said.count(f"left out, as it can't be read: {pool}/{file}") == 1 for file in expected.keys() - found.keys()
    )
    assert "2 images of the pool can't be read and were left out" in said


@pytest.mark.parametrize("place", [0, 15])
def test_a_foreign_image_is_refused_wherever_it_is(selected, tmp_path, place):
    """The last of a class before anything is trained, others when they are read."""
    pool = fill_pool(tmp_path / "pool", keys(16))
    Image.fromarray(candidate("TUM", 0)).save(pool / f"TUM/TUM_{place}.png")
    with pytest.raises(RuntimeError) as caught:
        selected(tmp_path / "run", pool_dir=str(pool))
    assert re.search(f"TUM_{place}.png does not belong to this pool", str(root_cause(caught.value)))
    assert not (tmp_path / "run/selection.csv").exists()


def test_an_unfit_pool_is_refused_before_a_scorer_is_trained(workflow, selected, tmp_path):
    pool = fill_pool(tmp_path / "pool", [key for key in keys(2) if key[0] != "STR"])
    settings = {**selected.given, "pool_dir": str(pool), "output_dir": str(tmp_path / "run")}
    with pytest.raises(RuntimeError) as caught:
        workflow("select.json", **settings).run()
    assert "has no image of the class 'STR'" in str(root_cause(caught.value))
    assert not list((tmp_path / "run").glob("scorer*"))


def test_another_split_than_the_scorers_is_refused(selected, workflow, tmp_path):
    """As for one who has the selector decide in a program of his own."""
    other = write_labelled(tmp_path, labels_per_class=7)
    settings = {**selected.given, **other, "output_dir": str(tmp_path / "run"), "cache_dir": str(tmp_path / "cache")}
    selector = workflow("select.json", **settings).parser.get_parsed_content("selector")
    selector.scorer.path = selected.folder / "scorer.pt"
    with pytest.raises(ValueError, match="the labelled data differs: .*scorer.pt has"):
        selector.prepare()


# Extending the pool


@pytest.fixture
def making(monkeypatch):
    """Has the recorded command make candidates of this file's kind; `making.calls` is what was asked for."""

    def run(config, classes, num_images, dataset_dir, seed=0, **settings):
        run.calls.append((classes, num_images))
        if run.fails == len(run.calls):
            fill_pool(dataset_dir, [(classes[0], 20)])
            raise KeyboardInterrupt
        fill_pool(dataset_dir, [(name, number) for name in classes for number in range(seed, seed + num_images)])

    run.calls, run.fails = [], 0
    monkeypatch.setattr("bundle.synthesis.stored_pool.run_config", run)
    return run


RECORD = {"config": "inference.json", "settings": {"seed": 0}}


def test_classes_that_are_short_get_more_images_until_the_quotas_are_met(selected, making, tmp_path, monkeypatch):
    """ADI has enough; STR and TUM have too few, and not equally many."""
    counts = {"ADI": 24, "STR": 16, "TUM": 8}
    pool = fill_pool(tmp_path / "pool", [key for key in keys(24) if key[1] < counts[key[0]]], extend=RECORD)
    scored, score = [], Scorer._score
    monkeypatch.setattr(
        Scorer, "_score", lambda self, images, count: scored.append(count) or score(self, images, count)
    )
    folder = selected(tmp_path / "run", pool_dir=str(pool), maximum_rounds=3)
    # 6 of 16 and 3 of 8 are usable: 8 / 0.375 x 1.2 = 25.6 are asked for.
    assert making.calls == [(["STR", "TUM"], 26)]
    found = figures(folder)
    assert found["rounds"] == [{"STR": 26, "TUM": 26}]
    assert {name: found["classes"][name]["candidates"] for name in CLASSES} == {"ADI": 24, "STR": 26, "TUM": 26}
    assert all(found["classes"][name]["shortfall"] == {"67": 0, "133": 0} for name in CLASSES)
    assert sum(scored) == 24 + 26 + 26 + 18, "each candidate once, and the real training images"
    # Selected at once from the pool as it now is, the outcome is the same.
    whole = selected(tmp_path / "whole", pool_dir=str(pool))
    assert (whole / "selection.csv").read_bytes() == (folder / "selection.csv").read_bytes()


@pytest.mark.parametrize(
    "limits, rounds",
    [
        ({"maximum_rounds": 0}, []),
        ({"maximum_rounds": 2, "selection#work#maximum_candidates": 18}, [dict.fromkeys(CLASSES, 18)]),
        ({"maximum_rounds": 1, "ratios": [200]}, [dict.fromkeys(CLASSES, 39)]),
    ],
)
def test_what_is_short_stays_short_and_is_said(selected, making, tmp_path, capsys, limits, rounds):
    pool = fill_pool(tmp_path / "pool", keys(16), extend=RECORD)
    folder = selected(tmp_path / "run", pool_dir=str(pool), **limits)
    assert figures(folder)["rounds"] == rounds and len(making.calls) == len(rounds)
    rows, facts = read_selection(folder / "selection.csv")
    largest = max(facts["ratios"])
    if largest == 133:
        for name in CLASSES:
            kept = [row for row in rows if row.label == name and row.kept]
            assert len(kept) == facts["quotas"][name][133] - facts["shortfall"][name][133] < 8
            assert all(row.rank and row.reason == "kept" and row.seed % 4 != 3 for row in kept)
        said = capsys.readouterr().out
        assert (
            "too few images pass for ADI, STR, TUM: raise --maximum_rounds or --selection#work#maximum_candidates"
            in said
        )
        assert "Rejected images don't take their place" in said


def test_without_a_record_the_command_to_run_is_said(selected, making, tmp_path, capsys):
    pool = fill_pool(tmp_path / "pool", keys(16))
    selected(tmp_path / "run", pool_dir=str(pool), maximum_rounds=3)
    assert making.calls == []
    command = f"configs/inference.json --dataset_dir {pool} --classes ADI,STR,TUM and a larger --num_images"
    assert command in capsys.readouterr().out


def test_nothing_usable_doubles_the_pool(selected, making, tmp_path):
    wrong = [(name, seed) for name in CLASSES for seed in ((3, 7) if name == "TUM" else range(24))]
    pool = fill_pool(tmp_path / "pool", wrong, extend=RECORD)
    folder = selected(tmp_path / "run", pool_dir=str(pool), maximum_rounds=1)
    assert making.calls == [(["TUM"], 2)] and figures(folder)["rounds"] == [{"TUM": 4}]
    assert {path.name for path in (pool / "TUM").glob("*.png")} == {f"TUM_{seed}.png" for seed in (0, 1, 3, 7)}


def test_an_extension_that_was_interrupted_is_completed_first(selected, making, tmp_path):
    """With more images than before the estimate would be another one, and the pool as well."""
    few = [key for key in keys(24) if key[1] < (8 if key[0] == "TUM" else 24)]
    for folder in ("whole", "broken"):
        fill_pool(tmp_path / folder / "pool", few, extend=RECORD)
    selected(tmp_path / "whole/run", pool_dir=str(tmp_path / "whole/pool"), maximum_rounds=2)
    asked, making.calls, making.fails = making.calls[:], [], 1
    assert asked == [(["TUM"], 26)]
    broken = {"pool_dir": str(tmp_path / "broken/pool"), "maximum_rounds": 2}
    with pytest.raises(KeyboardInterrupt):
        selected(tmp_path / "broken/run", **broken)
    making.fails = 0
    selected(tmp_path / "broken/run", **broken)
    assert making.calls == [(["TUM"], 26), (["TUM"], 26)]
    runs = [tmp_path / folder / "run" for folder in ("broken", "whole")]
    assert figures(runs[0])["rounds"] == figures(runs[1])["rounds"] == [{"TUM": 26}]
    assert (runs[0] / "selection.csv").read_bytes() == (runs[1] / "selection.csv").read_bytes()


def test_rounds_of_other_settings_don_t_count(selected, making, tmp_path):
    pool = fill_pool(tmp_path / "pool", keys(16), extend=RECORD)
    settings = {"pool_dir": str(pool), "maximum_rounds": 1}
    selected(tmp_path / "run", **settings)
    assert len(making.calls) == 1
    selected(tmp_path / "run", **settings)
    assert len(making.calls) == 1, "the round was used up"
    selected(tmp_path / "run", **settings, ratios=[67, 267])
    assert len(making.calls) == 2


def test_the_pool_of_a_synthesis_is_extended_by_its_own_config(workflow, adapted, selected, tmp_path):
    """No patches of the command line's are mocked here: one config runs another."""
    synthesis = {"adapted_dir": str(adapted), "output_dir": str(tmp_path / "synthesis"), "num_images": 3, "seed": 5}
    synthesis |= {"num_workers": 0, "cache_dir": str(tmp_path / "elsewhere")}  # flags that the config does not list
    workflow("inference.json", **synthesis).run()
    pool = tmp_path / "synthesis/pool"
    kept = {
        name: (tmp_path / "synthesis" / name).read_bytes() for name in ("config.json", "metrics.json", "samples.png")
    }
    before = {path: path.read_bytes() for path in pool.rglob("*.png")}
    given = {"pool_dir": str(pool), "split_file": str(adapted / "split.csv"), "cache_dir": str(tmp_path / "cache")}
    few = {"selection#work#maximum_candidates": 4}
    made = workflow("select.json", **given, output_dir=str(tmp_path / "run"), maximum_rounds=1, **few)
    made.run()
    with open(pool / "manifest.csv", newline="") as file:
        seeds = [int(row["seed"]) for row in csv.DictReader(file) if row["class"] == "TUM"]
    assert seeds == [5, 6, 7, 8] and figures(tmp_path / "run")["classes"]["TUM"]["candidates"] == 4
    for name, content in kept.items():
        assert (tmp_path / "synthesis" / name).read_bytes() == content, f"{name} is of the pool's own run"
    assert all(path.read_bytes() == content for path, content in before.items())
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["pool_dir"] == str(pool) and "adapted_dir" not in config
    assert {"scorer", "selection"} <= json.loads((tmp_path / "run/metrics.json").read_text()).keys()
    assert json.loads((tmp_path / "run/extension/config.json").read_text())["adapted_dir"] == str(adapted)
