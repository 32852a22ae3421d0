"""Latents of all patches a stage trains on, encoded once.

The cache holds posterior mean and standard deviation, not samples, so that each training step draws its own. It is
keyed by the autoencoder's weights and the data: another encoder finds another cache, never a stale one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.lib.format import open_memmap
from tqdm import tqdm

from bundle.data.transforms import RandDensityd, orient, scale_patch
from bundle.models.artefacts import load_artefact
from bundle.runs.context import RunContext
from bundle.runs.files import write_atomically, write_json
from bundle.runs.opening import OpenedOnUse
from bundle.runs.randomness import mix_seed

logger = logging.getLogger(__name__)

LATENTS_FOR_SCALE = 10_000  # over which the scale is estimated, or all where there are fewer
REMEDY = ", give a --cache_dir on another disk, or lower --latent_orientations,"
STAIN_SEED = 20  # keeps the draws of stain copies apart from every other use of a patch's number


def allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Makes a .npy file of half-precision zeros whose space is really there.

    Half precision keeps 3 to 4 digits, far below the posterior's own noise. A sparse file would be quicker to make, but
    writing to one through a memory map on a full disk kills the process without a word.
    """
    open_memmap(path, mode="w+", dtype=np.float16, shape=shape).flush()
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


class LatentCache(OpenedOnUse):
    """Posterior statistics of one part of the patches under a trained autoencoder, as a source for ItemDataset.

    Item `variant * number of patches + i` belongs to patch i; variants are the orientations of the patch as it is, then
    those of its first copy with varied stain, and so on.

    Args:
        patches: TrainingPatches or LabelledPatches.
        context: of the run, whose folder has `autoencoder.pt`.
        orientations: how many of the eight flips and rotations of each patch are cached, 1 to 8.
        part: name of the part.
        maximum: at most so many patches of the part, evenly spaced; None for all.
        stain_copies: how many copies with varied stain are cached besides each patch as it is.
        density_scale: how much the copies vary, see `bundle.data.transforms.RandDensityd`.
    """

    opened = ("_latents", "_labels")

    def __init__(
        self,
        patches: Any,
        context: RunContext,
        orientations: int = 8,
        part: str = "training",
        maximum: int | None = None,
        stain_copies: int = 0,
        density_scale: float = 0.5,
    ) -> None:
        if not 1 <= orientations <= 8:
            raise ValueError(f"--latent_orientations is {orientations}; it must lie between 1 and 8")
        if stain_copies < 0:
            raise ValueError(f"--latents#stain_copies is {stain_copies}; it must be 0 or more")
        self.patches = patches
        self.context = context
        self.autoencoder_file = context.folder / "autoencoder.pt"
        self.device = context.device
        self.orientations = orientations
        self.part = patches.part(part) if maximum is None else patches.part(part, maximum)
        self.stain_copies = stain_copies
        self.stain = RandDensityd("image", 1.0, density_scale)

    def plain(self, part: str, maximum: int | None = None) -> LatentCache:
        """Latents of another part of the same patches, as they are."""
        return LatentCache(self.patches, self.context, orientations=1, part=part, maximum=maximum)

    @property
    def variants(self) -> int:
        """Cached forms of each patch."""
        return self.orientations * (1 + self.stain_copies)

    def describe(self) -> list:
        """What the variants are, as plain data: it shapes every stage that learns from them."""
        return [self.orientations, self.stain_copies, self.stain.scale if self.stain_copies else None]

    def image(self, index: int) -> torch.Tensor:
        """uint8 [3, S, S]: the picture that item `index` is the latent of."""
        variant, place = divmod(index, len(self.part))
        copy, orientation = divmod(variant, self.orientations)
        item = {"image": torch.as_tensor(self.part.read(place)["image"])}
        if copy > 0:
            self.stain.set_random_state(seed=mix_seed(STAIN_SEED, place, copy) % 2**32)
            item = self.stain(item)
        return orient(item["image"], orientation)

    def open(self) -> None:
        """Encodes what isn't cached yet, continuing where an interrupted run stopped, and opens the cache."""
        autoencoder, facts = load_artefact(self.autoencoder_file, "autoencoder")
        autoencoder.to(self.device)
        part = self.part
        key = f"{facts['fingerprint']}|{part.fingerprint}|{self.orientations}"
        if self.stain_copies:
            key += f"|{self.describe()}"
        folder = self.context.cache_dir / f"latents_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "latents.npy"
        total = len(part) * self.variants
        size = part.read(0)["image"].shape[-1]
        with torch.no_grad():
            shape = autoencoder.encode(torch.zeros(1, 3, size, size, device=self.device))[0].shape[1:]
        with FileLock(folder / ".lock"):  # the cache may be shared by runs
            if not path.is_file():
                size = total * 2 * math.prod(shape) * np.dtype(np.float16).itemsize
                write_atomically(path, lambda temporary: allocate(temporary, (total, 2, *shape)), REMEDY, size=size)
            progress = folder / "progress.json"
            done = json.loads(progress.read_text())["done"] if progress.is_file() else 0
            if done < total:
                latents = np.load(path, mmap_mode="r+", allow_pickle=False)
                self.encode(autoencoder, latents, done, progress)
        self._latents = np.load(path, mmap_mode="r", allow_pickle=False)
        self._labels = getattr(part, "labels", None)

    def statistics(self) -> dict[str, Any]:
        """Mean, standard deviation and scale of the latents; see :func:`latent_statistics`."""
        return latent_statistics(self._latents)

    @torch.no_grad()
    def encode(self, autoencoder: torch.nn.Module, latents: np.memmap, done: int, progress: Path) -> None:
        """Fills the cache from place `done` on; variant by variant, so that a prefix is a whole set."""
        total = len(latents)
        logger.info(f"encoding {len(self.part)} patches in {self.variants} variants into {progress.parent}")
        for number, start in enumerate(
            tqdm(range(done, total, self.context.inference_batch_size), desc="latents", unit="batch")
        ):
            places = range(start, min(start + self.context.inference_batch_size, total))
            batch = scale_patch(torch.stack([self.image(place) for place in places]).to(self.device))
            mean, std = autoencoder.encode(batch)
            latents[places.start : places.stop] = torch.stack([mean, std], 1).half().cpu().numpy()
            if number % 50 == 49 or places.stop == total:
                latents.flush()
                write_json(progress, {"done": places.stop})

    def __len__(self) -> int:
        return len(self._latents)

    def read(self, index: int) -> dict[str, Any]:
        """{"mean", "std"}: fp32 [C, h, w], unscaled; with "label" where the patches have labels."""
        mean, std = self._latents[index].astype(np.float32)
        item = {"mean": mean, "std": std}
        labels = self._labels
        return item if labels is None else {**item, "label": int(labels[index % len(labels)])}

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior means of the patches as they are, unscaled, fp32 [N, C, h, w], and their labels, int64 [N]."""
        means = self._latents[: len(self.part), 0].astype(np.float32)
        return torch.from_numpy(means), torch.as_tensor(self._labels)

    def weighted_items(self) -> tuple[list[np.ndarray], np.ndarray] | None:
        weighted = self.part.weighted_items()
        if weighted is None:
            return None
        items, weights = weighted
        shifts = np.arange(self.variants)[:, None] * len(self.part)
        return [(rows[None] + shifts).ravel() for rows in items], weights


def draw_latents(batch: dict[str, torch.Tensor], device: torch.device | str) -> torch.Tensor:
    """New unscaled samples of the cached posteriors: mean + std * noise (Kingma & Welling, arXiv 1312.6114, Eq. 10).

    Args:
        batch: "mean" and "std", [B, C, h, w], of cached items.
        device: where to draw.
    """
    mean, std = (batch[name].to(device, non_blocking=True) for name in ("mean", "std"))
    return mean + std * torch.randn_like(mean)


def latent_statistics(latents: np.ndarray, centred: bool = True, chunk: int = 4096) -> dict[str, Any]:
    """Mean, standard deviation and scale of latent samples, from posterior statistics [N, 2, C, h, w].

    A sample is mean + std * noise, so its variance is var(mean) + E[std²]. The scale is 1 / std over all elements, as
    Rombach et al. (arXiv 2112.10752, Appendix G) rescale a KL autoencoder's latents: about their channels' means where
    these are taken off first, else about the mean of all. Estimated over at least 10,000 latents, evenly spaced, or all
    where there are fewer.

    Args:
        latents: as said.
        centred: whether diffusion takes them less their channels' means; see `bundle.diffusion.latent_scale`.
        chunk: how many are read at once.

    Returns:
        scale (float), mean and std per channel (lists), count, and where centred the centre per channel (list).
    """
    count = min(len(latents), LATENTS_FOR_SCALE)
    places = np.linspace(0, len(latents) - 1, count).round().astype(np.int64)
    channels = latents.shape[2]
    sums, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, count, chunk):
        part = latents[places[start : start + chunk]].astype(np.float64)
        sums += part[:, 0].sum((0, 2, 3))
        squares += (part[:, 0] ** 2 + part[:, 1] ** 2).sum((0, 2, 3))
    elements = count * math.prod(latents.shape[3:])
    mean = sums / elements
    variance = squares / elements - mean**2
    overall = variance.mean() if centred else squares.mean() / elements - mean.mean() ** 2
    centre = {"centre": mean.tolist()} if centred else {}
    return {
        "scale": float(1 / math.sqrt(overall)),
        "mean": mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        **centre,
        "count": int(count),
    }
