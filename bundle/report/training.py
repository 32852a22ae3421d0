"""How the models of a report were trained: the facts of `metrics.json`, and curves of TensorBoard's files."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bundle.report.evaluation_folder import read_json, read_picture, readable, told
from bundle.report.measured import number_text

PLOTS = {"accuracy_by_timestep.png": "Line plot of the latent classifier's accuracy against the noise level"}
POINTS = 120
WIDTH, HEIGHT = 300, 110
LOG_SPAN = 20  # a positive curve that falls by more is drawn on a logarithmic scale


def read_training(folder: Path, title: str) -> dict[str, Any]:
    """What a folder says of its training.

    Returns:
        "title", "stages" [(name, [(fact, text)])], "command" ("" where unknown), "curves" [(stage, [curve])] as of
        :func:`curve`, "no_curves" why there are none, "plots" (Pictures), "built_in" whether of built-in patches.

    Raises:
        FileNotFoundError: it has no `metrics.json`.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: {folder} is not the folder of a training. Name one, or leave it out"
        )
    metrics = read_json(path)
    stages = [
        (readable(name), [(readable(fact), told(value)) for fact, value in found.items()])
        for name, found in metrics.items()
        if isinstance(found, Mapping)
    ]
    curves, reason = read_curves(folder / "tensorboard")
    origin = read_json(folder / "origin.json") if (folder / "origin.json").is_file() else {}
    facts = [(readable(name), told(value)) for name, value in origin.items() if name != "command"]
    plots = [read_picture(folder, name, alt) for name, alt in PLOTS.items() if (folder / name).is_file()]
    return {
        "title": title,
        "stages": [*stages, *([("origin", facts)] if facts else [])],
        "command": str(metrics.get("command") or origin.get("command", "")),
        "curves": curves,
        "plots": plots,
        "no_curves": reason,
        "built_in": bool(metrics.get("labelled", metrics.get("patches", {})).get("built_in_patches", False)),
    }


def read_curves(folder: Path) -> tuple[list[tuple[str, list[dict[str, Any]]]], str]:
    """The scalars of each stage that TensorBoard's files hold, and why there are none ("" where there are)."""
    stages = sorted({path.parent for path in folder.glob("**/events.out.tfevents.*")})
    if not stages:
        return [], "the folder has no TensorBoard files"
    try:  # here, as it is slow to import and seldom needed
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        return [], f"TensorBoard's files can't be read: {error}"
    noise = logging.getLogger("tensorboard")
    level = noise.level
    noise.setLevel(logging.ERROR)  # a run that was resumed leaves several files in a folder, of which it warns
    found = []
    try:
        for stage in stages:
            events = EventAccumulator(str(stage), size_guidance={"scalars": 0})
            events.Reload()
            drawn = []
            for tag in sorted(events.Tags()["scalars"]):
                values = {event.step: event.value for event in events.Scalars(tag)}  # of a step done twice, the last
                steps = sorted(values)
                drawn.append(curve(readable(tag), steps, [values[step] for step in steps]))
            if drawn := [line for line in drawn if line]:
                found.append((readable(stage.relative_to(folder)), drawn))
    finally:
        noise.setLevel(level)
    return found, "" if found else "TensorBoard's files hold no scalars"


def curve(title: str, steps: Sequence[int], values: Sequence[float]) -> dict[str, Any] | None:
    """A line for SVG: means over at most `POINTS` stretches of as many values; None where fewer than two are finite.

    Returns:
        "title", "values" [(step, value)], "points" (of a polyline in `WIDTH` x `HEIGHT`), "log" (whether the scale is
        logarithmic), "low" and "high" of the scale, "first" and "last" value and "steps" as texts.
    """
    place = np.isfinite(values)
    x, y = np.asarray(steps, float)[place], np.asarray(values, float)[place]
    if len(x) < 2:
        return None
    parts = np.array_split(np.arange(len(x)), min(POINTS, len(x)))
    x, y = (np.array([side[part].mean() for part in parts]) for side in (x, y))
    low, high = float(y.min()), float(y.max())
    log = low > 0 and high / low > LOG_SPAN
    heights = np.log(y) if log else y
    bottom, top = (math.log(low), math.log(high)) if log else (low, high)
    left, right = x[0], x[-1]
    across = (x - left) / ((right - left) or 1) * WIDTH
    down = HEIGHT - (heights - bottom) / ((top - bottom) or 1) * HEIGHT
    return {
        "title": title,
        "values": list(zip(x.tolist(), y.tolist())),
        "points": " ".join(f"{one:.1f},{other:.1f}" for one, other in zip(across, down)),
        "log": log,
        "low": number_text(low),
        "high": number_text(high),
        "first": number_text(float(y[0])),
        "last": number_text(float(y[-1])),
        "steps": f"{max(steps):,}",
    }
