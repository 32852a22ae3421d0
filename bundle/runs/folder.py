"""The folder of one run: who may write into it, the executed config, the metrics."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from bundle.runs.files import write_json
from bundle.runs.job import is_first
from bundle.runs.processes import lock_folder
from bundle.runs.versions import installed
from bundle.runs.workflow import executed_config

logger = logging.getLogger(__name__)


class RunFolder:
    """An output folder that one process at a time may write into.

    Of the processes of one training it is the first; in the others the methods that write do nothing.

    Nothing is created before :meth:`open`.

    Args:
        path: the folder; relative to the current directory.
        shared: whether the processes of one torchrun may write into it together.

    Attributes:
        place: number and count of the processes that share it, where not torchrun but a user numbers them.
    """

    def __init__(self, path: str | Path, shared: bool = False) -> None:
        self.path = Path(path)
        self.shared = shared
        self.place: tuple[int, int] | None = None
        self._lock: FileLock | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def open(self) -> None:
        """Locks the folder for this process.

        The lock belongs to the process and goes with it, also after kill -9.

        Raises:
            RuntimeError: another living process holds the folder.
        """
        if self._lock is None and is_first():
            self._lock = lock_folder(self.path, "output_dir", self.shared, self.place)

    def save_config(self) -> None:
        """Keeps the executed config as `config.json`, which MONAI can run again, and versions in `software.json`."""
        config = executed_config()
        if config is not None and is_first():
            write_json(self.path / "config.json", config)
            write_json(self.path / "software.json", installed())

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def report(self, files: Sequence[str], next_command: str) -> None:
        """Says where the results are and what to run next."""
        if not is_first():
            return
        found = "\n".join(f"  {self.path / name}" for name in files if (self.path / name).is_file())
        logger.info(f"done. Results:\n{found}\nnext: {next_command}")

    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`, {} before the first stage has ended."""
        path = self.path / "metrics.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def set_metrics(self, section: str, values: dict[str, Any], forget: Sequence[str] = ()) -> None:
        """Replaces one section of `metrics.json`, atomically, and drops those that were measured on its former self."""
        if not is_first():
            return
        metrics = {name: content for name, content in self.metrics().items() if name not in forget}
        metrics[section] = values
        if sys.argv[0].endswith("__main__.py"):  # else a program of the user's own called us
            metrics["command"] = shlex.join(["python", "-m", "monai.bundle", *sys.argv[1:]])
        write_json(self.path / "metrics.json", metrics)
