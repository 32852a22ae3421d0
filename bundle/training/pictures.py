"""Pictures along the way: a loss curve is believed only after looking at them."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events

from bundle.data.pictures import save_grid
from bundle.runs.job import is_first


class ReconstructionPictures:
    """Saves held-out originals over their reconstructions every `interval` steps and at the end.

    Args:
        loader: yields {"image": [B, 3, S, S] in [-1, 1]}; the first batch is shown.
        inferer: (images, network) -> reconstructions.
        network: the autoencoder.
        interval: steps between pictures.
        images: how many originals, one row of originals over one of reconstructions for each eight.
    """

    def __init__(self, loader: Any, inferer: Any, network: torch.nn.Module, interval: int, images: int = 32) -> None:
        self.loader = loader
        self.inferer = inferer
        self.network = network
        self.interval = interval
        self.images = images

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval) | Events.COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        if not is_first():
            return
        batches, count = [], 0
        for batch in self.loader:
            batches.append(batch["image"])
            count += len(batch["image"])
            if count >= self.images:
                break
        originals = torch.cat(batches)[: self.images].to(engine.state.device)
        self.network.eval()
        reconstructions = self.inferer(originals, self.network)
        rows = [row for pair in zip(originals.split(8), reconstructions.split(8)) for row in pair]
        # The last row of originals may be short; pad it, so that reconstructions stay below their originals.
        padded = [torch.nn.functional.pad(row, (0, 0, 0, 0, 0, 0, 0, 8 - len(row)), value=1.0) for row in rows]
        save_grid(engine.folder / "pictures" / f"reconstructions_{engine.state.iteration:06d}.png", torch.cat(padded))


class SamplePictures:
    """Saves the trainer's fixed-seed samples.

    Args:
        interval: steps between two pictures.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)

    def __call__(self, engine: Engine) -> None:
        if is_first():
            engine.save_samples(engine.folder / "pictures" / f"samples_{engine.state.iteration:06d}.png")
