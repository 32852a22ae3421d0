"""Every picture of a study by the hash of its pixels, treated or not: labelled tiles, tested tiles, pools' images."""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bundle.data.split import read_split
from bundle.data.store import PatchStore
from bundle.data.transforms import resize_patch, scale_patch
from bundle.downstream.proof.splits import Split
from bundle.downstream.proof.tiles import StudyTiles
from bundle.downstream.proof.treatments import (
    PLAIN,
    RECONSTRUCTION,
    REDUCED,
    TINT,
    TREATMENTS,
    Tint,
    Treatment,
    enlarge,
    treat,
)
from bundle.models.adapted import AdaptedModels
from bundle.runs.checks import check_counts
from bundle.synthesis.stored_pool import StoredPool

DRAWN = ("density", "hed", "stain", "geometric", "flip", "blocks", "scatter", TINT)  # another copy differs
POOL_FIELDS = ("dir", "split_file", "patch_size")
TINTS = 400  # tiles of the pre-training that give colours


@dataclass(frozen=True)
class Ref:
    """A picture: a tile of the study by its place, or an image of a pool by class and seed.

    Attributes:
        pool: folder; "" for a tile.
        label: place in the classes.
        number: place of the tile, or seed.
    """

    pool: str
    label: int
    number: int


class Pictures:
    """Makes treated pictures, the same ones whenever they are asked for.

    Args:
        tiles: of the study.
        pools: folder of each pool by name, or {"dir": folder, "split_file": split of its generator's labels,
            "patch_size": pixels a side of its images}. In both paths {labels}, {fold} and {draw} stand for those of a
            split, where each has a pool of its own.
        pretraining_dir: unlabelled tiles that "tint" takes its colours from; None for none.
        adapted_dir: adaptation whose decoder redraws tiles for "reconstruction"; None for none.
        pool_size: pixels a side of a pool's images where it doesn't say.
        device: of the decoder.
    """

    def __init__(
        self,
        tiles: StudyTiles,
        pools: Mapping[str, Any] | None = None,
        pretraining_dir: str | Path | None = None,
        adapted_dir: str | Path | None = None,
        pool_size: int = REDUCED,
        device: Any = "cpu",
    ) -> None:
        check_counts(pool_patch_size=pool_size)
        self.tiles = tiles
        self.pools = {
            str(name): dict(given) if isinstance(given, Mapping) else {"dir": given}
            for name, given in (pools or {}).items()
        }
        odd = [(name, key) for name, given in self.pools.items() for key in given if key not in POOL_FIELDS]
        if odd:
            raise ValueError(f"--pools: {odd[0][0]} has {odd[0][1]!r}; a pool has {', '.join(POOL_FIELDS)}")
        self.pretraining_dir = pretraining_dir
        self.adapted_dir = adapted_dir
        self.pool_size = pool_size
        self.device = device
        self._opened: dict[str, StoredPool] = {}
        self._candidates: dict[str, list[Ref]] = {}

    def lacking(self, treatments: set[str]) -> str | None:
        """The flag that these treatments need and that is not given."""
        given = {TINT: ("pretraining_dir", self.pretraining_dir), RECONSTRUCTION: ("adapted_dir", self.adapted_dir)}
        return next((flag for name, (flag, value) in given.items() if name in treatments and value is None), None)

    @functools.cached_property
    def treatments(self) -> dict[str, Treatment]:
        """All that can be made of what is given."""
        made = dict(TREATMENTS)
        if self.pretraining_dir is not None:
            made[TINT] = self._tint[0]
        if self.adapted_dir is not None:
            made[RECONSTRUCTION] = self._reconstruct
        return made

    def identity(self, treatment: str) -> str:
        """Name of a treatment with a hash of what it draws on."""
        parts = treatment.split("+")
        drawn_on = [self._tint[1]] if TINT in parts else []
        drawn_on += [self._models.fingerprint] if RECONSTRUCTION in parts else []
        return "-".join([treatment, *(digest[:12] for digest in drawn_on)])

    def digest(self, ref: Ref) -> str:
        """SHA-256 that stands for a picture."""
        if not ref.pool:
            return self.tiles.tiles[ref.number].sha256
        pool, name = self._opened[ref.pool], self.tiles.classes[ref.label]
        return hashlib.sha256(f"{pool.hash}/{name}/{ref.number}".encode()).hexdigest()

    def picture(self, ref: Ref, treatment: str = PLAIN, copy: int = 0) -> np.ndarray:
        """uint8 RGB [S, S, 3] at the study's size.

        Args:
            ref: which.
            treatment: chain of treatments.
            copy: number of a copy, each of which is drawn anew where the treatment draws.
        """
        if ref.pool:
            image = self._opened[ref.pool].read(self.tiles.classes[ref.label], ref.number)
            image = enlarge(image, self.tiles.patch_size)
        else:
            image = self.tiles.image(ref.number)
        seeds = [int(self.digest(ref)[:15], 16), zlib.crc32(treatment.encode()), copy]
        return np.ascontiguousarray(treat(image, treatment, np.random.default_rng(seeds), self.treatments))

    def candidates(self, name: str, split: Split) -> list[Ref]:
        """All images that a pool has for a split, some of each class.

        Raises:
            FileNotFoundError, ValueError: it is no pool, or has none of a class.
        """
        given = self.pools[name]
        folder = self._filled(given["dir"], split)
        if folder not in self._candidates:
            self._opened[folder] = StoredPool(folder, given.get("patch_size", self.pool_size)).prepare()
            keys = self._opened[folder].require_classes(self.tiles.classes)
            self._candidates[folder] = [Ref(folder, self.tiles.classes.index(label), seed) for label, seed in keys]
        return self._candidates[folder]

    def learned_from(self, name: str, split: Split) -> set[str] | None:
        """Pixel hashes of the tiles whose labels a pool's generator saw; None where it isn't said."""
        split_file = self.pools[name].get("split_file")
        if split_file is None:
            return None
        rows = read_split(Path(self._filled(split_file, split)).expanduser())
        return {row.sha256 for row in rows if row.part in ("train", "validation")}

    @staticmethod
    def _filled(path: str, split: Split) -> str:
        """A path with what stands for a split's amount of labels, fold and draw."""
        values = {"labels": split.folder, "fold": split.fold, "draw": split.draw}
        for name, value in values.items():
            path = str(path).replace(f"{{{name}}}", str(value))
        return path

    @functools.cached_property
    def _tint(self) -> tuple[Tint, str]:
        """The treatment, and the fingerprint of what it takes colours from."""
        store = PatchStore(self.pretraining_dir, REDUCED, self.tiles.cache_dir).prepare()
        chosen = np.linspace(0, len(store.files) - 1, min(TINTS, len(store.files))).round().astype(int)
        return Tint([store.image(place).permute(1, 2, 0).numpy() for place in chosen]), store.fingerprint

    @functools.cached_property
    def _models(self) -> AdaptedModels:
        return AdaptedModels(self.adapted_dir, device=self.device).prepare()

    @torch.no_grad()
    def _reconstruct(self, rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Through encoder and decoder, at the size that these work at."""
        small = resize_patch(rgb, self._models.patch_size)
        image = scale_patch(torch.from_numpy(small.transpose(2, 0, 1).copy()))[None].to(self.device)
        redrawn = ((self._models(image)[0].cpu() + 1) * 127.5).round().to(torch.uint8)
        return enlarge(redrawn.permute(1, 2, 0).numpy(), len(rgb))


def is_drawn(treatment: str) -> bool:
    """Whether copies of a treatment differ from each other."""
    return any(part in DRAWN for part in treatment.split("+"))
