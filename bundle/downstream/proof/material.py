"""The parts of a proof as a config names them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bundle.data.split import keep_split
from bundle.downstream.proof.bench import Backbone, Group, Proof
from bundle.downstream.proof.frozen import EncoderTrunk, Features, Trunk, fit_head
from bundle.downstream.proof.imagery import Pictures, Ref
from bundle.downstream.proof.rows import Row
from bundle.downstream.proof.splits import Splits
from bundle.downstream.proof.tiles import StudyTiles
from bundle.runs.folder import RunFolder

logger = logging.getLogger(__name__)

FROZEN, FINE_TUNED, SCRATCH = "frozen", "fine_tuned", "scratch"
WAYS = (FROZEN, FINE_TUNED, SCRATCH)


class FrozenBackbone:
    """A frozen trunk with a linear head.

    Args:
        features: of its trunk.
        C: see :func:`bundle.downstream.proof.frozen.fit_head`.
        encoder: features of the pre-trained autoencoder's encoder, for rows that start from it; None for none.
    """

    def __init__(self, features: Features, C: float = 0.01, encoder: Features | None = None) -> None:
        if not isinstance(C, (int, float)) or isinstance(C, bool) or C <= 0:
            raise ValueError(f"--head_c is {C!r}; it must be above 0")
        self.name = f"{features.trunk.name}_{FROZEN}"
        self.features = features
        self.encoder = encoder
        self.C = C

    @property
    def identity(self) -> dict[str, Any]:
        return {"trunk": self.features.trunk.digest, "C": self.C}

    def lacking(self, row: Row) -> str | None:
        if row.mix is not None:
            return f"{row.mix} mixes pictures while a network trains, and a frozen trunk doesn't"
        return "give --pretrained_dir" if row.start is not None and self.encoder is None else None

    def predict(self, row: Row, learned: Sequence[Group], tested: Sequence[Ref], folder: Path) -> np.ndarray:
        features = self.features if row.start is None else self.encoder
        rows = np.concatenate([features(group.refs, group.treatment, group.copy) for group in learned])
        labels = np.concatenate([[ref.label for ref in group.refs] for group in learned])
        weights = np.concatenate([np.full(len(group.refs), group.weight) for group in learned])
        return fit_head(rows, labels, weights, self.C, row.balanced).predict(features(tested, row.view))


def write_splits(folder: str | Path, tiles: StudyTiles, splits: Splits) -> None:
    """Writes the labels of each split as a file that configs/adapt.json takes, so that a generator can be adapted with
    the very labels that its controls have.

    Args:
        folder: where to; each amount of labels has a folder in it.
        tiles, splits: of the study.

    Raises:
        ValueError: a class has one label; or the files there are of other settings.
    """
    for split in splits.plan(tiles.prepare()):
        keep_split(Path(folder) / split.folder / f"{split.name}.csv", split.rows(tiles))
    logger.info(f"done. Splits: {folder}/LABELS/fold_0_draw_0.csv and so on, for configs/adapt.json --split_file")


def make_trunks(
    trunk: str | Sequence[str],
    trunk_weights: str | Sequence[str],
    patch_size: int,
    input_side: int | Sequence[int | None] | None = None,
    trunk_arguments: Mapping[str, Any] | None = None,
    device: Any = "cpu",
    batch_size: int = 32,
    precision: str = "auto",
) -> list[Trunk]:
    """The pre-trained trunks.

    Args:
        trunk: a name of timm's, or several.
        trunk_weights: the file of its weights, or one for each trunk.
        patch_size: pixels a side of the pictures.
        input_side: pixels a side that a trunk sees them at, or one for each; None for `patch_size`.
        trunk_arguments: further arguments by name of the trunk.
        device: where they compute.
        batch_size: pictures at once.
        precision: see `bundle.runs.context.RunContext`.

    Raises:
        ValueError: not one file, or one size, for each trunk; an unknown trunk.
    """
    names = listed(trunk)
    files, sides = listed(trunk_weights), listed(input_side)
    for flag, given in (("trunk_weights", files), ("input_side", sides)):
        if len(given) not in (1, len(names)) or flag == "trunk_weights" and len(given) != len(names):
            raise ValueError(
                f"--{flag} gives {len(given)} for {len(names)} trunks ({', '.join(names)}): give one for each"
            )
    sides = sides * len(names) if len(sides) == 1 else sides
    arguments = trunk_arguments or {}
    return [
        Trunk(name, file, patch_size, side, arguments.get(name), device, batch_size, precision)
        for name, file, side in zip(names, files, sides)
    ]


def make_proof(
    folder: RunFolder,
    tiles: StudyTiles,
    splits: Splits,
    pictures: Pictures,
    trunks: Sequence[Trunk],
    ways: Sequence[str] | str,
    training: Mapping[str, Mapping[str, Any]],
    pretrained_dir: str | None = None,
    head_c: float = 0.01,
    **proof: Any,
) -> Proof:
    """The proof with its backbones.

    Args:
        folder: of the study.
        tiles, splits, pictures: what is learned from and tested on.
        trunks: pre-trained ones.
        ways: which backbones there are, of "frozen" (each trunk with a linear head), "fine_tuned" (each trunk trained
            whole) and "scratch" (a small ViT).
        training: how networks train, settings of :class:`bundle.downstream.proof.trained.Training` under "fine_tuned"
            and "scratch"; the latter also has "trunk", "arguments" and "side" of the network.
        pretrained_dir: pre-training whose encoder the row "encoder" starts from; None leaves that row out.
        head_c: scikit-learn's C of the linear head, on standardised features: the inverse strength of its penalty.
        **proof: further arguments of Proof.

    Raises:
        FileNotFoundError: weights are missing; says how to get them.
        ValueError: an unknown way.
    """
    ways = listed(ways)
    unknown = [way for way in ways if way not in WAYS]
    if unknown or not ways:
        raise ValueError(f"--backbones is {ways}; it must name some of {', '.join(WAYS)}")
    from bundle.downstream.proof.trained import TrainedBackbone, Training  # which reads bench, as this does

    cache = tiles.cache_dir / "features"
    made: list[Backbone] = []
    first = None
    for trunk in trunks if set(ways) - {SCRATCH} else ():
        trunk.require_weights()
    if FROZEN in ways:
        encoder = None
        if pretrained_dir is not None:
            own = EncoderTrunk(pretrained_dir, tiles.patch_size, trunks[0].device, trunks[0].batch_size)
            encoder = Features(own, pictures, cache)
        features = [Features(trunk, pictures, cache) for trunk in trunks]
        first = features[0]
        made += [FrozenBackbone(of, head_c, encoder) for of in features]
    shared = {"pretrained_dir": pretrained_dir, "device": trunks[0].device}
    if FINE_TUNED in ways:
        made += [
            TrainedBackbone(
                f"{trunk.name}_{FINE_TUNED}", trunk.name, pictures, Training(**training[FINE_TUNED]), trunk.input_side,
                trunk.arguments, trunk.weights, **shared
            )
            for trunk in trunks
        ]  # fmt: skip
    if SCRATCH in ways:
        network = dict(training[SCRATCH])
        name, arguments, side = (network.pop(key) for key in ("trunk", "arguments", "side"))
        own = Training(**network)
        made.append(TrainedBackbone(f"{name}_{SCRATCH}", name, pictures, own, side, arguments, **shared))
    return Proof(folder, (tiles, splits, pictures), {one.name: one for one in made}, features=first, **proof)


def listed(given: Any) -> list[Any]:
    """One thing or several, as a list or with commas."""
    if isinstance(given, str):
        return [part.strip() for part in given.split(",")]
    return list(given) if isinstance(given, (list, tuple)) else [given]
