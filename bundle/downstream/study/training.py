"""One training of the study, in this process or in one of several."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bundle.downstream.study.rows import Row
from bundle.runs.chain import run_config
from bundle.runs.files import write_json

logger = logging.getLogger(__name__)

DONE, FAILED = "done", "failed: "


@dataclass(frozen=True)
class Training:
    """How the classifiers of all rows are trained.

    Args:
        steps: optimiser steps of every row but those that ask for a share of them.
        classification: further settings of configs/classify.json.
        strong_stain: settings of configs/classify.json for rows with strong stain augmentation.
        parallel_runs: how many classifiers are trained at a time, each in a process of its own with its share of the
            threads. It changes rounding at most.
    """

    steps: int
    classification: Mapping[str, Any] = field(default_factory=dict)
    strong_stain: Mapping[str, Any] = field(default_factory=dict)
    parallel_runs: int = 1

    def settings(self, row: Row, **own: Any) -> dict[str, Any]:
        """Those of one training of a row; `own` are of the single training, such as its seed."""
        settings = {**self.classification, **row.settings, **own}
        settings["classifier_steps"] = max(1, round(self.steps * row.steps))
        return settings | (dict(self.strong_stain) if row.stain else {})


def train(name: str, folder: Path, facts: dict[str, Any], run_id: str, settings: dict[str, Any]) -> None:
    """Trains one classifier by configs/classify.json; what it came to is then in its run.json.

    Args:
        name: for people.
        folder: of the run.
        facts: what run.json is to say besides "status" and "metrics".
        run_id: what of the config is run.
        settings: of the config.
    """
    try:
        run_config("classify.json", run_id, **settings)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        facts = {**facts, "status": DONE, "metrics": metrics}
    except Exception as error:  # one broken row must not cost the others
        logger.exception(f"study: {name} failed")
        facts = {**facts, "status": FAILED + one_line(error)}
    write_json(folder / "run.json", facts)


def one_line(error: BaseException) -> str:
    """Kind and text of an error's first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {error}".split())


def training_processes(number: int) -> Executor:
    """What runs :func:`train`: this process where `number` is 1, otherwise so many, which share its threads."""
    if number == 1:
        return ThisProcess()
    threads = max(1, torch.get_num_threads() // number)
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads and a GPU is broken
    return ProcessPoolExecutor(number, context, _start_process, (threads,))


class ThisProcess(Executor):
    """Does at once what is submitted."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future:
        future: Future = Future()
        future.set_result(function(*arguments, **named))
        return future


def _start_process(threads: int) -> None:
    torch.set_num_threads(threads)
    show = tqdm.__init__
    # Bars of several processes would overwrite each other.
    tqdm.__init__ = lambda bar, *arguments, **named: show(bar, *arguments, **{**named, "disable": True})
    parent = multiprocessing.parent_process()
    # After kill -9 of the study nobody would stop this process, and its folders would stay locked.
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
