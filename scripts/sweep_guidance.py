"""Compares settings of the guidance on an adapted model, by what a judge sees and by what it can't be fooled with.

    python scripts/sweep_guidance.py --adapted_dir runs/adapt --dataset_dir LABELLED --test_dir TEST

For each setting it makes as many images of each class, from the same seeds, and prints, per class and over all:

- colour, grey, normalised: share of images in which the judge of the adaptation sees the asked class, in that view.
  The judge's own accuracy on real tiles stands above the table.
- stain: distance of optical-density statistics to those of real tiles of the class, in real tiles' deviations.
- Fréchet distance to real tiles, as many of each class, in the features of the judge in colour and in grey.
- diversity: mean distance between two images of a class over that between two real ones, in the grey judge's features.

Agreement alone is not the measure: strong guidance moves colour first. The setting named at the end is the one with the
lowest Fréchet distance in grey among those whose agreement in grey is within 0.05 of the best. Look at the pictures
beside it before you believe it. Results are kept in OUTPUT/sweep.json, and settings done before are not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.labelled import LabelledPatches  # noqa: E402
from bundle.data.pictures import save_grid  # noqa: E402
from bundle.data.transforms import scale_patch  # noqa: E402
from bundle.data.views import VIEWS  # noqa: E402
from bundle.metrics.frechet import frechet_distance  # noqa: E402
from bundle.metrics.optical_density import relative_diversity, stain_distance  # noqa: E402
from bundle.models.adapted import AdaptedModels  # noqa: E402
from bundle.runs.files import write_json  # noqa: E402
from bundle.synthesis.inferers import GuidedLatentInferer  # noqa: E402
from bundle.training.judge import Judge  # noqa: E402

MARGIN = 0.05  # agreement in grey that a better Fréchet distance may cost


def real_tiles(labelled: LabelledPatches, per_class: int) -> dict[str, torch.Tensor]:
    """Tiles outside the labelled subset, evenly spaced: class -> [n, 3, S, S] in [-1, 1]."""
    part = labelled.part("unused")
    found = {}
    for number, name in enumerate(labelled.classes):
        places = [place for place, label in enumerate(part.labels) if label == number]
        if len(places) < 2:
            raise ValueError(f"class {name} has {len(places)} unused tiles to compare with; 2 are needed")
        chosen = torch.linspace(0, len(places) - 1, min(per_class, len(places))).round().long().tolist()
        found[name] = scale_patch(torch.stack([part.read(places[place])["image"] for place in chosen]))
    return found


def open_labelled(given: argparse.Namespace, patch_size: int) -> LabelledPatches:
    """The labelled images of the adaptation that the command line names, cached in its output folder."""
    return LabelledPatches(
        given.dataset_dir,
        given.test_dir,
        patch_size,
        given.output_dir / "cache",
        given.output_dir / "split.csv",
        split_file=given.adapted_dir / "split.csv",
    ).prepare()


def print_own_accuracy(judge: Judge) -> None:
    """What the judge's opinion is worth, by view."""
    for view, measured in judge.measured.items():
        figures = ", ".join(f"{where} {found['accuracy']:.3f}" for where, found in measured.items())
        print(f"the judge's own accuracy, {view}: {figures}")


def print_rows(result: dict[str, Any]) -> None:
    """The figures of :func:`measure`, a line a class."""
    for row, figures in (*result["classes"].items(), ("all", result["all"])):
        print(f"  {row:6}" + "".join(f"  {column} {value:.3f}" for column, value in figures.items()))


def synthesise(
    models: AdaptedModels, inferer: GuidedLatentInferer, count: int, seed: int, batch: int, name: str
) -> dict:
    """Class -> [count, 3, S, S] in [-1, 1], from the same seeds for every class and setting."""
    found = {}
    for label, class_name in enumerate(models.classes):
        parts = []
        for seeds in tqdm(torch.arange(seed, seed + count).split(batch), desc=f"{name} {class_name}", leave=False):
            parts.append(inferer(seeds, models, torch.full((len(seeds),), label)))
        found[class_name] = torch.cat(parts)
    return found


def measure(images: dict[str, torch.Tensor], real: dict[str, torch.Tensor], judge: Judge) -> dict[str, Any]:
    """The figures of one setting."""
    rows: dict[str, Any] = {}
    everything = torch.cat(list(real.values()))
    for label, (name, made) in enumerate(images.items()):
        features = {kind: judge.features(tiles, "grey") for kind, tiles in (("made", made), ("real", real[name]))}
        agreement = judge.agreement(made, torch.full((len(made),), label))
        rows[name] = {
            **{view: agreement[view]["accuracy"] for view in VIEWS},
            "stain": round(stain_distance(made, real[name], everything), 3),
            "diversity": round(relative_diversity(features["made"], features["real"]), 3),
        }
    overall = {column: sum(row[column] for row in rows.values()) / len(rows) for column in (*VIEWS, "stain")}
    # Empty background hardly varies, so its ratio alone would rule a mean.
    overall["diversity"] = statistics.median(row["diversity"] for row in rows.values())
    made, tiles = torch.cat(list(images.values())), everything
    for view in ("colour", "grey"):
        overall[f"frechet_{view}"] = frechet_distance(judge.features(made, view), judge.features(tiles, view))
    return {"classes": rows, "all": {column: round(value, 3) for column, value in overall.items()}}


def recommend(results: dict[str, Any]) -> str:
    """The name of the setting by the rule above."""
    best = max(result["all"]["grey"] for result in results.values())
    near = [name for name, result in results.items() if result["all"]["grey"] >= best - MARGIN]
    return min(near, key=lambda name: results[name]["all"]["frechet_grey"])


def number_or_none(text: str) -> float | None:
    return None if text == "none" else float(text)


def interval(text: str) -> list[int] | None:
    return None if text == "none" else [int(part) for part in text.split(":")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapted_dir", type=Path, required=True)
    parser.add_argument("--dataset_dir", required=True, help="labelled images that the adaptation's split.csv lists")
    parser.add_argument("--test_dir", help="likewise its test images")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--scales", type=float, nargs="+", default=[0, 1, 2.5, 5, 10, 20])
    parser.add_argument("--intervals", type=interval, nargs="+", default=[None], help="none or LOWEST:HIGHEST t")
    parser.add_argument(
        "--caps", type=number_or_none, nargs="+", default=[None], help="none or a --guidance_maximum_norm"
    )
    parser.add_argument("--sampler", default="sde_dpm_solver++")
    parser.add_argument("--spacing", default="log_snr")
    parser.add_argument("--eta", type=float, help="without it the one recommended for the sampler")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--num_images", type=int, default=64, help="of each class and setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()

    models = AdaptedModels(given.adapted_dir, given.device).prepare()
    judge = Judge(given.adapted_dir, given.device, models.classes)
    real = real_tiles(open_labelled(given, models.patch_size), given.num_images)
    print_own_accuracy(judge)
    file = given.output_dir / "sweep.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for scale, limits, cap in itertools.product(given.scales, given.intervals, given.caps):
        inferer = GuidedLatentInferer(scale, given.sampler, given.steps, given.spacing, given.eta, limits, cap)
        name = f"g {scale:g}, t {limits or 'all'}, cap {cap}, {given.sampler} {given.steps} {given.spacing}"
        name += f" {inferer.sampling.eta:g}, {given.num_images} images"
        if name not in results:
            images = synthesise(models, inferer, given.num_images, given.seed, given.batch_size, name)
            results[name] = measure(images, real, judge)
            grid = torch.cat([made[:12] for made in images.values()])
            picture = "".join(letter if letter.isalnum() else "_" for letter in name)
            save_grid(given.output_dir / f"{picture}.png", grid, columns=12, synthetic={"Settings": name})
            write_json(file, results)
        print(f"\n{name}")
        print_rows(results[name])
    print(f"\nrecommended: {recommend(results)}\npictures and figures: {given.output_dir}")


if __name__ == "__main__":
    main()
