"""The training of StyleGAN2 end to end on tiny patches: contract, resume, a kill, a pool, its selection, refusals."""

import csv
import json
import logging

import numpy as np
import pytest
import torch
from conftest import TINY_SELECTION
from helpers import assert_equal, kill_stage, nested, root_cause
from monai.bundle import ConfigWorkflow
from PIL import Image

from bundle.data.marks import read_marks
from bundle.models.artefacts import read_artefact
from bundle.synthesis.stored_pool import StoredPool

TINY_STYLEGAN2 = {
    "patch_size": 32,
    "generated_per_class": 10,
    "labels_per_class": 4,
    "labelled#validation_share": 0.25,
    "channels": [8, 8, 8, 4],
    "train#generator#latent_channels": 8,
    "train#generator#style_channels": 8,
    "train#generator#mapping_layers": 2,
    "stylegan2_steps": 4,
    "stylegan2_batch_size": 4,
    "train#regularisation#r1_interval": 2,
    "train#regularisation#path_interval": 2,
    "train#trainer#label_ramp": [1, 3],
    "train#augmentation#images": 20,
    "train#augmentation#target": -1.0,
    "train#trainer#watch_interval": 2,
    "picture_interval": 4,
    "checkpoint_interval": 2,
    "inference_batch_size": 4,
    "precision": "fp32",
    "device": "cpu",
}
CLASSES = ["ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"]


@pytest.fixture(scope="module")
def made(bundle_root, tmp_path_factory):
    """An initialized workflow of configs/stylegan2.json with tiny settings; built-in patches are written once."""
    cache = str(tmp_path_factory.mktemp("cache"))

    def make(folder, run_id="run", overlays=(), **settings):
        files = [str(bundle_root / "configs" / name) for name in ("stylegan2.json", *overlays)]
        given = {**TINY_STYLEGAN2, "cache_dir": cache, "output_dir": str(folder), **settings}
        # Without the bundle's logging, which would keep its messages from the test.
        kind = {"workflow_type": "train", "run_id": run_id, "logging_file": False, "bundle_root": str(bundle_root)}
        workflow = ConfigWorkflow(files, **kind, **given)
        workflow.initialize()
        return workflow

    make.cache = cache
    return make


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "stylegan2"
    made(folder).run()
    return folder


@pytest.fixture(scope="module")
def pool(made, trained):
    made(trained, "synthesis", num_images=5, seed=2).run()
    return trained / "pool"


def artefacts(folder):
    """What two equal trainings must share."""
    files = ("stylegan2_checkpoint.pt", "stylegan2.pt")
    return {name: torch.load(folder / name, weights_only=True) for name in files}


def test_output_contract(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    measured = metrics["stylegan2"]
    assert measured["steps"] == 4 and set(measured["course"]) == {"2", "4"}
    assert 0 <= measured["recall"] <= 1 and set(measured["spread"]) == set(CLASSES) and measured["space"]
    artefact = read_artefact(trained / "stylegan2.pt", "stylegan2")
    assert artefact["classes"] == CLASSES and artefact["patch_size"] == 32
    assert artefact["weights"]["mean_styles"].abs().sum() > 0
    assert artefact["identity"]["--train#trainer#label_ramp"] == [1, 3]
    for name in ("samples.png", "pictures/samples_000004.png"):
        picture = Image.open(trained / name)
        assert picture.height == 26 + 9 * 136 and read_marks(trained / name)["SyntheticData"] == "YES"
    with open(trained / "split.csv") as file:
        assert {row["part"] for row in csv.DictReader(file)} >= {"train", "validation"}


def test_an_untrained_generator_is_said_to_have_failed(made, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        made(tmp_path, stylegan2_steps=1, **nested(label_ramp=[0, 0])).run()
    warnings = json.loads((tmp_path / "metrics.json").read_text())["stylegan2"]["warnings"]
    assert any("failed" in warning for warning in warnings)
    assert "failed" in caplog.text


def test_only_training_images_are_seen(made, tmp_path, monkeypatch):
    from bundle.data.labelled_part import LabelledPart

    seen = set()
    read = LabelledPart.read
    monkeypatch.setattr(LabelledPart, "read", lambda part, index: seen.add(part.part) or read(part, index))
    made(tmp_path).run()
    assert seen == {"train"}


def test_a_killed_training_resumes_bit_for_bit(made, trained, tmp_path):
    settings = {**TINY_STYLEGAN2, "cache_dir": made.cache}
    kill_stage("stylegan2", "stylegan2.json", settings, tmp_path / "run", tmp_path / "flag")
    made(tmp_path / "run").run()
    assert_equal(artefacts(trained), artefacts(tmp_path / "run"))
    course = [
        json.loads((folder / "metrics.json").read_text())["stylegan2"]["course"]
        for folder in (trained, tmp_path / "run")
    ]
    assert course[0] == course[1]


@pytest.fixture
def trainer(made, tmp_path):
    """One that is ready for a step, with a batch for it."""

    def make(**settings):
        settings = {**nested(label_ramp=[0, 0]), **settings}
        trainer = made(tmp_path, **settings).parser.get_parsed_content("train#trainer")
        trainer.prepare()
        torch.manual_seed(3)
        return trainer, {"image": torch.rand(4, 3, 32, 32) * 2 - 1, "label": torch.tensor([0, 1, 2, 3])}

    return make


def step(trainer, batch, iteration):
    trainer.state.iteration = iteration
    torch.manual_seed(iteration)
    return trainer._iteration(trainer, batch)


def test_the_class_counts_more_and_more(trainer):
    made, _ = trainer(stylegan2_steps=8, **nested(label_ramp=[2, 6]))
    weights = []
    for iteration in (1, 2, 3, 5, 6, 8):
        made.state.iteration = iteration
        weights.append(made.label_weight())
    assert weights == [0, 0, 0.25, 0.75, 1, 1]
    made.label_ramp, made.state.iteration = [0, 0], 1
    assert made.label_weight() == 1


def test_styles_are_mixed_with_one_cut_an_image(trainer):
    made, _ = trainer(**nested(mixing_probability=0.9))
    latents, mixed = made.latents(4000)
    layers = made.generator.layers
    assert latents.shape == (2, 4000, 8) and mixed.shape == (4000, layers)
    assert not mixed[:, 0].any() and (mixed[:, 1:] >= mixed[:, :-1]).all()
    assert mixed[:, -1].float().mean().item() == pytest.approx(0.9, abs=0.03)
    cuts = mixed[mixed[:, -1]].sum(1).bincount(minlength=layers)[1:]
    assert (cuts / cuts.sum()).numpy() == pytest.approx(1 / (layers - 1), abs=0.03)


def test_regularisers_are_updates_of_their_own_every_so_many_steps(trainer, monkeypatch):
    made, batch = trainer(
        r1_weight=3.0, **nested("train#regularisation", r1_interval=2, path_weight=5.0, path_interval=4)
    )
    made.path_penalty = lambda lengths: lengths.mean()
    taken = []
    monkeypatch.setattr(
        "bundle.baselines.stylegan2.trainer.update",
        lambda optimizer, loss: taken.append((optimizer is made.optimizer, loss.item())),
    )
    terms = step(made, batch, 1)
    assert taken == [(False, pytest.approx(terms["discriminator"])), (True, pytest.approx(terms["generator"]))]
    taken.clear()
    terms = step(made, batch, 4)
    assert [of_generator for of_generator, _ in taken] == [False, False, True, True]
    assert taken[1][1] == pytest.approx(3 * 2 * terms["r1"]) and terms["r1"] > 0
    assert taken[3][1] == pytest.approx(5 * 4 * terms["path_length"]) and terms["path_length"] > 0


def test_one_augmentation_of_the_generated_images_serves_both_updates(trainer):
    made, batch = trainer(r1_weight=0.0, **nested("train#regularisation", path_weight=0.0))
    made.augmentation.probability = 0.8
    judged = []
    made.discriminator.register_forward_pre_hook(lambda network, arguments: judged.append(arguments[0]))
    weights = {}
    made.optimizer.register_step_pre_hook(lambda *_: weights.update(made.discriminator.state_dict()))
    step(made, batch, 1)
    real, generated, again = judged
    assert not torch.equal(real, batch["image"]) and torch.equal(generated, again)
    assert not generated.requires_grad and again.requires_grad
    assert_equal(weights, dict(made.discriminator.state_dict()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_leaves_finite_weights_in_fp32(trainer, precision):
    made, batch = trainer(precision=precision)
    terms = step(made, batch, 2)
    assert {"r1", "path_length"} <= terms.keys()
    for network in (made.generator, made.discriminator):
        assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in network.parameters())


def test_the_generator_kept_is_the_average(trained):
    weights = torch.load(trained / "stylegan2.pt", weights_only=True)["weights"]
    averaged = torch.load(trained / "stylegan2_checkpoint.pt", weights_only=True)["state"]["ema"]["weights"]
    assert all(torch.equal(weights[name], averaged[name]) for name in weights if name != "mean_styles")


def test_a_finished_training_is_kept(made, trained, caplog):
    before = (trained / "stylegan2.pt").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        made(trained).run()
    assert (trained / "stylegan2.pt").stat().st_mtime_ns == before and "finished before" in caplog.text


def test_other_settings_do_not_continue_it(made, trained):
    for settings in (
        {"r1_weight": 3.0},
        {"train#trainer#label_ramp": [0, 3]},
        {"train#trainer#mixing_probability": 0.1},
        {"geometry": "none"},
    ):
        with pytest.raises(RuntimeError) as caught:
            made(trained, stylegan2_steps=6, **settings).run()
        assert "can't be continued" in str(root_cause(caught.value)), settings


def test_the_pool_has_the_format_of_every_pool(pool, trained):
    stored = StoredPool(pool, 32).prepare()
    assert stored.identity["generator"] == "StyleGAN2"
    assert stored.keys(CLASSES) == [(name, seed) for name in CLASSES for seed in range(2, 7)]
    assert stored.read("TUM", 3).shape == (32, 32, 3)
    config, settings = stored.recorded_command()
    assert config == "baseline_inference.json"
    assert settings["baseline"] == "stylegan2" and settings["baseline_dir"] == str(trained) and settings["seed"] == 2


def test_an_image_is_the_same_whatever_else_is_made(made, pool, trained, tmp_path):
    settings = {"classes": "TUM,ADI", "num_images": 3, "seed": 4, "pool_dir": str(tmp_path / "other")}
    made(trained, "synthesis", inference_batch_size=3, **settings).run()
    for name in ("TUM", "ADI"):
        for seed in (4, 5, 6):
            one, other = (
                np.asarray(Image.open(folder / name / f"{name}_{seed}.png")) for folder in (pool, tmp_path / "other")
            )
            assert np.abs(one.astype(int) - other).max() <= 1
    truncated = tmp_path / "truncated"
    made(trained, "synthesis", **{**settings, "pool_dir": str(truncated)}, truncation=0.3).run()
    one, other = (np.asarray(Image.open(folder / "TUM" / "TUM_4.png")) for folder in (pool, truncated))
    assert np.abs(one.astype(int) - other).max() > 1


def test_the_pool_is_extended_by_its_own_record(pool, tmp_path):
    before = {path: path.read_bytes() for path in pool.rglob("*.png")}
    StoredPool(pool, 32).make_more(["LYM"], 6, tmp_path / "more")
    after = set(pool.rglob("*.png"))
    assert {path.name for path in after - set(before)} == {"LYM_7.png"}
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_selection_from_the_pool(pool, trained, made, workflow, tmp_path):
    settings = {name: value for name, value in TINY_SELECTION.items()}
    places = {"pool_dir": str(pool), "split_file": str(trained / "split.csv"), "cache_dir": made.cache}
    workflow(
        "select.json", **settings | places | {"output_dir": str(tmp_path), "gates": "distance", "ratios": [100]}
    ).run()
    with open(tmp_path / "selection.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == set(CLASSES) and len(rows) >= 45
    facts = json.loads((tmp_path / "selection.json").read_text())
    assert facts["pool_hash"] == StoredPool(pool, 32).prepare().hash


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"stylegan2_batch_size": 6},
            "--stylegan2_batch_size is 6; it must be a multiple of --train#discriminator#group",
        ),
        ({"train#trainer#label_ramp": [3, 1]}, "--train#trainer#label_ramp is [3, 1]"),
        ({"train#trainer#label_ramp": [0, 9]}, "between 0 and the 4 --stylegan2_steps"),
        ({"train#trainer#mixing_probability": 2.0}, "--train#trainer#mixing_probability is 2.0"),
        ({"train#regularisation#path_weight": -1.0}, "--train#regularisation#path_weight is -1.0"),
        ({"channels": [8, 8]}, "--channels has 2 numbers, and a patch of 32 pixels"),
        ({"geometry": "turns"}, "--geometry is 'turns'"),
    ],
)
def test_what_is_refused_before_training(made, tmp_path, settings, message):
    with pytest.raises(RuntimeError) as caught:
        made(tmp_path / "run", **settings).run()
    assert message in str(root_cause(caught.value))
    assert not (tmp_path / "run" / "stylegan2_checkpoint.pt").exists()


def test_a_pool_without_a_training(made, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        made(tmp_path / "none", "synthesis").run()
    assert "has no stylegan2.pt. Train first" in str(root_cause(caught.value))
