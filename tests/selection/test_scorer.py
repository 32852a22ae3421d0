"""The scorers: what each is trained on, what they say of a picture, and that a killed training is continued."""

import functools
import json
import warnings

import numpy as np
import pytest
import torch
from candidates import CLASSES, SIDE, candidate, fill_pool, keys, write_labelled
from conftest import TINY_SELECTION
from helpers import assert_equal, changed_settings, kill_stage, root_cause

from bundle.data.labelled import LabelledPatches
from bundle.data.loader import ItemDataset
from bundle.data.transforms import ScalePatchd, scale_patch
from bundle.data.views import look_at
from bundle.models.artefacts import load_artefact, read_artefact
from bundle.models.feature_classifier import FeatureClassifier
from bundle.runs.context import RunContext
from bundle.selection.scorer import Scorer, dropout_masks, expected_softmax, full_batches, load_feature_extractor
from bundle.selection.scorer_training import FinalScorerTrainer, LabelledFold


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    given = write_labelled(folder)
    return LabelledPatches(
        given["dataset_dir"], None, SIDE, folder / "cache", folder / "run/split.csv", split_file=given["split_file"]
    )


@pytest.fixture(scope="module")
def pictures():
    images = [candidate(name, seed) for name, seed in keys(7)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def trainers(labelled, folds, trunk, **settings):
    return FinalScorerTrainer(
        labelled=labelled,
        folds=folds,
        dataset=ItemDataset(labelled.part("train"), ScalePatchd("image")),
        batch_size=4,
        steps=5,
        context=RunContext("none"),
        architecture=functools.partial(FeatureClassifier, trunk=trunk),
        optimizer=torch.optim.AdamW,
        **settings,
    ).stages


def test_each_labelled_image_is_held_out_once_and_trained_on_otherwise(labelled):
    folds = [[LabelledFold(labelled, number, 4, 0, inside) for inside in (True, False)] for number in range(4)]
    everything = {row.file for part in ("train", "validation") for row in labelled.prepare().parts[part]}
    assert len(everything) == 24
    held_out = [file for inside, _ in folds for file in inside.files]
    assert sorted(held_out) == sorted(everything)
    for inside, outside in folds:
        assert sorted(inside.files + outside.files) == sorted(everything)
        assert np.bincount(inside.labels).tolist() == [2, 2, 2], "a share of each class"
    again = LabelledFold(labelled, 1, 4, 0, inside=True)
    assert again.files == folds[1][0].files and LabelledFold(labelled, 1, 4, 1, inside=True).files != again.files


def test_a_class_with_fewer_images_than_folds_is_in_some_of_them(labelled, tmp_path):
    given = write_labelled(tmp_path, labels_per_class=3)
    few = LabelledPatches(
        given["dataset_dir"], None, SIDE, tmp_path / "cache", tmp_path / "s.csv", split_file=given["split_file"]
    )
    spare = next(row for row in few.prepare().parts["train"] if row.label == "TUM")
    few.parts["train"].remove(spare)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outside = [LabelledFold(few, number, 3, 0, inside=False) for number in range(3)]
        assert all(set(fold.labels.tolist()) == {0, 1, 2} for fold in outside)
    with pytest.raises(ValueError, match="--folds is 4, and no class has more than 3 labelled images"):
        len(LabelledFold(few, 0, 4, 0, inside=False))


def test_the_scorer_itself_is_trained_on_the_training_part_alone(labelled):
    made = trainers(labelled, folds=3, trunk="ResNet")
    assert [trainer.stage for trainer in made] == ["scorer_fold_1", "scorer_fold_2", "scorer_fold_3", "scorer"]
    rows = made[-1].data_loader.dataset.source.rows
    assert rows == labelled.prepare().parts["train"] and made[-1].held_out.rows == labelled.parts["validation"]
    for trainer in made[:-1]:
        assert not {row.file for row in trainer.data_loader.dataset.source.rows} & set(trainer.held_out.files)
    for wrong in (1, 0, 2.5):
        with pytest.raises(ValueError, match=f"--folds is {wrong}; it must be an integer of at least 2"):
            trainers(labelled, wrong, "ResNet")


def test_expected_softmax_by_hand():
    """Two features, two classes, logits (f1, f2); one pass without the first feature, one without the second."""
    network = FeatureClassifier("ResNet", 2, 8, arguments=small())
    network.head = torch.nn.Linear(2, 2)
    with torch.no_grad():
        network.head.weight.copy_(torch.eye(2))
        network.head.bias.zero_()
    features, masks = torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 1.25], [1.25, 0.0]])
    first = [1 / (1 + np.exp(1.25)), 1 / (1 + np.exp(-1.25))]  # of the logits (0, 1.25)
    second = [1 / (1 + np.exp(-2.5)), 1 / (1 + np.exp(2.5))]  # of the logits (2.5, 0)
    expected = [(one + other) / 2 for one, other in zip(first, second)]
    assert expected_softmax(network, features, masks)[0].tolist() == pytest.approx(expected, abs=1e-6)


def small(channels=8):
    return {
        "block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [channels] * 4, "spatial_dims": 2,
        "n_input_channels": 3, "norm": ["group", {"num_groups": 4}],
    }  # fmt: skip


def test_masks_drop_the_share_that_training_drops():
    network = FeatureClassifier("ResNet", 2, 8, dropout=0.2, arguments=small(512))
    masks = dropout_masks(network, 40, seed=3)
    assert masks.shape == (40, 512) and set(masks.unique().tolist()) == {0.0, 1.25}
    # 20,480 draws: the standard error of the share is 0.003.
    assert (masks == 0).float().mean().item() == pytest.approx(0.2, abs=0.012)
    assert len({tuple(mask.tolist()) for mask in masks}) == 40
    assert torch.equal(masks, dropout_masks(network, 40, seed=3))
    assert torch.equal(dropout_masks(network, 1, 3), torch.ones(1, 512)), "one pass is one without dropout"
    plain = FeatureClassifier("ResNet", 2, 8, arguments=small(512))
    assert torch.equal(dropout_masks(plain, 10, 3), torch.ones(1, 512))


def test_batches_are_filled_up_to_one_size():
    images = torch.arange(1, 6, dtype=torch.uint8).reshape(5, 1, 1, 1)
    batches = full_batches(images, 2)
    assert [batch.flatten().tolist() for batch, _ in batches] == [[1, 2], [3, 4], [5, 0]]
    assert [count for _, count in batches] == [2, 2, 1]


def test_what_the_scorers_of_the_folds_say_is_out_of_fold(selected):
    """Computed once more, image by image, by the networks in the files."""
    run = LabelledPatches(
        selected.given["dataset_dir"], None, SIDE, selected.given["cache_dir"], selected.folder / "split.csv",
        split_file=selected.given["split_file"], parts=("train", "validation"),
    )  # fmt: skip
    probabilities, labels = [], []
    masks = read_artefact(selected.folder / "scorer.pt", "scorer")["dropout_masks"]
    for number in range(2):
        network, _ = load_artefact(selected.folder / f"scorer_fold_{number + 1}.pt", f"scorer_fold_{number + 1}")
        fold = LabelledFold(run, number, 2, 0, inside=True)
        for place in range(len(fold)):
            item = fold.read(place)
            with torch.no_grad():
                features = network.features(scale_patch(item["image"])[None])[0]
                passes = [network.head(features * mask).softmax(0) for mask in masks]
            probabilities.append(sum(passes) / len(passes))
            labels.append(item["label"])
    facts = read_artefact(selected.folder / "scorer.pt", "scorer")
    found = facts["out_of_fold"]
    assert len(masks) == facts["passes"] == 3 and found["labels"].tolist() == labels and len(labels) == 24
    torch.testing.assert_close(found["probabilities"].float(), torch.stack(probabilities), atol=1e-4, rtol=0)
    metrics = json.loads((selected.folder / "metrics.json").read_text())["scorer"]
    assert metrics["out_of_fold"]["images"] == 24 and metrics["out_of_fold"]["accuracy"] > 0.9
    assert metrics["validation"]["images"] == 6 and facts["measured"]["validation"] == metrics["validation"]


def test_entropy_limits_are_those_of_real_images_out_of_fold(selected):
    scorer = Scorer(selected.folder / "scorer.pt").prepare()
    found = scorer.facts["out_of_fold"]
    entropies = -(found["probabilities"] * found["probabilities"].log()).sum(1)
    right = found["probabilities"].argmax(1) == found["labels"]
    assert scorer.entropy_limits(0.8).tolist() == pytest.approx([np.quantile(entropies[right], 0.8)] * 3), "pooled"
    assert (scorer.entropy_limits(0.5) < scorer.entropy_limits(0.9)).all()


def test_a_score_depends_on_the_image_alone(selected, pictures):
    scorer = Scorer(selected.folder / "scorer.pt", batch_size=4)
    whole = scorer.score(pictures)
    assert whole[0].shape == (21, 3) and whole[0].dtype == torch.float64
    assert torch.allclose(whole[0].sum(1), torch.ones(21, dtype=torch.float64))
    order = torch.randperm(21, generator=torch.Generator().manual_seed(0))
    for found, expected in zip(scorer.score(pictures[order]), whole):
        assert torch.equal(found, expected[order])
    alone = [scorer.score(pictures[place : place + 1]) for place in range(21)]
    for found, expected in zip(zip(*alone), whole):
        assert torch.equal(torch.cat(found), expected)


def test_a_scorer_sees_pictures_in_the_view_it_was_trained_in(selected, pictures, tmp_path):
    """In grey, a picture and its grey copy are the same."""
    selected(tmp_path, scorer_view="grey")
    scorer, colour = (Scorer(folder / "scorer.pt") for folder in (tmp_path, selected.folder))
    grey = look_at(pictures, "grey")
    assert all(torch.equal(one, other) for one, other in zip(scorer.score(pictures), scorer.score(grey)))
    assert not torch.equal(colour.score(pictures)[0], colour.score(grey)[0])
    with pytest.raises(RuntimeError) as caught:
        selected(tmp_path / "other", scorer_view="infrared")
    assert "'infrared'; it must be one of colour, grey, normalised" in str(root_cause(caught.value))


def test_features_are_the_scorers_own_or_those_of_a_given_module(selected, pictures):
    own = Scorer(selected.folder / "scorer.pt")
    features = own.score(pictures)[1]
    with torch.no_grad():
        torch.testing.assert_close(features, own.network.features(scale_patch(pictures)), atol=1e-4, rtol=1e-3)

    class Means(torch.nn.Module):
        def forward(self, images):
            return images.mean((2, 3))

    for given in (Means(), Means):
        scorer = Scorer(selected.folder / "scorer.pt", features=given)
        probabilities, means = scorer.score(pictures)
        torch.testing.assert_close(means, scale_patch(pictures).mean((2, 3)))
        torch.testing.assert_close(probabilities, own.score(pictures)[0])
        assert scorer.fingerprints["scorer"] == own.fingerprints["scorer"] == own.fingerprints["features"]
        assert scorer.fingerprints["features"] != own.fingerprints["features"]


def test_features_of_a_timm_model_need_its_weights(tmp_path):
    import timm

    torch.manual_seed(5)
    model = timm.create_model("test_vit", pretrained=False, num_classes=0, img_size=SIDE)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    assert load_feature_extractor(None, None, SIDE) is None
    made = load_feature_extractor("test_vit", tmp_path / "weights.pt", SIDE).eval()
    images = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    with torch.no_grad():
        scaled = (images * 0.5 + 0.5 - made.mean) / made.std
        torch.testing.assert_close(made(images), model.eval()(scaled))
    larger = load_feature_extractor("test_vit", tmp_path / "weights.pt", SIDE, input_side=64).eval()
    assert larger(images).shape == (2, 64) and larger.input_side == 64
    with pytest.raises(ValueError, match="--feature_trunk test_vit is given without --feature_weights: .* random"):
        load_feature_extractor("test_vit", None, SIDE)
    with pytest.raises(ValueError, match="--feature_weights w.pt is given without --feature_trunk"):
        load_feature_extractor(None, "w.pt", SIDE)
    with pytest.raises(FileNotFoundError, match="absent.pt"):
        load_feature_extractor("test_vit", tmp_path / "absent.pt", SIDE)


def test_a_scorer_may_start_from_weights_of_a_timm_model(labelled, tmp_path):
    import timm

    torch.manual_seed(6)
    model = timm.create_model("test_vit", pretrained=False, num_classes=5, img_size=SIDE)
    torch.save(model.state_dict(), tmp_path / "weights.pt")

    def trainer(weights):
        made = trainers(labelled, folds=2, trunk="test_vit", trunk_weights=weights)[-1]
        made.prepare()
        return made

    started, random = trainer(tmp_path / "weights.pt"), trainer(None)
    for name, tensor in started.network.trunk.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert torch.equal(started.ema.weights["trunk.cls_token"], model.state_dict()["cls_token"])
    assert changed_settings(started, random) == {"trunk weights"}
    with pytest.raises(FileNotFoundError, match="absent.pt"):
        trainer(tmp_path / "absent.pt")


def test_killed_and_continued_is_the_uninterrupted_run(workflow, tmp_path):
    given = {**write_labelled(tmp_path), "pool_dir": str(fill_pool(tmp_path / "pool", keys(4)))}
    given["cache_dir"] = str(tmp_path / "cache")
    workflow("select.json", **given, output_dir=str(tmp_path / "whole")).run()
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    kill_stage("scorer_fold_2", "select.json", {**TINY_SELECTION, **given}, folder, tmp_path / "reached")
    assert not (folder / "scorer_fold_2.pt").exists()
    workflow("select.json", **given, output_dir=str(folder)).run()
    for name in ("scorer_fold_1", "scorer_fold_2", "scorer"):
        for suffix in (".pt", "_checkpoint.pt"):
            one, other = (torch.load(run / f"{name}{suffix}", weights_only=True) for run in (folder, whole))
            assert_equal(one, other, name)
    for name in ("selection.csv", "selection.json", "selection.png"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def test_scorers_of_other_settings_are_refused(selected, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        selected(tmp_path / "run", density_scale=0.1)
    message = str(root_cause(caught.value))
    named = "its --density_scale is 0.5, this run's is 0.1"
    assert f"scorer_fold_1_checkpoint.pt can't be continued: {named}" in message, message
    assert "another --output_dir" in message and not (tmp_path / "run/selection.csv").exists()


IMAGES = {"training images", "held-out images"}


@pytest.mark.parametrize(
    "change, named",
    [
        ({"train#trainer#passes": 4}, {"--train#trainer#passes"}),
        ({"folds": 3}, {"--folds", *IMAGES}),
        ({"train#architecture#dropout": 0.1}, {"--train#architecture#dropout"}),
        ({"residual_network#block_inplanes": [8, 8, 8, 16]}, {"--train#architecture#arguments"}),
        ({"scorer_view": "grey"}, {"--scorer_view"}),
        ({"density_scale": 0.1}, {"--density_scale"}),
        ({"scorer_steps": 41}, {"number of steps"}),
        ({"train#optimizer#lr": 0.1}, {"--train#optimizer#lr"}),
        ({"seed": 3}, {"seed", *IMAGES}),
        ({"inference_batch_size": 3, "checkpoint_interval": 3, "keep_fraction": 0.2, "ratios": [50]}, set()),
    ],
)
def test_what_decides_how_a_scorer_is_trained(selected, workflow, change, named):
    settings = {**selected.given, "output_dir": str(selected.folder)}
    trainers = []
    for given in ({}, change):
        made = workflow("select.json", **{**settings, **given})
        trainers.append(made.parser.get_parsed_content("train#trainer").stages[0])
        trainers[-1].prepare()
    assert changed_settings(*trainers) == named


def test_classes_keep_their_order(selected):
    assert Scorer(selected.folder / "scorer.pt").prepare().classes == list(CLASSES)
