"""A stage that trains nothing as an Ignite engine, so that it can be watched as trainings are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine

from bundle.runs import job
from bundle.runs.context import RunContext
from bundle.runs.folder import RunFolder
from bundle.runs.tracking import StageEvents, Tracking, new_figures


class StageEngine(Engine):
    """Work such as a selection or an evaluation, as one iteration of an engine; a stage of `run_stages`.

    Under torchrun the first process does it, and the others wait.

    `state.metrics` are the figures that the work has written into `metrics.json`, once it has ended.

    Args:
        work: has `stage`, `pictures`, `folder`, `check()` and `run()`; it may have `run_share()`.
        context: what the stages of the run share.
        val_handlers: further Ignite handlers, under the name that MONAI's evaluators give them.
    """

    def __init__(self, work: Any, context: RunContext, val_handlers: Sequence[Any] | None = None) -> None:
        super().__init__(self._work)
        self.work = work
        self.context = context
        self.register_events(*StageEvents)
        tracking = Tracking(work.stage, context.folder.path, context.mlflow_tracking_uri)
        for handler in (*(val_handlers or ()), tracking):
            handler.attach(self)

    @property
    def stage(self) -> str:
        return self.work.stage

    @property
    def pictures(self) -> Sequence[str]:
        return self.work.pictures

    @property
    def folder(self) -> RunFolder:
        return self.work.folder

    def check(self) -> None:
        self.work.check()

    def run(self) -> None:
        """Does the work, then has its handlers show what came of it.

        Work that processes share has a `run_share`; what is left, and all other work, is the first one's.
        """
        if hasattr(self.work, "run_share"):
            job.together(self.work.run_share)
        job.by_first(self._work_and_show)

    def _work_and_show(self) -> None:
        super().run([None], max_epochs=1)
        self.fire_event(StageEvents.FINISHED)

    def _work(self, engine: Engine, batch: None) -> dict[str, float]:
        before = self.folder.metrics()
        self.work.run()
        self.state.metrics = new_figures(before, self.folder.metrics())
        return {}
