"""How long patches take to be found and remembered, and how much memory, at the paper's number of them.

    python scripts/bench_store.py --patches 803179 --folder /somewhere/with/inodes

Makes so many small PNG files (8 x 8 pixels, 200 slides, hard links to a thousand of them), so that decoding does not
hide what the index costs. Then, each in a process of its own: the first start, a start with nothing changed, and one
with a thousand files changed. The printed memory is the process's peak, and what importing torch and MONAI alone takes.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.patches import TrainingPatches  # noqa: E402

SLIDES, SIDE, DIFFERENT, CHANGED = 200, 8, 1000, 1000


def place(folder: Path, number: int) -> Path:
    return folder / f"slide_{number % SLIDES:03d}" / f"patch_of_a_usual_name_{number:07d}.png"


def write_patch(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # not through the link
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)


def make_patches(folder: Path, count: int) -> None:
    """So many patches, a folder a slide, by hard links to `DIFFERENT` of them; those that are there stay."""
    for number in tqdm(range(count), desc="making patches", unit="patch"):
        path = place(folder, number)
        if number < DIFFERENT and not path.is_file():
            write_patch(path, seed=number)
        elif not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(place(folder, number % DIFFERENT), path)


def peak() -> float:
    """GB that this process has taken so far at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def start(tiles: Path, cache: Path) -> None:
    """One start of a pre-training's patches; prints seconds and memory."""
    before, began, busy = peak(), time.perf_counter(), time.process_time()
    patches = TrainingPatches(str(tiles), cache, SIDE, maximum_blank_share=1).prepare()
    count = len(patches.training()) + len(patches.validation())
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    print(
        f"{seconds:8.1f} s, {busy:8.1f} s of processor, {peak():.2f} GB at most ({before:.2f} GB before), "
        f"{len(patches.store)} patches, {count} of them used",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=803_179)
    parser.add_argument("--folder", type=Path, required=True, help="where patches and cache are made, and left")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    tiles, cache = given.folder / "tiles", given.folder / "cache"
    if given.start:
        start(tiles, cache)
        return
    make_patches(tiles, given.patches)
    for name in ("first start", "nothing changed", f"{CHANGED} changed"):
        if name.endswith(" changed") and name[0].isdigit():
            for number in range(max(0, given.patches - CHANGED), given.patches):
                write_patch(place(tiles, number), seed=given.patches + number)
        print(name, end="", flush=True)
        own = [sys.executable, __file__, "--start", "--folder", str(given.folder)]
        subprocess.run(own, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
