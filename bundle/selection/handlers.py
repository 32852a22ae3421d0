"""An Ignite handler that selects images while a pool is made."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Engine, Events

from bundle.runs.processes import rank_and_world_size
from bundle.selection.selector import Selector
from bundle.selection.table import write_selection
from bundle.synthesis.handlers import requests_and_images
from bundle.synthesis.pool import Key, Pool
from bundle.synthesis.stored_pool import StoredPool


class SelectiveAugmentation:
    """Scores the images of an evaluator as they stream into a pool, and decides at the end of a round.

    `engine.state.selection` then is (rows, facts), those of a selection made of the whole pool on the disk: images that
    were there before are read from it. Goes beside a `PoolWriter` of the same pool, before or after it.

    Args:
        selector: scores and decides; it keeps its scores from round to round.
        pool: the pool that is filled.
        path: where the table is written at the end of each round; None for nowhere.
    """

    def __init__(self, selector: Selector, pool: Pool, path: str | Path | None = None) -> None:
        self.selector = selector
        self.pool = pool
        self.path = path
        self.before: set[Key] = set()

    def attach(self, engine: Engine) -> None:
        if rank_and_world_size()[1] > 1:
            raise ValueError(
                "each process of a torchrun sees a share of the pool: select from it with configs/select.json when all "
                "have ended"
            )
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.decide)

    def start(self, engine: Engine) -> None:
        self.selector.prepare()
        # A batch is made as a whole where one of its images is missing, but what is there is not replaced.
        self.before = set(self.pool.open().keys())

    def __call__(self, engine: Engine) -> None:
        requests, images = requests_and_images(engine)
        new = [place for place, key in enumerate(requests) if key not in self.before]
        if new:
            names, seeds = zip(*(requests[place] for place in new))
            self.selector.add(images[new], names, seeds)

    def decide(self, engine: Engine) -> None:
        self.pool.flush()
        self.selector.add_pool(StoredPool(self.pool.folder, self.selector.labelled.patch_size))
        rows, facts = self.selector.decide(self.pool)
        engine.state.selection = rows, facts
        if self.path is not None:
            write_selection(self.path, rows, facts)
