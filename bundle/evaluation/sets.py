"""Sets of images that are compared: real ones by part, synthetic ones of a pool or of a selection."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from bundle.data.labelled import LabelledPatches
from bundle.data.sources import UnreadableImage
from bundle.data.store import PatchStore
from bundle.downstream.augmented import AugmentedPatches
from bundle.synthesis.pool import image_file
from bundle.synthesis.stored_pool import MAKE, StoredPool

UNLABELLED = "unlabelled"  # the class of images without one, which only the copy report looks at
FEWEST = 2  # images of a class that can be compared: one alone has no spread


class ImageSet:
    """Images of one origin with their classes, read when they are needed.

    Args:
        name: in tables: "synthetic", "reference", "floor", "training" or "held out".
        origin: plain facts of where they come from, for `evaluation.json`.
        classes: K names, shared by all sets that are compared.
        labels: int [N], places in `classes`; of a synthetic image the class it was made for.
        files: N names, for people.
        read: place -> uint8 RGB [3, S, S].
    """

    def __init__(
        self,
        name: str,
        origin: dict[str, Any],
        classes: Sequence[str],
        labels: Sequence[int],
        files: Sequence[str],
        read: Callable[[int], torch.Tensor],
    ) -> None:
        self.name = name
        self.origin = origin
        self.classes = list(classes)
        self.labels = np.asarray(labels, np.int64)
        self.files = list(files)
        self.read = read

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> dict[str, int]:
        """Images of each class, in the order of the classes."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, counts)}

    def images(self, places: Sequence[int] | None = None) -> torch.Tensor:
        """uint8 [n, 3, S, S] of these places, or of all."""
        return torch.stack([self.read(int(place)) for place in (range(len(self)) if places is None else places)])

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """All images in order, uint8 [<= size, 3, S, S] at a time."""
        for start in range(0, len(self), size):
            yield self.images(range(start, min(start + size, len(self))))

    def take(self, places: Sequence[int], name: str | None = None) -> ImageSet:
        """Some of the images, as a set."""
        places = [int(place) for place in places]
        files = [self.files[place] for place in places]
        return ImageSet(
            name or self.name,
            self.origin,
            self.classes,
            self.labels[places],
            files,
            lambda place: self.read(places[place]),
        )

    @functools.cached_property
    def digests(self) -> list[str]:
        """SHA-256 of each image's pixels."""
        return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for batch in self.batches(256) for image in batch]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels and classes, in order."""
        content = [(digest, self.classes[label]) for digest, label in zip(self.digests, self.labels)]
        return hashlib.sha256(repr(content).encode()).hexdigest()


def part_set(name: str, labelled: LabelledPatches, part: str) -> ImageSet:
    """A part of the labelled images, see `LabelledPatches.part`; it may be empty."""
    source = labelled.part(part)
    origin = {"part": part, "built_in_patches": labelled.built_in}
    origin |= {"dataset_dir": _text(labelled.dataset_dir), "test_dir": _text(labelled.test_dir)}
    return ImageSet(
        name, origin, labelled.classes, source.labels, source.files, lambda place: source.read(place)["image"]
    )


def pool_set(pool: StoredPool, classes: Sequence[str]) -> ImageSet:
    """All images of a pool, by class and seed. Each must say itself that it is of this pool, when it is read.

    Raises:
        FileNotFoundError, ValueError: no pool, one of other classes, or one without two images of each class. Reading a
            broken image raises ValueError.
    """
    keys = pool.require_classes(classes)

    def read(place: int) -> torch.Tensor:
        try:
            return torch.from_numpy(pool.read(*keys[place]).transpose(2, 0, 1).copy())
        except UnreadableImage as error:
            raise ValueError(
                f"{error}. Remove it, and judge the pool without it or have it made again by the command of the pool"
            ) from None

    found = ImageSet(
        "synthetic",
        {"pool": str(pool.folder), "pool_hash": pool.hash, **pool.identity},
        classes,
        [list(classes).index(name) for name, _ in keys],
        [image_file(*key) for key in keys],
        read,
    )
    few = _too_few(found)
    if few:
        raise ValueError(
            f"the pool {pool.folder} has {found.counts()[few[0]]} image of the class {few[0]!r}; {FEWEST} are the "
            f"fewest that can be judged. Make more ({MAKE} {pool.folder} --classes {few[0]}, with the other settings "
            "of the pool)"
        )
    return found


def selection_set(augmented: AugmentedPatches) -> ImageSet:
    """The synthetic images that a selection chose, as a classifier would be trained on them.

    Raises:
        FileNotFoundError, ValueError: see `AugmentedPatches.open`; or fewer than two images of a class.
    """
    augmented.prepare()  # which finds out the ratio where none was given
    origin = {"selection_file": str(augmented.selection_file), "selection": augmented.selection}
    origin |= {"ratio": augmented.ratio, "pool": str(augmented.pool.folder), "pool_hash": augmented.pool.hash}
    found = ImageSet(
        "synthetic",
        {**origin, **augmented.pool.identity},
        augmented.labelled.classes,
        augmented.labels[augmented.real :],
        augmented.files[augmented.real :],
        lambda place: augmented.synthetic_images[place],
    )
    few = _too_few(found)
    if few:
        raise ValueError(
            f"{augmented.selection_file} has {found.counts()[few[0]]} {augmented.selection} images of the class "
            f"{few[0]!r} at {augmented.ratio} %; {FEWEST} are the fewest that can be judged. Take a larger --ratio, "
            f"extend the pool ({MAKE} {augmented.pool.folder} --classes {few[0]}) and select again, or judge the pool "
            "itself with --pool_dir"
        )
    return found


def store_set(name: str, store: PatchStore, maximum: int) -> ImageSet:
    """Unlabelled patches, at most so many, evenly spaced; all of the class `UNLABELLED`."""
    store.prepare()
    places = np.linspace(0, len(store) - 1, min(len(store), maximum)).round().astype(int)
    origin = {"dataset_dir": _text(store.dataset_dir), "found": len(store), "used": len(places)}
    files = [store.files[place] for place in places]
    return ImageSet(
        name, origin, [UNLABELLED], np.zeros(len(places)), files, lambda place: store.image(int(places[place]))
    )


def join(name: str, sets: Sequence[ImageSet]) -> ImageSet:
    """Several sets as one, in their order; its classes are theirs, each once."""
    classes = list(dict.fromkeys(label for one in sets for label in one.classes))
    labels = [classes.index(one.classes[label]) for one in sets for label in one.labels]
    where = [(one, place) for one in sets for place in range(len(one))]
    files = [file for one in sets for file in one.files]
    origin = sets[0].origin if len(sets) == 1 else {"of": [one.origin for one in sets]}
    return ImageSet(name, origin, classes, labels, files, lambda place: where[place][0].read(where[place][1]))


def without(images: ImageSet, digests: set[str]) -> ImageSet:
    """The images whose pixels are not among these, each picture once."""
    first = {digest: place for place, digest in reversed(list(enumerate(images.digests)))}
    kept = sorted(place for digest, place in first.items() if digest not in digests)
    return images if len(kept) == len(images) else images.take(kept)


def halves(images: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """Two sets without a picture in common, as many of each class in both, drawn by the seed."""
    images = without(images, set())
    one, other = [], []
    for label in range(len(images.classes)):
        places = _drawn(images.labels, label, [seed, len(images.classes), label])
        one += places[: len(places) // 2]
        other += places[len(places) // 2 : len(places) // 2 * 2]
    found = images.take(sorted(one), "reference"), images.take(sorted(other), "floor")
    for half, which in zip(found, ("one", "the other")):
        half.origin = {**images.origin, "half": which}
    return found


class EqualSets(NamedTuple):
    """Sets of as many images of each class, of the classes alone that all of them have.

    Attributes:
        synthetic, reference, floor: the sets; their classes are those compared.
        places: for each of them, in this order, int [N] places in the set it was cut from.
        compared: images of each class in each set.
        notes: which classes were left out, and why.
    """

    synthetic: ImageSet
    reference: ImageSet
    floor: ImageSet
    places: tuple[np.ndarray, np.ndarray, np.ndarray]
    compared: dict[str, int]
    notes: list[str]


def cut_equal(synthetic: ImageSet, reference: ImageSet, floor: ImageSet, seed: int) -> EqualSets:
    """Cuts three sets to as many images of each class as the smallest of them has, drawn by the seed.

    So number of images and mix of classes, on which nearly every distance depends, are the same on all sides. A class
    with fewer than two images in one of the real sets is left out, with a note.

    Raises:
        ValueError: real sets that share a picture, or no class is left.
    """
    sets = (synthetic, reference, floor)
    require_apart(reference, floor)
    counts = [one.counts() for one in sets]
    compared, notes = {}, []
    for name in synthetic.classes:
        smallest = min(range(3), key=lambda number: counts[number].get(name, 0))
        if counts[smallest].get(name, 0) >= FEWEST:
            compared[name] = counts[smallest][name]
        else:
            notes.append(
                f"class {name} is left out of all comparisons: the {sets[smallest].name} has "
                f"{counts[smallest].get(name, 0)} images of it, and {FEWEST} are the fewest. Give more of them, or "
                "another --reference or --floor"
            )
    if not compared:
        raise ValueError(f"no class can be compared: {'; '.join(notes)}")
    places = []
    for number, one in enumerate(sets):
        chosen = [
            _drawn(one.labels, one.classes.index(name), [seed, number, place])[:count]
            for place, (name, count) in enumerate(compared.items())
        ]
        places.append(np.array(sorted(place for some in chosen for place in some), np.int64))
    cut = [_of_classes(one.take(found), list(compared)) for one, found in zip(sets, places)]
    return EqualSets(*cut, tuple(places), compared, notes)


def require_apart(one: ImageSet, other: ImageSet) -> None:
    """Refuses real sets that share a picture.

    Raises:
        ValueError: names both files of the first one, and what to do.
    """
    first = dict(zip(reversed(one.digests), reversed(one.files)))
    shared = [(first[digest], file) for digest, file in zip(other.digests, other.files) if digest in first]
    if shared:
        raise ValueError(
            f"{len(shared)} images are in both the {one.name} and the {other.name}, pixel for pixel, such as "
            f"{shared[0][0]!r} and {shared[0][1]!r}. Name two parts that share none with --reference and --floor, such "
            "as test and unused"
        )


def equal_pictures(synthetic: ImageSet, real: Sequence[ImageSet]) -> list[tuple[str, str, str]]:
    """(synthetic file, name of the real set, real file) of each synthetic image that is a real one, pixel for pixel."""
    known: dict[str, tuple[str, str]] = {}
    for one in real:
        for digest, file in zip(one.digests, one.files):
            known.setdefault(digest, (one.name, file))
    found = zip(synthetic.digests, synthetic.files)
    return [(file, *known[digest]) for digest, file in found if digest in known]


def _drawn(labels: np.ndarray, label: int, seed: list[int]) -> list[int]:
    """Places of one class in random order."""
    return np.random.default_rng(seed).permutation(np.flatnonzero(labels == label)).tolist()


def _of_classes(images: ImageSet, classes: list[str]) -> ImageSet:
    labels = [classes.index(images.classes[label]) for label in images.labels]
    return ImageSet(images.name, images.origin, classes, labels, images.files, images.read)


def _too_few(images: ImageSet) -> list[str]:
    return [name for name, count in images.counts().items() if count < FEWEST]


def _text(path: Any) -> Any:
    return path if path is None or isinstance(path, (list, dict)) else str(path)
