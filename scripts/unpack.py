"""Unpacks the zip of a bundle and checks its weights; refuses a zip whose paths leave the folder, or a zip bomb.

    python scripts/unpack.py histodiffusion_v0.5.0.zip FOLDER
    python scripts/unpack.py histodiffusion_v0.5.0.zip FOLDER --sha256 HASH

Where anything is wrong, nothing is left in the folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.limits import LARGEST_RATIO  # noqa: E402
from bundle.zoo.archive import LARGEST_GIGABYTES, unpack  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zip", type=Path, help="<name>_v<version>.zip")
    parser.add_argument("folder", type=Path, help="where the bundle's folder will be")
    parser.add_argument("--sha256", help="of the zip, as its publisher gives it")
    parser.add_argument(
        "--largest_gigabytes",
        type=float,
        default=LARGEST_GIGABYTES,
        help="that all files together may take, in 10^9 bytes",
    )
    parser.add_argument(
        "--largest_ratio", type=float, default=LARGEST_RATIO, help="of the size unpacked to that of the zip"
    )
    given = parser.parse_args()
    try:
        folder = unpack(given.zip, given.folder, given.sha256, given.largest_gigabytes, given.largest_ratio)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    config = folder / "configs" / "inference.json"
    print(f"{folder}: python -m monai.bundle run --config_file {config} --bundle_root {folder}")


if __name__ == "__main__":
    main()
