"""Ignite handlers of classifier-guided synthesis: into a pool, or within a training of the user's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ignite.engine import Engine, Events

from bundle.data.pictures import to_uint8
from bundle.models.adapted import AdaptedModels
from bundle.synthesis.inferers import GuidedLatentInferer
from bundle.synthesis.pool import Key, Pool
from bundle.synthesis.requests import RequestLoader, SynthesisRequests


def requests_and_images(engine: Engine) -> tuple[list[Key], np.ndarray]:
    """Class and seed of each image that an evaluator of requests has just made, and the images, uint8 [B, S, S, 3]."""
    batch, output = engine.state.batch, engine.state.output
    if isinstance(output, list):  # decollated
        images = torch.stack([item["pred"] for item in output])
        return [(item["class"], int(item["seed"])) for item in batch], to_uint8(images)
    return list(zip(batch["class"], batch["seed"].tolist())), to_uint8(output["pred"])


class PoolWriter:
    """Writes the images of each iteration of an evaluator into a pool, while the next batch is made.

    The evaluator's batches are those of `bundle.synthesis.requests`; its predictions are images [B, 3, S, S] in
    [-1, 1], decollated or not.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda engine: self.pool.open())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, lambda engine: self.pool.flush())

    def __call__(self, engine: Engine) -> None:
        for (name, seed), image in zip(*requests_and_images(engine)):
            self.pool.add(name, seed, image)


class GuidedSynthesis:
    """Makes images of each class at an event of any engine, e.g. to add them to a training or to look at them.

    `engine.state.synthetic` then is {"image": fp32 [N, 3, S, S] in [-1, 1] on the CPU, "label": int64 [N],
    "seed": int64 [N], "class": names}, class by class. Neither networks nor random numbers of the engine are touched.

    Args:
        models: the adapted models.
        inferer: makes the images.
        num_images: images of each class.
        seed: image i of each class has seed + i, so that each event makes the same images.
        classes: see :func:`bundle.synthesis.requests.choose_classes`; None for all.
        interval: every so many epochs, or iterations.
        epoch_level: whether the interval counts epochs.
        batch_size: images at once.
        pool: a pool that also receives the images, or None.
    """

    def __init__(
        self,
        models: AdaptedModels,
        inferer: GuidedLatentInferer,
        num_images: int = 1,
        seed: int = 0,
        classes: Sequence[str] | str | None = None,
        interval: int = 1,
        epoch_level: bool = True,
        batch_size: int = 32,
        pool: Pool | None = None,
    ) -> None:
        self.models = models
        self.inferer = inferer
        self.requests = SynthesisRequests(lambda: models.prepare().classes, classes, num_images, seed)
        self.interval = interval
        self.epoch_level = epoch_level
        self.batch_size = batch_size
        self.pool = pool

    def attach(self, engine: Engine) -> None:
        event = Events.EPOCH_COMPLETED if self.epoch_level else Events.ITERATION_COMPLETED
        engine.add_event_handler(event(every=self.interval), self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        batches = [
            {**batch, "image": self.inferer(batch["seed"], self.models, batch["label"])}
            for batch in RequestLoader(self.requests, self.batch_size)
        ]
        made = {name: torch.cat([batch[name] for batch in batches]) for name in ("image", "label", "seed")}
        names = [name for batch in batches for name in batch["class"]]
        engine.state.synthetic = {**made, "class": names}
        if self.pool is not None:
            with self.pool:
                for name, seed, image in zip(names, made["seed"].tolist(), to_uint8(made["image"])):
                    self.pool.add(name, seed, image)
