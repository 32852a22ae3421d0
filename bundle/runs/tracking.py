"""Losses, figures and pictures of a stage in TensorBoard and MLflow."""

from __future__ import annotations

import io
import math
import re
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, EventEnum, Events
from monai.handlers import MLFlowHandler, TensorBoardStatsHandler
from PIL import Image

from bundle.runs.processes import rank_and_world_size

EXPERIMENT = "histodiffusion"
PICTURES = ("*.png", "pictures/*.png", "grids/*.png")  # in an output folder; those of a pool lie deeper
STEP = re.compile(r"(.+)_(\d{6})")


class StageEvents(EventEnum):
    """FINISHED: a stage has written its figures and pictures, and `engine.state.metrics` has the figures."""

    FINISHED = "stage_finished"


def losses(output: Any) -> dict[str, float]:
    """The numbers in the output of a step: a dictionary, or MONAI's list of them, of which the first is taken."""
    terms = output[0] if isinstance(output, list) and output else output
    if not isinstance(terms, Mapping):
        return {}
    return {name: value for name, value in terms.items() if isinstance(value, (int, float))}


def figures(content: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of nested dictionaries by their path, "decoder/held_out_slides/psnr"; lists are left out.

    Names keep the characters that MLflow takes.
    """
    found: dict[str, float] = {}
    for name, value in content.items():
        name = re.sub(r"[^\w.\- ]", "_", str(name), flags=re.ASCII)
        if isinstance(value, Mapping):
            found |= {f"{name}/{below}": figure for below, figure in figures(value).items()}
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = float(value)
    return found


def new_figures(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """:func:`figures` of the sections of a `metrics.json` that have changed."""
    return figures({name: content for name, content in after.items() if before.get(name) != content})


class Tracking:
    """Shows a stage in TensorBoard and, where an address is given, in MLflow; nothing is written before it runs.

    Losses of each step; pictures in the output folder when the state is saved and at the end; then the figures of the
    stage and `metrics.json`. In MLflow a stage is a run of the experiment "histodiffusion", named OUTPUT_DIR/STAGE; one
    that was interrupted is continued. Of several processes the first one tracks.

    Args:
        stage: its name.
        output_dir: where it writes; TensorBoard's files go to `tensorboard/<stage>` there.
        mlflow_tracking_uri: e.g. "sqlite:///mlflow.db" or a server's address; None for no MLflow.
    """

    def __init__(self, stage: str, output_dir: str | Path, mlflow_tracking_uri: str | None = None) -> None:
        self.stage = stage
        self.output_dir = Path(output_dir)
        self.mlflow_tracking_uri = mlflow_tracking_uri
        self.tensorboard: TensorBoardStatsHandler | None = None
        self.mlflow: MLFlowHandler | None = None

    def attach(self, engine: Engine) -> None:
        if rank_and_world_size()[0] > 0:
            return
        self.attached = time.time()
        self.shown: dict[Path, int] = {}
        engine.register_events(*StageEvents)
        engine.add_event_handler(Events.STARTED, self.open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(StageEvents.FINISHED, self.finish)

    def open(self, engine: Engine) -> None:
        """Begins to write; MONAI's handlers do so as soon as they exist."""
        if self.tensorboard is not None:
            return
        shared = {"epoch_log": False, "output_transform": losses}
        self.tensorboard = TensorBoardStatsHandler(log_dir=str(self.output_dir / "tensorboard" / self.stage), **shared)
        if self.mlflow_tracking_uri is not None:
            names = {"experiment_name": EXPERIMENT, "run_name": f"{self.output_dir}/{self.stage}"}
            self.mlflow = MLFlowHandler(self.mlflow_tracking_uri, **names, **shared)
            self.mlflow.start(engine)

    def step(self, engine: Engine) -> None:
        if losses(engine.state.output):
            for handler in filter(None, (self.tensorboard, self.mlflow)):
                handler.iteration_completed(engine)
        # With the checkpoint, so that a run that is continued from it shows each picture once.
        interval = getattr(engine, "checkpoint_interval", None)
        if interval and engine.state.iteration % interval == 0:
            self.show_pictures(engine.state.iteration)

    def show_pictures(self, step: int) -> None:
        """Pictures that were written since the stage began, and have not been shown as they are now."""
        for path in sorted(path for pattern in PICTURES for path in self.output_dir.glob(pattern)):
            if path.stat().st_mtime < self.attached:
                continue
            content = path.read_bytes()
            if self.shown.get(path) == (digest := zlib.crc32(content)):
                continue
            self.shown[path] = digest
            named = STEP.fullmatch(path.stem)
            tag, step_of = (named[1], int(named[2])) if named else (path.stem, step)
            with Image.open(io.BytesIO(content)) as image:
                pixels = np.asarray(image.convert("RGB"))
            self.tensorboard._writer.add_image(tag, pixels, step_of, dataformats="HWC")
            if self.mlflow is not None:
                self.mlflow.client.log_artifact(self.mlflow.cur_run.info.run_id, str(path), "pictures")

    def finish(self, engine: Engine) -> None:
        """Shows how the stage ended, and closes."""
        self.open(engine)  # where its steps had been done before
        step = engine.state.iteration
        self.show_pictures(step)
        for name, figure in engine.state.metrics.items():
            self.tensorboard._writer.add_scalar(name, figure, step)
        self.tensorboard.close()
        if self.mlflow is not None:
            self.mlflow._log_metrics(engine.state.metrics, step)
            facts = self.output_dir / "metrics.json"
            if facts.is_file():
                self.mlflow.client.log_artifact(self.mlflow.cur_run.info.run_id, str(facts))
            self.mlflow.close()
        self.tensorboard = self.mlflow = None
