"""Preparing a blinded reading: real and synthetic patches of each class under names that mean nothing."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bundle.data.hashes import pixel_hash
from bundle.data.labelled import LabelledPatches
from bundle.data.pictures import to_uint8
from bundle.data.transforms import scale_patch
from bundle.downstream.augmented import AugmentedPatches
from bundle.evaluation.sets import ImageSet, part_set, pool_set, selection_set
from bundle.models.adapted import AdaptedModels
from bundle.reading.sealed import (
    ANSWERS,
    KEY,
    PICTURES,
    READING,
    REAL,
    SYNTHETIC,
    THIRD,
    is_below,
    read_key,
    read_sealed,
    write_key,
    write_sealed,
)
from bundle.runs.checks import check_counts
from bundle.runs.context import RunContext
from bundle.runs.files import write_atomically
from bundle.runs.sums import content_hash
from bundle.synthesis.stored_pool import StoredPool

logger = logging.getLogger(__name__)

Chosen = dict[str, dict[str, Any]]  # of each picture "arm", "class", "file" and "sha256" of its pixels


class Preparation:
    """Draws the pictures of a reading and seals the key to them; a stage of `run_stages`.

    All pictures are of one size and go through the same encoder, from pixels alone, so that neither size nor
    compression nor a mark in the file says what a picture is. `reading.json` is written last. Where it is there, the
    same command only looks whether settings and images are still the same.

    Args:
        labelled: the labelled patches, which real ones are drawn from.
        pool: the pool that synthetic ones are drawn from; None where `augmented` has a selection.
        augmented: of the selection that they are drawn from.
        third_pool: a pool of another generator as a third arm; None for none.
        models: whose autoencoder makes a third arm of further real patches; None for none.
        context: of the run; its seed draws pictures and orders.
        part: of the labelled patches that real ones are drawn from: "test", "unused", "validation" or "train".
        per_class: patches of each class in each arm.
        jpeg_quality: of the one JPEG step that all pictures go through, 1 to 95, as real tiles often were JPEG before;
            0 for PNG, which keeps the pixels and so a compression that only real tiles went through.
        key_dir: where the key is kept, outside the folder of the reading.

    Raises:
        ValueError: settings out of range, or that mean nothing together.
    """

    stage = "reading"
    pictures = (READING,)

    def __init__(
        self,
        labelled: LabelledPatches,
        pool: StoredPool | None,
        augmented: AugmentedPatches,
        third_pool: StoredPool | None,
        models: AdaptedModels | None,
        context: RunContext,
        part: str = "test",
        per_class: int = 10,
        jpeg_quality: int = 90,
        key_dir: str | Path = "runs/reading_key",
    ) -> None:
        check_counts(per_class=per_class)
        if type(jpeg_quality) is not int or not 0 <= jpeg_quality <= 95:
            raise ValueError(f"--jpeg_quality is {jpeg_quality!r}; it must be 1 to 95, or 0 for PNG")
        if third_pool is not None and models is not None:
            raise ValueError("--third_pool_dir and --reconstructed True are two third arms: leave one out")
        self.labelled = labelled
        self.pool = pool
        self.augmented = augmented
        self.third_pool = third_pool
        self.models = models
        self.context = context
        self.folder = context.folder
        self.part = part
        self.per_class = per_class
        self.jpeg_quality = jpeg_quality
        self.key_dir = Path(key_dir).expanduser()

    def check(self) -> None:
        """Refuses arms that have too few patches, and a key within the folder of the reading.

        Raises:
            FileNotFoundError, ValueError: names what is missing, and what to do.
        """
        if is_below(self.key_dir, self.folder.path):
            raise ValueError(
                f"--key_dir {self.key_dir} lies in {self.folder.path}, which the reading is served from: name a folder "
                "outside it"
            )
        classes = self.labelled.prepare().classes
        if len(classes) < 2:
            raise ValueError(
                f"the labelled images have one class only, {classes[0]!r}, and a reading asks which class is seen: "
                "give a --dataset_dir of two or more"
            )
        self.sets = self._sets()
        wanted = dict.fromkeys(self.sets, self.per_class)
        wanted[REAL] *= 2 if self.models is not None else 1  # what is reconstructed is not shown as real, too
        for arm, images in self.sets.items():
            for name, count in images.counts().items():
                if count < wanted[arm]:
                    raise ValueError(
                        f"{self._told(arm)} has {count} images of the class {name!r}, and --per_class {self.per_class} "
                        f"needs {wanted[arm]}: lower it, or {self._remedy(arm)}"
                    )

    def run(self) -> None:
        """Writes the key, the pictures and `reading.json`, or finds them as they were.

        Raises:
            ValueError: there is a reading of other settings, or an image of it was changed since.
        """
        self.folder.open()
        self.folder.save_config()
        if (self.folder / READING).is_file():
            self._require_unchanged()
        else:
            self._prepare()
        total = len(self.sets) * self.per_class * len(self.labelled.classes)
        self.folder.set_metrics(self.stage, {"pictures": total, "arms": list(self.sets)})

    def _prepare(self) -> None:
        if any((self.folder / ANSWERS).glob("*")):
            raise ValueError(
                f"{self.folder / ANSWERS} has answers, and {self.folder / READING}, which says what to, is gone: put "
                "it back, or name another --output_dir"
            )
        salt = secrets.token_hex(32)
        chosen, files = self._draw(salt)
        digest = write_key(self.key_dir, {"salt": salt, **self._facts(), "pictures": chosen})
        for name in sorted(files):  # so that neither order nor time of the files tells the arms apart
            path = self.folder / PICTURES / f"{name}.{self._suffix}"
            write_atomically(path, lambda temporary, name=name: temporary.write_bytes(files[name]))
            os.utime(path, (0, 0))
        known = {f"{name}.{self._suffix}" for name in files}
        for path in (self.folder / PICTURES).iterdir():  # of a preparation that was killed
            if path.name not in known:
                path.unlink()
        write_sealed(
            self.folder.path,
            {
                "classes": self.labelled.classes,
                "side": self.labelled.patch_size,
                "suffix": self._suffix,
                "seed": self.context.seed,
                "pictures": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
                "key_sha256": digest,
            },
        )
        logger.info(f"to be read: {len(files)} in {self.folder / PICTURES}; not for readers: {self.key_dir / KEY}")

    def _draw(self, salt: str) -> tuple[Chosen, dict[str, bytes]]:
        """What each picture is, and its file, by its name; the names are hashes with the salt."""
        chosen: Chosen = {}
        files = {}
        for number, (arm, images) in enumerate(self.sets.items()):
            for label, name in enumerate(images.classes):
                for place in self._places(number, images, label):
                    picture = hashlib.sha256(f"{salt} {arm} {place}".encode()).hexdigest()[:16]
                    pixels = images.read(place)
                    chosen[picture] = {"arm": arm, "class": name, "file": images.files[place], "sha256": _hash(pixels)}
                    shown = self._reconstruct(pixels) if arm == THIRD and self.models is not None else pixels
                    files[picture] = self._encode(shown)
        return {name: chosen[name] for name in sorted(chosen)}, files

    def _places(self, number: int, images: ImageSet, label: int) -> list[int]:
        """Places of one class in one arm, drawn by the seed; those to be reconstructed come after those of the real."""
        of_real = number == 2 and self.models is not None
        rng = np.random.default_rng([self.context.seed, 0 if of_real else number, label])
        drawn = rng.permutation(np.flatnonzero(images.labels == label)).tolist()
        return drawn[self.per_class : 2 * self.per_class] if of_real else drawn[: self.per_class]

    def _reconstruct(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            image = self.models(scale_patch(pixels[None]).to(self.models.device))
        return torch.from_numpy(to_uint8(image)[0]).permute(2, 0, 1)

    def _encode(self, pixels: torch.Tensor) -> bytes:
        """uint8 [3, S, S] as a file without metadata."""
        file = io.BytesIO()
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        if not self.jpeg_quality:
            image.save(file, "PNG", optimize=True)
        else:
            image.save(file, "JPEG", quality=self.jpeg_quality, subsampling="4:2:0")
        return file.getvalue()

    @property
    def _suffix(self) -> str:
        return "jpg" if self.jpeg_quality else "png"

    # The arms.

    def _sets(self) -> dict[str, ImageSet]:
        classes = self.labelled.classes
        synthetic = pool_set(self.pool, classes) if self.pool is not None else selection_set(self.augmented)
        found = {REAL: part_set(REAL, self.labelled, self.part), SYNTHETIC: synthetic}
        if self.third_pool is not None:
            found[THIRD] = pool_set(self.third_pool, classes)
        elif self.models is not None:
            found[THIRD] = found[REAL]
        return found

    def _told(self, arm: str) -> str:
        if arm == SYNTHETIC and self.pool is None:
            return f"the selection {self.augmented.selection_file}"
        pool = {SYNTHETIC: self.pool, THIRD: self.third_pool}.get(arm)
        return f"the part {self.part!r} of the labelled images" if pool is None else f"the pool {pool.folder}"

    def _remedy(self, arm: str) -> str:
        if arm == REAL or (arm == THIRD and self.third_pool is None):
            return "name another --part"
        if self.pool is None and arm == SYNTHETIC:
            return "take a larger --ratio, or the pool itself with --pool_dir"
        return "make more with the command of the pool and a larger --num_images"

    def _facts(self) -> dict[str, Any]:
        """What the key says besides the pictures: settings, and where each arm is from."""
        pool = self.pool if self.pool is not None else self.augmented.pool
        third = None if self.third_pool is None else self.third_pool.hash
        third = third if self.models is None else {"reconstructed by": self.models.prepare().fingerprint}
        # A pool may grow after its reading; a selection is as it was.
        selection = None if self.pool is not None else content_hash(self.sets[SYNTHETIC].files)
        settings = {"seed": self.context.seed, "part": self.part, "per_class": self.per_class}
        settings |= {"jpeg_quality": self.jpeg_quality, "patch_size": self.labelled.patch_size}
        settings |= {"classes": self.labelled.classes, "pool_hash": pool.hash, "selection": selection, "third": third}
        settings["labelled"] = self.labelled.part(self.part).fingerprint
        origins = {arm: {**images.origin} for arm, images in self.sets.items()}
        if self.models is not None:
            origins[THIRD] |= {"reconstructed_by": str(self.models.adapted_dir)}
        return {"settings": settings, "pool": str(pool.folder.absolute()), "arms": origins}

    def _require_unchanged(self) -> None:
        """Refuses to take a reading of other settings or images for this one."""
        sealed = read_sealed(self.folder.path)
        key = read_key(self.key_dir, sealed.key_sha256)
        settings = self._facts()["settings"]
        for name, value in settings.items():
            if key["settings"].get(name) != value:
                raise ValueError(
                    f"{self.folder.path} is a reading with {name} {key['settings'].get(name)!r}, and this command has "
                    f"{value!r}: name another --output_dir for another reading"
                )
        places = {arm: {file: place for place, file in enumerate(images.files)} for arm, images in self.sets.items()}
        for found in key["pictures"].values():
            place = places[found["arm"]].get(found["file"])
            if place is None or _hash(self.sets[found["arm"]].read(place)) != found["sha256"]:
                state = "is gone from" if place is None else "has other pixels in"
                raise ValueError(
                    f"{found['file']} {state} {self._told(found['arm'])} since this reading was prepared: put it back, "
                    "or name another --output_dir for a reading of what is there now. Answers are kept either way"
                )
        logger.info(f"prepared before, and unchanged since: {self.folder / READING}")


def _hash(pixels: torch.Tensor) -> str:
    """:func:`bundle.data.hashes.pixel_hash` of uint8 [3, S, S]."""
    return pixel_hash(pixels.permute(1, 2, 0).numpy())
