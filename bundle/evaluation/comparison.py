"""Which images are compared in an evaluation: the synthetic ones, and real ones in four roles."""

from __future__ import annotations

import logging
from typing import Any

from torch.utils.data import Dataset

from bundle.data.labelled import LabelledPatches
from bundle.data.labelled_part import JUDGE_PARTS
from bundle.data.split import PARTS
from bundle.data.store import PatchStore
from bundle.downstream.augmented import AugmentedPatches
from bundle.evaluation.sets import (
    ImageSet,
    cut_equal,
    equal_pictures,
    halves,
    join,
    part_set,
    pool_set,
    selection_set,
    store_set,
    without,
)
from bundle.runs.opening import OpenedOnUse
from bundle.synthesis.stored_pool import StoredPool

logger = logging.getLogger(__name__)

HALVES = "halves"


class Comparison(OpenedOnUse, Dataset):
    """The sets of an evaluation.

    As a dataset it is the synthetic images that are judged: {"image": uint8 RGB [3, S, S], "label": class number}.

    Args:
        labelled: the real labelled images.
        pool: the pool that is judged.
        augmented: the selection that is judged instead, where it names one.
        pretraining: the patches of the pre-training, for the copy report; None where they are not at hand.
        reference: the part that is compared with, best of slides that nothing was trained on.
        floor: the part that shows how real images differ from the reference; "halves" cuts the reference into two.
        held_out: the part that no generator was trained on, for the copy report.
        maximum_training: at most so many patches of the pre-training are searched for copies, evenly spaced.
        seed: of what is drawn.

    Attributes:
        synthetic, reference, floor, training, held_out: the whole sets.
        equal: what is compared of the first three.
        marks: what the synthetic images say of what made them.
        notes: what a reader must know of the sets.

    Raises:
        ValueError: an unknown part.
    """

    opened = ("notes", "synthetic", "marks", "reference", "floor", "equal", "training", "held_out")

    def __init__(
        self,
        labelled: LabelledPatches,
        pool: StoredPool,
        augmented: AugmentedPatches,
        pretraining: PatchStore | None = None,
        reference: str = "test",
        floor: str = "unused",
        held_out: str = "unused",
        maximum_training: int = 20000,
        seed: int = 0,
    ) -> None:
        parts = (*PARTS, *JUDGE_PARTS)
        for flag, part, allowed in (
            ("reference", reference, parts),
            ("floor", floor, (*parts, HALVES)),
            ("held_out", held_out, parts),
        ):
            if part not in allowed:
                raise ValueError(f"--{flag} is {part!r}; it must be one of {', '.join(allowed)}")
        if held_out == "train":
            raise ValueError("--held_out is 'train', which is what copies are searched in: take another part")
        self.labelled = labelled
        self.pool = pool
        self.augmented = augmented
        self.pretraining = pretraining
        self.parts = {"reference": reference, "floor": floor, "held out": held_out}
        self.maximum_training = maximum_training
        self.seed = seed

    def open(self) -> None:
        """Finds the sets and cuts them.

        Raises:
            FileNotFoundError, ValueError: a source is missing, sets that share pictures, a class without images.
        """
        self.notes: list[str] = []
        self.labelled.prepare()
        self.synthetic, pool = self._synthetic()
        self.marks = {"Generator": str(pool.identity["generator"]), "ModelHash": str(pool.identity["model"])}
        reference, self.floor = self._part("reference"), self._part("floor")
        if not len(reference):
            raise ValueError(
                f"there are no images in the part {self.parts['reference']!r} to compare with: give some with "
                "--test_dir, or name another part with --reference"
            )
        if len(self.floor):
            self.reference = reference
            self.notes.append(
                "the floor is of other images than the reference, and of other slides where the parts are: a figure "
                "better than the floor is not better than real images are. --floor halves shows the reference against "
                "itself"
            )
        else:
            if self.parts["floor"] != HALVES:
                self.notes.append(
                    f"there are no images in the part {self.parts['floor']!r}, so the reference is cut into two "
                    "halves: one is compared with, the other is the floor, and it is of the same slides"
                )
            self.reference, self.floor = halves(reference, self.seed)
        self.equal = cut_equal(self.synthetic, self.reference, self.floor, self.seed)
        self._find_copied_from()
        self.notes += self.equal.notes + self._said_of_the_judge()
        self.notes += self._same_pictures()

    def __len__(self) -> int:
        return len(self.synthetic)

    def __getitem__(self, index: int) -> dict[str, Any]:
        synthetic = self.synthetic
        return {"image": synthetic.read(index), "label": int(synthetic.labels[index])}

    def _synthetic(self) -> tuple[ImageSet, StoredPool]:
        if self.augmented.selection_file is not None:
            found = selection_set(self.augmented)
            for name, missing in self.augmented.shortfall.items():
                self.notes.append(f"the selection lacks {missing} images of class {name} to its quota")
            return found, self.augmented.pool
        found = pool_set(self.pool, self.labelled.classes)
        for label in range(len(found.classes)):  # one of each is looked into, before anything is measured
            found.read(int((found.labels == label).argmax()))
        return found, self.pool

    def _part(self, role: str) -> ImageSet:
        part = self.parts[role]
        if part == HALVES:
            return part_set(role, self.labelled, self.parts["reference"]).take([])
        return part_set(role, self.labelled, part)

    def _find_copied_from(self) -> None:
        """What could have been copied, and real images that could not."""
        sets = [part_set("training", self.labelled, "train")]
        if self.pretraining is None:
            self.notes.append(
                "copies are searched among the labelled training images alone: name the patches of the pre-training "
                "with --pretraining_dir"
            )
        else:
            sets.append(store_set("training", self.pretraining, self.maximum_training))
            found, used = (sets[1].origin[name] for name in ("found", "used"))
            if used < found:
                self.notes.append(
                    f"copies are searched among {used} of {found} patches of the pre-training: raise --maximum_training"
                )
        self.training = join("training", sets)
        held_out = self._part("held out")
        if not len(held_out):
            self.notes.append(
                f"there are no images in the part {self.parts['held out']!r}, so the copy report holds the reference "
                "beside the synthetic images"
            )
            held_out = self.reference.take(range(len(self.reference)), "held out")
        self.held_out = without(held_out, set(self.training.digests))
        if len(self.held_out) < len(held_out):
            self.notes.append(
                f"{len(held_out) - len(self.held_out)} held-out images are left out of the copy report: the same "
                "pixels as a training image or another held-out one"
            )

    def _said_of_the_judge(self) -> list[str]:
        """Where real images are those that the judge learned from, which makes it look better on them."""
        learned = ("unused", "judge_training")
        roles = [role for role in ("reference", "floor") if self.parts[role] in learned]
        return [
            f"the {role}'s images are among those that the judge learned from (part {self.parts[role]!r}), so its "
            "features and its opinion of them are not those of images it never saw"
            for role in roles
        ]

    def _same_pictures(self) -> list[str]:
        same = equal_pictures(self.synthetic, [self.training, self.reference, self.floor])
        if not same:
            return []
        file, where, real = same[0]
        return [
            f"{len(same)} synthetic images are real ones, pixel for pixel, such as {file}, which is {real} of the "
            f"{where}: see the copy report"
        ]

    def describe(self) -> dict[str, Any]:
        """The sets as plain data, for `evaluation.json`."""
        sets = {
            "synthetic": self.synthetic,
            "reference": self.reference,
            "floor": self.floor,
            "training": self.training,
            "held_out": self.held_out,
        }
        return {
            name: {**one.origin, "images": one.counts(), "fingerprint": one.fingerprint} for name, one in sets.items()
        }


def wanted_parts(reference: str, floor: str, held_out: str) -> list[str]:
    """The parts of a split whose images must be there for these roles, and for knowing a selection by its split.

    Args:
        reference, floor, held_out: parts of the split, or "halves"; see :class:`Comparison`.
    """
    parts = ["unused" if part in JUDGE_PARTS else part for part in (reference, floor, held_out) if part != HALVES]
    return list(dict.fromkeys(["train", "validation", *parts]))
