r"""One self-contained report.html of an evaluation, to show a colleague.

    python scripts/report.py runs/evaluate
    python scripts/report.py runs/evaluate --study_dir runs/study --selection_dir runs/select --adapted_dir runs/adapt \
        --pretrained_dir runs/pretrain --output report.html --figures figures

The page needs no network, no script and no other file, and prints on A4. It says what it could not find. The grids and
the gallery of copies hold real tiles: don't publish the page without the attribution that their licence asks for.
--figures writes each of its figures as SVG, PDF and CSV.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.report.evaluation_folder import read_evaluation  # noqa: E402
from bundle.report.page import write_page  # noqa: E402
from bundle.report.training import read_training  # noqa: E402
from bundle.report.vector_figures import write_figures  # noqa: E402

LARGE = 20_000_000  # bytes; what mail servers refuse and phones are slow with


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation_dir", type=Path, help="output folder of configs/evaluate.json")
    parser.add_argument("--study_dir", type=Path, help="output folder of configs/study.json")
    parser.add_argument("--selection_dir", type=Path, help="output folder of configs/select.json")
    parser.add_argument("--reading_dir", type=Path, help="folder of a reading with its result, see scripts/read.py")
    parser.add_argument("--adapted_dir", type=Path, help="output folder of configs/adapt.json")
    parser.add_argument("--pretrained_dir", type=Path, help="output folder of configs/pretrain.json")
    parser.add_argument("--licence_file", type=Path, default=ROOT / "docs" / "data_license.txt")
    parser.add_argument("--output", type=Path, help="report.html within the evaluation's folder if not given")
    parser.add_argument("--figures", type=Path, help="folder for each figure as SVG, PDF and CSV; none if not given")
    given = parser.parse_args(arguments)

    output = given.output or given.evaluation_dir / "report.html"
    trainings = {"Adaptation": given.adapted_dir, "Pre-training": given.pretrained_dir}
    trainings = {title: folder for title, folder in trainings.items() if folder is not None}
    try:
        if not given.licence_file.is_file():
            raise FileNotFoundError(f"there is no {given.licence_file}. Name another --licence_file")
        metadata = json.loads((ROOT / "configs" / "metadata.json").read_text(encoding="utf-8"))
        missing = write_page(
            output,
            given.evaluation_dir,
            given.licence_file.read_text(encoding="utf-8"),
            metadata["intended_use"],
            given.study_dir,
            given.selection_dir,
            trainings,
            given.reading_dir,
        )
        drawn = []
        if given.figures is not None:
            read = [read_training(folder, title) for title, folder in trainings.items()]
            drawn = write_figures(given.figures, read_evaluation(given.evaluation_dir), given.study_dir, read)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    for reason in missing:
        print(f"missing, and said so in the page: {reason}", file=sys.stderr)
    if drawn:
        print(f"{given.figures}: {len(drawn)} figures, each as SVG, PDF and CSV")
    size = output.stat().st_size
    print(f"{output}: {size / 1e6:.1f} MB")
    if size > LARGE:
        print(
            f"more than {LARGE / 1e6:.0f} MB: evaluate with fewer images in a grid to make it smaller", file=sys.stderr
        )


if __name__ == "__main__":
    main()
