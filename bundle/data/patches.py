"""The patches a stage trains on and those held out, from a user's folders or the built-in generator."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from bundle.data.generated import write_generated_patches
from bundle.data.names import nfc
from bundle.data.store import PatchStore, evaluated
from bundle.runs.context import RunContext
from bundle.runs.opening import OpenedOnUse
from bundle.runs.workflow import by_name

logger = logging.getLogger(__name__)


class TrainingPatches(OpenedOnUse):
    """Unlabelled patches with whole slides held out.

    Args:
        dataset_dir: one or several folders or archives (see `bundle.data.sources`), or None for built-in patches.
        cache_dir: where index, pixel cache and built-in patches are kept.
        patch_size: pixels a side, or a function that gives it when they are opened.
        validation_slides: slides (first-level folders) to hold out; None chooses by `validation_share`.
        validation_share: with three slides or more, slides are drawn until they hold this share of the patches; with
            fewer, single patches are drawn.
        validation_maximum: at most so many held-out patches are measured, evenly spaced.
        generated_per_class: built-in patches a class and slide.
        generated_slides: number of built-in slides.
        seed: seed of the held-out choice and of the built-in patches.
        **store: further arguments of PatchStore.

    Attributes:
        store: all patches; held_out, trained_on: boolean [N], which of them.
    """

    opened = ("held_out", "trained_on", "store")

    def __init__(
        self,
        dataset_dir: Any,
        cache_dir: str | Path,
        patch_size: int | Callable[[], int],
        validation_slides: list[str] | str | None = None,
        validation_share: float = 0.05,
        validation_maximum: int = 1024,
        generated_per_class: int = 20,
        generated_slides: int = 6,
        seed: int = 0,
        **store: Any,
    ) -> None:
        self.dataset_dir = dataset_dir
        self.cache_dir = Path(cache_dir)
        self.patch_size = patch_size
        # A command line gives a name alone as text or, where it looks like one, as a number.
        names = [validation_slides] if isinstance(validation_slides, (str, int)) else validation_slides
        self.validation_slides = None if names is None else [nfc(str(name)) for name in names]
        self.validation_share = validation_share
        self.validation_maximum = validation_maximum
        self.generated_per_class = generated_per_class
        self.generated_slides = generated_slides
        self.seed = seed
        self.store_arguments = store

    @property
    def built_in(self) -> bool:
        """Whether these are the built-in patches, not tissue."""
        return self.dataset_dir is None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identity of the data as training sees it: pixels in their order, size, what is held out, source weights."""
        store = self.store
        weights = store.weights.tolist() if store.weighted else None
        digest = hashlib.sha256(f"{store.fingerprint} {weights}".encode())
        digest.update(store.digests.tobytes().hex().encode())
        digest.update(np.packbits(self.trained_on).tobytes())
        return digest.hexdigest()

    @property
    def held_out_slides(self) -> set[str]:
        """Slides none of whose patches is trained on; empty where single patches are held out."""
        slides, of = self.store.slides, self.store.slide_of
        return {slides[number] for number in np.setdiff1d(of[self.held_out], of[~self.held_out])}

    def open(self) -> None:
        """Finds, checks and caches the patches, and says what was found."""
        if callable(self.patch_size):
            self.patch_size = self.patch_size()
        directory = self.dataset_dir
        if self.built_in:
            logger.info(
                "no --dataset_dir was given, so built-in patches are made: procedurally generated pictures, not tissue"
            )
            directory = self.cache_dir / "generated_patches"
            write_generated_patches(
                directory, range(self.generated_slides), self.generated_per_class, self.patch_size, self.seed
            )
        store = PatchStore(directory, self.patch_size, self.cache_dir, **evaluated(self.store_arguments)).prepare()
        self.held_out = self.choose_held_out(store)
        if self.held_out.all() or not self.held_out.any():
            raise ValueError(
                f"{int(self.held_out.sum())} of {len(store)} patches would be held out; some must be, and some must be "
                "left to train on: change --validation_share or --validation_slides"
            )
        # A tile that also lies, pixel for pixel, in a held-out slide would make the metrics look better than they are.
        pictures = store.pictures
        self.trained_on = ~self.held_out & ~np.isin(pictures, pictures[self.held_out])
        if not self.trained_on.any():
            raise ValueError(
                f"every patch to train on is also held out, pixel for pixel: the {len(store)} patches show "
                f"{len(store) - store.duplicates} pictures. Give more of them, or change --validation_slides"
            )
        if store.weighted:
            unused = np.setdiff1d(np.arange(len(store.sources)), store.source_of[self.trained_on])
            if len(unused):
                names = [store.sources[number] for number in unused]
                raise ValueError(f"all patches of {names} are held out, so its weight can't be kept: give others")
        self.store = store
        logger.info(f"{store.summary()}\n{self.summary()}")

    def choose_held_out(self, store: PatchStore) -> np.ndarray:
        """Boolean [N], True for patches kept for validation."""
        numbers = np.bincount(store.slide_of)
        counts = {slide: int(count) for slide, count in zip(store.slides, numbers)}
        if self.validation_slides is not None:
            unknown = [name for name in self.validation_slides if name not in counts]
            if unknown:
                raise ValueError(f"--validation_slides {unknown} are not among the slides found: {sorted(counts)}")
            return _of_slides(store, self.validation_slides)
        random = np.random.default_rng(self.seed)
        wanted = self.validation_share * len(store)
        if len(counts) < 3:
            held_out = np.zeros(len(store), bool)
            held_out[random.permutation(len(store))[: max(1, round(wanted))]] = True
            return held_out
        chosen: list[str] = []
        for name in random.permutation(sorted(counts)):
            if sum(counts[slide] for slide in chosen) < wanted:
                chosen.append(name)
        return _of_slides(store, chosen)

    def summary(self) -> str:
        slides = sorted(self.held_out_slides)
        kept = (
            f"slides {', '.join(slides)}" if slides else "single patches, not whole slides: metrics will be optimistic"
        )
        copies = len(self.trained_on) - int(self.trained_on.sum()) - int(self.held_out.sum())
        return (
            f"training on {int(self.trained_on.sum())} patches, {int(self.held_out.sum())} held out ({kept})"
            + f", {copies} left out as copies of held-out ones" * (copies > 0)
        )

    def require_batch(self, batch_size: int) -> None:
        """Raises ValueError where there are fewer training patches than a batch holds."""
        count = len(self.training())
        if count < batch_size:
            raise ValueError(
                f"{count} training patches are fewer than the batch of {batch_size}: add patches to "
                f"{self.dataset_dir}, or lower --autoencoder_batch_size"
            )

    def describe(self) -> dict[str, Any]:
        """Facts about the data for `metrics.json`."""
        return {
            "built_in_patches": self.built_in,
            "training_patches": int(self.trained_on.sum()),
            "validation_patches": len(self.validation()),
            "validation_slides": sorted(self.held_out_slides),
        }

    def part(self, name: str) -> PatchPart:
        """The patches of "training" or "validation", as a source of items."""
        return PatchPart(self, name)

    def training(self) -> np.ndarray:
        """Store indices of the training patches."""
        return np.flatnonzero(self.trained_on)

    def validation(self) -> np.ndarray:
        """Store indices of the held-out patches that are measured: at most `validation_maximum`, evenly spaced."""
        indices = np.flatnonzero(self.held_out)
        places = np.linspace(0, len(indices) - 1, min(len(indices), self.validation_maximum)).round().astype(int)
        return indices[places]


def _of_slides(store: PatchStore, names: Collection[str]) -> np.ndarray:
    """Boolean [N], True for patches of these slides."""
    return np.array([slide in names for slide in store.slides])[store.slide_of]


@by_name(
    "dataset_dir", "patch_size", "validation_slides", "validation_share", "generated_per_class", "generated_slides",
    "normalise_stain", "maximum_rejected_share", "maximum_blank_share", "cache_gigabytes",
)  # fmt: skip
def training_patches(context: RunContext, **settings: Any) -> TrainingPatches:
    """The unlabelled patches of the running config, with the cache and the seed of its run.

    Args:
        context: of the run.
        **settings: arguments of TrainingPatches; those that are not given are top-level settings, by name.
    """
    shown = context.folder / "pictures" / "blank_patches.png"
    return TrainingPatches(cache_dir=context.cache_dir, seed=context.seed, blank_picture=shown, **settings)


class PatchPart(OpenedOnUse):
    """One part of the patches, "training" or "validation", as a source for ItemDataset."""

    opened = ("_indices",)

    def __init__(self, patches: TrainingPatches, part: str) -> None:
        self.patches = patches
        self.part = part

    @property
    def fingerprint(self) -> str:
        """Identity of the patches and of what is held out."""
        return self.patches.fingerprint

    def open(self) -> None:
        self._indices = getattr(self.patches, self.part)()

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> dict[str, Any]:
        """{"image": uint8 RGB [3, S, S]} of one patch."""
        return {"image": self.patches.store.image(int(self._indices[index]))}

    def weighted_items(self) -> tuple[list[np.ndarray], np.ndarray] | None:
        """Items by source with the sources' weights, or None where every patch counts the same."""
        store = self.patches.store
        if not store.weighted:
            return None
        source = store.source_of[self._indices]
        return [np.flatnonzero(source == number) for number in range(len(store.sources))], store.weights
