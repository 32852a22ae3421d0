"""Training the unified ViT-cGAN on tiny built-in patches: what a step does, what comes out, and what a kill costs."""

import csv
import json

import pytest
import torch
from conftest import TINY_SELECTION
from helpers import ROOT, assert_equal, kill_stage, nested, root_cause
from monai.bundle import ConfigWorkflow

from bundle.baselines.vit_cgan.networks import VitDiscriminator, VitGenerator
from bundle.data.split import read_split
from bundle.models.artefacts import load_artefact
from bundle.synthesis.stored_pool import StoredPool
from bundle.training.classifier import load_classifier

TINY_VIT_CGAN = {
    "patch_size": 32,
    "generated_per_class": 10,
    "labels_per_class": 4,
    "labelled#validation_share": 0.25,
    "train#generator#dimensions": [16, 8],
    "train#generator#depths": [1, 1],
    "train#generator#heads": [2, 2],
    "train#generator#noise_dimension": 8,
    "train#generator#condition_dimension": 8,
    "train#discriminator#dimension": 16,
    "train#discriminator#depth": 1,
    "train#discriminator#heads": 2,
    "vit_cgan_steps": 4,
    "vit_cgan_batch_size": 4,
    "train#losses#penalty_interval": 2,
    "train#selection#start": 1,
    "train#selection#confidence": 0.0,
    "train#selection#realism_quantile": 0.0,
    "validation_interval": 2,
    "picture_interval": 2,
    "train#trainer#compared_images": 4,
    "inference_batch_size": 8,
    "checkpoint_interval": 2,
    "precision": "fp32",
    "device": "cpu",
}


def workflow(**settings):
    made = ConfigWorkflow(
        str(ROOT / "configs" / "vit_cgan.json"), bundle_root=str(ROOT), **{**TINY_VIT_CGAN, **settings}
    )
    made.initialize()
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit_cgan") / "run"
    workflow(output_dir=str(folder)).run()
    return folder


@pytest.fixture
def trainer(trained, tmp_path):
    """One that is ready for a step, with a batch for it."""

    def make(**settings):
        made = workflow(output_dir=str(tmp_path), cache_dir=str(trained / "cache"), **settings).parser
        trainer = made.get_parsed_content("train#trainer")
        trainer.prepare()
        trainer.state.iteration = 1
        torch.manual_seed(3)
        return trainer, {"image": torch.rand(4, 3, 32, 32) * 2 - 1, "label": torch.tensor([0, 1, 2, 3])}

    return make


def step(trainer, batch, iteration=1):
    trainer.state.iteration = iteration
    torch.manual_seed(iteration)
    return trainer._iteration(trainer, batch)


def test_one_training_gives_a_generator_and_a_measured_classifier(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    classifier, facts = load_classifier(trained / "classifier.pt", "classifier", also=[VitDiscriminator])
    assert facts["classes"] == metrics["labelled"]["classes"] and facts["patch_size"] == 32
    assert classifier(torch.zeros(2, 3, 32, 32)).shape == (2, len(facts["classes"]))
    generator, facts = load_artefact(trained / "vit_cgan.pt", "vit_cgan", [VitGenerator])
    assert facts["steps"] == 4 and generator.mean_conditions.abs().sum() > 0
    measured = metrics["classifier"]
    assert {"validation", "test", "unused", "real_images", "steps", "best_step"} <= set(measured)
    rows = read_split(trained / "split.csv")
    predicted = list(csv.DictReader(open(trained / "predictions.csv")))
    for part in ("test", "unused"):
        assert {row["file"] for row in predicted if row["part"] == part} == {r.file for r in rows if r.part == part}
        right = sum(row["class"] == row["predicted"] for row in predicted if row["part"] == part)
        assert measured[part]["accuracy"] == pytest.approx(right / measured[part]["images"], abs=1e-4)
    for name in ("samples.png", "confusion.png", "pictures/samples_000002.png", "pictures/samples_000004.png"):
        assert (trained / name).is_file()


def test_a_generator_that_has_learned_nothing_is_said_to_have_failed(trained):
    found = json.loads((trained / "metrics.json").read_text())["vit_cgan"]
    assert any("collapsed" in warning for warning in found["compared_with_real"]["warnings"])
    assert [row["step"] for row in found["along_the_way"]] == [2, 4]
    assert 0 < found["chosen_for_each_real"] <= 1


def test_only_training_images_are_trained_on(trainer):
    made, _ = trainer()
    assert made.data_loader.dataset.source.part == "train"


def test_the_classifier_kept_is_the_average_that_validated_best(trained):
    checkpoint = torch.load(trained / "vit_cgan_checkpoint.pt", weights_only=True)["state"]
    weights = torch.load(trained / "classifier.pt", weights_only=True)["weights"]
    assert_equal(dict(weights), dict(checkpoint["best"]["weights"]))
    generator = torch.load(trained / "vit_cgan.pt", weights_only=True)["weights"]
    averaged = checkpoint["generator_ema"]["weights"]
    assert all(torch.equal(generator[name], averaged[name]) for name in generator if name != "mean_conditions")


def test_a_kill_costs_nothing(trained, tmp_path):
    folder, flag = tmp_path / "run", tmp_path / "flag"
    cache = {"cache_dir": str(trained / "cache")}
    kill_stage("vit_cgan", "vit_cgan.json", {**TINY_VIT_CGAN, **cache}, folder, flag)
    workflow(output_dir=str(folder), **cache).run()
    for name in ("vit_cgan_checkpoint.pt", "vit_cgan.pt", "classifier.pt"):
        whole, resumed = (torch.load(at / name, weights_only=True) for at in (trained, folder))
        assert_equal(whole, resumed)
    assert (folder / "predictions.csv").read_bytes() == (trained / "predictions.csv").read_bytes()
    assert (folder / "samples.png").read_bytes() == (trained / "samples.png").read_bytes()


def test_the_teacher_is_the_average_of_the_discriminator(trainer):
    made, batch = trainer()
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    step(made, batch)
    after = made.network.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for name, averaged in made.ema.weights.items():  # decay min(0.995, 2 / 11) at the first update
        assert torch.allclose(averaged, before[name] * 2 / 11 + after[name] * 9 / 11, atol=1e-6)
    step(made, batch)
    assert all(not tensor.requires_grad for tensor in made.teacher.parameters()) and not made.teacher.training


def test_an_image_that_fails_either_gate_adds_nothing(trainer):
    """The step is then that without selective augmentation, bit for bit."""
    states = {}
    for name, settings in {
        "off": {"train#selection#start": None},
        "not yet": {"train#selection#start": 2},
        "unsure": {"train#selection#confidence": 1.0},
        "none allowed": {"train#selection#maximum_generated": 0.0},
        "all": {},
    }.items():
        made, batch = trainer(**settings)
        terms = step(made, batch)
        states[name] = made.network.state_dict()
        assert (terms["chosen"] > 0) == (name == "all")
    for name in ("not yet", "unsure", "none allowed"):
        assert_equal(dict(states["off"]), dict(states[name]))
    assert any(not torch.equal(states["off"][name], tensor) for name, tensor in states["all"].items())
    made, batch = trainer(**nested("train#selection", realism_quantile=1.0))
    made.teacher.realism.bias.data.zero_()
    made.ema.weights["projection.weight"][:4] += 1e3 * torch.sign(made.ema.weights["projection.weight"][:4])
    assert step(made, {**batch, "label": torch.zeros(4, dtype=torch.int64)})["chosen"] < 1


def test_the_discriminator_sees_real_and_generated_images_augmented_alike(trainer):
    made, batch = trainer()
    seen = []
    made.augmentation = lambda images: (seen.append(len(images)), images)[1]
    step(made, batch)
    assert seen == [8, 4], "both sides at once, then what the generator learns from"
    seen.clear()
    assert "gradient_penalty" in step(made, batch, iteration=2)
    assert seen == [8, 4, 4]
    assert "gradient_penalty" not in step(made, batch, iteration=3)


def test_a_rare_penalty_counts_for_the_steps_without_one(trainer):
    """Twice the weight at every step is the same step as the weight at every second."""
    states = []
    for weight, interval in ((0.5, 2), (1.0, 1), (0.0, 1)):
        made, batch = trainer(**nested("train#losses", penalty_weight=weight, penalty_interval=interval))
        step(made, batch, iteration=2)
        states.append(dict(made.network.state_dict()))
    assert_equal(states[0], states[1])
    assert any(not torch.equal(states[0][name], tensor) for name, tensor in states[2].items())


def test_each_class_is_generated_as_often(trainer):
    made, _ = trainer()
    noise, labels = made.draw(9000)
    assert noise.shape == (9000, 8) and noise.std().item() == pytest.approx(1, abs=0.02)
    assert (labels.bincount(minlength=9) / 9000).numpy() == pytest.approx(1 / 9, abs=0.02)


def test_a_step_in_bf16_leaves_finite_weights_in_fp32(trainer):
    made, batch = trainer(precision="bf16")
    assert "gradient_penalty" in step(made, batch, iteration=2)
    for network in (made.generator, made.network):
        assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in network.parameters())


def test_the_generator_step_leaves_the_discriminator_and_learns_its_class(trainer):
    made, batch = trainer(**nested("train#losses", generator_class_weight=5.0))
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    terms = made.update_generator(4)
    assert_equal(before, dict(made.network.state_dict()))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in made.network.parameters())
    assert terms["generator_class"] > 0 and made.generator_ema.updates == 1


@pytest.mark.parametrize("weighting", ["uncertainty", "dynamic_average", "gradient_norm", "fixed"])
def test_each_weighting_takes_a_step(trainer, weighting):
    made, batch = trainer(loss_weighting=weighting, **{"weighting#options#dynamic_average#interval": 1})
    for number in range(1, 4):
        terms = step(made, batch, number)
    assert (terms["weight_real"], terms["weight_generated"]) != (1, 1) or weighting == "fixed"


def test_its_pool_goes_through_the_common_path(trained, tmp_path):
    """The same command shape, the same selection; an image is the same however many are asked for."""
    settings = {"output_dir": str(trained), "pool_dir": str(tmp_path / "pool"), "num_images": 8}
    synthesis = ConfigWorkflow(
        str(ROOT / "configs" / "vit_cgan.json"),
        run_id="synthesis",
        bundle_root=str(ROOT),
        **{**TINY_VIT_CGAN, **settings},
    )
    synthesis.initialize()
    synthesis.run()
    pool = StoredPool(tmp_path / "pool", 32).prepare()
    assert pool.identity["generator"] == "ViT-cGAN" and pool.extend["config"] == "baseline_inference.json"
    given = {**TINY_SELECTION, "pool_dir": str(tmp_path / "pool"), "split_file": str(trained / "split.csv")}
    given |= {"cache_dir": str(trained / "cache"), "output_dir": str(tmp_path / "select"), "gates": "distance"}
    made = ConfigWorkflow(str(ROOT / "configs" / "select.json"), bundle_root=str(ROOT), **given)
    made.initialize()
    made.run()
    assert sum(1 for _ in csv.DictReader(open(tmp_path / "select" / "selection.csv"))) == 9 * 8


@pytest.mark.parametrize(
    "name, value",
    [
        ("train#losses#label_smoothing", 1.0),
        ("train#selection#confidence", 1.5),
        ("train#selection#realism_quantile", -0.1),
        ("train#selection#maximum_generated", 2.0),
        ("train#losses#penalty_weight", -1.0),
        ("train#losses#classification_weight", -1.0),
        ("train#losses#generator_class_weight", -1.0),
        ("train#augmentation#density_scale", 1.0),
        ("train#trainer#compared_images", 3),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, name, value):
    made = workflow(output_dir=str(tmp_path / "out"), **{name: value})
    with pytest.raises(Exception) as caught:
        made.parser.get_parsed_content("train#trainer")
    assert f"--{name} is {value}" in str(root_cause(caught.value))
    assert not (tmp_path / "out").exists()
