"""configs/inference.json as a user runs it: contract, continuing, extending, refusing, several processes."""

import csv
import errno
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_SYNTHESIS
from helpers import root_cause
from PIL import Image
from processes import run_python, run_until_killed, start_python

from bundle.data.marks import read_marks
from bundle.runs.workflow import explain_errors_of_the_command_line

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "inference.json")


def pool_files(folder):
    found = (path for path in (folder / "pool").rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder / "pool")): path.read_bytes() for path in found}


def manifest(folder):
    with open(folder / "pool" / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def synthesise(workflow, adapted):
    def run(folder, **settings):
        workflow("inference.json", adapted_dir=str(adapted), output_dir=str(folder), **settings).run()
        return folder

    return run


@pytest.fixture(scope="module")
def finished(synthesise, tmp_path_factory):
    """Three classes, five images each in batches of four, with pictures."""
    folder = tmp_path_factory.mktemp("runs") / "synthesis"
    return synthesise(folder, classes=["TUM", "ADI", "STR"], num_images=5, pictures=True, picture_scales=[0, 50, 100])


def command(*arguments):
    """Arguments of a Python that runs the tiny synthesis."""
    flags = [part for name, value in TINY_SYNTHESIS.items() for part in (f"--{name}", str(value))]
    return ["-m", "monai.bundle", "run", "--config_file", CONFIG, "--bundle_root", str(ROOT), *flags, *arguments]


def test_output_contract(finished, adapted):
    metrics = json.loads((finished / "metrics.json").read_text())["synthesis"]
    assert metrics["images"] == 15 and metrics["images_per_second"] > 0
    assert 0 < metrics["guidance_ratio"]["10th_percentile"] <= metrics["guidance_ratio"]["median"]
    assert metrics["guidance_ratio"]["median"] <= metrics["guidance_ratio"]["90th_percentile"]
    rows = manifest(finished)
    assert [(row["class"], row["seed"]) for row in rows] == [
        (name, str(seed)) for name in ("ADI", "STR", "TUM") for seed in range(5)
    ]
    assert {(row["generator"], row["sampler"], row["steps"], row["guidance_scale"]) for row in rows} == {
        ("HistoDiffusion", "sde_dpm_solver++", "3", "100.0")
    }
    assert {row["model_hash"] for row in rows} == {metrics["model"]}
    for row in rows:
        path = finished / "pool" / row["file"]
        marks = read_marks(path)
        assert Image.open(path).size == (32, 32) and marks["SyntheticData"] == "YES"
        assert [marks[name] for name in ("Class", "Seed", "ModelHash", "ConfigHash")] == [
            row[name] for name in ("class", "seed", "model_hash", "config_hash")
        ]
        assert marks["DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert json.loads((finished / "config.json").read_text())["num_images"] == 5
    assert not list(finished.rglob("*.tmp*"))


def test_the_pool_says_how_it_is_extended(finished, adapted):
    """By plain values alone, paths absolute, and nothing that is of this run only."""
    extend = json.loads((finished / "pool" / "pool.json").read_text())["extend"]
    assert extend["config"] == "inference.json"
    assert extend["settings"] == {
        "adapted_dir": str(adapted), "device": "cpu", "precision": "fp32", "compile": False, "seed": 0,
        "inference_batch_size": 4, "png_threads": 4, "sampler": "sde_dpm_solver++", "num_inference_steps": 3,
        "eta": None, "spacing": "log_snr", "guidance_scale": 100.0, "guidance_interval": None,
        "guidance_maximum_norm": None, "guidance_temperature": None, "decoder": "adapted",
    }  # fmt: skip


def test_pictures_are_marked_and_show_rows_and_columns(finished):
    """Classes by columns of 136 pixels (patches of 32 enlarged by 4, with a gap), names above and at the left."""
    for name, columns in (("samples", 5), ("guidance_grid", 3), ("denoising", 4)):
        picture = Image.open(finished / f"{name}.png")
        left = picture.width - columns * 136
        assert 20 < left < 120 and picture.height == 26 + 3 * 136, name
        assert read_marks(finished / f"{name}.png")["ModelHash"] == manifest(finished)[0]["model_hash"]
        pixels = np.asarray(picture)
        assert (pixels[:, :left].min(axis=2) < 100).any() and (pixels[:24, left:].min(axis=2) < 100).any(), name
    grid = np.asarray(Image.open(finished / "guidance_grid.png"))
    left = grid.shape[1] - 3 * 136
    cells = [[grid[26 + row * 136 :, left + at * 136 :][:128, :128].astype(int) for at in range(3)] for row in range(3)]
    assert np.abs(cells[0][0] - cells[1][0]).max() <= 1, "without guidance the class doesn't matter: one noise for all"
    with Image.open(finished / "pool" / "ADI" / "ADI_0.png") as image:
        enlarged = np.asarray(image).repeat(4, axis=0).repeat(4, axis=1).astype(int)
    assert np.abs(cells[1][2] - enlarged).max() <= 1, "the column of the run's own scale shows the pool's first image"


def test_a_second_run_changes_nothing_and_says_so(finished, synthesise, caplog):
    before = {path: path.stat().st_mtime_ns for path in (finished / "pool").rglob("*.png")}
    metrics = (finished / "metrics.json").read_bytes()
    synthesise(finished, classes=["TUM", "ADI", "STR"], num_images=5)
    assert {path: path.stat().st_mtime_ns for path in (finished / "pool").rglob("*.png")} == before
    assert (finished / "metrics.json").read_bytes() == metrics


def test_the_same_bytes_whatever_the_order_and_the_path_there(finished, synthesise, tmp_path):
    """First one class, then fewer images, then all of them in another order, by another batch of the same size."""
    synthesise(tmp_path, classes="STR", num_images=5)
    synthesise(tmp_path, classes=("STR", "ADI"), num_images=4)
    partly = pool_files(tmp_path)
    images = {name: (tmp_path / "pool" / name).stat().st_mtime_ns for name in partly if name.endswith(".png")}
    assert len(images) == 9
    synthesise(tmp_path, classes="ADI,STR,TUM", num_images=5)
    assert {name: (tmp_path / "pool" / name).stat().st_mtime_ns for name in images} == images, "old files untouched"
    assert pool_files(tmp_path) == pool_files(finished)


def test_a_batch_of_another_size_gives_the_same_images_within_a_level(finished, synthesise, tmp_path):
    synthesise(tmp_path, classes="TUM", num_images=5, inference_batch_size=1)
    for seed in range(5):
        one, other = (
            np.asarray(Image.open(folder / "pool/TUM" / f"TUM_{seed}.png")) for folder in (tmp_path, finished)
        )
        assert np.abs(one.astype(int) - other).max() <= 1


RUN = """
import sys, time
sys.path.insert(0, {root!r})
from bundle.synthesis import pool
from monai.bundle import ConfigWorkflow

save = pool.save_marked_png


def save_and_stop(path, *arguments):
    if path.name == "ADI_2.png":  # in the middle of the second batch
        open({flag!r}, "w").close()
        time.sleep(60)
    save(path, *arguments)


pool.save_marked_png = save_and_stop
workflow = ConfigWorkflow(config_file={config!r}, bundle_root={root!r}, workflow_type="infer", **{settings!r})
workflow.initialize()
workflow.run()
"""


def test_killed_and_started_again_is_the_uninterrupted_pool(finished, synthesise, adapted, tmp_path):
    folder, flag = tmp_path / "out", tmp_path / "flag"
    settings = {**TINY_SYNTHESIS, "classes": ["TUM", "ADI", "STR"], "num_images": 5, "png_threads": 1}
    settings |= {"adapted_dir": str(adapted), "output_dir": str(folder)}
    code = RUN.format(root=str(ROOT), flag=str(flag), config=CONFIG, settings=settings)
    run_until_killed(code, flag)
    partly = pool_files(folder)
    assert len(partly) == 8 and "manifest.csv" not in partly, sorted(partly)  # 7 images and pool.json
    synthesise(folder, classes=["TUM", "ADI", "STR"], num_images=5)
    assert pool_files(folder) == pool_files(finished)
    metrics = json.loads((folder / "metrics.json").read_text())["synthesis"]
    assert metrics["images"] == 15 and metrics["images_of_the_last_run"] == 10  # batches are made as a whole
    (folder / "metrics.json").unlink()  # as of a run killed after its last image
    synthesise(folder, classes=["TUM", "ADI", "STR"], num_images=5)
    metrics = json.loads((folder / "metrics.json").read_text())["synthesis"]
    assert metrics["images"] == 15 and metrics["images_of_the_last_run"] == 0


def test_two_processes_make_the_pool_of_one(finished, synthesise, adapted, tmp_path, monkeypatch):
    """As torchrun starts them: one here, the other, which comes later, a new one from the command line."""
    arguments = ["--adapted_dir", adapted, "--output_dir", tmp_path / "out", "--classes", "TUM,ADI,STR"]
    second = {"RANK": "1", "WORLD_SIZE": "2"}
    other = start_python(*command(*arguments, "--num_images", 5), cwd=tmp_path, environment=second, fresh=True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    synthesise(tmp_path / "out", classes=["TUM", "ADI", "STR"], num_images=5)
    said = "".join(other.communicate(timeout=120))
    assert other.returncode == 0, said[-3000:]
    assert pool_files(tmp_path / "out") == pool_files(finished)
    assert (tmp_path / "out" / "samples.png").read_bytes() == (finished / "samples.png").read_bytes()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert sum(metrics[f"synthesis_of_process_{rank}"]["images"] for rank in range(2)) == 15
    assert "process 2 of 2 makes" in said and "next: " in said and "image/s" not in said


def test_command_line_with_a_progress_bar_and_the_next_command(finished, adapted, tmp_path):
    """Names with commas become a tuple on the way; the scale is typed as an integer."""
    arguments = ["--adapted_dir", adapted, "--classes", "TUM,ADI", "--num_images", 2, "--guidance_scale", 100]
    run = run_python(*command(*arguments), cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    assert re.search(r"synthesis: 100%.*4/4", run.stderr)
    select = f"{ROOT}/configs/select.json --pool_dir runs/synthesis/pool --split_file {adapted}/split.csv --dataset_dir"
    assert f"next: python -m monai.bundle run --config_file {select}" in run.stdout
    assert f"LABELLED --bundle_root {ROOT}\n" in run.stdout, "it runs from here as it stands"
    for name in ("pool/manifest.csv", "samples.png", "metrics.json", "config.json"):
        assert f"runs/synthesis/{name}" in run.stdout and (tmp_path / "runs/synthesis" / name).stat().st_size > 0
    assert [row["file"] for row in manifest(tmp_path / "runs/synthesis")] == [
        "ADI/ADI_0.png", "ADI/ADI_1.png", "TUM/TUM_0.png", "TUM/TUM_1.png"
    ]  # fmt: skip
    assert manifest(tmp_path / "runs/synthesis")[0]["config_hash"] == manifest(finished)[0]["config_hash"]


def test_the_executed_config_runs_again(finished, tmp_path):
    from monai.bundle import ConfigWorkflow

    before = pool_files(finished)
    made = ConfigWorkflow(config_file=str(finished / "config.json"), workflow_type="infer", logging_file=False)
    made.initialize()
    made.run()
    assert pool_files(finished) == before


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"classes": "XYZ"}, "--classes asks for 'XYZ'; the model knows ADI, BACK, DEB"),
        ({"num_inference_steps": 0}, "--num_inference_steps is 0"),
        ({"num_inference_steps": -1}, "--num_inference_steps is -1"),
        ({"num_inference_steps": 1001}, "num_inference_steps is 1001; it must lie between 1 and the 1000"),
        ({"num_images": 0}, "--num_images is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"guidance_scale": -2}, "--guidance_scale is -2"),
        ({"sampler": "plms"}, "--sampler is 'plms'"),
        ({"adapted_dir": "/nowhere"}, "--adapted_dir /nowhere has no autoencoder.pt.*configs/adapt.json"),
        ({"guidance_scal": 3}, "nothing reads the setting --guidance_scal .did you mean --guidance_scale"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(workflow, adapted, tmp_path, settings, message):
    folder = tmp_path / "out"
    with pytest.raises(RuntimeError) as caught:
        workflow("inference.json", **{"adapted_dir": str(adapted), "output_dir": str(folder), **settings}).run()
    assert re.search(message, str(root_cause(caught.value))), root_cause(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"guidance_scale": 7}, "guidance_scale: 100.0 there, 7.0 here"),
        ({"decoder": "pretrained"}, "model: [0-9a-f]{64} there, [0-9a-f]{64} here"),
        ({"spacing": "leading"}, "spacing: log_snr there, leading here"),
    ],
)
def test_a_pool_of_another_model_or_config_is_refused(finished, synthesise, settings, named):
    before = pool_files(finished)
    with pytest.raises(RuntimeError) as caught:
        synthesise(finished, **settings)
    assert re.search(named, str(root_cause(caught.value))) and "--output_dir" in str(root_cause(caught.value))
    assert pool_files(finished) == before


def test_a_full_disk_keeps_what_was_made_and_the_rest_follows(finished, synthesise, tmp_path, monkeypatch, capsys):
    save = Image.Image.save

    def full(self, path, *arguments, **options):
        if "ADI_1" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(RuntimeError) as caught:
        synthesise(tmp_path, classes=["TUM", "ADI", "STR"], num_images=5)
    monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py"])
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    explain_errors_of_the_command_line()
    sys.excepthook(RuntimeError, caught.value, None)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the disk is full" in last and "give the same command again" in last
    assert len(manifest(tmp_path)) >= 5
    monkeypatch.undo()
    synthesise(tmp_path, classes=["TUM", "ADI", "STR"], num_images=5)
    assert pool_files(tmp_path) == pool_files(finished)


def test_a_pool_is_not_labelled_data(finished, pretrained, workflow, tmp_path):
    made = workflow(
        "adapt.json",
        dataset_dir=str(finished / "pool"),
        pretrained_dir=str(pretrained),
        output_dir=str(tmp_path),
        labels_per_class=3,
    )
    with pytest.raises(RuntimeError) as caught:
        made.run()
    assert re.search(
        "15 images are marked as synthetic: .*/pool/.*Labelled, validation and test images must be real",
        str(root_cause(caught.value)),
    )
