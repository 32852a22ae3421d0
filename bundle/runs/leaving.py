"""Leaving in good order: a signal that asks a process to end has it save its state first, at the next step's end."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

GO_ON = os.EX_TEMPFAIL if hasattr(os, "EX_TEMPFAIL") else 75  # "try again later" of sysexits.h
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Leaving:
    """Whether this process was asked to leave.

    Attributes:
        asked: the signal's name, None while nobody has.
        stepping: whether steps are being taken, whose end is waited for. Otherwise it leaves at once: nothing would be
            lost that the same command doesn't find again.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self.stepping = False
        self._process = os.getpid()

    def ask(self, number: int, frame: Any) -> None:
        """The handler of the signals."""
        name = signal.Signals(number).name
        if os.getpid() != self._process:  # a loader's worker, which belongs to the process that loads
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.asked = name
        if not self.stepping:
            logger.warning(f"{name}: leaving, nothing is lost. {go_on()}")
            raise SystemExit(GO_ON)
        logger.warning(f"{name}: saving a checkpoint at the end of this step")


def go_on() -> str:
    """What to do after having left."""
    if not sys.argv[0].endswith("__main__.py"):  # a program of the user's own called us
        return "The same call goes on from here"
    return f"The same command goes on from here: {shlex.join(['python', '-m', 'monai.bundle', *sys.argv[1:]])}"


@contextmanager
def leaving_in_order() -> Iterator[Leaving]:
    """Within it signals are heard, in the main thread, as Python has it; afterwards they are handled as before."""
    leaving = Leaving()
    heard = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    former = {number: signal.signal(number, leaving.ask) for number in heard}
    try:
        yield leaving
    finally:
        for number, handler in former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
