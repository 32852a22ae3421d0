"""Filling a pool with guided images, and the pictures and figures that show what was made."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer

from bundle.data.pictures import save_labelled_grid, to_uint8
from bundle.diffusion.samplers import timestep_pairs
from bundle.models.adapted import AdaptedModels
from bundle.runs.context import RunContext
from bundle.runs.folder import RunFolder
from bundle.runs.processes import rank_and_world_size
from bundle.runs.progress import ImageProgress
from bundle.runs.tracking import StageEvents, Tracking, new_figures
from bundle.synthesis.handlers import PoolWriter
from bundle.synthesis.inferers import GuidedLatentInferer
from bundle.synthesis.pool import Pool
from bundle.synthesis.requests import RequestLoader, SynthesisRequests, prepare_requests

logger = logging.getLogger(__name__)

SHOWN_IMAGES = 8  # of each class in samples.png
SHOWN_STEPS = 10  # of each path from noise to image


class GuidancePictures:
    """Two pictures of each class: the same noise under growing guidance, and the path from noise to image.

    Args:
        scales: the guidance scales, a column each.
        seed: of the noise that all images share.
        batch_size: images at once.
    """

    names = ("guidance_grid.png", "denoising.png")

    def __init__(self, scales: Sequence[float], seed: int, batch_size: int) -> None:
        self.scales = [float(scale) for scale in scales]
        self.seed = seed
        self.batch_size = batch_size

    def save(
        self,
        folder: RunFolder,
        models: AdaptedModels,
        inferer: GuidedLatentInferer,
        classes: Sequence[str],
        marks: dict[str, str],
    ) -> None:
        """Saves both; `marks` are written into the files beside the seed."""
        marks = {**marks, "Seed": str(self.seed)}
        labels = torch.tensor([models.classes.index(name) for name in classes])
        each = labels.repeat_interleave(len(self.scales))
        scales = torch.tensor(self.scales).repeat(len(classes))
        grid = [
            inferer([self.seed] * len(some), models, some, guidance_scale=scale)
            for some, scale in zip(each.split(self.batch_size), scales.split(self.batch_size))
        ]
        columns = [f"g = {scale:g}" for scale in self.scales]
        save_labelled_grid(folder / self.names[0], to_uint8(torch.cat(grid)), classes, columns, marks)

        steps = inferer.sampling.steps
        shown = sorted(set(torch.linspace(0, steps, SHOWN_STEPS).round().long().tolist()))
        path = [self.path(models, inferer, some, shown) for some in labels.split(self.batch_size)]
        pairs = timestep_pairs(models.schedule, steps, inferer.sampling.spacing)
        columns = [f"t = {pairs[step][0]}" for step in shown[:-1]] + ["image"]
        save_labelled_grid(folder / self.names[1], np.concatenate(path), classes, columns, marks)

    def path(
        self, models: AdaptedModels, inferer: GuidedLatentInferer, labels: torch.Tensor, shown: Sequence[int]
    ) -> np.ndarray:
        """Decoded z after each of the steps shown, uint8 [classes * steps, H, W, 3], class by class."""
        frames = {}

        def keep(step: int, latents: torch.Tensor) -> None:
            if step in shown:
                frames[step] = latents

        inferer([self.seed] * len(labels), models, labels, callback=keep)
        with torch.no_grad():
            decoded = np.stack([to_uint8(models.decode(frames[step])) for step in shown], axis=1)
        return decoded.reshape(-1, *decoded.shape[2:])


def pool_evaluator(
    network: torch.nn.Module,
    inferer: Inferer,
    requests: SynthesisRequests,
    pool: Pool,
    context: RunContext,
    val_handlers: Sequence[Any] | None = None,
) -> SupervisedEvaluator:
    """MONAI's evaluator of requests that writes into a pool what it lacks.

    Args:
        network: AdaptedModels, or the generator of a baseline.
        inferer: (seeds, network, labels) -> images.
        requests: what is to be made.
        pool: where to.
        context: of the run; its batch size is that of the requests.
        val_handlers: further Ignite handlers.
    """
    tracking = Tracking("synthesis", context.folder.path, context.mlflow_tracking_uri)
    return SupervisedEvaluator(
        device=context.device,
        val_data_loader=RequestLoader(requests, context.inference_batch_size, pool.has, context.shared),
        network=network,
        inferer=inferer,
        prepare_batch=prepare_requests,
        val_handlers=[PoolWriter(pool), ImageProgress(), *(val_handlers or ()), tracking],
        decollate=False,
    )


def run_synthesis(
    evaluator: SupervisedEvaluator,
    pool: Pool,
    folder: RunFolder,
    pictures: GuidancePictures | None = None,
    next_command: str = "",
) -> None:
    """Makes the images that the pool lacks, then shows some, measures, and says what to run next.

    Args:
        evaluator: of AdaptedModels by a GuidedLatentInferer, with a RequestLoader and a PoolWriter.
        pool: the pool.
        folder: where config, metrics and pictures are kept.
        pictures: further pictures, or None.
        next_command: what a user may run next.

    Raises:
        ValueError: unknown classes, impossible settings, models that don't fit, or a pool of others.
        OSError: a full disk; what was made is kept.
    """
    models, inferer, loader = evaluator.network, evaluator.inferer, evaluator.data_loader
    classes = loader.requests.classes
    inferer.settings(models)  # refuses what is impossible before a folder is made
    rank, world_size = rank_and_world_size()
    folder.open()
    evaluator.register_events(*StageEvents)
    try:
        pool.open()
        if rank == 0:
            folder.save_config()
        count = loader.images_to_make()
        pool.require_space(count, models.patch_size)
        logger.info(
            f"asked for: {loader.requests.num_images} images of each of {', '.join(classes)}; {len(pool)} are in "
            f"{pool.folder}; process {rank + 1} of {world_size} makes {count}"
        )
        started = time.monotonic()
        if count:
            evaluator.run()
        pool.flush()
        with pool.among_processes():
            section = "synthesis" if world_size == 1 else f"synthesis_of_process_{rank}"
            before = folder.metrics()
            if count or section not in before:  # a run killed after its last image has left no figures
                made = figures(models, inferer, count, time.monotonic() - started)
                folder.set_metrics(section, {"images": loader.images(), **made})
                evaluator.state.metrics = new_figures(before, folder.metrics())
            if not all(pool.has(request["class"], request["seed"]) for request in loader.requests):
                logger.info(f"process {rank + 1} is done; what is missing, the others make")
                return
        first = loader.requests.seed
        seeds = range(first, first + min(loader.requests.num_images, SHOWN_IMAGES))
        shown = np.stack([pool.image(name, seed) for name in classes for seed in seeds])
        save_labelled_grid(folder / "samples.png", shown, classes, [f"seed {seed}" for seed in seeds], pool.marks)
        if pictures is not None:
            pictures.save(folder, models, inferer, classes, pool.marks)
        if count:
            evaluator.fire_event(StageEvents.FINISHED)
        manifest = os.path.relpath(pool.folder / "manifest.csv", folder.path)
        folder.report([manifest, "samples.png", *GuidancePictures.names, "metrics.json", "config.json"], next_command)
    finally:
        pool.close()
        folder.close()


def figures(models: AdaptedModels, inferer: GuidedLatentInferer, count: int, seconds: float) -> dict[str, Any]:
    """What is kept in `metrics.json` about the run that made so many images, the last one where it was interrupted."""
    ratios = torch.tensor(inferer.ratios, dtype=torch.float64)
    quantiles = {"median": 0.5, "10th_percentile": 0.1, "90th_percentile": 0.9, "maximum": 1.0}
    return {
        "images_of_the_last_run": count,
        "seconds": round(seconds, 1),
        "images_per_second": round(count / seconds, 3),
        "device": str(models.device),
        # Of g sqrt(1 - alpha_bar) |gradient| / |epsilon|: over images, each by its median over steps.
        "guidance_ratio": (
            {name: round(ratios.quantile(at).item(), 5) for name, at in quantiles.items()} if len(ratios) else None
        ),
        **inferer.identity(models),
    }
