"""What every stage reports while it runs."""

from __future__ import annotations

import functools
from typing import Any

from monai.handlers import MLFlowHandler, TensorBoardStatsHandler

from bundle.handlers.progress import Progress


def stage_handlers(stage: str, output_dir: str, mlflow_tracking_uri: str | None = None) -> list[Any]:
    """Progress bar, TensorBoard and, where an address is given, MLflow.

    The trackers are left unbuilt, because they write as soon as they exist.
    """
    shared = {"epoch_log": False, "output_transform": dict}
    log_dir = f"{output_dir}/tensorboard/{stage}"
    handlers = [Progress(), functools.partial(TensorBoardStatsHandler, log_dir=log_dir, **shared)]
    if mlflow_tracking_uri is not None:
        names = {"experiment_name": "histodiffusion", "run_name": stage}
        handlers.append(functools.partial(MLFlowHandler, tracking_uri=mlflow_tracking_uri, **names, **shared))
    return handlers
