"""The settings of configs/select.json: found from anywhere, each does what it says, impossible ones refused at once."""

from pathlib import Path

import pytest
from candidates import fill_pool, keys, write_labelled
from conftest import TINY_SELECTION
from helpers import ROOT, build_elsewhere, flag_tests, root_cause
from monai.bundle import ConfigWorkflow
from processes import run_python

from bundle.selection.table import read_selection

CONFIG = str(ROOT / "configs" / "select.json")


def scorers(w):
    return w("train#trainer").stages


def all_are(values, expected):
    values = list(values)
    return len(values) > 0 and all(value == expected for value in values)


def shape(w, name):
    return {str(trainer.architecture.keywords[name]) for trainer in scorers(w)}


def network(w, name):
    return {str(trainer.architecture.keywords["arguments"][name]) for trainer in scorers(w)}


def optimizers(w, name):
    return {trainer.make_optimizer.keywords[name] for trainer in scorers(w)}


def stains(w):
    return [trainer.data_loader.dataset.transform.transforms[0] for trainer in scorers(w)]


def views(w):
    return [trainer.data_loader.dataset.transform.transforms[2] for trainer in scorers(w)]


# Each setting a user may change, another value for it, and what then must have changed.
FLAGS = [
    ("pool_dir", "/some/where", lambda w: str(w("pool").folder) == "/some/where"),
    ("dataset_dir", "/some/where", lambda w: w("labelled").dataset_dir == "/some/where"),
    ("split_file", "my.csv", lambda w: str(w("labelled").drawing.split_file) == "my.csv"),
    ("split_file", "my.csv", lambda w: "--split_file my.csv" in w("run::0::next_command")),
    ("output_dir", "elsewhere", lambda w: str(w("selection#work").folder.path) == "elsewhere"),
    ("output_dir", "elsewhere", lambda w: str(w("labelled").split_path) == "elsewhere/split.csv"),
    ("output_dir", "elsewhere", lambda w: str(w("selector").scorer.path) == "elsewhere/scorer.pt"),
    ("output_dir", "elsewhere", lambda w: "--selection_file elsewhere/selection.csv" in w("run::0::next_command")),
    ("scorer_dir", "elsewhere", lambda w: all_are((str(trainer.folder.path) for trainer in scorers(w)), "elsewhere")),
    ("scorer_dir", "elsewhere", lambda w: str(w("selector").scorer.path) == "elsewhere/scorer.pt"),
    ("scorer_dir", "elsewhere", lambda w: all_are((str(t.handlers[-1].output_dir) for t in scorers(w)), "elsewhere")),
    ("scorer_dir", "elsewhere", lambda w: w("context").folder.path != scorers(w)[0].folder.path),
    ("cache_dir", "elsewhere", lambda w: str(w("labelled").cache_dir) == "elsewhere"),
    ("device", "cpu:0", lambda w: all_are((str(trainer.state.device) for trainer in scorers(w)), "cpu:0")),
    ("device", "cpu:0", lambda w: str(w("selector").scorer.device) == "cpu:0"),
    ("precision", "bf16", lambda w: all_are((str(t.autocast_dtype) for t in scorers(w)), "torch.bfloat16")),
    ("seed", 70, lambda w: all_are((trainer.seed for trainer in scorers(w)), 70)),
    ("seed", 70, lambda w: w("selector").rules.seed == scorers(w)[0].training.seed == 70),
    ("patch_size", 48, lambda w: w("labelled").patch_size == w("pool").patch_size == 48),
    ("patch_size", 48, lambda w: w("feature_extractor").keywords["side"] == 48),
    ("normalise_stain", True, lambda w: w("labelled").store_arguments.get("normalise_stain") is True),
    ("class_names", ["ADI", "LYM"], lambda w: w("labelled").drawing.class_names == ["ADI", "LYM"]),
    ("maximum_rejected_share", 0.5, lambda w: w("labelled").store_arguments.get("maximum_rejected_share") == 0.5),
    ("maximum_blank_share", 0.5, lambda w: w("labelled").store_arguments.get("maximum_blank_share") == 0.5),
    ("class_level", -1, lambda w: w("labelled").drawing.class_level == -1),
    ("cache_gigabytes", 1, lambda w: w("labelled").store_arguments.get("cache_gigabytes") == 1),
    ("generated_per_class", 12, lambda w: w("labelled").generated_per_class == 12),
    ("generated_slide", 9, lambda w: w("labelled").generated_slide == 9),
    ("split_seed", 3, lambda w: w("labelled").drawing.seed == 3),
    ("accumulate", 2, lambda w: all_are((trainer.context.accumulate for trainer in scorers(w)), 2)),
    ("num_workers", 2, lambda w: all_are((trainer.data_loader.num_workers for trainer in scorers(w)), 2)),
    ("ratios", [10, 30], lambda w: w("selector").ratios == [10, 30]),
    ("balanced", True, lambda w: w("selector").balanced is True),
    ("gates", "distance", lambda w: w("selector").rules.gates == "distance"),
    ("selector#entropy_quantile", 0.5, lambda w: w("selector").entropy_quantile == 0.5),
    ("selector#distance", "cosine", lambda w: w("selector").centroids.metric == "cosine"),
    ("selector#rules#centroids", "with_synthetic", lambda w: w("selector").rules.centroids == "with_synthetic"),
    ("keep_fraction", 0.25, lambda w: w("selector").rules.keep_fraction == 0.25),
    ("selector#rules#copy_ratio", 0.1, lambda w: w("selector").rules.copy_ratio == 0.1),
    ("maximum_rounds", 5, lambda w: w("selection#evaluator").work.maximum_rounds == 5),
    ("selection#work#maximum_candidates", 7, lambda w: w("selection#evaluator").work.maximum_candidates == 7),
    ("exclude", "rejected.csv", lambda w: w("selector").exclude == "rejected.csv"),
    ("scorer_trunk", "resnet18", lambda w: shape(w, "trunk") == {"resnet18"}),
    ("scorer_trunk", "resnet18", lambda w: shape(w, "arguments") == {"{}"}),
    ("scorer_weights", "w.pt", lambda w: all_are((str(t.trunk_weights) for t in scorers(w)), "w.pt")),
    ("scorer_arguments", {"layers": [2]}, lambda w: shape(w, "arguments") == {"{'layers': [2]}"}),
    ("residual_network#block_inplanes", [4] * 4, lambda w: network(w, "block_inplanes") == {"[4, 4, 4, 4]"}),
    ("residual_network#norm#1#num_groups", 4, lambda w: network(w, "norm") == {"['group', {'num_groups': 4}]"}),
    ("train#architecture#input_side", 64, lambda w: shape(w, "input_side") == {"64"}),
    ("scorer_view", "grey", lambda w: all_are((trainer.view for trainer in scorers(w)), "grey")),
    ("scorer_view", "grey", lambda w: all_are((view.view for view in views(w)), "grey")),
    ("train#architecture#dropout", 0.5, lambda w: shape(w, "dropout") == {"0.5"}),
    ("scorer_steps", 9, lambda w: all_are((trainer.steps for trainer in scorers(w)), 9)),
    ("scorer_steps", 9, lambda w: all_are((t.data_loader.step_sampler.steps for t in scorers(w)), 9)),
    ("train#trainer#batch_size", 6, lambda w: all_are((t.data_loader.items_per_batch for t in scorers(w)), 6)),
    ("train#optimizer#lr", 1e-5, lambda w: optimizers(w, "lr") == {1e-5}),
    ("train#optimizer#weight_decay", 0.5, lambda w: optimizers(w, "weight_decay") == {0.5}),
    ("train#trainer#ema_decay", 0.5, lambda w: all_are((trainer.ema_decay for trainer in scorers(w)), 0.5)),
    ("density_probability", 0.5, lambda w: all_are((stain.prob for stain in stains(w)), 0.5)),
    ("density_scale", 0.1, lambda w: all_are((stain.scale for stain in stains(w)), 0.1)),
    ("folds", 3, lambda w: len(scorers(w)) == 4),
    ("train#trainer#passes", 7, lambda w: all_are((trainer.passes for trainer in scorers(w)), 7)),
    ("feature_trunk", "resnet18", lambda w: w("feature_extractor").keywords["trunk"] == "resnet18"),
    ("feature_weights", "w.pt", lambda w: w("selector").scorer.given_features.keywords["weights"] == "w.pt"),
    (
        "feature_extractor#arguments",
        {"depth": 2},
        lambda w: w("feature_extractor").keywords["arguments"] == {"depth": 2},
    ),
    ("feature_extractor#input_side", 224, lambda w: w("feature_extractor").keywords["input_side"] == 224),
    ("inference_batch_size", 5, lambda w: w("selector").scorer.batch_size == 5),
    ("inference_batch_size", 5, lambda w: all_are((trainer.context.inference_batch_size for trainer in scorers(w)), 5)),
    ("checkpoint_interval", 3, lambda w: all_are((t.checkpoint_interval for t in scorers(w)), 3)),
    (
        "mlflow_tracking_uri",
        "file:///x",
        lambda w: all_are((t.handlers[-1].mlflow_tracking_uri for t in scorers(w)), "file:///x"),
    ),
]

test_each_flag_changes_what_it_says, test_every_setting_has_its_flag_test = flag_tests(
    "select.json", FLAGS, also=["ratios"]
)


def test_it_is_built_from_anywhere(tmp_path):
    """Without data, pool and weights, from another folder, and nothing is written."""
    build_elsewhere(CONFIG, ("train#trainer", "selection#evaluator"), tmp_path)


def test_defaults_are_those_documented(tmp_path):
    made = ConfigWorkflow(config_file=CONFIG, bundle_root=str(ROOT), output_dir=str(tmp_path))
    made.initialize()
    selector = made.parser.get_parsed_content("selector")
    assert selector.ratios == [50, 100, 200, 300] and not selector.balanced and selector.entropy_quantile == 0.95
    assert vars(selector.rules) == {
        "gates": "both", "centroids": "real", "keep_fraction": 0.5, "copy_ratio": pytest.approx(1 / 3), "seed": 0
    }  # fmt: skip
    assert selector.labelled.drawing.wanted == ("train", "validation")
    assert [trainer.stage for trainer in scorers(made.parser.get_parsed_content)] == [
        *(f"scorer_fold_{number}" for number in range(1, 6)), "scorer"
    ]  # fmt: skip


COUNTS = [
    "patch_size",
    "scorer_steps",
    "train#trainer#batch_size",
    "train#trainer#passes",
    "selection#work#maximum_candidates",
]
COUNTS += ["inference_batch_size", "checkpoint_interval"]


@pytest.mark.parametrize(
    "settings, message",
    [({name: 0}, f"--{name} is 0; it must be an integer of at least 1") for name in COUNTS]
    + [
        ({"folds": 1}, "--folds is 1"),
        ({"maximum_rounds": -1}, "--maximum_rounds is -1; it must be an integer of at least 0"),
        ({"ratios": []}, "--ratios are []"),
        ({"ratios": [0, 50]}, "--ratios are [0, 50]"),
        ({"gates": "none"}, "--gates is 'none'; it must be one of both, distance"),
        ({"selector#rules#centroids": "mean"}, "--selector#rules#centroids is 'mean'"),
        ({"selector#distance": "l1"}, "the distance 'l1' is unknown: use one of squared_l2, cosine, mahalanobis"),
        ({"keep_fraction": 0}, "--keep_fraction is 0"),
        ({"selector#rules#copy_ratio": -1}, "--selector#rules#copy_ratio is -1"),
        ({"selector#entropy_quantile": 1.5}, "the quantile of the entropies is 1.5"),
        ({"pool_di": "x"}, "nothing reads the setting --pool_di (did you mean --pool_dir?)"),
        ({"feature_trunk": "test_vit"}, "--feature_trunk test_vit is given without --feature_weights"),
        ({"split_file": "absent.csv"}, "there is no split 'absent.csv'. Check --split_file"),
    ],
)
def test_bad_settings_are_refused_before_a_scorer_is_trained(workflow, selected, tmp_path, settings, message):
    given = {**selected.given, "output_dir": str(tmp_path / "out"), **settings}
    with pytest.raises(RuntimeError) as caught:
        workflow("select.json", **given).run()
    assert message in str(root_cause(caught.value))
    assert not list((tmp_path).glob("out/scorer*"))


@pytest.mark.parametrize(
    "settings",
    [
        {"gates": "distance"},
        {"selector#rules#centroids": "with_synthetic"},
        {"selector#distance": "cosine"},
        {"selector#distance": "mahalanobis"},
        {"keep_fraction": 0.25},
        {"selector#entropy_quantile": 0.05},
        {"selector#rules#copy_ratio": 5},
        {"ratios": [25, 75]},
    ],
)
def test_each_rule_changes_the_table(selected, tmp_path, settings):
    """Of images that are kept or refused, or at which distance; the scorers are the same."""
    table = (selected(tmp_path / "run", **settings) / "selection.csv").read_bytes()
    assert table != (selected.folder / "selection.csv").read_bytes()


def test_another_seed_draws_another_control(selected, workflow, tmp_path):
    """By the same scorers: they have a seed of their own for whoever builds a selector."""
    tables = []
    for seed in (0, 1):
        made = workflow("select.json", **{**selected.given, "output_dir": str(selected.folder), "seed": seed})
        selector = made.parser.get_parsed_content("selector")
        pool = made.parser.get_parsed_content("pool").prepare()
        selector.add_pool(pool)
        tables.append(selector.decide(pool)[0])
    drawn = [{row.file for row in rows if row.random_ratio} for rows in tables]
    assert drawn[0] != drawn[1] and len(drawn[0]) == len(drawn[1]) == 18
    assert [row._replace(random_ratio=0) for row in tables[0]] == [row._replace(random_ratio=0) for row in tables[1]]


def test_balanced_quotas_are_the_same_for_unequal_classes(workflow, tmp_path):
    """Of 6, 6 and 4 images that train; 5.3 of each is 100 %."""
    given = write_labelled(tmp_path)
    split = Path(given["split_file"])
    lines = [line for line in split.read_text().splitlines(keepends=True) if ",unused" not in line]
    spare = [line for line in lines if ",TUM,train" in line][:2]
    split.write_text("".join(line for line in lines if line not in spare))
    given |= {"pool_dir": str(fill_pool(tmp_path / "pool", keys(4))), "cache_dir": str(tmp_path / "cache")}
    found = []
    for balanced in (False, True):
        folder = tmp_path / f"balanced_{balanced}"
        workflow("select.json", **given, output_dir=str(folder), balanced=balanced).run()
        quotas = read_selection(folder / "selection.csv")[1]["quotas"]
        found.append([of_class[100] for of_class in quotas.values()])
    assert found == [[6, 6, 4], [5, 5, 5]]


def test_the_command_line(tmp_path):
    """From another folder, as the last command's output says it; a list is typed in brackets."""
    given = write_labelled(tmp_path)
    fill_pool(tmp_path / "pool", keys(4))
    settings = {**TINY_SELECTION, **given, "bundle_root": ROOT, "pool_dir": "pool", "ratios": "[25,50]"}
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    run = run_python("-m", "monai.bundle", "run", "training", "--config_file", CONFIG, *flags, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    for name in ("selection.csv", "selection.json", "selection.png", "scorer.pt", "metrics.json", "config.json"):
        assert f"runs/select/{name}" in run.stdout and (tmp_path / "runs/select" / name).stat().st_size > 0
    facts = read_selection(tmp_path / "runs/select/selection.csv")[1]
    assert facts["ratios"] == [25, 50] and facts["pool"] == str(tmp_path / "pool")
    command = f"configs/classify.json --selection_file runs/select/selection.csv --split_file {given['split_file']}"
    assert command in run.stdout
