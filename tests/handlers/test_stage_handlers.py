"""What every stage reports: nothing before it runs, TensorBoard while it runs, MLflow where an address is given."""

import functools

from monai.handlers import MLFlowHandler, TensorBoardStatsHandler

from bundle.handlers.progress import Progress
from bundle.handlers.trackers import stage_handlers


def test_nothing_is_written_when_they_are_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in (None, "sqlite:///mlflow.db"):
        stage_handlers("decoder", str(tmp_path / "out"), uri)
    assert list(tmp_path.iterdir()) == []


def test_mlflow_is_there_only_with_an_address(tmp_path):
    plain = stage_handlers("decoder", str(tmp_path))
    tracked = stage_handlers("decoder", str(tmp_path), "file:///somewhere")
    assert [kind(handler) for handler in plain] == [Progress, TensorBoardStatsHandler]
    assert [kind(handler) for handler in tracked] == [Progress, TensorBoardStatsHandler, MLFlowHandler]
    assert plain[1].keywords["log_dir"] == f"{tmp_path}/tensorboard/decoder"
    settings = tracked[2].keywords
    assert (settings["tracking_uri"], settings["run_name"]) == ("file:///somewhere", "decoder")


def kind(handler):
    return handler.func if isinstance(handler, functools.partial) else type(handler)


def test_each_call_gives_handlers_of_its_own(tmp_path):
    one, other = stage_handlers("decoder", str(tmp_path)), stage_handlers("judge_grey", str(tmp_path))
    assert one[0] is not other[0], "two stages would share one progress bar"
    assert one[1].keywords["log_dir"] != other[1].keywords["log_dir"]


def test_tensorboard_holds_every_stage_of_an_adaptation(adapted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    classifier = {"loss", "accuracy"}
    expected = {stage: classifier for stage in ("image_classifier", "latent_classifier", "judge_colour")}
    expected |= {"judge_grey": classifier, "judge_normalised": classifier}
    expected["decoder"] = {"l1", "perceptual", "adversarial", "discriminator", "ce", "ce_ratio"}
    assert {path.name for path in (adapted / "tensorboard").iterdir()} == expected.keys()
    for stage, terms in expected.items():
        events = EventAccumulator(str(adapted / "tensorboard" / stage)).Reload()
        assert terms <= set(events.Tags()["scalars"]), stage
        for term in terms:
            assert [event.step for event in events.Scalars(term)] == [1, 2, 3, 4], f"{stage}: {term}"
