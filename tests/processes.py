"""Python processes of a test's own, quickly: as children of this one, which has torch and MONAI imported already.

A new process imports both for ten seconds. A child of this one by fork has them, and is made to look new where it
matters: it imports the bundle anew, from wherever `sys.path` of a new process would find it, and has its own current
folder, environment, arguments, output and exit status. It is as mortal as any other process.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
# A fork has no threads but one. Without a GPU and with one OpenMP thread, as conftest.py sets it, torch has no others.
CAN_FORK = sys.platform == "linux" and not torch.accelerator.is_available() and torch.get_num_threads() == 1


class ForkedPython:
    """What of subprocess.Popen the tests need."""

    def __init__(self, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str]) -> None:
        self.arguments, self._said = arguments, [tempfile.TemporaryFile() for _ in range(2)]
        self._process = multiprocessing.get_context("fork").Process(
            target=_as_new_python, args=(arguments, cwd, environment, *self._said)
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        found = []
        for file in self._said:
            file.seek(0)
            found.append(file.read().decode())
            file.close()
        return tuple(found)


def start_python(
    *arguments: object, cwd: str | Path | None = None, environment: Mapping[str, str] | None = None, fresh: bool = False
) -> ForkedPython | subprocess.Popen:
    """Starts `python arguments`: `-c CODE`, `-m MODULE` or a script, with what follows it.

    Args:
        arguments: of Python.
        cwd: where; a folder of the test's own if it is to be elsewhere than the repository.
        environment: what of the environment is other than here. PYTHONPATH is never inherited.
        fresh: a new process even where a fork would do.
    """
    arguments = tuple(map(str, arguments))
    environment = {**{name: text for name, text in os.environ.items() if name != "PYTHONPATH"}, **(environment or {})}
    if CAN_FORK and not fresh:
        return ForkedPython(arguments, Path(cwd or "."), environment)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], cwd=cwd, env=environment, **pipes)


def run_python(*arguments: object, timeout: float = 300, **where: object) -> subprocess.CompletedProcess:
    """Runs `python arguments` to its end; see :func:`start_python`."""
    process = start_python(*arguments, **where)
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def wait_for(flag: Path, process: ForkedPython | subprocess.Popen, seconds: float = 180) -> None:
    """Until a process has made the file `flag`; says what it said if it ends before."""
    deadline = time.monotonic() + seconds
    while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if not flag.exists():
        process.kill()
        raise AssertionError(process.communicate()[1][-2000:])


def run_until_killed(code: str, flag: Path, fresh: bool = False) -> None:
    """Runs Python code in a process of its own and kills it, as by kill -9, once it has made the file `flag`."""
    process = start_python("-c", code, fresh=fresh)
    wait_for(flag, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def fork_what_is_spawned(monkeypatch) -> None:
    """Has code that asks multiprocessing for new processes get forks."""
    forks = multiprocessing.get_context("fork" if CAN_FORK else "spawn")

    def get_context(method):
        assert method == "spawn", "outside tests a process may have threads and a GPU"
        return forks

    monkeypatch.setattr(multiprocessing, "get_context", get_context)


def _as_new_python(arguments, cwd, environment, *said) -> None:
    """In the child: does what Python does with such arguments."""
    for number, (name, file) in enumerate(zip(("stdout", "stderr"), said), 1):
        os.dup2(file.fileno(), number)
        stream = open(number, "w", buffering=1, encoding="utf-8", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    for logger in logging.root.manager.loggerDict.values():  # MONAI's own write to the standard output of then
        for handler in getattr(logger, "handlers", ()):
            if type(handler) is logging.StreamHandler:
                handler.setStream(sys.stdout)
    sys.excepthook = sys.__excepthook__
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    _forget_the_repository()
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep) if environment.get("PYTHONPATH") else []
    try:
        _run(*arguments)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else end.code is not None
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(int(status))


def _forget_the_repository() -> None:
    """Nothing of it is imported, and no import finds it; a virtual environment in it stays."""

    def is_of_it(place: str) -> bool:
        return Path(place).resolve().is_relative_to(ROOT) and not Path(place).is_relative_to(sys.prefix)

    sys.path[:] = [place for place in sys.path if place and not is_of_it(place)]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.split(".")[0] == "bundle" or (file and is_of_it(file)):
            del sys.modules[name]


def _run(kind: str, *rest: str) -> None:
    if kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = list(rest)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")
