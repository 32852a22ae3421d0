"""Writes a pool of synthetic images, or what a selection chose of it, as NIfTI files for other MONAI pipelines.

    python scripts/pool_to_nifti.py --pool_dir runs/synthesis/pool --output_dir runs/nifti --microns_per_pixel 2
    python scripts/pool_to_nifti.py --selection_file runs/selection/selection.csv --ratio 100 --output_dir runs/nifti

One file an image, OUTPUT/<CLASS>/<CLASS>_<seed>.nii.gz, and OUTPUT/manifest.csv with a row a file once all are there.
Voxels are uint8 [x, y, 1, channel], x to the right and y downward. Every file bears the marks of its PNG: it says that
it is synthetic, and labelled, validation and test data of this bundle refuse it. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.marks import read_marks, save_marked_nifti  # noqa: E402
from bundle.runs.files import write_json  # noqa: E402
from bundle.runs.processes import lock_folder  # noqa: E402
from bundle.runs.tables import write_rows  # noqa: E402
from bundle.selection.table import read_selection, selected_items  # noqa: E402
from bundle.synthesis.pool import Key, image_file, marks_of, seed_of  # noqa: E402
from bundle.synthesis.stored_pool import StoredPool  # noqa: E402

FORMAT = "histodiffusion-nifti/1"
RECORD = "nifti.json"
COLUMNS = ("file", "class", "label", "seed", "source", "generator", "model_hash", "config_hash")
WRITTEN_BY_SAVING = ("SyntheticData", "Software", "DigitalSourceType")


def chosen(
    pool_dir: Path | None, selection_file: Path | None, ratio: int | None
) -> tuple[StoredPool, list[Key], list[str], dict[str, Any]]:
    """The pool, class and seed of each image to write, the classes in order, and what they were chosen by.

    Raises:
        FileNotFoundError: the pool, the selection or an image of it is missing.
        ValueError: no image, or a selection from another pool.
    """
    if selection_file is None:
        if pool_dir is None or ratio is not None:
            raise ValueError("name a pool with --pool_dir, or a selection with --selection_file, which --ratio is of")
        pool = StoredPool(pool_dir, 0).prepare()
        classes = sorted(entry.name for entry in pool.folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
        keys, by = pool.keys(classes), {"selection": None, "ratio": None}
    else:
        _, facts = read_selection(selection_file)
        pool = StoredPool(facts["pool"] if pool_dir is None else pool_dir, 0).prepare()
        if pool.hash != facts["pool_hash"]:
            raise ValueError(
                f"{selection_file} was selected from a pool of hash {facts['pool_hash']}, and {pool.folder} has "
                f"{pool.hash}: name the former with --pool_dir"
            )
        items = selected_items(selection_file, ratio, pool=pool.folder)
        keys, classes = sorted((item["class"], seed_of(Path(item["image"]))) for item in items), facts["classes"]
        by = {"selection": facts["table_sha256"], "ratio": facts["ratios"][-1] if ratio is None else ratio}
    if not keys:
        raise ValueError(f"there is no image to write: {selection_file or pool.folder} has none")
    with Image.open(pool.folder / image_file(*keys[0])) as image:
        pool.patch_size = image.size[0]
    return pool, keys, classes, by


def require_record(folder: Path, record: dict[str, Any]) -> None:
    """Keeps what the folder's files are of, or refuses a folder of others."""
    path = folder / RECORD
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [
            f"{name}: {found.get(name)} there, {value} here"
            for name, value in record.items()
            if found.get(name) != value
        ]
        if differing:
            raise ValueError(f"{folder} holds other images ({'; '.join(differing)}): choose another --output_dir")
        return
    others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if others:
        raise ValueError(f"{folder} is not empty: it has {', '.join(others[:3])}. Choose another --output_dir")
    write_json(path, record)


def nifti_file(name: str, seed: int) -> str:
    return f"{name}/{name}_{seed}.nii.gz"


def write(
    folder: Path,
    pool: StoredPool,
    keys: list[Key],
    classes: list[str],
    record: dict[str, Any],
    pixel_size: float | None,
) -> None:
    """Writes the files that are not there yet, then the manifest."""
    lock = lock_folder(folder, "output_dir")
    try:
        require_record(folder, record)
        missing = [key for key in keys if not (folder / nifti_file(*key)).is_file()]
        for name, seed in tqdm(missing, desc="NIfTI", unit="image"):
            image = pool.read(name, seed)
            marks = read_marks(pool.folder / image_file(name, seed))
            fields = {field: value for field, value in marks.items() if field not in WRITTEN_BY_SAVING}
            save_marked_nifti(folder / nifti_file(name, seed), image, marks["DigitalSourceType"], fields, pixel_size)
        origin = marks_of(pool.identity).values()
        rows = (
            [nifti_file(name, seed), name, classes.index(name), seed, image_file(name, seed), *origin]
            for name, seed in keys
        )
        write_rows(folder / "manifest.csv", [COLUMNS, *rows])
    finally:
        lock.release()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool_dir", type=Path, help="the pool; of a selection where it is now, if it was moved")
    parser.add_argument("--selection_file", type=Path, help="write only what was selected")
    parser.add_argument("--ratio", type=int, help="of the selection; the largest if not given")
    parser.add_argument("--microns_per_pixel", type=float, help="written as the size of the voxels; 1 if not given")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/nifti"))
    given = parser.parse_args()

    size = given.microns_per_pixel
    if size is not None and not 0 < size < float("inf"):
        raise ValueError(f"--microns_per_pixel is {size}; it must be a positive number")
    pool, keys, classes, by = chosen(given.pool_dir, given.selection_file, given.ratio)
    record = {"format": FORMAT, "pool_hash": pool.hash, **by, "microns_per_pixel": size}
    write(given.output_dir, pool, keys, classes, record, size)
    print(f"{len(keys)} images of {len({name for name, _ in keys})} classes: {given.output_dir / 'manifest.csv'}")
    print(
        "next, in a MONAI pipeline: Compose([LoadImaged('image', ensure_channel_first=True), SqueezeDimd('image', "
        f"dim=-1)])({{'image': '{given.output_dir / nifti_file(*keys[0])}'}}) gives [3, x, y]; "
        "see docs/explanation/integration.md"
    )


if __name__ == "__main__":
    main()
