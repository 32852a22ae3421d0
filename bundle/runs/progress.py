"""A progress bar that knows where a resumed run starts."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from bundle.runs.job import is_first
from bundle.runs.processes import rank_and_world_size
from bundle.runs.tracking import losses


class Progress:
    """Shows steps, losses averaged over about the last hundred steps, and the time that remains.

    Ignite's own bar starts every run at 0, which makes a resumed run's remaining time wrong.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.smooth: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self.close)

    def start(self, engine: Engine) -> None:
        stage = getattr(engine, "stage", "steps")
        self.show(
            total=engine.state.epoch_length,
            initial=engine.state.iteration,
            desc=stage,
            unit="step",
            disable=not is_first(),
        )

    def show(self, **bar: Any) -> None:
        self.bar = tqdm(dynamic_ncols=True, mininterval=1.0, **bar)

    def step(self, engine: Engine) -> None:
        terms = {name: value for name, value in losses(engine.state.output).items() if "validation" not in name}
        for name, value in terms.items():
            self.smooth[name] = 0.99 * self.smooth.get(name, value) + 0.01 * value
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in self.smooth.items()}, refresh=False)
        self.bar.update()

    def close(self, engine: Engine, error: BaseException | None = None) -> None:
        if self.bar is not None:
            self.bar.close()
        if error is not None:
            raise error  # Ignite swallows an exception that a handler listens to


class ImageProgress(Progress):
    """Shows how many images of a `bundle.synthesis.requests.RequestLoader`, the engine's, have been made."""

    def start(self, engine: Engine) -> None:
        count = engine.state.dataloader.images_to_make()
        self.show(total=count, desc="synthesis", unit="image", disable=rank_and_world_size()[0] > 0)

    def step(self, engine: Engine) -> None:
        self.bar.update(len(engine.state.batch["seed"]))
