"""A folder for a paper out of runs: methods text, tables, figures, cards, citations and checklists.

    python scripts/paper_kit.py runs
    python scripts/paper_kit.py runs/pretrain runs/adapt runs/evaluate runs/study --output_dir paper

Every sentence is from a file of a run, which sources.csv names; what no file holds is not said. Read all of it before
you send it off: it is a draft, and the checklists' other items are yours.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.report.kit.folder import write_kit  # noqa: E402
from bundle.report.kit.runs import Runs, read_runs  # noqa: E402
from bundle.runs.files import write_atomically  # noqa: E402


def write_model_card(target: Path, runs: Runs, licence: str | None) -> str:
    """Writes model_card.md of the adaptation; says why not where there is none."""
    adapt = runs.of.get("adapt")
    if adapt is None:
        return "model card: name the folder of adapt.json"
    from bundle.zoo.hub import build_hub  # here, as it reads the networks

    pretrain, evaluate = runs.of.get("pretrain"), runs.of.get("evaluate")
    with tempfile.TemporaryDirectory() as temporary:
        licence_file = None
        if licence is not None:
            licence_file = Path(temporary) / "licence.txt"
            licence_file.write_text(licence, encoding="utf-8")
        try:
            made = build_hub(
                ROOT,
                Path(temporary) / "hub",
                adapt.folder,
                pretrain and pretrain.folder,
                # Published figures lie beside the diffusion model that they are of.
                diffusion_dir=evaluate.folder if evaluate and (evaluate.folder / "diffusion.pt").is_file() else None,
                evaluation_dir=evaluate and evaluate.folder,
                licence_file=licence_file,
            )
        except (OSError, ValueError) as error:
            return f"model card: {error}"
        text = (made / "README.md").read_text(encoding="utf-8")
        card = text[text.index("# Model card") :].encode()
        write_atomically(target, lambda path: path.write_bytes(card))
    return ""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="output folders of configs, or a folder that holds them")
    parser.add_argument("--output_dir", type=Path, default=Path("paper"), help="where to; paper if not given")
    parser.add_argument("--licence_file", type=Path, help="on the data's licence, with a line DOI: to be cited")
    given = parser.parse_args(arguments)
    try:
        licence = given.licence_file.read_text(encoding="utf-8") if given.licence_file else None
        runs = read_runs(given.runs)
        metadata = json.loads((ROOT / "configs" / "metadata.json").read_text(encoding="utf-8"))
        missing = write_kit(given.output_dir, runs, metadata, licence)
        missing.append(write_model_card(given.output_dir / "model_card.md", runs, licence))
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"{given.output_dir}: of {', '.join(f'{run.folder} ({kind})' for kind, run in runs.of.items())}")
    for reason in filter(None, missing):
        print(f"missing: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
