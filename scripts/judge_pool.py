"""What an independent judge sees in a pool, class by class, beside what it sees in real tiles.

    python scripts/judge_pool.py --pool_dir runs/synthesis/pool --adapted_dir runs/adapt --dataset_dir LABELLED \
        --test_dir TEST

The judge is the adaptation's (`judge_colour.pt`, `judge_grey.pt`, `judge_normalised.pt`), which learned from labelled
tiles that nothing else uses. Figures are those of `scripts/sweep_guidance.py`. With `--selection_file` only the images
that a selection kept are judged. OUTPUT/judged.json keeps the figures; OUTPUT/beside_real.png shows, for each class, a
row of real tiles over a row of the pool's. That picture holds real tiles: look at it, but mind whose they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from sweep_guidance import measure, open_labelled, print_own_accuracy, print_rows, real_tiles

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.pictures import save_grid  # noqa: E402
from bundle.data.sources import read_rgb  # noqa: E402
from bundle.data.transforms import scale_patch  # noqa: E402
from bundle.models.adapted import AdaptedModels  # noqa: E402
from bundle.runs.files import write_json  # noqa: E402
from bundle.selection.table import selected_items  # noqa: E402
from bundle.training.judge import Judge  # noqa: E402

SHOWN = 12


def read_pool(
    folder: Path, classes: list[str], selection: Path | None, ratio: int | None, maximum: int
) -> dict[str, torch.Tensor]:
    """Class -> [n, 3, S, S] in [-1, 1], the lowest seeds first."""
    if selection is None:
        files = {
            name: sorted((folder / name).glob("*.png"), key=lambda path: (len(path.name), path)) for name in classes
        }
    else:
        files = {name: [] for name in classes}
        for item in selected_items(selection, ratio):
            files[item["class"]].append(Path(item["image"]))
    missing = [name for name, found in files.items() if len(found) < 2]
    if missing:
        raise ValueError(f"{folder} has fewer than 2 images of {', '.join(missing)}")
    return {
        name: scale_patch(
            torch.stack([torch.tensor(read_rgb(path.parent, path.name)) for path in found[:maximum]]).movedim(-1, 1)
        )
        for name, found in files.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool_dir", type=Path, required=True)
    parser.add_argument("--adapted_dir", type=Path, required=True)
    parser.add_argument("--dataset_dir", required=True, help="labelled images that the adaptation's split.csv lists")
    parser.add_argument("--test_dir", help="likewise its test images")
    parser.add_argument("--selection_file", type=Path, help="judge only what was selected")
    parser.add_argument("--ratio", type=int, help="of the selection; the largest if not given")
    parser.add_argument("--maximum", type=int, default=500, help="images of each class, and real tiles to compare with")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/judged"))
    given = parser.parse_args()

    models = AdaptedModels(given.adapted_dir).prepare()
    judge = Judge(given.adapted_dir, classes=models.classes)
    real = real_tiles(open_labelled(given, models.patch_size), given.maximum)
    made = read_pool(given.pool_dir, models.classes, given.selection_file, given.ratio, given.maximum)
    found = measure(made, real, judge)
    print_own_accuracy(judge)
    print(f"images: {', '.join(f'{len(tiles)} of {name}' for name, tiles in made.items())}")
    print_rows(found)
    write_json(
        given.output_dir / "judged.json", {"images": {name: len(tiles) for name, tiles in made.items()}, **found}
    )
    rows = []
    for name in models.classes:
        for tiles in (real[name], made[name]):
            rows.append(tiles[torch.linspace(0, len(tiles) - 1, SHOWN).round().long()])
    save_grid(given.output_dir / "beside_real.png", torch.cat(rows), columns=SHOWN)
    print(f"figures and picture: {given.output_dir}")


if __name__ == "__main__":
    main()
