"""An evaluation folder as `configs/evaluate.json` leaves it, written by hand, for tests of the report."""

import csv

import numpy as np
import torch

from bundle.data.generated import generate_patch
from bundle.data.pictures import save_grid
from bundle.data.transforms import scale_patch
from bundle.evaluation.figures import figure
from bundle.runs.files import write_json

CLASSES = ("LYM", "NORM", "TUM")


def section(overall, classes, **more):
    """A section as all of an evaluation are: a metric in `metrics` for each figure."""
    metrics = {
        name: {"title": f"{name} (title)", "explanation": f"What {name} is."}
        for name in dict.fromkeys([*overall, *(name for of in classes.values() for name in of)])
    }
    return {"overall": overall, "classes": classes, "metrics": metrics, "notes": ["A note of the section."], **more}


def some_figure(value, better="lower", floor=None, spread=0.05):
    floor = value / 3 if floor is None else floor
    return figure(
        value, floor, (value * (1 - spread), value * (1 + spread)), (floor * (1 - spread), floor * (1 + spread)), better
    )


def evaluation(classes=CLASSES, built_in=False):
    """The content of an evaluation.json whose weakest class without colour is the second."""
    counts = dict.fromkeys(classes, 20)
    real = {"part": "test", "built_in_patches": built_in, "dataset_dir": None, "test_dir": None}
    grey = [0.91234, 0.50432, 0.83219]
    colour = [0.92011, 0.81357, 0.84106]
    matrix = [[18 if row == column else 1 for column in range(len(classes))] for row in range(len(classes))]
    return {
        "format": "histodiffusion-evaluation/1",
        "synthetic": {
            "pool": "runs/synthesis/pool",
            "pool_hash": "129b18fe1b7c",
            "generator": "HistoDiffusion",
            "model": "e1a2977c14e6",
            "settings": {"sampler": "sde_dpm_solver++", "steps": 25, "guidance_scale": 3.0},
            "images": dict.fromkeys(classes, 30),
            "fingerprint": "5a" * 32,
        },
        "reference": {**real, "images": counts, "fingerprint": "6b" * 32},
        "floor": {**real, "part": "unused", "images": counts, "fingerprint": "7c" * 32},
        "training": {
            "of": [{**real, "part": "train"}],
            "images": {**counts, "unlabelled": 5},
            "fingerprint": "8d" * 32,
        },
        "held_out": {**real, "part": "unused", "images": counts, "fingerprint": "9e" * 32},
        "compared": counts,
        "extractors": [
            {
                "name": "judge_grey",
                "title": "Fréchet distance in features of the judge in grey",
                "weights_sha256": "ab" * 32,
                "resize": "none",
                "dimension": 64,
            }
        ],
        "fidelity": {
            "judge_grey": section(
                {
                    "frechet": some_figure(5.1234),
                    "kid": some_figure(0.02345, floor=0.0001),
                    "precision": some_figure(0.81, "higher", 0.82),
                    "recall": figure(0.345, better="higher", note="of few images"),
                },
                {
                    name: {"kid": some_figure(0.03 + 0.01 * place), "precision": some_figure(0.7, "higher", 0.71)}
                    for place, name in enumerate(classes)
                },
            )
        },
        "agreement": section(
            {"agreement_grey": some_figure(0.75, "floor", 0.9), "agreement_colour": some_figure(0.86, "floor", 0.87)},
            {
                name: {
                    "agreement_grey": some_figure(grey[place], "floor", 0.93),
                    "agreement_colour": some_figure(colour[place], "floor", 0.95),
                }
                for place, name in enumerate(classes)
            },
            confusion={view: {"synthetic": matrix, "reference": matrix} for view in ("colour", "grey")},
            asked=list(classes),
            seen=list(classes),
            judge={"weights": {"grey": "cd" * 32}},
        ),
        "stain": section(
            {"stain_distance": some_figure(2.2, floor=2.1)},
            {name: {"stain_distance": figure(1.5)} for name in classes},
            quantiles={
                name: {
                    one: {"eosin_mean": [0.1 + shift, 0.2 + shift, 0.31 + shift, 0.4, 0.5], "eosin_spread": []}
                    for one, shift in (("synthetic", 0.05), ("reference", 0), ("floor", 0.01))
                }
                for name in ("overall", *classes)
            },
        ),
        "nuclei": section({"count_distance": some_figure(1.0)}, {}),
        "copies": section(
            {"flagged": figure(0.0, 0.05, (0.0, 0.1), (0.01, 0.09)), "identical": figure(0, 0)},
            {},
            gallery="copies.png",
        ),
        "settings": {"reference": "test", "seed": 0, "bootstrap_draws": 200},
        "notes": ["the reference is of other slides"],
    }


def write_evaluation(folder, content=None, size=32, shown=4):
    """Writes all files of an evaluation, the pictures from built-in patches."""
    content = evaluation() if content is None else content
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", content)
    for place, name in enumerate(content["compared"]):
        kind = CLASSES[place % len(CLASSES)]
        for slide, suffix in ((0, ""), (1, "_real")):
            tiles = np.stack([generate_patch(kind, slide, index, size) for index in range(shown)])
            tiles = scale_patch(torch.from_numpy(tiles).movedim(-1, 1))
            marks = {} if suffix else {"synthetic": {"Model": "e1a2977c14e6"}}
            save_grid(folder / "grids" / f"{name}{suffix}.png", tiles, 8, **marks)
    for name in ("copies.png", "nuclei.png"):
        save_grid(folder / name, tiles, 4)
    with open(folder / "nearest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "nearest_file", "pixel_ratio"))
        writer.writerows(
            (f"LYM/LYM_{number}.png", f"tile_{number}.png", f"{1 / (1 + number):.6g}") for number in range(30)
        )
    return folder
