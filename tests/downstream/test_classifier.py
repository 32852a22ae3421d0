"""The downstream classifier end to end on tiny patches: contract, what is seen when, resume, what is refused."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import timm
import torch
from chosen import write_chosen, write_pool
from conftest import TINY_CLASSIFICATION
from helpers import assert_equal, changed_settings, few_images, kill_stage, nested, root_cause
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy

from bundle.data.labelled_part import LabelledPart
from bundle.data.split import fingerprint_split
from bundle.downstream.colour_control import colour_histogram
from bundle.models.artefacts import load_artefact
from bundle.runs.folder import RunFolder
from bundle.training.classifier import load_classifier


@pytest.fixture(scope="module")
def made(workflow, tmp_path_factory):
    """Gives what the config makes of settings, by id; the built-in patches are written once."""
    cache = str(tmp_path_factory.mktemp("cache"))

    def make(folder, **settings):
        settings = {"cache_dir": cache, "output_dir": str(folder), **settings}
        return workflow("classify.json", **settings).parser.get_parsed_content

    return make


@pytest.fixture(scope="module")
def trained(made):
    """Trains in a folder with settings."""

    def train(folder, **settings):
        trainer = made(folder, **settings)("train#trainer")
        trainer.run()
        trainer.folder.close()
        return trainer

    return train


@pytest.fixture(scope="module")
def selection(made, tmp_path_factory):
    """A selection for the tiny labelled set, of as many images as it has labels."""
    folder = tmp_path_factory.mktemp("selection")
    labelled = made(folder / "data")("labelled").prepare()
    pool = write_pool(folder / "pool", labelled.classes, side=32)
    return write_chosen(folder / "selection.csv", pool, labelled.classes, fingerprint_split(labelled.rows))


@pytest.fixture(scope="module")
def classified(made, selection, tmp_path_factory):
    """The output folder of one tiny training on real and selected images."""
    folder = tmp_path_factory.mktemp("runs") / "classify"
    made(folder, selection_file=str(selection))("run")
    return folder


@pytest.fixture
def data(classified, made, tmp_path):
    """The built-in labelled patches as a user's own folder."""
    return made(tmp_path / "data")("labelled").prepare().store.sources[0]


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def table(folder):
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "run")


# What comes out


def test_output_contract(classified):
    found = metrics(classified)["classifier"]
    assert (found["real_images"], found["synthetic_images"], found["steps"], found["ratio"]) == (27, 36, 4, 100)
    assert {"seconds", "best_step", "validation", "selection", "selection_file", "pool", "shortfall"} <= found.keys()
    figures = {"accuracy", "balanced_accuracy", "macro_f1", "macro_sensitivity", "macro_specificity", "weighted_f1"}
    figures |= {"weighted_sensitivity", "auroc", "ece", "intervals", "classes", "confusion"}
    for part, images in (("test", 27), ("unused", 54)):
        assert figures <= found[part].keys() and found[part]["images"] == images
    network, facts = load_classifier(classified / "classifier.pt", "classifier")
    assert facts["patch_size"] == 32 and facts["normalise_stain"] is False and facts["steps"] == 4
    assert (
        network(torch.zeros(2, 3, 32, 32)).shape == (2, 9)
        and facts["classes"] == metrics(classified)["labelled"]["classes"]
    )
    with Image.open(classified / "confusion.png") as picture:
        assert min(picture.size) > 200
    assert (classified / "split.csv").is_file() and (classified / "config.json").is_file()
    assert not list(classified.rglob("*.tmp*"))


def test_figures_are_those_of_the_predictions(classified):
    rows = table(classified)
    classes = metrics(classified)["labelled"]["classes"]
    assert list(rows[0]) == ["file", "part", "class", "predicted", *(f"probability_{name}" for name in classes)]
    for part in ("test", "unused"):
        of_part = [row for row in rows if row["part"] == part]
        found = metrics(classified)["classifier"][part]
        accuracy = np.mean([row["class"] == row["predicted"] for row in of_part])
        assert len(of_part) == found["images"] and found["accuracy"] == pytest.approx(accuracy, abs=6e-5)
        balanced = balanced_accuracy_score(*([row[side] for row in of_part] for side in ("class", "predicted")))
        assert found["balanced_accuracy"] == pytest.approx(balanced, abs=6e-5)
        for row in of_part:
            values = [float(row[f"probability_{name}"]) for name in classes]
            assert sum(values) == pytest.approx(1, abs=1e-4) and row["predicted"] == classes[int(np.argmax(values))]
            assert row["file"].startswith(row["class"])


def test_the_artefact_makes_the_predictions(made, classified, tmp_path):
    """In evaluation mode, on images as the config prepares them."""
    network, _ = load_classifier(classified / "classifier.pt", "classifier")
    content = made(copy(classified, tmp_path))
    part, prepare = content("labelled").part("test"), content("validate#preprocessing")
    rows = {row["file"]: row for row in table(classified) if row["part"] == "test"}
    for index in range(0, len(part), 5):
        probability = network(prepare(part.read(index))["image"][None]).softmax(1)[0, part.labels[index]].item()
        row = rows[part.files[index]]
        assert float(row[f"probability_{row['class']}"]) == pytest.approx(probability, abs=1e-5)


@pytest.mark.parametrize("normalise", [False, True])
def test_held_out_parts_are_looked_at_once_and_last(made, tmp_path, monkeypatch, normalise):
    seen, read = [], LabelledPart.read
    trainer = made(tmp_path, normalise_stain=normalise)("train#trainer")

    def reading(part, index):
        seen.append((part.part, index, trainer.state.iteration))
        return read(part, index)

    monkeypatch.setattr(LabelledPart, "read", reading)
    trainer.run()
    for name, count in (("test", 27), ("unused", 54)):
        assert [(index, step) for part, index, step in seen if part == name] == [(index, 4) for index in range(count)]
    assert {step for part, _, step in seen if part == "validation"} == {2, 4}
    assert {part for part, *_ in seen} == {"train", "validation", "test", "unused"}


def test_a_limit_on_unused_tiles_and_none_on_test_tiles(trained, tmp_path):
    found = trained(tmp_path, maximum_unused=20) and metrics(tmp_path)["classifier"]
    assert (found["unused"]["images"], found["test"]["images"]) == (20, 27)


def test_without_a_test_set_the_rest_is_measured(trained, data, tmp_path):
    trained(tmp_path, dataset_dir=str(data))
    found = metrics(tmp_path)["classifier"]
    assert "test" not in found and found["unused"]["images"] == 54
    assert not (tmp_path / "confusion.png").exists() and {row["part"] for row in table(tmp_path)} == {"unused"}


# Resume


def contents(folder):
    return {
        name: torch.load(folder / name, weights_only=True) for name in ("classifier.pt", "classifier_checkpoint.pt")
    }


@pytest.mark.parametrize(
    "settings", [{}, {"train#trainer#mixup_alpha": 0.8, "train#trainer#cutmix_alpha": 1.0, "erasing_probability": 0.5}]
)
def test_half_kill_half_is_the_whole(trained, selection, tmp_path, settings):
    settings = {**settings, "selection_file": str(selection), "density_probability": 0.5, "synthetic_share": 0.5}
    trained(tmp_path / "whole", **settings)
    kill_stage("classifier", "classify.json", {**TINY_CLASSIFICATION, **settings}, tmp_path / "run", tmp_path / "flag")
    trained(tmp_path / "run", **settings)
    assert_equal(contents(tmp_path / "whole"), contents(tmp_path / "run"))
    assert (tmp_path / "whole/predictions.csv").read_bytes() == (tmp_path / "run/predictions.csv").read_bytes()


def test_a_finished_run_is_not_run_again(workflow, classified, selection, tmp_path):
    folder = copy(classified, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    workflow("classify.json", output_dir=str(folder), selection_file=str(selection)).run()
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.*")}


def test_another_run_in_the_same_folder_is_refused(made, classified, selection, tmp_path):
    settings = {"selection_file": str(selection), "train#trainer#label_smoothing": 0.2}
    message = (
        "can't be continued: its --train#trainer#label_smoothing is 0.1, this run's is 0.2. Give the former setting"
    )
    with pytest.raises(ValueError, match=message):
        made(copy(classified, tmp_path), **settings)("train#trainer").run()


NORMALISED = {"--normalise_stain", "--normalising#transforms#0#_disabled_", "synthetic images"}


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"ratio": 50}, {"--ratio", "synthetic images"}),
        ({"selection": "random"}, {"--selection", "synthetic images"}),
        ({"synthetic_share": 0.5}, {"--synthetic_share"}),
        ({"real_repeats": 2}, {"--real_repeats"}),
        ({"normalise_stain": True}, NORMALISED),
        ({"train#trainer#label_smoothing": 0.2}, {"--train#trainer#label_smoothing"}),
        ({"train#trainer#mixup_alpha": 0.2}, {"--train#trainer#mixup_alpha"}),
        ({"train#trainer#cutmix_alpha": 0.2}, {"--train#trainer#cutmix_alpha"}),
        ({"train#schedule#warmup_steps": 2}, {"--train#schedule#warmup_steps"}),
        ({"classifier_steps": 6}, {"--classifier_steps"}),
        ({"train#preprocessing#transforms#1#_disabled_": True}, {"--train#preprocessing#transforms#1#_disabled_"}),
        ({"density_probability": 0.5}, {"--density_probability"}),
        ({"erasing_probability": 0.5}, {"--erasing_probability"}),
        ({"seed": 1}, {"seed"}),
        ({"inference_batch_size": 3, "num_workers": 1, "checkpoint_interval": 3}, set()),
    ],
)
def test_what_decides_how_the_classifier_is_trained(made, selection, tmp_path, changes, named):
    trainers = [made(tmp_path, selection_file=str(selection), **given)("train#trainer") for given in ({}, changes)]
    for trainer in trainers:
        trainer.prepare()
    assert changed_settings(*trainers) == named


# Each step


def test_learning_rate_rises_and_falls_by_the_cosine(made, tmp_path):
    settings = {"classifier_steps": 10, "train#schedule#warmup_steps": 4, "train#optimizer#lr": 0.1}
    trainer = made(tmp_path, **settings)("train#trainer")
    step, rates = trainer._iteration, []

    def recording(engine, batch):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        return step(engine, batch)

    trainer._process_function = recording
    trainer.run()
    rising = [0.1 * (0.01 + 0.99 * number / 4) for number in range(4)]
    falling = [0.05 * (1 + math.cos(math.pi * number / 6)) for number in range(6)]
    assert rates == pytest.approx(rising + falling, rel=1e-5)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.001), "1 % at the end"


@pytest.mark.parametrize("mixup_alpha, cutmix_alpha", [(0.8, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_loss_is_that_of_timm_for_the_same_mixture(made, tmp_path, mixup_alpha, cutmix_alpha):
    """With what the picture shows of one image and another, label smoothing included."""
    settings = {
        "train#trainer#mixup_alpha": mixup_alpha,
        "train#trainer#cutmix_alpha": cutmix_alpha,
        "train#trainer#label_smoothing": 0.1,
    }
    trainer = made(tmp_path, **settings)("train#trainer")
    trainer.prepare()
    images = torch.stack([torch.full((3, 32, 32), float(value)) for value in (-1, -0.5, 0.25, 1)])
    labels, seen = torch.tensor([0, 3, 5, 8]), []
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    trainer.train_logits = lambda batch: seen.append(batch["image"]) or logits
    torch.manual_seed(1)
    found_logits, loss = trainer.train_loss({"image": images}, labels)
    assert found_logits is logits
    # The share of an image in its place, from the mean of the picture and that of the one before it.
    means, originals = seen[0].mean((1, 2, 3)), images.mean((1, 2, 3))
    before = originals.roll(1)
    shares = (means - before) / (originals - before)
    torch.testing.assert_close(shares, shares[:1].expand(4), rtol=1e-4, atol=1e-4)
    if mixup_alpha == cutmix_alpha == 0:
        assert shares[0] == 1
    else:
        assert 0.02 < shares[0] < 0.98
        assert (len(seen[0][0].unique()) == 1) == (cutmix_alpha == 0), "mixup blends, CutMix pastes"
    share = shares[0].item()
    smooth = mixup_target(labels, 9, 1.0, smoothing=0.1)
    expected = SoftTargetCrossEntropy()(logits, share * smooth + (1 - share) * smooth.roll(1, 0))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_mixtures_are_drawn_from_the_seed_of_the_step(made, tmp_path):
    trainer = made(tmp_path, **nested(mixup_alpha=0.8, cutmix_alpha=1.0))("train#trainer")
    trainer.prepare()
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)

    def mixed(step):
        np.random.seed(step)  # which decides nothing
        trainer.state.iteration = step
        trainer._seed()
        return trainer.mix(images, labels)

    first, again, other = mixed(1), mixed(1), mixed(2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    kinds = [(mixed(step)[0] == images).flatten(1).any(1).all().item() for step in range(40)]
    assert 8 < sum(kinds) < 38, "both kinds come"  # CutMix leaves pixels of an image as they were


# Where the weights come from


TRUNK = {"trunk": "vit_tiny_patch16_224", "trunk_arguments": TINY_CLASSIFICATION["trunk_arguments"]}


def trunk_file(path, **changes):
    network = timm.create_model(TRUNK["trunk"], num_classes=5, img_size=32, **{**TRUNK["trunk_arguments"], **changes})
    torch.save(network.state_dict(), path)
    return network


def test_training_starts_from_given_weights_of_the_trunk(made, trained, tmp_path):
    published = trunk_file(tmp_path / "trunk.pt")
    settings = {"trunk_weights": str(tmp_path / "trunk.pt"), "train#optimizer#lr": 1e-9}
    trained(tmp_path / "run", **settings)
    network, _ = load_artefact(tmp_path / "run" / "classifier.pt", "classifier")
    for name, tensor in published.state_dict().items():
        if not name.startswith("head."):
            torch.testing.assert_close(network.trunk.state_dict()[name], tensor, rtol=0, atol=1e-6)
    trunk_file(tmp_path / "trunk.pt")
    (tmp_path / "run" / "classifier.pt").unlink()
    with pytest.raises(ValueError, match="its trunk weights is"):
        made(tmp_path / "run", **settings)("train#trainer").run()


@pytest.mark.parametrize(
    "settings, error, message",
    [
        (
            {"trunk": "vit_giantt_patch14_224"},
            ValueError,
            "timm has no model 'vit_giantt_patch14_224'; similar: vit_giant",
        ),
        ({"trunk_arguments": {"colour": "red"}}, ValueError, "vit_tiny_patch16_224 refuses its arguments .*colour"),
        ({"trunk_weights": "absent.safetensors"}, FileNotFoundError, "there are no weights 'absent.safetensors'"),
    ],
)
def test_an_unfit_trunk_is_refused_before_anything_is_trained(made, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        made(tmp_path, **settings)("train#trainer").run()
    assert not list(tmp_path.glob("classifier*"))


def test_weights_of_another_trunk_are_refused(made, tmp_path):
    trunk_file(tmp_path / "trunk.pt", embed_dim=64)
    with pytest.raises(ValueError, match="trunk.pt has other weights than this trunk"):
        made(tmp_path / "run", trunk_weights=str(tmp_path / "trunk.pt"))("train#trainer").run()


# What is refused


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"train#trainer#label_smoothing": 1.0},
            "--train#trainer#label_smoothing is 1.0; it must be 0 or more, and below 1",
        ),
        ({"train#trainer#mixup_alpha": -1}, "--train#trainer#mixup_alpha is -1; it must be 0 or more"),
        ({"train#trainer#cutmix_alpha": -0.5}, "--train#trainer#cutmix_alpha is -0.5"),
        ({"density_probability": 2}, "prob is 2"),
        ({"erasing_probability": 2}, r"--erasing_probability is 2; it must be in \[0, 1\]"),
        ({"normalise_stain": "true"}, "--normalise_stain is the text 'true': write True"),
        ({"normalise_stain": "yes"}, "--normalise_stain is 'yes'; it must be True or False"),
        ({"real_repeats": 0}, "--real_repeats is 0"),
        ({"synthetic_share": 0.5}, "--synthetic_share 0.5 says which .* no --selection_file"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_read(made, tmp_path, settings, message):
    with pytest.raises(RuntimeError) as caught:
        made(tmp_path / "out", **settings)("train#trainer")
    assert __import__("re").search(message, str(root_cause(caught.value))), root_cause(caught.value)
    assert list(tmp_path.iterdir()) == []


def write_test_set(folder, classes):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        few_images(folder / name, 2, first=10 * number)
    return folder


def test_a_test_set_of_other_classes_is_refused(made, data, tmp_path):
    settings = {"dataset_dir": str(data), "test_dir": str(write_test_set(tmp_path / "test", ["TUM", "XYZ"]))}
    with pytest.raises(ValueError, match=r"test has class 'XYZ', and the dataset has only \['ADI'"):
        made(tmp_path / "run", **settings)("train#trainer").run()


def test_a_split_file_of_another_test_set_is_refused(made, data, classified, tmp_path):
    settings = {"dataset_dir": str(data), "test_dir": str(write_test_set(tmp_path / "test", ["TUM", "XYZ"]))}
    settings |= {"split_file": str(classified / "split.csv"), "labels_per_class": None}
    with pytest.raises(ValueError, match="split.csv lists .* which is not a readable image of .*--test_dir"):
        made(tmp_path / "run", **settings)("train#trainer").run()


def test_a_selection_of_another_split_is_refused_before_anything_is_trained(made, selection, tmp_path):
    with pytest.raises(ValueError, match="selection.csv was made for the split"):
        made(tmp_path, selection_file=str(selection), labels_per_class=5)("train#trainer").run()
    assert not list(tmp_path.glob("classifier*"))


# The colour control


def test_histogram_by_hand():
    image = np.zeros((3, 2, 2), np.uint8)
    image[:, 0, 0], image[:, 0, 1], image[:, 1, 0] = (255, 0, 32), (31, 31, 31), (64, 200, 5)
    found = colour_histogram(image)
    assert found.shape == (512,) and found.sum() == 1
    expected = {7 * 64 + 1: 0.25, 0: 0.5, 2 * 64 + 6 * 8: 0.25}
    assert {place: found[place] for place in np.flatnonzero(found)} == expected


def test_colour_control_is_measured_as_the_classifier_is(workflow, classified, tmp_path):
    def run(folder, **settings):
        workflow("classify.json", output_dir=str(folder), **settings).parser.get_parsed_content("colour_control")
        return metrics(folder)["colour_control"], table(folder)

    found, rows = run(tmp_path / "one")
    assert found.keys() >= metrics(classified)["classifier"]["test"].keys() & {"x"} | {"test", "unused", "trees"}
    assert found["test"].keys() == metrics(classified)["classifier"]["test"].keys()
    assert (found["trees"], found["bins"], found["real_images"]) == (5, 8, 27)
    assert [row["file"] for row in rows] == [row["file"] for row in table(classified)]
    assert found["unused"]["accuracy"] > 0.5, "the built-in classes differ in colour"
    again, same = run(tmp_path / "two")
    assert rows == same and found["test"] == again["test"]
    other, changed = run(tmp_path / "three", seed=1)
    assert rows != changed
    normalised, _ = run(tmp_path / "four", normalise_stain=True)
    assert normalised["test"] != found["test"]


def test_colour_control_sees_colour_alone(workflow, tmp_path):
    """Two classes of one texture in two colours are told apart, two textures of one colour are not."""
    random = np.random.default_rng(0)

    def write(folder, colours, arrangements):
        for name, colour, arrange in zip("AB", colours, arrangements):
            (folder / name).mkdir(parents=True)
            for number in range(20):
                pixels = np.full((32, 32, 3), 255, np.uint8)
                pixels[arrange(random)] = colour
                Image.fromarray(pixels).save(folder / name / f"{number}.png")
        return folder

    def dots(random):
        return np.unravel_index(random.permutation(1024)[:512], (32, 32))

    def lines(random):
        return (random.permutation(32)[:16],)

    red, blue = (200, 20, 60), (60, 20, 200)
    for name, colours, arrangements in (("colour", (red, blue), (dots, dots)), ("texture", (red, red), (dots, lines))):
        data = write(tmp_path / name, colours, arrangements)
        folder = tmp_path / f"run_{name}"
        settings = {"dataset_dir": str(data), "output_dir": str(folder), "labels_per_class": 10}
        workflow("classify.json", **settings).parser.get_parsed_content("colour_control")
        accuracy = metrics(folder)["colour_control"]["unused"]["accuracy"]
        assert accuracy == (1.0 if name == "colour" else 0.5)


def test_control_and_classifier_need_folders_of_their_own(made, classified, tmp_path):
    with pytest.raises(ValueError, match="holds the results of classifier.*--output_dir"):
        made(copy(classified, tmp_path))("colour_control#work").run()
    folder = RunFolder(tmp_path / "control")
    folder.path.mkdir()
    folder.set_metrics("colour_control", {})
    with pytest.raises(ValueError, match="holds the results of colour_control.*--output_dir"):
        made(tmp_path / "control")("train#trainer").run()


def test_control_mixes_by_count_only(made, selection, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        made(tmp_path, selection_file=str(selection), synthetic_share=0.5)("colour_control#work")
    assert "colour control takes each image once" in str(root_cause(caught.value))
