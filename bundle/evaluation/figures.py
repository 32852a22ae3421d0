"""One measured figure with what makes it readable: its interval, and the same figure of real images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy.stats import binomtest

BETTER = ("lower", "higher", "floor")  # "floor": the nearer to the floor the better


def figure(
    value: float,
    floor: float | None = None,
    interval: Sequence[float] | None = None,
    floor_interval: Sequence[float] | None = None,
    better: str = "lower",
    note: str = "",
) -> dict[str, Any]:
    """A figure as plain data, for `evaluation.json`.

    Args:
        value: of the synthetic images against the reference.
        floor: the same of as many real images against the reference: what cannot be bettered honestly. None where a
            figure has none.
        interval, floor_interval: 95 % bounds (low, high); None where none were drawn.
        better: of `BETTER`.
        note: what a reader must know of this figure alone.

    Raises:
        ValueError: a number that is not finite, or an unknown `better`.
    """
    if better not in BETTER:
        raise ValueError(f"better is {better!r}; it must be one of {', '.join(BETTER)}")
    numbers = {"value": value, "floor": floor, "interval": interval, "floor_interval": floor_interval}
    found: dict[str, Any] = {}
    for name, number in numbers.items():
        if number is None:
            continue
        found[name] = [float(bound) for bound in number] if isinstance(number, Sequence) else float(number)
        if not all(map(math.isfinite, found[name] if isinstance(found[name], list) else [found[name]])):
            raise ValueError(
                f"the {name} of a figure is {number}: its features are broken, or there are too few images"
            )
    return {**found, "better": better, **({"note": note} if note else {})}


def share_interval(hits: int, count: int) -> list[float]:
    """95 % interval of a share by Wilson. Drawing again would say that a share of 0 of 10 is certainly 0.

    Args:
        hits: images that have it.
        count: of all, 1 or more.
    """
    interval = binomtest(int(hits), int(count)).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]
