"""Packages the repository with trained weights as a bundle of the MONAI Model Zoo: a folder and a zip.

    python scripts/package.py
    python scripts/package.py --adapted_dir models/adapt --diffusion_dir models/adapt_diffusion \\
        --pretrained_dir models/pretrain --evaluation_dir runs/evaluate --output_dir dist

Without --adapted_dir it takes the weights of this repository, with the diffusion model that was adapted as well. The
same files and weights give the same bytes. The folder makes images of each class as it is:

    python -m monai.bundle run --config_file dist/histodiffusion/configs/inference.json \\
        --bundle_root dist/histodiffusion

Commands that trained the weights go into the model card, so give folders of scripts/publish_weights.py, which leave out
private paths.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.runs.sums import file_sha256  # noqa: E402
from bundle.zoo.package import build_package  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ROOT / "models"
    parser.add_argument("--adapted_dir", type=Path, help="folder of an adaptation; this repository's if not given")
    parser.add_argument("--pretrained_dir", type=Path, default=models / "pretrain", help="of its pre-training")
    parser.add_argument("--diffusion_dir", type=Path, help="of an adapted diffusion model, in place of the other")
    parser.add_argument("--evaluation_dir", type=Path, help="output folder of configs/evaluate.json, for the figures")
    parser.add_argument("--licence_file", type=Path, help="of the data; docs/data_license.txt if not given")
    parser.add_argument("--large_files_url", help="address below which files over 25 MB will be found")
    parser.add_argument("--output_dir", type=Path, default=Path("dist"), help="where to; dist if not given")
    given = parser.parse_args()
    if given.adapted_dir is None:
        given.adapted_dir = models / "adapt"
        if given.diffusion_dir is None:
            given.diffusion_dir = models / "adapt_diffusion"
            given.evaluation_dir = given.evaluation_dir or given.diffusion_dir  # what was measured of these weights
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        folder, archive = build_package(ROOT, **vars(given))
    except (OSError, ValueError, ImportError) as error:
        sys.exit(str(error))
    print(f"{folder}\n{archive}: {archive.stat().st_size / 1e6:.1f} MB, SHA-256 {file_sha256(archive)}")


if __name__ == "__main__":
    main()
