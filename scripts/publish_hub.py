"""Writes a folder for the Hugging Face hub: safetensors, model card, licences, synthetic samples and an example.

    python scripts/publish_hub.py --output_dir dist/hub
    python scripts/publish_hub.py --adapted_dir models/adapt --pretrained_dir models/pretrain --output_dir dist/hub
    HF_TOKEN=... python scripts/publish_hub.py --output_dir dist/hub --push OWNER/NAME

Without --adapted_dir it takes the weights of this repository, with the diffusion model that was adapted as well. The
folder is loaded again before it is there. Nothing leaves this machine without --push; then a folder that is there
already is taken as it is, the token comes from HF_TOKEN, a new repository is private, and what was uploaded is got back
and loaded. Commands that trained the weights go into the card, so give folders of scripts/publish_weights.py, which
leave out private paths.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.zoo.hub import build_hub, push  # noqa: E402


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ROOT / "models"
    parser.add_argument("--adapted_dir", type=Path, help="folder of an adaptation; this repository's if not given")
    parser.add_argument("--pretrained_dir", type=Path, help="of its pre-training, for the card")
    parser.add_argument("--diffusion_dir", type=Path, help="of an adapted diffusion model, in place of the other")
    parser.add_argument("--evaluation_dir", type=Path, help="output folder of configs/evaluate.json, for the figures")
    parser.add_argument("--licence_file", type=Path, help="of the data; docs/data_license.txt if not given")
    parser.add_argument("--output_dir", type=Path, default=Path("dist/hub"), help="the folder; dist/hub if not given")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload it there, with the token of HF_TOKEN")
    arguments = vars(parser.parse_args(given))
    repository, folder = arguments.pop("push"), arguments["output_dir"]
    if arguments["adapted_dir"] is None:
        ours = {"adapted_dir": models / "adapt", "pretrained_dir": models / "pretrain"}
        if arguments["diffusion_dir"] is None:
            ours |= dict.fromkeys(("diffusion_dir", "evaluation_dir"), models / "adapt_diffusion")
        arguments |= {name: place for name, place in ours.items() if arguments[name] is None}
    try:
        if repository is None or not folder.exists():
            build_hub(ROOT, **arguments)
            size = sum(path.stat().st_size for path in folder.iterdir())
            print(f"{folder}: {size / 1e6:.1f} MB; it loads again")
        if repository is not None:
            print(f"{push(folder, repository)}: it loads again")
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
