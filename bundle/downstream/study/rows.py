"""The rows of the study's table: which training each stands for, and what it is to be compared with.

After Table 1 and supplementary Table 1 of HistoDiffusion (arXiv 2308.04020), with the controls that they lack: as many
optimiser steps without synthetic images, oversampling, stain augmentation, and colour alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

GUIDED = "guided"  # the paper's: guidance through a frozen diffusion model, fine-tuned decoder
PRETRAINED_DECODER = "pretrained_decoder"
FROM_SCRATCH = "from_scratch"
ADAPTED_DIFFUSION = "adapted_diffusion"
OWN_POOLS = (GUIDED, PRETRAINED_DECODER, FROM_SCRATCH, ADAPTED_DIFFUSION)

REAL = "real"  # the paper's baseline
EQUAL_STEPS = "real_equal_steps"
STRONG_STAIN = "strong_stain"
COLOUR = "colour_histogram"
RATIOS = (50, 100, 200, 300)
COMPARED_RATIO = 100  # percent, of the rows that vary something else than the ratio


@dataclass(frozen=True)
class Row:
    """One row: a training of the classifier, repeated with several seeds.

    Attributes:
        name: in flags and folders; title: in tables.
        pool: name of the pool its synthetic images come from, or None for real images alone.
        selection: "selective", or "random" for the control of equal size.
        ratio: synthetic images in percent of the labelled ones.
        steps: share of the study's optimiser steps.
        stain: whether training varies the stain strongly.
        settings: further settings of configs/classify.json.
        baseline: the row without synthetic images that is trained alike.
        control: the row with as many images of the same pool chosen at random, where there is one.
    """

    name: str
    title: str
    pool: str | None = None
    selection: str = "selective"
    ratio: int | None = None
    steps: float = 1.0
    stain: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    baseline: str | None = EQUAL_STEPS
    control: str | None = None


def selective(pool: str, title: str, ratio: int, stain: bool = False, selection: str = "selective") -> Row:
    """A row with synthetic images of a pool."""
    name, control = (f"{pool}_{kind}_{ratio}" + ("_strong_stain" if stain else "") for kind in (selection, "random"))
    title = f"{title}, {selection} {ratio} %" + (", strong stain augmentation" if stain else "")
    baseline = STRONG_STAIN if stain else EQUAL_STEPS
    return Row(name, title, pool, selection, ratio, stain=stain, baseline=baseline, control=control)


def all_rows(pools: Iterable[str] = ()) -> list[Row]:
    """Every row there is, in the order of the table; `pools` are names of a user's own pools."""
    largest = 1 + max(RATIOS) / 100
    rows = [
        # The paper trains for a number of epochs: without synthetic images that is about this share of the steps.
        Row(REAL, "real only, a quarter of the steps", steps=1 / largest, baseline=None),
        Row(EQUAL_STEPS, "real only, equal steps", baseline=None),
        Row("oversampled", f"real only, each {largest:g} times", settings={"real_repeats": round(largest)}),
        Row(STRONG_STAIN, "real only, strong stain augmentation", stain=True, baseline=None),
        Row(COLOUR, "colour histogram of real only (random forest)", baseline=None),
        selective(GUIDED, "HistoDiffusion", RATIOS[0], selection="random"),
        *(selective(GUIDED, "HistoDiffusion", ratio) for ratio in RATIOS),
        selective(GUIDED, "HistoDiffusion", COMPARED_RATIO, stain=True),
        selective(PRETRAINED_DECODER, "without fine-tuning of the decoder", COMPARED_RATIO),
        selective(FROM_SCRATCH, "without pre-training", COMPARED_RATIO),
        *(selective(ADAPTED_DIFFUSION, "with an adapted diffusion model", ratio) for ratio in (100, 300)),
        selective(ADAPTED_DIFFUSION, "with an adapted diffusion model", COMPARED_RATIO, selection="random"),
        selective(ADAPTED_DIFFUSION, "with an adapted diffusion model", COMPARED_RATIO, stain=True),
        selective(ADAPTED_DIFFUSION, "with an adapted diffusion model", 300, stain=True),
    ]
    for name in pools:
        rows += [selective(name, name, ratio, selection=kind) for kind in ("random", "selective") for ratio in RATIOS]
        rows.append(selective(name, name, COMPARED_RATIO, stain=True))
    return rows


def choose_rows(names: Sequence[str] | str | None, pools: Iterable[str] = ()) -> list[Row]:
    """The rows asked for, in the order of the table, with the baselines that they need; None for all.

    Args:
        names: of rows, as a list or with commas; None for all.
        pools: names of pools of a user's own.

    Raises:
        ValueError: an unknown row; the message lists all. A user's pool with a name of the study's own, or one that
            can't be a folder's.
    """
    pools = [str(name) for name in pools]
    for name in pools:
        if name in OWN_POOLS or not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(
                f"--pools names one {name!r}; it must be letters, digits, '_', '-' and '.', and none of "
                f"{', '.join(OWN_POOLS)}, which the study makes itself"
            )
    rows = {row.name: row for row in all_rows(pools)}
    if names is None:
        return list(rows.values())
    asked = [name.strip() for name in names.split(",")] if isinstance(names, str) else [str(name) for name in names]
    unknown = [name for name in asked if name not in rows]
    if unknown or not asked:
        raise ValueError(f"--rows asks for {', '.join(unknown) or 'nothing'}; there are {', '.join(rows)}")
    wanted = {*asked, *(rows[name].baseline for name in asked)}
    return [row for name, row in rows.items() if name in wanted]
