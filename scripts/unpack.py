"""Unpacks the zip of a bundle and checks its weights; refuses a zip whose paths leave the folder.

    python scripts/unpack.py histodiffusion_v0.4.0.zip FOLDER
    python scripts/unpack.py histodiffusion_v0.4.0.zip FOLDER --sha256 HASH

Where anything is wrong, nothing is left in the folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.zoo.archive import unpack  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zip", type=Path, help="<name>_v<version>.zip")
    parser.add_argument("folder", type=Path, help="where the bundle's folder will be")
    parser.add_argument("--sha256", help="of the zip, as its publisher gives it")
    given = parser.parse_args()
    try:
        folder = unpack(given.zip, given.folder, given.sha256)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    config = folder / "configs" / "inference.json"
    print(f"{folder}: python -m monai.bundle run --config_file {config} --bundle_root {folder}")


if __name__ == "__main__":
    main()
