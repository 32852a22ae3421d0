"""Copies the figures of an evaluation to the weights that made its pool, for scripts/package.py and for readers.

    python scripts/publish_evaluation.py runs/evaluate models/adapt_diffusion

Writes evaluation.json, without the private part of absolute paths (of these the name of the last folder is kept), and
the grids that say of themselves that they are synthetic. No picture of a real tile is copied; evaluation.json says so,
and the report made of it then.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.report.evaluation_folder import synthetic_grids  # noqa: E402
from bundle.runs.files import write_atomically, write_json  # noqa: E402

LEFT_OUT = "grids of real tiles, pairs with training images, segmented real tiles, names of tiles"


def without_private_paths(content: Any) -> Any:
    """The same content of a JSON file, with the last part alone of each text that is an absolute path."""
    if isinstance(content, dict):
        return {name: without_private_paths(value) for name, value in content.items()}
    if isinstance(content, list):
        return [without_private_paths(value) for value in content]
    if isinstance(content, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(content).is_absolute():
                return kind(content).name
    return content


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation_dir", type=Path, help="output folder of configs/evaluate.json")
    parser.add_argument("target", type=Path, help="folder of the weights")
    given = parser.parse_args(arguments)
    source = given.evaluation_dir / "evaluation.json"
    if not source.is_file():
        sys.exit(f"there is no {source}: run configs/evaluate.json with --output_dir {given.evaluation_dir} first")
    target = given.target / "evaluation.json"
    content = without_private_paths(json.loads(source.read_text(encoding="utf-8")))
    write_json(target, {**content, "published": {"left_out": LEFT_OUT}})
    shutil.rmtree(given.target / "grids", ignore_errors=True)  # of an evaluation that was published before
    grids = synthetic_grids(given.evaluation_dir, list(content.get("compared", {})))
    for _, path in grids:
        copy = functools.partial(shutil.copyfile, path)
        write_atomically(given.target / "grids" / path.name, copy)
    print(f"{target}, and {len(grids)} grids of synthetic images")


if __name__ == "__main__":
    main()
