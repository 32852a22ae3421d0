"""A blinded reading in the browser, and what came of it.

    python -m monai.bundle run training --config_file configs/read.json --output_dir runs/reading
    python scripts/read.py runs/reading
    python scripts/read.py runs/reading --reader "A. Kaya" --reader "B. Lang" --no_browser
    python scripts/read.py runs/reading --result

The page is served to this computer alone, on a free port, under an address of its own for each reader. Every answer is
on the disk before the next patch is shown. Ended in any way, the same command goes on where each reader was. `--result`
opens the key and writes tables beside the answers.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.reading.answers import AnswerFile, reader_name  # noqa: E402
from bundle.reading.results import write_results  # noqa: E402
from bundle.reading.sealed import key_folder, read_sealed  # noqa: E402
from bundle.runs.folder import RunFolder  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reading_dir", type=Path, help="output folder of configs/read.json")
    parser.add_argument("--reader", action="append", help="name of a reader, once for each; 'reader' if not given")
    parser.add_argument("--port", type=int, default=0, help="a free one if not given")
    parser.add_argument("--no_browser", action="store_true", help="only print the addresses")
    parser.add_argument("--result", action="store_true", help="open the key and write what came of the reading")
    parser.add_argument("--key_dir", type=Path, help="folder of the key, READING_DIR_key if not given; for --result")
    given = parser.parse_args()
    try:
        sealed = read_sealed(given.reading_dir)
        folder = RunFolder(given.reading_dir)
        try:
            folder.open()
        except RuntimeError as error:
            raise ValueError(
                f"{given.reading_dir} is in use: end the program that serves or prepares it. One program serves all "
                "readers, --reader once for each"
            ) from error
        if given.result:
            print(write_results(sealed, given.key_dir or key_folder(given.reading_dir)))
        else:
            read(sealed, given)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


def read(sealed, given: argparse.Namespace) -> None:
    """Serves the page until it is interrupted."""
    try:
        from bundle.reading.server import addresses, listen, serve
    except ImportError as error:
        raise ValueError(f"the page needs starlette and uvicorn ({error}): python -m pip install starlette uvicorn")
    names = list(dict.fromkeys(map(reader_name, given.reader or ["reader"])))
    answers = [AnswerFile(sealed, name) for name in names]
    listening = listen(given.port)
    readers = addresses(answers, listening.getsockname()[1])
    for address, file in readers.values():
        print(f"{file.reader}, {len(file.answers)} of {len(file.order)} answered: {address}", flush=True)
    print("Each address is its reader's alone. Ctrl+C ends; the same command goes on.", flush=True)
    if not given.no_browser:
        webbrowser.open(next(iter(readers.values()))[0])
    with contextlib.suppress(KeyboardInterrupt):
        serve(sealed, {token: file for token, (_, file) in readers.items()}, listening)
    for file in answers:
        print(f"{file.reader}: {len(file.answers)} of {len(file.order)} answered, kept in {file.path}")


if __name__ == "__main__":
    main()
