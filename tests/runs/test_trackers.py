"""TensorBoard and MLflow see each stage's losses."""


def test_tensorboard_holds_every_term(pretrained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for stage in ("autoencoder", "diffusion"):
        events = EventAccumulator(str(pretrained / "tensorboard" / stage)).Reload()
        found[stage] = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert {"l1", "perceptual", "kl", "adversarial", "discriminator"} <= found["autoencoder"].keys()
    assert found["autoencoder"]["l1"] == [1, 2, 3, 4] and found["autoencoder"]["discriminator"] == [3, 4]
    assert found["diffusion"]["loss"] == [1, 2, 3, 4]


def test_mlflow_sees_both_stages(workflow, tmp_path):
    import mlflow

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    workflow(output_dir=str(tmp_path / "out"), mlflow_tracking_uri=store).run()
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("histodiffusion")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    autoencoder, diffusion = (runs[f"{tmp_path / 'out'}/{stage}"] for stage in ("autoencoder", "diffusion"))
    assert {"l1", "perceptual"} <= autoencoder.data.metrics.keys()
    assert len(client.get_metric_history(diffusion.info.run_id, "loss")) == 4
