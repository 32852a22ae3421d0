"""A pool and a selection from it, made without a generator, for tests of what comes after."""

import json

import numpy as np

from bundle.selection.table import SelectionRow, write_selection
from bundle.synthesis.pool import Pool

IDENTITY = {"generator": "test", "model": "a" * 64, "settings": {"steps": 3}}
RATIOS = (50, 100)


def synthetic_picture(name, seed, side):
    return np.random.default_rng([sum(name.encode()), seed]).integers(0, 256, (side, side, 3), np.uint8)


def write_pool(folder, classes, count=6, side=16, identity=IDENTITY):
    """A pool with images of the seeds 0 to `count` of each class."""
    with Pool(folder, identity) as pool:
        for name in classes:
            for seed in range(count):
                pool.add(name, seed, synthetic_picture(name, seed, side))
    return folder


def write_chosen(path, pool, classes, split, quota=4, count=6, without=(), absent=(), **facts):
    """A selection with seeds 0 to `quota` of each class, the first half of them in the set of 50 %.

    The random control has the last seeds instead. Of the classes in `without` nothing was kept;
    of those in `absent` the pool had no image.
    """
    rows = []
    for name in classes:
        for seed in range(0 if name in absent else count):
            kept, drawn = seed < quota and name not in without, count - 1 - seed < quota
            ratio = (50 if seed < quota / 2 else 100) if kept else None
            random_ratio = (50 if count - 1 - seed < quota / 2 else 100) if drawn else None
            reason = "kept" if kept else "uncertain"
            rank = seed + 1 if kept else None
            rows.append(
                SelectionRow(
                    f"{name}/{name}_{seed}.png",
                    name,
                    seed,
                    0.9,
                    0.1,
                    0.5,
                    name,
                    rank,
                    kept,
                    reason,
                    ratio,
                    random_ratio,
                )
            )
    quotas = {name: {50: quota // 2, 100: quota} for name in classes}
    lacks = {name: quotas[name] if name in (*without, *absent) else {50: 0, 100: 0} for name in classes}
    facts = {
        "pool": pool,
        "pool_hash": json.loads((pool / "pool.json").read_text())["hash"],
        "split": split,
        "classes": list(classes),
        "ratios": list(RATIOS),
        "labelled": {name: quota for name in classes},
        "quotas": quotas,
        "shortfall": lacks,
        "settings": {},
        **facts,
    }
    return write_selection(path, rows, facts)
