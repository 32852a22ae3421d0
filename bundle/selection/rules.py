"""Selective augmentation: which synthetic images are used, at each ratio of synthetic to real ones.

After "selective synthetic augmentation with HistoGAN" (Xue et al., Med Image Anal 2021): of the images that a
classifier of real images is sure of, those nearest to the centroid of their class among real images. Nothing here
depends on the order of the candidates.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch

from bundle.metrics.copies import COPY_RATIO
from bundle.selection.duplicates import copy_limits, find_copies
from bundle.selection.scores import Centroids, entropy
from bundle.selection.table import SelectionRow

GATES = ("both", "distance")
CENTROIDS = ("real", "with_synthetic")
DIGITS = 6

Quotas = Mapping[str, Mapping[int, int]]  # {class: {ratio in percent: images}}


@dataclass(frozen=True)
class Rules:
    """How to decide.

    Attributes:
        gates: "both", or "distance" as in the code published with HistoDiffusion: no confidence of the label, no closer
            half, no search for copies.
        centroids: "real", or "with_synthetic", likewise: decided once, then again with the centroids of real images and
            those just selected.
        keep_fraction: the share, nearest first, of what passes the gates that may be used, in (0, 1], rounded up.
        copy_ratio: see :func:`bundle.selection.duplicates.copy_limits`; 0 finds no copies.
        seed: of the random control.

    Raises:
        ValueError: a value out of its range.
    """

    gates: str = "both"
    centroids: str = "real"
    keep_fraction: float = 0.5
    copy_ratio: float = COPY_RATIO
    seed: int = 0

    def __post_init__(self) -> None:
        for flag, value, known in (
            ("gates", self.gates, GATES),
            ("selector#rules#centroids", self.centroids, CENTROIDS),
        ):
            if value not in known:
                raise ValueError(f"--{flag} is {value!r}; it must be one of {', '.join(known)}")
        if not 0 < self.keep_fraction <= 1:
            raise ValueError(f"--keep_fraction is {self.keep_fraction}; it must be above 0 and at most 1")
        if not 0 <= self.copy_ratio < math.inf:
            raise ValueError(f"--selector#rules#copy_ratio is {self.copy_ratio}; it must be 0 or more")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"--seed is {self.seed!r}; it must be a whole number of 0 or more")


@dataclass(frozen=True)
class Candidates:
    """The images of a pool; tensors on the CPU.

    Attributes:
        files: names within the pool.
        labels: the class each was made for, int64 [N].
        seeds: int64 [N]; no two images of a class have the same.
        probabilities: expected softmax [N, K].
        distances: to the centroids [N, K], see :class:`bundle.selection.scores.Centroids`.
        descriptors: [N, 768], see :func:`bundle.selection.scores.descriptors`.
        features: [N, D]; for the rule that the centroids are "with_synthetic" only.
        excluded: those of `files` that are not to be used whatever the scorer says, as readers rejected them.
    """

    files: Sequence[str]
    labels: torch.Tensor
    seeds: torch.Tensor
    probabilities: torch.Tensor
    distances: torch.Tensor
    descriptors: torch.Tensor
    features: torch.Tensor | None = None
    excluded: Collection[str] = ()

    def check(self, num_classes: int) -> None:
        """Refuses what can't be decided on.

        Raises:
            ValueError: numbers of images or classes that differ, a label out of range, a value that is not finite, or
                two images of one class and seed; names the files.
        """
        for name in ("labels", "seeds", "probabilities", "distances", "descriptors", "features"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != len(self.files):
                raise ValueError(f"there are {len(self.files)} candidates and {name} of {len(values)}")
            if name in ("probabilities", "distances") and values.shape[1:] != (num_classes,):
                raise ValueError(f"the {name} are of {list(values.shape[1:])} classes, expected {num_classes}")
            finite = values.isfinite().reshape(len(values), math.prod(values.shape[1:])).all(1)
            if not finite.all():
                raise ValueError(f"{self.files[int(finite.int().argmin())]}: its {name} are not finite")
        wrong = (self.labels < 0) | (self.labels >= num_classes)
        if wrong.any():
            place = int(wrong.int().argmax())
            raise ValueError(f"{self.files[place]}: class {int(self.labels[place])} is not one of {num_classes}")
        seen: dict[tuple[int, int], str] = {}
        for key, file in zip(zip(self.labels.tolist(), self.seeds.tolist()), self.files):
            if key in seen:
                raise ValueError(f"{seen[key]} and {file} have the same class and seed {key[1]}: remove one of them")
            seen[key] = file

    def ordered(self) -> Candidates:
        """The same by class and seed."""
        order = np.lexsort((self.seeds.numpy(), self.labels.numpy()))
        parts = {name: value[order] for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, files=[self.files[place] for place in order], **parts)


@dataclass(frozen=True)
class RealImages:
    """The labelled images that no candidate may be a copy of: names, classes [M] and descriptors [M, 768]."""

    files: Sequence[str]
    labels: torch.Tensor
    descriptors: torch.Tensor


def quotas(labelled: Mapping[str, int], ratios: Sequence[int], balanced: bool = False) -> dict[str, dict[int, int]]:
    """How many synthetic images of each class each ratio asks for: round(ratio / 100 x real images of the class).

    Args:
        labelled: real labelled images by class.
        ratios: synthetic images in percent of the real ones.
        balanced: as many of each class instead, round(ratio / 100 x real images / classes).

    Returns:
        {class: {ratio: images}}, ratios ascending.

    Raises:
        ValueError: a ratio that is no whole number of percent above 0, or none.
    """
    if not ratios or not all(type(ratio) is int and ratio > 0 for ratio in ratios):
        raise ValueError(f"--ratios are {list(ratios)!r}; they must be whole numbers above 0, in percent")
    share = {name: Fraction(sum(labelled.values()), len(labelled)) if balanced else n for name, n in labelled.items()}
    # In fractions, so that no error of floating point decides.
    return {
        name: {ratio: round(Fraction(ratio, 100) * n) for ratio in sorted(set(ratios))} for name, n in share.items()
    }


def decide(
    candidates: Candidates,
    real: RealImages,
    entropy_limits: torch.Tensor,
    quotas: Quotas,
    classes: Sequence[str],
    rules: Rules = Rules(),
    centroids: Centroids | None = None,
) -> list[SelectionRow]:
    """Decides on each candidate.

    A candidate is refused by the first of these that applies: readers rejected it ("excluded"); its own class isn't the
    most probable ("other class"); the entropy is above the limit of its class ("uncertain"); another class has the
    nearest centroid ("other centroid"). The survivors of a class are ranked by distance. Of these are refused: those
    beyond `keep_fraction` ("far half"), and, going on in the order of their ranks, near-duplicates of a real image or
    of one accepted before ("copy of ..."). The quota of each ratio takes the first of what is left, so that the sets of
    the ratios are nested; a class that has too few stays short. The random control of a ratio has as many images of a
    class as the selective set, drawn from the whole pool.

    All is decided on values rounded to six digits, those in the table, so that noise of computing in other batches
    hardly matters. A tie of classes is for the candidate; one of candidates goes to the lower seed.

    Args:
        candidates: see there; in any order.
        real: the labelled images, two or more of each class.
        entropy_limits: in nats [K], see :func:`bundle.selection.scores.entropy_limits`.
        quotas: see :func:`quotas`.
        classes: names in the order of the class numbers.
        rules: see there.
        centroids: those that `candidates.distances` were measured to; for centroids "with_synthetic" only.

    Returns:
        a row a candidate, by class in the order of `classes`, and seed.

    Raises:
        ValueError: candidates or real images that can't be decided on.
    """
    candidates.check(len(classes))
    candidates = candidates.ordered()
    rows = _decide(candidates, real, entropy_limits, quotas, classes, rules)
    if rules.centroids == "with_synthetic":
        if centroids is None or candidates.features is None:
            raise ValueError(
                "--selector#rules#centroids with_synthetic needs the features of the candidates and the real centroids"
            )
        kept = torch.tensor([row.kept for row in rows], dtype=torch.bool)
        moved = centroids.with_extra(candidates.features[kept], candidates.labels[kept])
        candidates = replace(candidates, distances=moved(candidates.features))
        rows = _decide(candidates, real, entropy_limits, quotas, classes, rules)
    return rows


def shortfall(rows: Iterable[SelectionRow], quotas: Quotas) -> dict[str, dict[int, int]]:
    """{class: {ratio: images that the selective set lacks}}."""
    rows = list(rows)
    found = {name: [row.ratio for row in rows if row.label == name and row.kept] for name in quotas}
    return {
        name: {ratio: quota - sum(smallest <= ratio for smallest in found[name]) for ratio, quota in of_class.items()}
        for name, of_class in quotas.items()
    }


def acceptance(rows: Iterable[SelectionRow], classes: Sequence[str]) -> dict[str, float]:
    """{class: share of its candidates that could be used, by gates, closer half and copies}; 0 without candidates.

    A quota of q needs about q / acceptance candidates.
    """
    rows = list(rows)
    usable = {name: [_usable(row.reason) for row in rows if row.label == name] for name in classes}
    return {name: sum(of_class) / max(len(of_class), 1) for name, of_class in usable.items()}


def rounded(values: torch.Tensor) -> np.ndarray:
    """float64 with six decimals; from 1 on with six digits in all, as noise grows with the value."""
    values = values.double().numpy()
    before_point = np.ceil(np.log10(np.maximum(np.abs(values), 1)))
    scale = 10.0 ** (DIGITS - before_point)
    return np.rint(values * scale) / scale


def _decide(
    candidates: Candidates,
    real: RealImages,
    entropy_limits: torch.Tensor,
    quotas: Quotas,
    classes: Sequence[str],
    rules: Rules,
) -> list[SelectionRow]:
    labels, seeds = candidates.labels.numpy(), candidates.seeds.tolist()
    images = np.arange(len(labels))
    probabilities, distances = rounded(candidates.probabilities), rounded(candidates.distances)
    entropies = rounded(entropy(candidates.probabilities))
    own_probability, own_distance = probabilities[images, labels], distances[images, labels]
    nearest = np.where(own_distance == distances.min(1), labels, distances.argmin(1))

    reasons = np.full(len(labels), "", object)

    def refuse(which: np.ndarray, reason: str) -> None:
        reasons[which & (reasons == "")] = reason

    refuse(np.isin(candidates.files, list(candidates.excluded)), "excluded")
    if rules.gates == "both":
        refuse(own_probability < probabilities.max(1), "other class")
        refuse(entropies > rounded(entropy_limits)[labels], "uncertain")
    refuse(nearest != labels, "other centroid")

    ranks: dict[int, int] = {}
    ratios: dict[int, int] = {}
    random_ratios: dict[int, int] = {}
    searched = rules.gates == "both" and rules.copy_ratio > 0
    copies_below = copy_limits(real.descriptors, real.labels, len(classes), rules.copy_ratio) if searched else None
    for number, name in enumerate(classes):
        pool = np.flatnonzero(labels == number)
        usable = pool[reasons[pool] == ""]
        usable = usable[np.argsort(own_distance[usable], kind="stable")]
        ranks |= {place: rank for rank, place in enumerate(usable.tolist(), 1)}
        if rules.gates == "both":
            half = math.ceil(round(rules.keep_fraction * len(usable), 9))  # 0.07 * 100 is above 7
            reasons[usable[half:]] = "far half"
            usable = usable[:half]
        if searched:
            found = find_copies(candidates.descriptors[usable], real.descriptors, copies_below[number].item())
            known = [*real.files, *(candidates.files[place] for place in usable)]
            for place, original in zip(usable, found):
                if original is not None:
                    reasons[place] = f"copy of {known[original]}"
            usable = usable[reasons[usable] == ""]
        reasons[usable] = "beyond the quota"
        drawn = pool[np.random.default_rng([rules.seed, zlib.crc32(name.encode())]).permutation(len(pool))]
        for ratio, quota in sorted(quotas[name].items(), reverse=True):  # smaller ratios overwrite larger ones
            chosen = usable[:quota].tolist()
            reasons[chosen] = "kept"
            ratios |= dict.fromkeys(chosen, ratio)
            random_ratios |= dict.fromkeys(drawn[: len(chosen)].tolist(), ratio)
    return [
        SelectionRow(
            file=candidates.files[place],
            label=classes[labels[place]],
            seed=seeds[place],
            probability=float(own_probability[place]),
            entropy=float(entropies[place]),
            distance=float(own_distance[place]),
            nearest=classes[nearest[place]],
            rank=ranks.get(place),
            kept=place in ratios,
            reason=reasons[place],
            ratio=ratios.get(place),
            random_ratio=random_ratios.get(place),
        )
        for place in range(len(labels))
    ]


def _usable(reason: str) -> bool:
    return reason in ("kept", "beyond the quota")
