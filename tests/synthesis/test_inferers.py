"""Guided synthesis as an inferer: what an image depends on, and handlers in engines of the user's own."""

import re

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from torch.utils.data import DataLoader

from bundle.data.pictures import to_uint8
from bundle.diffusion.guidance import ClassifierGuidance
from bundle.diffusion.sampling import Sampling, sample_images
from bundle.models.adapted import AdaptedModels
from bundle.synthesis.handlers import GuidedSynthesis, PoolWriter
from bundle.synthesis.inferers import GuidedLatentInferer
from bundle.synthesis.pool import Pool
from bundle.synthesis.requests import SynthesisRequests, prepare_requests

# Measured on a CPU with one thread, networks of 64 px patches, 50 steps, all samplers, batches of 1, 5 and 12:
# in fp32 at most 4.2e-6 of [-1, 1] (in bf16 6.4e-3, one level of an 8-bit picture).
FP32_TOLERANCE = 2e-5

SEEDS = list(range(10, 17))
LABELS = torch.tensor([0, 1, 2, 3, 8, 8, 0])


@pytest.fixture(scope="module")
def models(adapted):
    return AdaptedModels(adapted)


def inferer(**settings):
    fixed = {"num_inference_steps": 4, "sampler": "ddim", "spacing": "trailing", "guidance_scale": 100.0}
    return GuidedLatentInferer(**{**fixed, "precision": "fp32", **settings})


def test_images_are_those_of_the_sampler(models):
    """The inferer adds nothing of its own: guidance by label with the classifier's temperature, decoded."""
    made = inferer(guidance_interval=[0, 900])(SEEDS, models, LABELS)
    assert made.shape == (7, 3, 32, 32) and made.dtype == torch.float32 and made.abs().max() <= 1
    guidance = ClassifierGuidance(models.classifier, LABELS, 100.0, (0, 900), None, models.temperature)
    expected = sample_images(models, SEEDS, Sampling(4), batch_size=7, guidance_for=lambda batch: guidance)
    assert torch.equal(made, expected)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm_solver++", "sde_dpm_solver++"])
def test_an_image_depends_on_its_class_and_seed_only(models, sampler):
    make = inferer(sampler=sampler)
    whole = make(SEEDS, models, LABELS)
    assert torch.equal(make(SEEDS, models, LABELS), whole), "the same batch must give the same bits"
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    reordered = make(torch.tensor(SEEDS)[order], models, LABELS[order])
    torch.testing.assert_close(reordered, whole[order], rtol=0, atol=FP32_TOLERANCE)
    for size in (1, 3):
        parts = zip(torch.tensor(SEEDS).split(size), LABELS.split(size))
        made = torch.cat([make(seeds, models, labels) for seeds, labels in parts])
        torch.testing.assert_close(made, whole, rtol=0, atol=FP32_TOLERANCE)


def test_noise_depends_on_the_seed_only_so_classes_and_scales_can_share_it(models):
    frames = []
    make = inferer()
    make([5, 5, 6], models, torch.tensor([0, 8, 0]), callback=lambda step, z: frames.append((step, z)))
    assert [step for step, _ in frames] == [0, 1, 2, 3, 4]
    start = frames[0][1]
    assert torch.equal(start[0], start[1]) and not torch.equal(start[0], start[2])
    labels, scales = torch.tensor([0, 0, 8, 8]), torch.tensor([0.0, 500.0, 0.0, 500.0])
    made = make([5] * 4, models, labels, guidance_scale=scales)
    torch.testing.assert_close(made[0], made[2], rtol=0, atol=FP32_TOLERANCE)
    assert (made[1] - made[3]).abs().max() > 100 * FP32_TOLERANCE
    torch.testing.assert_close(made[:1], inferer(guidance_scale=0)([5], models, [0]), rtol=0, atol=FP32_TOLERANCE)


def test_ratios_grow_with_the_scale_and_are_taken_before_the_limit(models):
    found = []
    for settings in ({}, {"guidance_scale": 200}, {"guidance_scale": 200, "guidance_maximum_norm": 1e-6}):
        make = inferer(num_inference_steps=1, **settings)
        make(SEEDS, models, LABELS)
        assert len(make.ratios) == 7
        found.append(torch.tensor(make.ratios))
    torch.testing.assert_close(found[1], 2 * found[0])
    assert torch.equal(found[2], found[1])
    unguided = inferer(guidance_scale=0)
    unguided(SEEDS, models, LABELS)
    assert unguided.ratios == []


def test_settings_name_all_that_changes_pixels(models):
    settings = inferer().settings(models)
    assert settings == {
        "sampler": "ddim",
        "steps": 4,
        "spacing": "trailing",
        "guidance_scale": 100.0,
        "guidance_interval": [0, 999],
        "guidance_maximum_norm": None,
        "guidance_temperature": models.temperature,
        "precision": "float32",
        "eta": 1.0,
    }
    whole = inferer()(SEEDS[:2], models, LABELS[:2])
    for name, value in (
        ("sampler", "ddpm"), ("num_inference_steps", 5), ("spacing", "leading"), ("guidance_scale", 50),
        ("guidance_interval", [0, 500]), ("guidance_maximum_norm", 1e-4), ("guidance_temperature", 3.0),
        ("precision", "bf16"), ("eta", 0.5),
    ):  # fmt: skip
        other = inferer(**{name: value})
        assert other.settings(models) != settings
        assert not torch.equal(other(SEEDS[:2], models, LABELS[:2]), whole), name
    assert "eta" not in inferer(sampler="ddpm").settings(models)
    one, more = (inferer(sampler="sde_dpm_solver++", eta=eta) for eta in (1.0, 1.4))
    assert inferer(sampler="sde_dpm_solver++", eta=None).sampling.eta == 1.4 and inferer(eta=None).sampling.eta == 1.0
    assert "eta" not in one.settings(models) and more.settings(models)["eta"] == 1.4
    assert not torch.equal(one(SEEDS[:2], models, LABELS[:2]), more(SEEDS[:2], models, LABELS[:2]))
    assert inferer(guidance_scale=100, eta=1, guidance_interval=(0, 999)).settings(models) == settings  # as typed
    assert inferer().identity(models)["model"] == models.fingerprint


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sampler": "plms"}, "--sampler is 'plms'; it must be one of ddpm, ddim"),
        ({"spacing": "wide"}, "spacing is 'wide'"),
        ({"sampler": "ddim", "eta": 1.5}, "--eta is 1.5; that of ddim must lie between 0 and 1"),
        ({"sampler": "ddpm", "eta": 1.5}, "--eta is 1.5"),
        ({"eta": -1}, "--eta is -1; that of sde_dpm_solver.* must be 0 or more"),
        ({"guidance_scale": -1}, "--guidance_scale is -1"),
        ({"guidance_interval": [5]}, "--guidance_interval is .5.; it needs"),
        ({"guidance_interval": [9, 5]}, "--guidance_interval is .9, 5."),
        ({"guidance_maximum_norm": 0}, "maximum_norm is 0"),
        ({"guidance_temperature": 0}, "temperature is 0"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
    ],
)
def test_impossible_settings_are_refused_when_the_inferer_is_made(settings, message):
    with pytest.raises(ValueError, match=message):
        GuidedLatentInferer(**settings)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_are_compared_with_those_of_the_training(models, steps):
    with pytest.raises(ValueError, match=f"num_inference_steps is {steps}; it must lie between 1 and the 1000"):
        inferer(num_inference_steps=steps)(SEEDS, models, LABELS)


def test_guidance_stays_where_the_classifier_was_trained(models, monkeypatch):
    monkeypatch.setattr(models.prepare(), "maximum_timestep", 600)
    assert inferer().settings(models)["guidance_interval"] == [0, 599]
    with pytest.raises(
        ValueError, match="--guidance_interval is .0, 700., but the classifier was trained for t up to 599"
    ):
        inferer(guidance_interval=[0, 700])(SEEDS, models, LABELS)


@pytest.mark.parametrize("decollate", [False, True])
def test_in_a_monai_evaluator_of_the_users_own(models, tmp_path, decollate):
    """With an ordinary loader, and with MONAI's default of taking batches apart."""
    requests = SynthesisRequests(lambda: models.prepare().classes, ["TUM", "ADI"], num_images=3)
    make = inferer()
    pool = Pool(tmp_path, lambda: make.identity(models))
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(requests, batch_size=4),
        network=models,
        inferer=make,
        prepare_batch=prepare_requests,
        val_handlers=[PoolWriter(pool)],
        decollate=decollate,
    ).run()
    pool.close()
    assert len(list(tmp_path.rglob("*.png"))) == len((tmp_path / "manifest.csv").read_text().splitlines()) - 1 == 6
    label = models.classes.index("TUM")
    expected = make([0, 1, 2, 0], models, torch.tensor([label] * 3 + [models.classes.index("ADI")]))
    with pool:
        assert (pool.image("TUM", 2) == to_uint8(expected)[2]).all()


@pytest.mark.parametrize("epoch_level", [True, False])
def test_in_a_plain_engine_of_the_users_own(models, tmp_path, epoch_level):
    network = torch.nn.Linear(1, 1)
    seen = []

    def step(engine, batch):
        seen.append(getattr(engine.state, "synthetic", None))
        assert network.training and torch.is_grad_enabled()
        return torch.rand(1).item()

    def run(*handlers):
        torch.manual_seed(0)
        engine, drawn = Engine(step), []
        for handler in handlers:
            handler.attach(engine)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: drawn.append(engine.state.output))
        engine.run([0, 1, 2], max_epochs=2)
        return engine, drawn

    make = inferer()
    pool = Pool(tmp_path, lambda: make.identity(models))
    options = {"num_images": 2, "seed": 4, "classes": ["TUM", "ADI"], "interval": 2, "epoch_level": epoch_level}
    engine, drawn = run(GuidedSynthesis(models, make, pool=pool, batch_size=2, **options))
    synthetic = engine.state.synthetic
    assert synthetic["class"] == ["TUM", "TUM", "ADI", "ADI"] and synthetic["seed"].tolist() == [4, 5, 4, 5]
    assert synthetic["label"].tolist() == [models.classes.index(name) for name in synthetic["class"]]
    assert synthetic["image"].shape == (4, 3, 32, 32)
    assert torch.equal(synthetic["image"][:2], make([4, 5], models, synthetic["label"][:2]))
    assert [what is not None for what in seen] == ([False] * 6 if epoch_level else [False] * 2 + [True] * 4)
    assert len(list(tmp_path.rglob("*.png"))) == 4
    assert drawn == run()[1], "the engine's random numbers must stay as they were"


def test_the_readmes_lines_work(adapted, bundle_root, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "adapt").symlink_to(adapted)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (bundle_root / "README.md").read_text(), re.DOTALL)
    block, with_a_trainer = (block for block in blocks if "models/pretrain" not in block)
    trainer = Engine(lambda engine, batch: None)
    found = {"trainer": trainer}
    exec(block + with_a_trainer, found)
    assert found["patches"].shape == (3, 3, 32, 32) and 0 <= found["agreement"] <= 1
    assert found["on_real_tiles"]["held_out_slides"]["accuracy"] >= 0
    found["inferer"].sampling = Sampling(2)
    trainer.run([0], max_epochs=5)
    assert trainer.state.synthetic["image"].shape == (36, 3, 32, 32) and len(trainer.state.synthetic["class"]) == 36
