"""How long every metric of features takes, and how much memory, beside the usual way of some of them.

    python scripts/bench_metrics.py

Synthetic and reference features are random, correlated (a spectrum that falls as 1 / rank) and of slightly different
distributions. Every metric is timed alone; "together" is `bundle.evaluation.fidelity.measure_fidelity` without draws,
with a floor set as large, which takes the pairs of images once for KID and neighbours. The usual way, on
`--usual_images` of them: torch-fidelity's precision and recall, which keeps all pairs in memory, with
torchmetrics' KID (mean over subsets) and Fréchet distance, beside this bundle on the same images. Both come with
`requirements-test.txt`. The printed peak is the process's own so far, so it can only rise.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.evaluation.fidelity import measure_fidelity  # noqa: E402
from bundle.metrics.frechet import centred_interval, frechet_distance, principal_axes  # noqa: E402
from bundle.metrics.kernel import kernel_distance  # noqa: E402
from bundle.metrics.neighbours import NEIGHBOURS, authentic, overlap  # noqa: E402
from bundle.metrics.vendi import vendi_score  # noqa: E402

TARGET_SECONDS = 120


def correlated(images: int, dimensions: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Features fp32 [images, dimensions] of a spectrum that falls as 1 / rank; the same mixing for every seed."""
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(0)) / dimensions**0.5
    spread = torch.arange(1, dimensions + 1) ** -0.5
    drawn = torch.randn(images, dimensions, generator=torch.Generator().manual_seed(seed))
    return (drawn + shift) * spread @ mixing + 0.5


def timed(name: str, run: Callable[[], Any]) -> float:
    """Runs it and prints its result, seconds and the peak so far; returns the seconds."""
    start, processor = time.perf_counter(), time.process_time()
    result = run()
    seconds, busy = time.perf_counter() - start, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:<44}{seconds:8.1f} s {busy:8.1f} s of processor  peak {peak:5.2f} GB  {result}", flush=True)
    return seconds


def usual(synthetic: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """Precision and recall over the matrix of all pairs, KID over 100 subsets of 1,000, Fréchet distance."""
    from torch_fidelity.metric_prc import calculate_precision_recall_full
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    precision, recall = calculate_precision_recall_full(synthetic, reference, NEIGHBOURS)
    random, size = np.random.default_rng(0), min(1000, len(synthetic))
    chosen = [[random.choice(len(synthetic), size, replace=False) for _ in "ab"] for _ in range(100)]
    kernel = np.mean([poly_mmd(synthetic[one], reference[other]).item() for one, other in chosen])
    moments = [of(x.double()) for x in (synthetic, reference) for of in (lambda x: x.mean(0), lambda x: torch.cov(x.T))]
    return {"precision": precision, "recall": recall, "kid": kernel, "frechet": _compute_fid(*moments).item()}


def own(synthetic: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """The same figures, with density and coverage, as this bundle measures them."""
    kernel = kernel_distance(synthetic, reference)[0]
    return {**overlap(synthetic, reference), "kid": kernel, "frechet": frechet_distance(synthetic, reference)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="of each set")
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--usual_images", type=int, default=5_000, help="of the comparison with the usual way; 0: none")
    given = parser.parse_args()

    synthetic = correlated(given.images, given.dimensions, 1, shift=0.02)
    reference = correlated(given.images, given.dimensions, 2)
    print(f"{given.images} x {given.dimensions} features on both sides, {torch.get_num_threads()} threads")
    alone = {
        "Fréchet distance": lambda: frechet_distance(synthetic, reference),
        "KID": lambda: kernel_distance(synthetic, reference),
        "precision, recall, density, coverage": lambda: overlap(synthetic, reference),
        "Vendi score, of both": lambda: [vendi_score(features)[0] for features in (synthetic, reference)],
        "authenticity": lambda: authentic(synthetic, reference).float().mean().item(),
        "principal axes": lambda: tuple(principal_axes(reference, min(32, given.dimensions)).shape),
    }
    total = sum(timed(name, run) for name, run in alone.items())
    print(f"all of these: {total:.1f} s; the target is {TARGET_SECONDS} s")
    timed("2 draws of the Fréchet distance (extra)", lambda: centred_interval(0.0, synthetic, reference, 2))

    floor, labels = correlated(given.images, given.dimensions, 3), np.zeros(given.images, int)
    timed(
        "together, with a floor and one class",
        lambda: len(
            measure_fidelity(synthetic, reference, floor, [labels] * 3, ["all"], draws=0, frechet_draws=0)["overall"]
        ),
    )
    if given.usual_images:
        few = [features[: given.usual_images] for features in (synthetic, reference)]
        usual(*(features[: 2 * NEIGHBOURS, :2] for features in few))  # imports packages, which is not to be timed
        ours = timed(f"{given.usual_images} images, this bundle", lambda: own(*few))
        theirs = timed(f"{given.usual_images} images, the usual way", lambda: usual(*few))
        print(f"the usual way takes {theirs / ours:.2f} times as long; its matrices grow with the square of the images")


if __name__ == "__main__":
    main()
