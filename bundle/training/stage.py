"""What every training stage shares: steps instead of epochs, resume, one artefact at the end."""

from __future__ import annotations

import functools
import logging
import math
import time
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Trainer
from monai.inferers import Inferer, SimpleInferer

from bundle.data.loader import ItemDataset, StepDataLoader
from bundle.models.artefacts import read_artefact
from bundle.runs import job
from bundle.runs.context import RunContext
from bundle.runs.identity import stage_settings
from bundle.runs.leaving import Leaving, leaving_in_order
from bundle.runs.progress import Progress
from bundle.runs.randomness import seed_step
from bundle.runs.tensors import all_finite, save_tensors
from bundle.runs.tracking import StageEvents, Tracking, losses, new_figures
from bundle.runs.workflow import running_parser
from bundle.training.shared_step import SharedSteps

logger = logging.getLogger(__name__)


class StageTrainer(SharedSteps, Trainer):
    """A MONAI/Ignite trainer that runs a number of steps, survives being killed, and writes one artefact.

    A subclass names its stage and says what a step does (`_iteration`), what a checkpoint holds (`state_objects`), what
    it rests on (`parents`) and what is written at the end (`finish`). An Ignite "epoch" here is the whole budget:
    `max_epochs` is 1 and handlers count iterations.

    Order at each step's end: losses are checked to be finite, then the user's handlers run, then the checkpoint is
    written; a run with a broken loss never touches its checkpoint. Then whoever was asked to leave leaves.

    Under torchrun all processes run it. They take the steps together (`SharedSteps`); what else writes or takes long is
    the first one's, and the others wait.

    Args:
        context: what the stages of the run share.
        dataset: an ItemDataset.
        batch_size: its items a step.
        steps: number of optimiser steps of the whole stage.
        max_epochs: 1; MONAI wants to find it in a trainer's config.
        seed: seed of everything random in the stage; None for the run's.
        data_seed: seed of the order of the items and of their random transforms; None for `seed`.
        inferer: how the network is applied to a batch; None calls it.
        train_handlers: Ignite handlers, attached when the run begins, between progress bar and tracking. Those that
            write as soon as they exist are given unbuilt (`"_mode_": "callable"` in a config).
    """

    stage = ""
    section = ""  # of the config, where it has another name than the stage
    pictures: Sequence[str] = ()  # what it leaves for people to look at, besides its artefact

    def __init__(
        self,
        context: RunContext,
        dataset: ItemDataset,
        batch_size: int,
        steps: int,
        max_epochs: int = 1,
        seed: int | None = None,
        data_seed: int | None = None,
        inferer: Inferer | None = None,
        train_handlers: Sequence | None = None,
    ) -> None:
        if steps < 1:
            raise ValueError(f"--{self.section or self.stage}_steps is {steps}; it must be at least 1")
        self.seed = context.seed if seed is None else seed
        super().__init__(
            device=context.device,
            max_epochs=max_epochs,
            data_loader=StepDataLoader(
                dataset, batch_size, steps, self.seed if data_seed is None else data_seed, context.num_workers
            ),
            epoch_length=steps,
            decollate=False,
        )
        self.steps = steps
        self.context = context
        self.folder = context.folder
        self.inferer = inferer or SimpleInferer()
        self.parser = running_parser()
        self.autocast_dtype = context.dtype
        self.leaving = Leaving()
        self.seconds = 0.0  # of earlier runs of this stage
        self.started = 0.0
        self.checkpoint_interval = context.checkpoint_interval
        tracking = Tracking(self.stage, self.folder.path, context.mlflow_tracking_uri)
        self.handlers = [Progress(), *(train_handlers or ()), tracking]  # tracking sees what the others measured
        self.register_events(*StageEvents)
        self.add_event_handler(Events.ITERATION_STARTED, self._seed)
        self.add_event_handler(Events.ITERATION_COMPLETED, self._require_finite)
        self.add_event_handler(Events.ITERATION_COMPLETED, self._decollate)

    # What a subclass fills in.

    def state_objects(self) -> dict[str, Any]:
        """Everything with a `state_dict` that a resumed run needs."""
        raise NotImplementedError

    def parents(self) -> dict[str, Any]:
        """Fingerprints of the data and artefacts that the stage rests on, as plain data."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuses settings that only earlier artefacts show to be wrong: before this stage, or the first of several."""

    def prepare(self) -> None:
        """What must be known before a checkpoint can be judged: the data, earlier artefacts."""

    def before_first_step(self) -> None:
        """What only training needs, such as filled caches."""

    def stopped_early(self) -> bool:
        """Whether the stage ended before its last step because more would not have helped."""
        return False

    def measure_together(self) -> None:
        """Measurements at the end for which MONAI's metrics gather what all processes have."""

    def finish(self) -> None:
        """Writes the stage's metrics and pictures and, last, its artefact; in the first process alone."""
        raise NotImplementedError

    # What they share.

    @property
    def checkpoint_path(self):
        return self.folder / f"{self.stage}_checkpoint.pt"

    @property
    def artefact_path(self):
        return self.folder / f"{self.stage}.pt"

    def autocast(self) -> torch.autocast:
        """The context the networks run in; losses are computed outside it, in fp32."""
        return torch.autocast(self.state.device.type, self.autocast_dtype, enabled=self.autocast_dtype != torch.float32)

    def elapsed(self) -> float:
        """Seconds spent in this stage, earlier runs included."""
        return self.seconds + time.monotonic() - self.started

    def effort(self) -> dict[str, float]:
        """Steps, seconds and patches per second of the whole stage, for `metrics.json`."""
        seconds, steps = self.elapsed(), self.state.iteration
        rate = steps * self.data_loader.items_per_batch / seconds
        return {"steps": steps, "seconds": round(seconds, 1), "patches_per_second": round(rate, 2)}

    def run(self) -> None:
        """Runs the stage from its checkpoint, or from the start; does nothing where it has already ended."""
        job.together(self.folder.open)
        job.require_seen(self.folder.path)
        self.started = time.monotonic()
        before = self.folder.metrics()
        job.first_goes_first(self.check)
        job.first_goes_first(self.prepare)
        done = self.state.iteration = job.together(self.load_checkpoint)
        if self.stopped_early():
            done = self.steps
        if job.together(lambda: self.finished(done)):
            logger.info(f"{self.stage}: finished before; kept {self.artefact_path}")
            return
        self.attach_handlers()
        if done < self.steps:
            self.require_divisible()
            self.folder.save_config()
            job.first_goes_first(self.before_first_step)
            self.fit_networks()
            logger.info(
                f"{self.stage}: {f'continuing after step {done} of' if done else 'training for'} {self.steps} steps on "
                f"{self.state.device} in {str(self.autocast_dtype).removeprefix('torch.')}"
            )
            self.data_loader.start = done
            self.take_steps()
            if self.state.iteration % self.checkpoint_interval:
                self.save_checkpoint()
        self.measure_together()
        job.by_first(self.finish)
        self.state.metrics = new_figures(before, self.folder.metrics())
        self.fire_event(StageEvents.FINISHED)

    def take_steps(self) -> None:
        """All steps that are left, unless a signal asks to leave."""
        with leaving_in_order() as self.leaving, self.explaining_memory():
            self.leaving.stepping = True
            super().run()

    def finished(self, done: int) -> bool:
        """Whether nothing is left to do. The artefact is written last, after metrics and pictures.

        Args:
            done: steps of the checkpoint, 0 without one; a user may have deleted it once the stage had ended.

        Raises:
            ValueError: more steps are asked of an artefact whose checkpoint is gone.
        """
        if not self.artefact_path.is_file():
            return False
        artefact = read_artefact(self.artefact_path, self.stage)
        steps = artefact["steps"]
        if not done and "identity" in artefact:
            self.require_identity(self.artefact_path, artefact["identity"])
        if not done and steps < self.steps:
            raise ValueError(
                f"{self.artefact_path} has {steps} steps, {self.steps} are asked for, and {self.checkpoint_path} to "
                "continue from is gone: choose another --output_dir"
            )
        return max(done, steps) >= self.steps and (not done or done == steps)

    def attach_handlers(self) -> None:
        """Attaches the handlers, then the checkpoint, which must come last in a step."""
        for handler in self.handlers:
            (handler() if isinstance(handler, functools.partial) else handler).attach(self)
        self.handlers = []
        self.add_event_handler(Events.ITERATION_COMPLETED(every=self.checkpoint_interval), self.save_checkpoint)
        self.add_event_handler(Events.ITERATION_COMPLETED, self.leave_if_asked)

    def _seed(self) -> None:
        seed_step(self.seed, zlib.crc32(self.stage.encode()), self.state.iteration)

    def _require_finite(self) -> None:
        broken = {name: value for name, value in losses(self.state.output).items() if not math.isfinite(value)}
        if broken:
            raise FloatingPointError(self.broken(broken))

    def _decollate(self) -> None:
        self.state.output = [self.state.output]  # as MONAI's own trainers leave it, and its handlers expect it

    def broken(self, what: Any) -> str:
        return (
            f"{self.stage}: not finite at step {self.state.iteration}: {what}. {self.checkpoint_path} is from before "
            "and untouched; try a lower learning rate, or --precision fp32"
        )

    def whole_identity(self) -> dict[str, Any]:
        """What a checkpoint and a run that continues it must share. Seed and step are the whole random state."""
        return {
            **self.settings,
            **self.parents(),
            "seed": self.seed,
            "batch size": self.data_loader.items_per_batch,
            "precision": str(self.autocast_dtype).removeprefix("torch."),
        }

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Those of the config that runs the stage, {} without one: who builds a trainer in Python resumes with care."""
        return {} if self.parser is None else stage_settings(self.parser, self.section or self.stage)

    def require_identity(self, path: Any, found: dict[str, Any]) -> None:
        """Refuses what was made with another architecture, data or settings; both sides are named."""
        own = self.whole_identity()
        for name in {**own, **found}:
            if found.get(name) != own.get(name):
                raise ValueError(
                    f"{path} can't be continued: its {name} is {found.get(name)}, this run's is {own.get(name)}. Give "
                    "the former setting, or another --output_dir"
                )

    def save_checkpoint(self) -> None:
        """Saves all a resumed run needs, atomically; every process has the same, and the first one writes it.

        Raises:
            FloatingPointError: a weight or an optimiser's moment is not finite, as after a broken gradient; nothing is
                written.
            OSError: the disk is full; the former checkpoint stays.
        """
        state = {name: item.state_dict() for name, item in self.state_objects().items()}
        for name, tensors in state.items():
            if not all_finite(tensors):
                what = "moments" if isinstance(self.state_objects()[name], torch.optim.Optimizer) else "weights"
                raise FloatingPointError(self.broken(f"{what} of the {name}"))
        content = {
            "step": self.state.iteration,
            "seconds": self.elapsed(),
            "identity": self.whole_identity(),
            "state": state,
        }
        if job.is_first():
            save_tensors(self.checkpoint_path, content)

    def load_checkpoint(self) -> int:
        """Restores the last checkpoint.

        Returns:
            the number of steps done, 0 without a checkpoint.

        Raises:
            ValueError: it was made with another architecture, data or seed; both sides are named.
        """
        if not self.checkpoint_path.is_file():
            return 0
        # To the CPU first: an optimiser's step counters would stay on a GPU and be waited for at each step.
        content = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
        self.require_identity(self.checkpoint_path, content["identity"])
        for name, item in self.state_objects().items():
            item.load_state_dict(content["state"][name])
        self.seconds = content["seconds"]
        return content["step"]


def run_stages(stages: Sequence[StageTrainer | None], next_command: str) -> None:
    """Runs the stages one after the other, then says where the results of the last are and what to run next.

    A stage that a setting leaves out is None. All are built and checked before the first runs, so that what the last
    one refuses is refused at once.
    """
    present = [stage for stage in stages if stage is not None]
    if not present:
        raise ValueError("nothing to run: a setting switches this part off, such as --diffusion_method none")
    folder = present[-1].folder
    job.start(present[-1].context.device)
    try:
        with leaving_in_order():
            job.together(folder.open)
            for stage in present:
                job.first_goes_first(stage.check)
            for stage in present:
                stage.run()
    finally:
        for opened in (stage.folder for stage in present):  # some stages have one of their own
            opened.close()
    pictures = [name for stage in present for name in stage.pictures]
    folder.report(
        [*pictures, *(f"{stage.stage}.pt" for stage in present), "split.csv", "metrics.json", "config.json"],
        next_command,
    )
