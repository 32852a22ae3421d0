"""What every stage reports while it runs."""

from __future__ import annotations

from typing import Any

from bundle.handlers.progress import Progress
from bundle.handlers.tracking import Tracking


def stage_handlers(stage: str, output_dir: str, mlflow_tracking_uri: str | None = None) -> list[Any]:
    """Progress bar and tracking of one of several stages that are made in Python; a config lists the two itself."""
    return [Progress(), Tracking(stage, output_dir, mlflow_tracking_uri)]
