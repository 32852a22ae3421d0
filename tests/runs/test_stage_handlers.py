"""What every stage reports: nothing before it runs; losses, pictures and figures in TensorBoard and MLflow."""

import json
import logging

import numpy as np
import pytest
from conftest import TINY_OF
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.handlers import MLFlowHandler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bundle.data.pictures import save_grid
from bundle.runs.context import RunContext
from bundle.runs.stage_engine import StageEngine
from bundle.runs.tracking import Tracking, figures, losses, new_figures
from bundle.runs.workflow import follow_tracking

CLASSIFIER = {"loss", "accuracy", "validation_loss"}


def events(folder):
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def tags(folder, kind="scalars"):
    return set(events(folder).Tags()[kind])


def test_nothing_is_written_when_they_are_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in (None, "sqlite:///mlflow.db"):
        Tracking("decoder", tmp_path / "out", uri)
        StageEngine(Work(RunContext(tmp_path / "out")), RunContext(tmp_path / "out", mlflow_tracking_uri=uri))
    assert list(tmp_path.iterdir()) == []


def test_each_stage_has_handlers_of_its_own(workflow, tmp_path):
    """Progress bar first, then those of the config, then tracking, which sees what these have measured."""
    made = workflow(output_dir=str(tmp_path / "out"), mlflow_tracking_uri="sqlite:///x").parser.get_parsed_content
    one, other = made("train#trainer").handlers, made("diffusion#trainer").handlers
    assert [type(handler).__name__ for handler in one] == [
        "Progress", "ValidationHandler", "ReconstructionPictures", "Tracking"
    ]  # fmt: skip
    assert [type(handler).__name__ for handler in other] == ["Progress", "SamplePictures", "Tracking"]
    assert one[0] is not other[0], "two stages would share one progress bar"
    assert [handlers[-1].stage for handlers in (one, other)] == ["autoencoder", "diffusion"]
    assert all(handlers[-1].mlflow_tracking_uri == "sqlite:///x" for handlers in (one, other))
    assert list(tmp_path.iterdir()) == []


def test_the_numbers_of_an_output():
    assert losses({"loss": 0.5, "pred": np.zeros(3)}) == losses([{"loss": 0.5}]) == {"loss": 0.5}
    assert losses(None) == losses([]) == losses([np.zeros(3)]) == {}


def test_figures_are_the_finite_numbers_that_have_changed():
    before = {"labelled": {"patches": 4}, "decoder": {"psnr": 1.0}}
    decoder = {"test": {"psnr": 20, "class a/ü": {"recall": 0.5}}, "rows": [1, 2], "good": True, "bad": float("nan")}
    after = {**before, "decoder": decoder, "command": "python"}
    found = {"decoder/test/psnr": 20.0, "decoder/test/class a__/recall": 0.5}
    assert new_figures(before, after) == found and new_figures(after, after) == {}
    assert figures({}) == {}


def test_tensorboard_holds_every_stage_of_an_adaptation(adapted):
    expected = {"image_classifier": CLASSIFIER, "latent_classifier": CLASSIFIER}
    expected |= {f"judge_{view}": CLASSIFIER for view in ("colour", "grey", "normalised")}
    expected["decoder"] = {"loss", "l1", "perceptual", "adversarial", "discriminator", "ce", "ce_ratio"}
    assert {path.name for path in (adapted / "tensorboard").iterdir()} == expected.keys()
    for stage, terms in expected.items():
        found = events(adapted / "tensorboard" / stage)
        assert terms <= set(found.Tags()["scalars"]), stage
        for term in terms - {"validation_loss"}:
            assert [event.step for event in found.Scalars(term)] == [1, 2, 3, 4], f"{stage}: {term}"
        if "validation_loss" in terms:
            assert [event.step for event in found.Scalars("validation_loss")] == [2, 4]
    metrics = json.loads((adapted / "metrics.json").read_text())
    found = events(adapted / "tensorboard" / "image_classifier")
    assert found.Scalars("image_classifier/accuracy")[0].value == pytest.approx(metrics["image_classifier"]["accuracy"])
    assert "reconstructions" in tags(adapted / "tensorboard" / "decoder", "images")
    assert tags(adapted / "tensorboard" / "latent_classifier", "images") == {"accuracy_by_timestep"}


def test_tensorboard_holds_pictures_and_validation_of_a_pretraining(pretrained):
    autoencoder, diffusion = (events(pretrained / "tensorboard" / name) for name in ("autoencoder", "diffusion"))
    assert {"training_input", "reconstructions"} <= set(autoencoder.Tags()["images"])
    assert [image.step for image in autoencoder.Images("reconstructions")] == [4]
    assert {"validation_psnr", "validation_ssim", "autoencoder/psnr"} <= set(autoencoder.Tags()["scalars"])
    assert set(diffusion.Tags()["images"]) == {"samples"}
    assert {"diffusion/loss", "latent/scale"} <= set(diffusion.Tags()["scalars"])


class Work:
    """As a selection or an evaluation is: no training."""

    stage = "work"
    pictures = ()

    def __init__(self, context):
        self.folder = context.folder

    def check(self):
        pass

    def run(self):
        self.folder.open()
        self.folder.set_metrics("work", {"share": 0.25})
        save_grid(self.folder / "shown.png", np_images())


def np_images():
    import torch

    return torch.zeros(2, 3, 8, 8)


def test_a_stage_that_trains_nothing_is_tracked_by_our_handler_and_by_monais(tmp_path):
    import mlflow

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    save_grid(tmp_path / "out" / "old.png", np_images())
    theirs = MLFlowHandler(store, iteration_log=False, experiment_name="theirs", run_name="work")
    context = RunContext(tmp_path / "out", mlflow_tracking_uri=store)
    stage = StageEngine(Work(context), context, [theirs])
    stage.run()
    stage.folder.close()
    found = events(tmp_path / "out" / "tensorboard" / "work")
    assert found.Scalars("work/share")[0].value == 0.25 and found.Tags()["images"] == ["shown"], "and no older picture"
    client = mlflow.MlflowClient(tracking_uri=store)
    for experiment, name in (("histodiffusion", f"{tmp_path / 'out'}/work"), ("theirs", "work")):
        (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
        assert run.info.run_name == name and run.data.metrics["work/share"] == 0.25
    (run,) = client.search_runs([client.get_experiment_by_name("histodiffusion").experiment_id])
    assert run.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run.info.run_id, "pictures")] == ["pictures/shown.png"]
    assert "metrics.json" in [file.path for file in client.list_artifacts(run.info.run_id)]


@pytest.mark.parametrize("own", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_mlflow_shows_every_stage_by_our_flag_and_by_monais(bundle_root, pretrained, tmp_path, own):
    """`--tracking mlflow` knows of one trainer; the other stages, pictures and figures are shown all the same."""
    import mlflow

    out = tmp_path / "out"
    store = f"sqlite:///{tmp_path / 'mlflow.db' if own else out / 'mlruns.db'}"
    given = {"mlflow_tracking_uri": store} if own else {"tracking": "mlflow"}
    config = str(bundle_root / "configs" / "adapt.json")
    settings = {
        **TINY_OF["adapt.json"],
        "output_dir": str(out),
        "pretrained_dir": str(pretrained),
        "bundle_root": str(bundle_root),
    }
    made = ConfigWorkflow(config_file=config, workflow_type="train", logging_file=False, **settings, **given)
    made.initialize()
    assert made.check_properties() == []
    made.run()
    client = mlflow.MlflowClient(tracking_uri=store)
    found = {run.info.run_name: run for run in client.search_runs(
        [client.get_experiment_by_name("histodiffusion").experiment_id]
    )}  # fmt: skip
    stages = {"image_classifier", "judge_colour", "judge_grey", "judge_normalised", "decoder", "latent_classifier"}
    assert found.keys() == {f"{out}/{stage}" for stage in stages}
    decoder = found[f"{out}/decoder"]
    assert {"loss", "ce", "decoder/held_out_slides/psnr_after"} & decoder.data.metrics.keys() >= {"loss", "ce"}
    assert "pictures/reconstructions.png" in [
        file.path for file in client.list_artifacts(decoder.info.run_id, "pictures")
    ]
    assert any(name.startswith("decoder/") for name in decoder.data.metrics)
    if not own:
        (run,) = client.search_runs([client.get_experiment_by_name("monai_experiment").experiment_id])
        assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 4, "of train#trainer"


def test_tracking_of_a_config_without_a_stage_of_its_own_is_refused():
    with pytest.raises(ValueError, match="--tracking: .*Give --mlflow_tracking_uri to the configs that it runs"):
        follow_tracking(ConfigParser({"is_not_rank0": False, "tracking_uri": "sqlite:///x"}))
    follow_tracking(ConfigParser({"tracking_uri": "sqlite:///x"}))  # somebody's own id, no tracking
