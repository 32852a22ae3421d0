"""Copies the figures of an evaluation to the weights that made its pool, for scripts/package.py and for readers.

    python scripts/publish_evaluation.py runs/evaluate models/adapt_diffusion

Writes evaluation.json, without the private part of absolute paths: of these the name of the last folder is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.runs.files import write_json  # noqa: E402


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation_dir", type=Path, help="output folder of configs/evaluate.json")
    parser.add_argument("target", type=Path, help="folder of the weights")
    given = parser.parse_args()
    source = given.evaluation_dir / "evaluation.json"
    if not source.is_file():
        sys.exit(f"there is no {source}: run configs/evaluate.json with --output_dir {given.evaluation_dir} first")
    target = given.target / "evaluation.json"
    write_json(target, without_private_paths(json.loads(source.read_text(encoding="utf-8"))))
    print(target)


if __name__ == "__main__":
    main()
