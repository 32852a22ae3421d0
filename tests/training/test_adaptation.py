"""The adaptation end to end on tiny patches: contract, what stays frozen, resume, what is refused."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY_ADAPTATION
from helpers import assert_equal, kill_stage, nested, root_cause

from bundle.data.views import VIEWS
from bundle.models.artefacts import fingerprint, load_artefact, read_artefact, save_artefact
from bundle.training.classifier import load_classifier
from bundle.training.judge import Judge

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("image_classifier", "decoder", "latent_classifier", *(f"judge_{view}" for view in VIEWS))


def contents(folder):
    files = [f"{kind}{suffix}.pt" for kind in KINDS for suffix in ("", "_checkpoint")]
    return {name: torch.load(folder / name, weights_only=True) for name in files if (folder / name).is_file()}


def test_output_contract(adapted):
    metrics = json.loads((adapted / "metrics.json").read_text())
    names = {f"{name}_{when}" for name in ("psnr", "ssim", "lpips") for when in ("before", "after")}
    assert names <= metrics["decoder"].keys()
    assert metrics["decoder"]["lpips_after"] is None, "a random network's distance must not be called LPIPS"
    assert 0 <= metrics["image_classifier"]["accuracy"] <= 1
    rows = metrics["latent_classifier"]["accuracy_by_timestep"]
    assert [row["timestep"] for row in rows[:-1]] == sorted({row["timestep"] for row in rows[:-1]})
    assert rows[0]["timestep"] == 0 and rows[-2]["timestep"] == 999 and rows[-1]["timestep"] == "pure noise"
    for row in rows:
        assert {"accuracy", "balanced_accuracy", "cross_entropy"} <= row["test"].keys()
    for view in VIEWS:
        assert {"same_slides", "held_out_slides"} <= metrics[f"judge_{view}"].keys()
        assert view in metrics["decoder"]["held_out_slides"]["after"]["agreement"]
    for name in ("split.csv", "reconstructions.png", "accuracy_by_timestep.png", "config.json"):
        assert (adapted / name).is_file()
    assert not list(adapted.rglob("*.tmp*"))


def test_folder_needs_nothing_else(pretrained, adapted):
    for kind in ("autoencoder", "diffusion"):
        ours, theirs = (read_artefact(folder / f"{kind}.pt", kind) for folder in (adapted, pretrained))
        assert ours["fingerprint"] == theirs["fingerprint"]
    classes = load_artefact(adapted / "latent_classifier.pt", "latent_classifier")[1]["classes"]
    for kind in KINDS:
        assert read_artefact(adapted / f"{kind}.pt", kind)["classes"] == classes
    assert {row["part"] for row in csv.DictReader(open(adapted / "split.csv"))} == {
        "train", "validation", "unused", "test"
    }  # fmt: skip


def test_pure_noise_says_nothing_about_the_class(adapted):
    """The figure for pure noise is exactly chance: a higher one would mean that the image leaks past the noise."""
    rows = json.loads((adapted / "metrics.json").read_text())["latent_classifier"]["accuracy_by_timestep"]
    for part in ("validation", "unused", "test"):
        assert rows[-1][part]["balanced_accuracy"] == pytest.approx(1 / 9, abs=1e-3)


def test_only_the_decoder_is_trained(pretrained, adapted):
    """Eq. 5 moves the decoder and the convolution after the latent; the encoder's hash is what it was."""
    before = read_artefact(pretrained / "autoencoder.pt", "autoencoder")["weights"]
    after = read_artefact(adapted / "decoder.pt", "decoder")["weights"]
    assert after.keys() == {name for name in before if name.startswith(("decoder.", "post_quant_conv."))}
    assert all(not torch.equal(before[name], after[name]) for name in after if name.endswith("weight"))
    encoder = {name: tensor for name, tensor in before.items() if name not in after}
    unchanged = json.loads((adapted / "metrics.json").read_text())["decoder"]["unchanged"]
    assert unchanged["encoder"] == fingerprint(encoder)
    assert (
        unchanged["image classifier"]
        == read_artefact(adapted / "image_classifier.pt", "image_classifier")["fingerprint"]
    )


def test_a_changed_encoder_is_noticed(pretrained, adapted, workflow, tmp_path):
    folder = copy(adapted, tmp_path, without=["decoder"])
    trainer = workflow("adapt.json", output_dir=str(folder), pretrained_dir=str(pretrained)).parser.get_parsed_content(
        "decoder#trainer"
    )
    step = trainer._iteration

    def meddle(engine, batch):
        with torch.no_grad():
            next(trainer.autoencoder.encoder.parameters()).mul_(1.01)
        return step(engine, batch)

    trainer._process_function = meddle
    with pytest.raises(RuntimeError, match="must stay frozen has changed"):
        trainer.run()
    assert not (folder / "decoder.pt").exists()


def copy(adapted, tmp_path, without=()):
    folder = tmp_path / "run"
    shutil.copytree(adapted, folder)
    for kind in without:
        for path in folder.glob(f"{kind}*.pt"):
            path.unlink()
    return folder


def test_finished_stages_are_not_run_twice(pretrained, adapted, workflow, tmp_path):
    folder = copy(adapted, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.glob("*.pt")}
    workflow("adapt.json", output_dir=str(folder), pretrained_dir=str(pretrained)).run()
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.pt")}


@pytest.mark.parametrize("run_id, kind", [(kind, kind) for kind in KINDS[:3]] + [("judge", "judge_grey")])
def test_each_part_runs_alone_to_the_same_result(pretrained, adapted, workflow, tmp_path, run_id, kind):
    folder = copy(adapted, tmp_path, without=[kind])
    made = workflow("adapt.json", output_dir=str(folder), pretrained_dir=str(pretrained))
    made.parser.get_parsed_content(run_id)
    assert_equal(contents(adapted), contents(folder))


@pytest.mark.parametrize("stage", ["image_classifier", "decoder", "latent_classifier"])
def test_half_kill_half_is_the_whole(pretrained, adapted, workflow, tmp_path, stage):
    folder = copy(adapted, tmp_path, without=[stage])
    settings = {**TINY_ADAPTATION, "pretrained_dir": str(pretrained)}
    kill_stage(stage, "adapt.json", settings, folder, tmp_path / "flag")
    workflow("adapt.json", output_dir=str(folder), pretrained_dir=str(pretrained)).run()
    assert_equal(contents(adapted), contents(folder))
    found, expected = (json.loads((path / "metrics.json").read_text())[stage] for path in (folder, adapted))
    timing = {"seconds", "patches_per_second"}
    assert {k: v for k, v in found.items() if k not in timing} == {k: v for k, v in expected.items() if k not in timing}


def test_training_stops_when_validation_no_longer_improves(pretrained, adapted, workflow, tmp_path, monkeypatch):
    from bundle.training.classifier import ImageClassifierTrainer

    monkeypatch.setattr(ImageClassifierTrainer, "validation_loss", lambda self, network: float(self.state.iteration))
    folder = copy(adapted, tmp_path, without=["image_classifier"])
    settings = {"output_dir": str(folder), "pretrained_dir": str(pretrained), "image_classifier_steps": 40}
    settings |= {"patience": 2}
    trainer = workflow("adapt.json", **settings).parser.get_parsed_content("image_classifier#trainer")
    trainer.run()
    # Validated at 2, 4 and 6: the first was the best, and two more were no better.
    assert (trainer.state.iteration, trainer.best.step) == (6, 2)
    trainer.folder.close()
    again = workflow("adapt.json", **settings).parser.get_parsed_content("image_classifier#trainer")
    again.run()
    assert again.state.iteration == 6 and again.best.step == 2
    assert json.loads((folder / "metrics.json").read_text())["image_classifier"]["steps"] == 6


def test_classes_of_another_set_are_refused_by_name(adapted, tmp_path):
    path = tmp_path / "latent_classifier.pt"
    network, facts = load_artefact(adapted / "latent_classifier.pt", "latent_classifier")
    save_artefact(path, "latent_classifier", network, classes=[*facts["classes"][:-1], "XYZ"])
    with pytest.raises(ValueError, match=r"unknown to it: \['TUM'\]; only there: \['XYZ'\]"):
        load_classifier(path, "latent_classifier", facts["classes"])
    with pytest.raises(ValueError, match="the order differs"):
        load_classifier(adapted / "latent_classifier.pt", "latent_classifier", facts["classes"][::-1])


def test_decoder_refuses_an_image_classifier_of_other_classes(pretrained, adapted, workflow, tmp_path):
    folder = copy(adapted, tmp_path, without=["decoder"])
    network, facts = load_artefact(folder / "image_classifier.pt", "image_classifier")
    save_artefact(folder / "image_classifier.pt", "image_classifier", network, classes=facts["classes"][::-1])
    with pytest.raises(ValueError, match="image_classifier.pt tells the classes .* they don't belong together"):
        made = workflow("adapt.json", output_dir=str(folder), pretrained_dir=str(pretrained))
        made.parser.get_parsed_content("decoder#trainer").run()


def damaged(pretrained, tmp_path, kind, **facts):
    """A pre-training whose one artefact has other facts."""
    folder = tmp_path / "other"
    shutil.copytree(pretrained, folder, ignore=shutil.ignore_patterns("cache", "pictures", "tensorboard"))
    content = torch.load(folder / f"{kind}.pt", weights_only=True)
    torch.save({**content, **facts}, folder / f"{kind}.pt")
    return folder


@pytest.mark.parametrize(
    "kind, facts, message",
    [
        (
            "diffusion",
            {"latent_scale": 7.0},
            "the latent scale differs: .*autoencoder.pt has .*, .*diffusion.pt has 7.0",
        ),
        ("diffusion", {"patch_size": 64}, "the patch size differs: .* has 32, .* has 64"),
        ("diffusion", {"autoencoder_fingerprint": "abc"}, "the autoencoder differs"),
        ("diffusion", {"definition": {"in_channels": 4}}, "the number of latent channels differs: .* has 3, .* has 4"),
    ],
)
def test_pretrained_models_that_do_not_fit_are_refused(pretrained, workflow, tmp_path, kind, facts, message):
    folder = damaged(pretrained, tmp_path, kind, **facts)
    with pytest.raises(RuntimeError) as caught:
        workflow("adapt.json", output_dir=str(tmp_path / "out"), pretrained_dir=str(folder)).run()
    assert __import__("re").search(message, str(root_cause(caught.value))), root_cause(caught.value)


def test_other_pretrained_models_than_the_folders_are_refused(pretrained, adapted, workflow, tmp_path):
    folder = damaged(pretrained, tmp_path, "diffusion", fingerprint="another")
    with pytest.raises(RuntimeError) as caught:
        workflow("adapt.json", output_dir=str(copy(adapted, tmp_path)), pretrained_dir=str(folder)).run()
    assert "the diffusion differs" in str(root_cause(caught.value)) and "another" in str(root_cause(caught.value))


def test_missing_pretraining_names_the_command(workflow, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        workflow("adapt.json", output_dir=str(tmp_path / "out"), pretrained_dir=str(tmp_path)).run()
    assert isinstance(root_cause(caught.value), FileNotFoundError)
    assert "configs/pretrain.json" in str(root_cause(caught.value))


def test_without_a_discriminator_the_remedy_is_named_and_works(pretrained, adapted, workflow, tmp_path):
    other = tmp_path / "pretrain"
    shutil.copytree(pretrained, other, ignore=shutil.ignore_patterns("cache", "pictures", "tensorboard"))
    (other / "discriminator.pt").unlink()
    folder = copy(adapted, tmp_path, without=["decoder"])
    settings = {"output_dir": str(folder), "pretrained_dir": str(other)}
    trainer = workflow("adapt.json", **settings).parser.get_parsed_content("decoder#trainer")
    with pytest.raises(FileNotFoundError, match="--decoder#loss#reconstruction#adversarial_weight 0"):
        trainer.run()
    trainer.folder.close()
    workflow(
        "adapt.json", **settings, **nested("decoder#loss#reconstruction", adversarial_weight=0.0)
    ).parser.get_parsed_content("decoder#trainer").run()
    assert (folder / "decoder.pt").is_file()


def test_judge_reads_back_and_refuses_other_classes(adapted):
    judge = Judge(adapted)
    logits = judge.logits(torch.rand(3, 3, 32, 32) * 2 - 1)
    assert {view: tuple(values.shape) for view, values in logits.items()} == {view: (3, 9) for view in VIEWS}
    assert set(judge.measured) == set(VIEWS)
    with pytest.raises(ValueError, match="the order differs"):
        Judge(adapted, classes=judge.classes[::-1])


@pytest.mark.parametrize("trunk", ["encoder"])
def test_encoder_trunk_is_an_option_and_calibration_too(pretrained, adapted, workflow, tmp_path, trunk):
    folder = copy(adapted, tmp_path, without=["latent_classifier"])
    settings = {"output_dir": str(folder), "pretrained_dir": str(pretrained), "latent_classifier_trunk": trunk}
    settings |= {"train#trainer#calibrate": True, "train#trainer#maximum_timestep": 500}
    workflow("adapt.json", **settings).parser.get_parsed_content("latent_classifier")
    network, facts = load_classifier(folder / "latent_classifier.pt", "latent_classifier")
    assert facts["definition"]["_target_"] == "EncoderClassifier" and facts["maximum_timestep"] == 500
    assert facts["temperature"] > 0 and facts["temperature"] != 1.0
    assert network(torch.randn(2, 3, 16, 16), torch.tensor([0, 499])).shape == (2, 9)


def test_temperature_of_overconfident_logits_is_found():
    """Logits that are three times too large have the temperature 3: drawn labels make the true logits the best ones."""
    from bundle.training.latent_classifier import fit_temperature

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(3 * logits, labels) == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("method", ["full", "low_rank"])
def test_the_diffusion_model_itself_can_be_adapted(pretrained, adapted, workflow, tmp_path, method):
    folder = copy(adapted, tmp_path, without=["diffusion"])
    settings = {"output_dir": str(folder), "pretrained_dir": str(pretrained), "diffusion_method": method}
    settings |= {"diffusion#optimizer#lr": 0.01, "diffusion#trainer#warm_up": 0, "diffusion#trainer#ema_decay": 0.0}
    settings |= {"pretraining_dir": str(pretrained / "cache" / "generated_patches"), "diffusion#trainer#rank": 2}
    workflow("adapt.json", **settings).run()
    parent, parent_facts = load_artefact(pretrained / "diffusion.pt", "diffusion")
    network, facts = load_artefact(folder / "diffusion.pt", "diffusion")
    assert facts["parent_fingerprint"] == parent_facts["fingerprint"] != facts["fingerprint"]
    changed = network.state_dict()["conv_in.conv.weight"] - parent.state_dict()["conv_in.conv.weight"]
    rank = torch.linalg.matrix_rank(changed.flatten(1), rtol=1e-3)
    assert rank == 2 if method == "low_rank" else rank > 2
    metrics = json.loads((folder / "metrics.json").read_text())["diffusion"]
    assert metrics["pretraining_share"] == 0.1 and metrics["copies"]["images"] == 64
    assert {"loss_before", "loss_after"} <= metrics.keys()
    # A second run changes nothing, and the stages that don't adapt it still accept the folder.
    before = (folder / "diffusion.pt").read_bytes()
    workflow("adapt.json", **settings).run()
    workflow("adapt.json", output_dir=str(folder), pretrained_dir=str(pretrained)).run()
    assert (folder / "diffusion.pt").read_bytes() == before
    with pytest.raises(RuntimeError) as caught:
        workflow("adapt.json", **settings | {"diffusion#optimizer#lr": 0.02}).run()
    assert "can't be continued: its --diffusion#optimizer#lr is 0.01, this run's is 0.02" in str(
        root_cause(caught.value)
    )


def test_adapting_in_a_folder_with_the_pretrained_model_is_refused(pretrained, adapted, workflow, tmp_path):
    settings = {"output_dir": str(copy(adapted, tmp_path)), "pretrained_dir": str(pretrained)}
    with pytest.raises(RuntimeError) as caught:
        workflow("adapt.json", **settings, diffusion_method="full").run()
    assert "is the pre-trained diffusion model" in str(root_cause(caught.value))


def test_tiles_kept_for_the_judge_may_not_adapt_the_diffusion_model(pretrained, adapted, workflow, tmp_path):
    folder = copy(adapted, tmp_path, without=["diffusion"])
    settings = {"output_dir": str(folder), "pretrained_dir": str(pretrained), "diffusion_method": "full"}
    with pytest.raises(RuntimeError) as caught:
        workflow("adapt.json", **settings, target_dir=str(folder / "cache" / "generated_labelled")).run()
    assert "is kept for validating, judging or testing" in str(root_cause(caught.value))


def test_without_tiles_for_a_judge_all_else_is_done_and_said(pretrained, workflow, tmp_path):
    settings = {"output_dir": str(tmp_path / "run"), "pretrained_dir": str(pretrained), "labels_per_class": 10}
    workflow("adapt.json", **settings).run()
    assert not list((tmp_path / "run").glob("judge_*"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["decoder"]["same_slides"]["after"]["agreement"] is None
    assert (tmp_path / "run" / "latent_classifier.pt").is_file()


@pytest.mark.parametrize("flag", ["train#trainer#maximum_timestep", "diffusion#trainer#num_inference_steps"])
def test_numbers_beyond_the_schedule_are_refused_before_anything_is_trained(pretrained, workflow, tmp_path, flag):
    settings = {"output_dir": str(tmp_path / "run"), "pretrained_dir": str(pretrained), flag: 1001}
    with pytest.raises(RuntimeError) as caught:
        workflow("adapt.json", **settings, diffusion_method="full").run()
    assert f"{flag.split('#')[-1]} is 1001" in str(root_cause(caught.value))
    assert not list((tmp_path / "run").glob("*classifier*"))


def test_patches_are_prepared_as_the_pretraining_was(pretrained, workflow, tmp_path):
    folder = damaged(pretrained, tmp_path, "autoencoder", normalise_stain=True)
    made = workflow("adapt.json", output_dir=str(tmp_path / "out"), pretrained_dir=str(folder))
    assert made.parser.get_parsed_content("labelled").prepare().store.normalise_stain is True


def test_the_seed_draws_the_labels(workflow, tmp_path):
    made = workflow("adapt.json", output_dir=str(tmp_path / "out"), pretrained_dir=str(tmp_path), seed=3)
    assert made.parser.get_parsed_content("labelled").drawing.seed == 3


def test_last_step_is_validated_once(pretrained, adapted, workflow, tmp_path, monkeypatch):
    from bundle.training.classifier import ImageClassifierTrainer

    steps = []
    monkeypatch.setattr(
        ImageClassifierTrainer, "validation_loss", lambda self, network: steps.append(self.state.iteration) or 1.0
    )
    folder = copy(adapted, tmp_path, without=["image_classifier"])
    settings = {"output_dir": str(folder), "pretrained_dir": str(pretrained), "image_classifier_steps": 5}
    workflow("adapt.json", **settings).parser.get_parsed_content("image_classifier#trainer").run()
    assert steps == [2, 4, 5]


def test_an_artefact_of_other_settings_is_not_kept_without_its_checkpoint(pretrained, adapted, workflow, tmp_path):
    folder = copy(adapted, tmp_path)
    (folder / "decoder_checkpoint.pt").unlink()
    with pytest.raises(RuntimeError) as caught:
        workflow(
            "adapt.json", output_dir=str(folder), pretrained_dir=str(pretrained), **{"decoder#loss#ce_weight": 1.0}
        ).run()
    assert "decoder.pt can't be continued: its --decoder#loss#ce_weight is 0.1, this run's is 1.0" in str(
        root_cause(caught.value)
    )


def test_a_judge_trained_anew_is_asked_again(pretrained, adapted, workflow, tmp_path):
    folder = copy(adapted, tmp_path, without=["judge_grey"])
    settings = {"output_dir": str(folder), "pretrained_dir": str(pretrained)}
    before = json.loads((folder / "metrics.json").read_text())["decoder"]["judge"]
    # Another judge, as from other settings: its file alone is replaced.
    network, facts = load_artefact(adapted / "judge_grey.pt", "judge_grey")
    with torch.no_grad():
        next(network.parameters()).mul_(-1)
    head = {"format", "kind", "definition", "weights", "fingerprint"}
    kept = {name: value for name, value in facts.items() if name not in head}
    save_artefact(folder / "judge_grey.pt", "judge_grey", network, **kept)
    workflow("adapt.json", **settings).parser.get_parsed_content("decoder")
    after = json.loads((folder / "metrics.json").read_text())["decoder"]["judge"]
    assert after["grey"] != before["grey"] and after["colour"] == before["colour"]
    assert_equal(*(torch.load(path / "decoder.pt", weights_only=True)["weights"] for path in (adapted, folder)))


def test_unknown_pretraining_images_are_an_error_unless_allowed(pretrained, workflow, tmp_path):
    other = damaged(pretrained, tmp_path, "diffusion")
    (other / "image_hashes.txt").unlink()
    settings = {"output_dir": str(tmp_path / "out"), "pretrained_dir": str(other)}
    with pytest.raises(ValueError, match="left no image_hashes.txt.*--labelled#pretraining_overlap allow"):
        workflow("adapt.json", **settings).parser.get_parsed_content("labelled").prepare()
    allowed = workflow("adapt.json", **settings, **{"labelled#pretraining_overlap": "allow"}).parser.get_parsed_content(
        "labelled"
    )
    assert allowed.prepare().describe()["pretraining_overlap"] is None


def test_tiles_for_an_adaptation_that_is_off_are_refused(workflow, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        workflow("adapt.json", output_dir=str(tmp_path), target_dir=str(tmp_path))
    assert "is only for --diffusion_method full or low_rank" in str(root_cause(caught.value))


def test_a_classifier_that_does_not_fit_the_latents_is_refused_before_training(pretrained, workflow, tmp_path):
    settings = {"output_dir": str(tmp_path / "run"), "pretrained_dir": str(pretrained)}
    settings |= {"half_unet#channels": [32] * 6, "half_unet#attention_levels": [False] * 6}
    with pytest.raises(RuntimeError) as caught:
        workflow("adapt.json", **settings).run()
    assert "side 16" in str(root_cause(caught.value))
    assert not list((tmp_path / "run").glob("*classifier*"))


def test_temperature_of_a_classifier_that_knows_nothing_is_bounded():
    from bundle.training.latent_classifier import TEMPERATURES, fit_temperature

    generator = torch.Generator().manual_seed(0)
    logits, labels = 5 * torch.randn(20, 4, generator=generator), torch.randint(4, (20,), generator=generator)
    assert TEMPERATURES[0] <= fit_temperature(logits, labels) <= TEMPERATURES[1]


def test_half_an_adaptation_is_not_published(adapted, tmp_path):
    sys.path.insert(0, str(ROOT / "scripts"))
    from publish_weights import publish

    folder = copy(adapted, tmp_path, without=["latent_classifier"])
    with pytest.raises(FileNotFoundError, match="latent_classifier.pt does not exist"):
        publish(folder, tmp_path / "target", "commit", None)
    assert not (tmp_path / "target").exists()
