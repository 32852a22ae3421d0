"""Reads malformed files as a source is read, and counts what goes wrong.

    python scripts/fuzz_sources.py --files 10000 --seed 0 --output_dir runs/fuzz

The files are those of `malformed_files.py`. Worker processes list and read them. A table counts, for each format, the
files that were read, those refused with a reason, and four faults: a crash (a dead process, or an error that is no
refusal), a hang of over 5 s, memory that rises by over 1 GB, and a silent skip (neither read, refused nor counted).
OUTPUT/fuzz.csv has a row for each file, and files with a fault are kept beside it. The exit status is 1 where there is
a fault. Linux only, as memory is measured in /proc.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from malformed_files import WRITERS, make_file, plan

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.sources import UnreadableImage, list_source, read_rgb  # noqa: E402

HANG_SECONDS = 5
METHOD = "spawn"  # of starting a worker; a forked one would have the parent's threads' locks
MEMORY_LIMIT = 2**30  # bytes above what the process had before
ADDRESS_SPACE = 8 * 2**30  # bytes; a worker that wants more gets a MemoryError, and the machine lives on
IMAGES_READ = 40  # of one file
FAULTS = ("crash", "hang", "memory", "silent")
OUTCOMES = ("read", "refused", *FAULTS)


class Outcome(NamedTuple):
    """What became of one file."""

    number: int
    format: str
    change: str
    outcome: str
    reason: str
    seconds: float
    risen: int  # bytes


def read_file(path: Path) -> tuple[str, str]:
    """Outcome and reason of one file, which is alone in its folder."""
    try:
        listing = list_source(path.parent)
    except ValueError as error:
        if "is empty" in str(error):
            return "silent", str(error)
        return ("refused" if str(error).startswith("dataset_dir: ") else "crash"), str(error)
    read, reason = 0, ""
    for file, _, _ in listing.items[:IMAGES_READ]:
        try:
            rgb = read_rgb(path.parent, file)
        except UnreadableImage as error:
            reason = error.reason
            continue
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
            return "crash", f"{file} is {rgb.dtype} {rgb.shape}"
        read += 1
    return ("read", reason) if read else ("refused", reason) if reason else ("silent", "no image and no reason")


def memory(name: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most since it was last set back."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def work(seed: int, connection) -> None:
    """Makes and reads the files whose numbers are asked for, until None is."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C print there
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.mkfifo("pipe")
        os.mkdir("source")
        while (number := connection.recv()) is not None:
            path = Path(folder) / "source" / f"file{plan(number)[0]}"
            try:
                path.write_bytes(make_file(seed, number))
            except Exception:
                connection.send(False)
                raise
            connection.send(True)  # from here on it is timed
            Path("/proc/self/clear_refs").write_text("5")
            before = memory("VmRSS")
            try:
                outcome, reason = read_file(path)
            except Exception as error:
                outcome, reason = "crash", f"{type(error).__name__}: {error}"
            connection.send((outcome, reason, memory("VmHWM") - before))
            path.unlink()


def drive(seed: int, report: Callable[[Outcome], None], numbers: list[int]) -> None:
    """Has one worker process after another read the files: a new one after each that died or hung."""
    context = multiprocessing.get_context(METHOD)
    process = None
    for number in numbers:
        if process is None:
            connection, theirs = context.Pipe()
            process = context.Process(target=work, args=(seed, theirs), daemon=True)
            process.start()
            theirs.close()
        started = time.monotonic()
        try:
            connection.send(number)
            if not connection.recv():
                raise RuntimeError(f"file {number} could not be made; that is a fault of this script")
            started = time.monotonic()
            if connection.poll(HANG_SECONDS):
                outcome, reason, risen = connection.recv()
            else:
                outcome, reason, risen = "hang", f"no answer in {HANG_SECONDS} s", 0
        except (EOFError, OSError):
            process.join()
            outcome, reason, risen = "crash", f"the process died with {process.exitcode}", 0
        if outcome in ("read", "refused") and risen > MEMORY_LIMIT:
            outcome, reason = "memory", f"rose by {risen} bytes; {reason}"
        suffix, change = plan(number)
        report(Outcome(number, suffix, change.__name__, outcome, reason, round(time.monotonic() - started, 4), risen))
        if outcome == "hang":
            process.kill()
        if outcome == "hang" or not process.is_alive():
            process = None
    if process is not None:
        connection.send(None)
        process.join()


def fuzz(seed: int, files: int, workers: int) -> list[Outcome]:
    """The outcome of each file, in the order of their numbers."""
    outcomes: list[Outcome] = []
    shares = [list(range(worker, files, workers)) for worker in range(workers)]
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(partial(drive, seed, outcomes.append), shares))
    return sorted(outcomes)


def table(outcomes: list[Outcome]) -> str:
    """Number of files by format and outcome."""
    counts = Counter((made.format, made.outcome) for made in outcomes)
    rows = [("format", "files", *OUTCOMES)]
    for suffix in [*WRITERS, "all"]:
        found = [
            sum(n for (of, what), n in counts.items() if what == name and suffix in (of, "all")) for name in OUTCOMES
        ]
        rows.append((suffix, sum(found), *found))
    return "\n".join("".join(f"{value:>9}" for value in row) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000, help="number of files, over all formats")
    parser.add_argument("--seed", type=int, default=0, help="of what is made; another seed makes other files")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of processes")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/fuzz"), help="for fuzz.csv and files with faults")
    given = parser.parse_args()
    outcomes = fuzz(given.seed, given.files, given.workers)
    faults = [made for made in outcomes if made.outcome in FAULTS]
    shutil.rmtree(given.output_dir / "faults", ignore_errors=True)
    (given.output_dir / "faults").mkdir(parents=True)
    with open(given.output_dir / "fuzz.csv", "w", newline="", errors="backslashreplace") as stream:
        csv.writer(stream).writerows([Outcome._fields, *outcomes])
    for made in faults:
        (given.output_dir / "faults" / f"{made.number}{made.format}").write_bytes(make_file(given.seed, made.number))
    print(table(outcomes))
    for made in faults[:20]:
        print(f"{made.number}{made.format}, {made.change}: {made.outcome}, {made.reason[:200]}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
