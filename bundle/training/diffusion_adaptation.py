"""Adapting the diffusion model itself to the labelled domain: beyond the paper, which keeps it frozen.

A frozen model that never drew a structure can't be guided to it. Fine-tuning on few images risks copying them and
forgetting the rest, so pre-training latents can be mixed in, and the copies among samples are counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bundle.data.labelled import LabelledPatches
from bundle.data.loader import read_images
from bundle.data.patches import TrainingPatches
from bundle.data.transforms import scale_patch
from bundle.diffusion.samplers import timestep_pairs
from bundle.metrics.copies import copy_report
from bundle.models.artefacts import load_artefact, read_artefact, save_artefact
from bundle.models.ema import ExponentialMovingAverage
from bundle.models.low_rank import add_adapters, merged_state_dict
from bundle.models.pretrained import PretrainedModels
from bundle.runs.context import RunContext
from bundle.runs.randomness import mix_seed
from bundle.training.diffusion import LatentDiffusionTrainer
from bundle.training.latents import LatentCache

METHODS = ("full", "low_rank")


class MixedLatents:
    """Latents of the labelled training images, of unlabelled tiles of the target, and of the pre-training.

    Args:
        labelled: latents of the labelled training images; only their unvaried stains are used.
        unlabelled: latents of further tiles of the target domain, or None.
        pretraining: latents of pre-training patches against forgetting, or None.
        pretraining_share: share of each batch drawn from `pretraining`, in (0, 1); the rest is drawn from the others in
            proportion to their number.

    Raises:
        ValueError: a share outside its range.
    """

    def __init__(
        self,
        labelled: LatentCache,
        unlabelled: LatentCache | None = None,
        pretraining: LatentCache | None = None,
        pretraining_share: float = 0.1,
    ) -> None:
        if not 0 < pretraining_share < 1:
            raise ValueError(
                f"--diffusion#latents#pretraining_share is {pretraining_share}; it must lie between 0 and 1"
            )
        self.patches: LabelledPatches = labelled.patches
        self.labelled = labelled
        self.unlabelled = unlabelled
        self.pretraining = pretraining
        self.pretraining_share = pretraining_share

    @property
    def sources(self) -> list[LatentCache]:
        return [source for source in (self.labelled, self.unlabelled, self.pretraining) if source is not None]

    def prepare(self) -> None:
        """Fills the caches."""
        for source in self.sources:
            source.prepare()

    def check(self) -> None:
        """Compares the unlabelled tiles with those kept apart.

        Raises:
            ValueError: an unlabelled tile is one of the test images or of those kept for the judge; names its file.
        """
        for source in self.sources[1:]:
            kept_apart = {
                digest: file
                for part in ("validation", "unused", "test")
                for digest, file in zip(self.patches.part(part).sha256, self.patches.part(part).files)
            }
            store = source.patches.store
            for digest, file in zip(store.sha256, store.files):
                if digest in kept_apart:
                    raise ValueError(
                        f"{file} of {source.patches.dataset_dir} is, pixel for pixel, {kept_apart[digest]}, which is "
                        "kept for validating, judging or testing: remove it from --target_dir or --pretraining_dir"
                    )

    def counts(self) -> list[int]:
        """Items of each source."""
        return [len(self.labelled.part) * self.labelled.orientations, *(len(source) for source in self.sources[1:])]

    def describe(self) -> list:
        """What training sees, as plain data."""
        return [[source.part.fingerprint, source.orientations] for source in self.sources] + [self.pretraining_share]

    def __len__(self) -> int:
        return sum(self.counts())

    def read(self, index: int) -> dict[str, Any]:
        """{"mean", "std"}: fp32 [C, h, w], unscaled."""
        for source, count in zip(self.sources, self.counts()):
            if index < count:
                item = source.read(index)
                return {"mean": item["mean"], "std": item["std"]}
            index -= count
        raise IndexError(index)

    def weighted_items(self) -> tuple[list[np.ndarray], np.ndarray]:
        counts = self.counts()
        ends = np.cumsum(counts)
        items = [np.arange(end - count, end) for count, end in zip(counts, ends)]
        target = counts[:-1] if self.pretraining is not None else counts
        weights = np.array(target) / sum(target)
        if self.pretraining is not None:
            weights = np.append(weights * (1 - self.pretraining_share), self.pretraining_share)
        return items, weights


def unlabelled_latents(
    context: RunContext, dataset_dir: Any, labelled: LabelledPatches, orientations: int
) -> LatentCache | None:
    """Latents of unlabelled tiles, read as the labelled ones are; None without a folder.

    Args:
        context: of the run.
        dataset_dir: folder or archive of unlabelled tiles to adapt the diffusion model with, or None.
        labelled: whose size and stain they take.
        orientations: how many of the eight flips and rotations of each tile are cached.
    """
    if dataset_dir is None:
        return None
    patches = TrainingPatches(
        dataset_dir, context.cache_dir, labelled.patch_size, seed=context.seed, **labelled.store_arguments
    )
    return LatentCache(patches, context, orientations)


def check_sources(method: str, target_dir: Any, pretraining_dir: Any) -> None:
    """Refuses tiles to adapt the diffusion model with where it is not to be adapted.

    Raises:
        ValueError: names the setting that would be ignored.
    """
    for flag, value in (("target_dir", target_dir), ("pretraining_dir", pretraining_dir)):
        if method == "none" and value is not None:
            raise ValueError(
                f"--{flag} {value} is only for --diffusion_method full or low_rank: leave it out, or give one"
            )


class DiffusionAdaptationTrainer(LatentDiffusionTrainer):
    """Goes on training the pre-trained diffusion model on the labelled domain.

    Args:
        method: "full" trains every weight; "low_rank" only adapters (LoRA), which are merged, so that the artefact is a
            plain one. What is averaged is the merged weights, whose mean may have a higher rank than the adapters.
        rank: of the adapters.
        labelled, pretrained: where it starts.
        latents: a MixedLatents.
        **trainer: further arguments of LatentDiffusionTrainer.

    Raises:
        ValueError: an unknown method.
    """

    def __init__(
        self, method: str, rank: int, labelled: LabelledPatches, pretrained: PretrainedModels, **trainer: Any
    ) -> None:
        super().__init__(**trainer)
        if method not in METHODS:
            raise ValueError(f"--diffusion_method is {method!r}; it must be one of none, {', '.join(METHODS)}")
        self.method = method
        self.rank = rank
        self.labelled = labelled
        self.pretrained = pretrained

    def check(self) -> None:
        timestep_pairs(self.pretrained.schedule(), self.num_inference_steps)
        self.latents.check()
        if self.artefact_path.is_file() and "parent_fingerprint" not in read_artefact(self.artefact_path, "diffusion"):
            raise ValueError(
                f"{self.artefact_path} is the pre-trained diffusion model, which this folder's other results may rest "
                "on: give another --output_dir for an adapted one"
            )

    def prepare(self) -> None:
        self.labelled.prepare()
        network, self.parent = load_artefact(self.pretrained.pretrained_dir / "diffusion.pt", "diffusion")
        self.parent.pop("raw_weights", None)
        self.diffusion = network.to(self.state.device)
        self.autoencoder = self.pretrained.autoencoder(self.state.device)
        self.autoencoder_facts = self.pretrained.autoencoder_facts
        self.schedule = self.pretrained.schedule()
        self.ema = ExponentialMovingAverage(network.state_dict(), self.ema_decay)
        trained = list(network.parameters())
        if self.method == "low_rank":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(mix_seed(self.seed))
                trained = add_adapters(network, self.rank)
        self.start_optimizer(trained)

    def parents(self) -> dict[str, Any]:
        return {
            "pre-trained diffusion model": self.parent["fingerprint"],
            "autoencoder": self.pretrained.fingerprint,
            "labelled data": self.labelled.fingerprint,
            "latents": self.latents.describe(),
        }

    def present_weights(self) -> dict[str, torch.Tensor]:
        return merged_state_dict(self.diffusion)

    def finish(self) -> None:
        self.save_samples(self.folder / "samples.png")
        tiles = scale_patch(read_images(self.labelled.part("train")))
        parent, _ = load_artefact(self.pretrained.pretrained_dir / "diffusion.pt", "diffusion")
        self.folder.set_metrics(
            "diffusion",
            {
                "method": self.method,
                "rank": self.rank if self.method == "low_rank" else None,
                "pretraining_share": self.latents.pretraining_share if self.latents.pretraining is not None else 0.0,
                "loss_before": self.held_out_loss(parent.to(self.state.device)),
                "loss_after": self.held_out_loss(self.averaged_network()),
                "copies": copy_report(self.sample(self.sample_seeds), tiles),
                **self.effort(),
            },
        )
        facts = {name: self.parent[name] for name in ("schedule", "autoencoder_fingerprint", "patch_size")}
        facts |= self.pretrained.latent.facts()
        save_artefact(
            self.artefact_path,
            "diffusion",
            self.diffusion,
            weights=self.ema.weights,
            parent_fingerprint=self.parent["fingerprint"],
            adaptation={"method": self.method, "rank": self.rank if self.method == "low_rank" else None},
            data_fingerprint=self.labelled.fingerprint,
            steps=self.state.iteration,
            identity=self.whole_identity(),
            **facts,
        )
