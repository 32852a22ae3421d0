"""A pool is judged section by section; what was measured is kept, and a killed evaluation comes to the same result."""

import json
import shutil
from pathlib import Path

import pytest
from candidates import CLASSES, fill_pool, keys
from compared import write_compared
from conftest import TINY_EVALUATION
from helpers import ROOT, root_cause
from PIL import Image
from processes import run_until_killed

from bundle.data.marks import read_marks
from bundle.evaluation import run as module
from bundle.evaluation.figures import figure
from bundle.evaluation.run import SECTIONS, Evaluation, table
from bundle.runs.context import RunContext

KILLED = """
import sys, time
sys.path.insert(0, {root!r})
from monai.bundle import ConfigWorkflow
from bundle.evaluation import run as evaluation


def wait(*arguments, **keywords):
    open({flag!r}, "w").close()
    time.sleep(60)
evaluation.measure_nuclei = wait
workflow = ConfigWorkflow(config_file={config!r}, bundle_root={root!r}, **{settings!r})
workflow.initialize()
workflow.run()
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return {**TINY_EVALUATION, **write_compared(tmp_path_factory.mktemp("compared"))}


@pytest.fixture(scope="module")
def evaluate(workflow, given):
    def run(folder, **settings):
        workflow("evaluate.json", **{**given, "output_dir": str(folder), **settings}).run()
        return json.loads((folder / "evaluation.json").read_text())

    return run


@pytest.fixture(scope="module")
def evaluated(evaluate, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "evaluate"
    return folder, evaluate(folder)


def test_everything_is_measured_and_said(evaluated, given):
    folder, content = evaluated
    assert content["format"] == "histodiffusion-evaluation/1"
    assert content["compared"] == dict.fromkeys(CLASSES, 12)
    assert content["synthetic"]["images"] == dict.fromkeys(CLASSES, 16) and content["synthetic"]["generator"] == "test"
    assert content["reference"]["part"] == "test" and content["floor"]["part"] == "unused"
    assert content["training"]["images"] == dict.fromkeys(CLASSES, 6)
    assert [one["name"] for one in content["extractors"]] == ["judge_grey", "judge_colour"] == [*content["fidelity"]]
    assert content["settings"]["seed"] == 0 and content["settings"]["draws"] == 20
    results = [*content["fidelity"].values(), *(content[name] for name in SECTIONS[1:])]
    for result in results:
        assert {"overall", "classes", "notes", "metrics"} <= result.keys()
        assert result["overall"] and set(result["overall"]) <= result["metrics"].keys()
    assert content["fidelity"]["judge_grey"]["metrics"]["frechet"]["title"] == "Fréchet distance in judge_grey features"
    for name in ("copies.png", "nearest.csv", "nuclei.png", "config.json", "split.csv", "metrics.json"):
        assert (folder / name).is_file(), name
    assert "FID" not in json.dumps(content, ensure_ascii=False)


def test_grids_say_what_is_synthetic(evaluated):
    folder, _ = evaluated
    for name in CLASSES:
        marks = read_marks(folder / f"grids/{name}.png")
        assert marks["SyntheticData"] == "YES" and marks["Class"] == name and marks["ModelHash"] == "a" * 64
        assert read_marks(folder / f"grids/{name}_real.png") == {}
        with Image.open(folder / f"grids/{name}.png") as one, Image.open(folder / f"grids/{name}_real.png") as other:
            assert one.size == other.size


def test_the_same_command_measures_nothing_again(evaluated, evaluate, monkeypatch):
    folder, content = evaluated

    def refuse(*arguments, **keywords):
        raise AssertionError("measured again")

    for name in SECTIONS:
        monkeypatch.setattr(module, f"measure_{name}", refuse)
    assert evaluate(folder) == content


@pytest.fixture
def counted(monkeypatch):
    """Which sections are measured; by stand-ins, since what they say is not asked here."""
    seen = []

    def stand_in(name):
        def measure(*arguments, folder=None, **keywords):
            seen.append(name)
            for file in {"nuclei": ["nuclei.png"], "copies": ["copies.png", "nearest.csv"]}.get(name, ()):
                Image.new("RGB", (4, 4)).save((Path(arguments[4]) if name == "copies" else folder) / file, "PNG")
            found = {"overall": {"x": figure(1.0, 0.5)}, "classes": {}, "notes": [], "metrics": {}}
            return {**found, "settings": {key: keywords[key] for key in sorted(keywords)}}

        monkeypatch.setattr(module, f"measure_{name}", measure)

    for name in SECTIONS:
        stand_in(name)
    return seen


def test_only_what_a_change_concerns_is_measured_again(evaluate, given, counted, tmp_path):
    folder, pool = tmp_path / "run", tmp_path / "pool"
    shutil.copytree(given["pool_dir"], pool)

    def measured(**settings):
        counted.clear()
        evaluate(folder, pool_dir=str(pool), **settings)
        return sorted(counted)

    everything = sorted(["fidelity", *SECTIONS])
    assert measured() == everything and measured() == []
    assert measured(frechet_draws=3) == ["fidelity", "fidelity"]
    assert measured(frechet_draws=3, microns_per_pixel=2.0) == ["nuclei"]
    (folder / "nearest.csv").unlink()
    assert measured(frechet_draws=3, microns_per_pixel=2.0) == ["copies"]
    (folder / "sections" / "stain.json").write_text("{half")
    assert measured(frechet_draws=3, microns_per_pixel=2.0) == ["stain"]
    assert measured(frechet_draws=3, microns_per_pixel=2.0, extractors=["judge_colour"]) == ["copies"]
    assert set(measured(seed=1)) == {*SECTIONS}
    (pool / "TUM" / "TUM_0.png").unlink()
    assert measured(seed=1) == everything, "15 images of TUM are another set"


def test_a_killed_evaluation_goes_on_to_the_same_result(evaluated, given, evaluate, tmp_path, monkeypatch):
    """Killed in its third section; the two before it are not measured again."""
    folder, flag = tmp_path / "run", tmp_path / "flag"
    settings = {**given, "output_dir": str(folder)}
    config = str(ROOT / "configs" / "evaluate.json")
    run_until_killed(KILLED.format(root=str(ROOT), flag=str(flag), config=config, settings=settings), flag)
    assert not (folder / "evaluation.json").exists()
    kept = {path.stem for path in (folder / "sections").glob("*.json")}
    assert kept == {"fidelity_judge_grey", "fidelity_judge_colour", "stain"}
    monkeypatch.setattr(module, "measure_fidelity", None)
    monkeypatch.setattr(module, "measure_stain", None)
    assert evaluate(folder) == evaluated[1]


def test_sections_and_a_selection_of_them(evaluate, counted, tmp_path):
    content = evaluate(tmp_path / "run", sections="stain")
    assert counted == ["stain"] and "stain" in content and not {"fidelity", "copies"} & content.keys()
    content = evaluate(tmp_path / "two", sections=("copies", "stain"))
    assert counted[1:] == ["stain", "copies"] and content["settings"]["sections"] == ["stain", "copies"]


def test_a_synthetic_image_that_is_a_training_tile_is_said_not_refused(evaluate, counted, given, tmp_path):
    from bundle.data.labelled import LabelledPatches

    places = {"cache_dir": given["cache_dir"], "split_path": tmp_path / "split.csv", "split_file": given["split_file"]}
    part = LabelledPatches(given["dataset_dir"], given["test_dir"], 32, **places).part("train")
    fill_pool(tmp_path / "pool", keys(12))
    from candidates import IDENTITY

    from bundle.synthesis.pool import Pool

    with Pool(tmp_path / "pool", IDENTITY) as pool:
        pool.add("ADI", 99, part.read(0)["image"].permute(1, 2, 0).numpy())
    content = evaluate(tmp_path / "run", pool_dir=str(tmp_path / "pool"))
    (note,) = [note for note in content["notes"] if "pixel for pixel" in note]
    assert "1 synthetic images are real ones" in note and "ADI/ADI_99.png" in note and part.files[0] in note


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sections": ["stains"]}, "--sections is ['stains']; they must be of fidelity, stain"),
        ({"reference": "unused"}, "images are in both the reference and the floor"),
        ({"pool_dir": "absent"}, "absent is not a pool"),
        ({"adapted_dir": "absent"}, "--adapted_dir absent has no judge_colour.pt"),
        ({"split_file": "absent.csv"}, "there is no split 'absent.csv'. Check --split_file"),
        ({"patch_size": 48}, "give the size of the pool's images with --patch_size"),
        ({"extractors": [{"name": "inception", "weights": "absent.pth"}]}, "nothing is downloaded, so get the file"),
        ({"ratio": 50}, "--ratio 50 says which synthetic images are used, and no --selection_file is given"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(workflow, given, counted, tmp_path, settings, message):
    with pytest.raises(RuntimeError) as caught:
        workflow("evaluate.json", **{**given, "output_dir": str(tmp_path / "out"), **settings}).run()
    assert message in str(root_cause(caught.value))
    assert counted == [] and not (tmp_path / "out/evaluation.json").exists()


def test_a_pool_of_other_classes_is_refused(workflow, given, tmp_path):
    shutil.copytree(given["pool_dir"], tmp_path / "pool")
    (tmp_path / "pool" / "TUM").rename(tmp_path / "pool" / "MUC")
    with pytest.raises(RuntimeError) as caught:
        workflow("evaluate.json", **{**given, "output_dir": str(tmp_path), "pool_dir": str(tmp_path / "pool")}).run()
    assert "the class 'MUC' is not one of the labelled images" in str(root_cause(caught.value))


def test_held_out_images_that_were_all_trained_on_are_refused(workflow, given, counted, tmp_path):
    settings = {**given, "output_dir": str(tmp_path), "pretraining_dir": given["dataset_dir"]}
    with pytest.raises(RuntimeError) as caught:
        workflow("evaluate.json", **settings).run()
    assert "are among the training images" in str(root_cause(caught.value)) and "--held_out" in str(
        root_cause(caught.value)
    )
    workflow("evaluate.json", **settings, sections="stain").run()


def test_the_table_shows_values_beside_those_of_real_images():
    result = {
        "overall": {"kid": figure(0.25, 0.125, (0.2, 0.3), (0.1, 0.15)), "vendi": figure(3, better="floor")},
        "metrics": {"kid": {"title": "Kernel distance"}},
    }
    first, kid, vendi = table({"fidelity": {"judge_grey": result}})
    assert first == "fidelity, judge_grey:"
    assert kid.split() == "Kernel distance 0.25 (0.2 to 0.3) real 0.125 (0.1 to 0.15) lower is better".split()
    assert vendi.split() == "vendi 3 real - the nearer to real the better".split()


def test_it_works_on_built_in_patches(workflow, adapted, counted, tmp_path):
    """Those of a tiny adaptation; nine classes, no folder of images."""
    from bundle.data.generated import generate_patch
    from bundle.data.split import classes_of_split, read_split
    from bundle.synthesis.pool import Pool

    split = adapted / "split.csv"
    with Pool(tmp_path / "pool", {"generator": "test", "model": "a" * 64, "settings": {}}) as pool:
        for name in classes_of_split(read_split(split), split):
            for seed in range(3):
                pool.add(name, seed, generate_patch(name, 8, seed, 32))
    settings = {"adapted_dir": str(adapted), "pool_dir": str(tmp_path / "pool"), "output_dir": str(tmp_path / "run")}
    workflow("evaluate.json", **settings).run()
    content = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert content["compared"] and content["reference"]["built_in_patches"] is True


def test_a_section_must_be_of_those_there_are():
    with pytest.raises(ValueError, match="--sections is \\[\\]"):
        Evaluation(None, None, RunContext("none"), sections=[])


def test_one_draw_shows_no_scatter():
    with pytest.raises(ValueError, match="--frechet_draws is 1; it must be 2 or more"):
        Evaluation(None, None, RunContext("none"), frechet_draws=1)
    with pytest.raises(ValueError, match="--draws is 1; it must be 2 or more"):
        Evaluation(None, None, RunContext("none"), draws=1)
