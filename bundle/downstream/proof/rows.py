"""The rows of the proof: what a classifier learns from besides the labelled tiles, and what each row is for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bundle.downstream.proof.treatments import PLAIN, RECONSTRUCTION, TINT, TREATMENTS, require_treatments

BASELINE = "baseline"  # what a practitioner would do
CONTROL = "control"  # true labels on pictures that lost architecture, or that only a decoder redrew
SYNTHETIC = "synthetic"
CONTROLS = (BASELINE, CONTROL)
SELECTIONS = ("random", "nearest", "confident", "diverse", "agreeing")
ALL_TREATMENTS = (*TREATMENTS, TINT, RECONSTRUCTION)


@dataclass(frozen=True)
class Row:
    """One row. All have the same head, the same settings of it and as many copies of a tile.

    Attributes:
        name: in flags and folders; title: in tables.
        kind: "baseline", "control" or "synthetic".
        copies: treatment of the copies that are learned from beside each labelled tile; None for no copies; for a
            synthetic row None means those of the strongest baseline.
        view: treatment of every image, tested ones too, before any other.
        pool: name of the pool of synthetic images.
        ratio: synthetic images in percent of the labelled ones that train, of each class.
        selection: "random"; "nearest" to the class's centroid of labelled features; "confident", by a classifier of the
            labelled tiles; "diverse", far from labelled tiles and each other (k-centre); "agreeing", random among those
            whose class that classifier sees.
        share: weight of all synthetic images together, in (0, 1), whatever their number; None for the weight of as many
            tiles.
        pool_copies: treatment of copies of synthetic images; None for that of the labelled ones' copies.
        only: a class that alone gets synthetic images, "rare" for the rare class, `ratio` being of the most labels that
            a class has; None for all.
        mix: "mixup" or "cutmix", where the backbone trains.
        start: "encoder" for a classifier that starts from the pre-trained autoencoder's encoder; None for the trunk.
        balanced: whether classes weigh the same.
        transductive: whether the pool's generator saw unlabelled tiles of the slides that are tested.
    """

    name: str
    title: str
    kind: str = BASELINE
    copies: str | None = None
    view: str = PLAIN
    pool: str | None = None
    ratio: int = 100
    selection: str = "random"
    share: float | None = None
    pool_copies: str | None = None
    only: str | None = None
    mix: str | None = None
    start: str | None = None
    balanced: bool = False
    transductive: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"--rows: a row is named {self.name!r}; use letters, digits, '_', '-' and '.'")
        for treatment in filter(None, (self.copies, self.view, self.pool_copies)):
            require_treatments(treatment, ALL_TREATMENTS)
        choices = {
            "kind": (self.kind, (*CONTROLS, SYNTHETIC)),
            "selection": (self.selection, SELECTIONS),
            "mix": (self.mix, (None, "mixup", "cutmix")),
            "start": (self.start, (None, "encoder")),
        }
        for name, (value, known) in choices.items():
            if value not in known:
                raise ValueError(
                    f"--rows: {self.name} has {name} {value!r}; it must be one of {', '.join(map(str, known))}"
                )
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"--rows: {self.name} has share {self.share}; it must be between 0 and 1, or none")
        if not isinstance(self.ratio, int) or self.ratio < 1:
            raise ValueError(f"--rows: {self.name} has ratio {self.ratio!r}; it is a percentage of at least 1")
        if (self.kind == SYNTHETIC) != (self.pool is not None):
            raise ValueError(
                f"--rows: {self.name} is of kind {self.kind!r} with the pool {self.pool!r}: a synthetic row names a "
                "pool, others none"
            )

    @property
    def treatments(self) -> set[str]:
        """Names of all single treatments that it needs."""
        chains = filter(None, (self.copies, self.view, self.pool_copies))
        return {part for chain in chains for part in chain.split("+")}


BASELINES = (
    Row("real", "labelled tiles alone"),
    Row("oversampled", "each five times", copies=PLAIN),
    Row("stain", "strong stain augmentation (density, HED)", copies="stain"),
    Row("geometric", "flips, RandAugment, strong stain", copies="geometric+stain"),
    Row("tint", "tinted as the pre-training slides", copies=TINT),
    Row("normalised", "stain-normalised (Macenko)", view="normalised"),
    Row("mixup", "mixup", mix="mixup"),
    Row("cutmix", "CutMix", mix="cutmix"),
    Row("encoder", "starting from the pre-trained autoencoder's encoder", start="encoder"),
    Row("balanced", "classes weighted alike, tinted", copies=TINT, balanced=True),
)
DENIED = (
    Row("blurred", "blurred and tinted copies", CONTROL, "blur+tint"),
    Row("shuffled", "copies in 8 x 8 shuffled blocks, tinted", CONTROL, "blocks+tint"),
    Row("scattered", "copies with pixels at random places, tinted", CONTROL, "scatter+tint"),
    Row("reconstructed", "reconstructions by the decoder", CONTROL, RECONSTRUCTION),
)


def rows_of_pool(pool: str) -> list[Row]:
    """The rows that each pool has by default; all on top of the strongest baseline."""
    return [
        Row(f"{pool}_random_100", f"{pool}, random 100 %", SYNTHETIC, pool=pool),
        Row(f"{pool}_random_300", f"{pool}, random 300 %", SYNTHETIC, pool=pool, ratio=300),
        Row(f"{pool}_nearest_100", f"{pool}, nearest 100 %", SYNTHETIC, pool=pool, selection="nearest"),
        Row(f"{pool}_diverse_100", f"{pool}, diverse 100 %", SYNTHETIC, pool=pool, selection="diverse"),
        Row(f"{pool}_agreeing_100", f"{pool}, agreeing 100 %", SYNTHETIC, pool=pool, selection="agreeing"),
        Row(f"{pool}_half", f"{pool}, half of the weight", SYNTHETIC, pool=pool, ratio=300, share=0.5),
    ]


def choose_rows(
    names: Sequence[str] | str | None,
    pools: Iterable[str] = (),
    own: Mapping[str, Mapping[str, Any]] | None = None,
    rare_class: str | None = None,
) -> list[Row]:
    """The rows asked for, controls first.

    Args:
        names: of rows, as a list or with commas; None for all.
        pools: names of pools.
        own: further rows by name: attributes of :class:`Row`.
        rare_class: the study's rare class, which gives each pool a row for it alone.

    Raises:
        ValueError: an unknown row, which lists all; or one of `own` that has a name or attribute it can't have.
    """
    rows = {row.name: row for row in (*BASELINES, *DENIED)}
    for pool in pools:
        rows |= {row.name: row for row in rows_of_pool(str(pool))}
        if rare_class is not None:
            rare = Row(f"{pool}_rare", f"{pool}, rare class alone", SYNTHETIC, pool=str(pool), only="rare")
            rows[rare.name] = rare
    for name, attributes in (own or {}).items():
        known = {field.name for field in fields(Row)} - {"name"}
        odd = sorted(set(attributes) - known)
        if odd or name in rows:
            raise ValueError(
                f"--own_rows: {name} "
                + (f"has {odd[0]!r}; a row has {', '.join(sorted(known))}" if odd else "is a row already")
            )
        pool = attributes.get("pool")
        if pool is not None and pool not in pools:
            raise ValueError(f"--own_rows: {name} takes the pool {pool!r}, which --pools doesn't name")
        given = {"title": name, "kind": BASELINE if pool is None else SYNTHETIC, **attributes}
        rows[name] = Row(name, **given)
    if names is None:
        chosen = list(rows.values())
    else:
        asked = [name.strip() for name in names.split(",")] if isinstance(names, str) else [str(name) for name in names]
        unknown = [name for name in asked if name not in rows]
        if unknown or not asked:
            raise ValueError(f"--rows asks for {', '.join(unknown) or 'nothing'}; there are {', '.join(rows)}")
        chosen = [row for name, row in rows.items() if name in asked]
    if not any(row.kind == BASELINE for row in chosen):
        chosen = [rows["real"], *chosen]  # a gain is over something
    return sorted(chosen, key=lambda row: (*CONTROLS, SYNTHETIC).index(row.kind))
