"""Values of settings that can't be meant: refused before anything runs, by flag, value and remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

# What is text: paths, and names of what a user has; an expression or a path object may have made it.
TEXT = re.compile(r"(_dir|_file|_path|_weights|_uri)$|^(validation_slides|class_names|classes|precision)$")
NAMES = ("validation_slides", "class_names", "classes")  # of which a whole number is taken as it was written
SEED = re.compile(r"(^|_)seed$")


def check_text(name: str, value: Any) -> None:
    """Refuses a number where text is meant: a command line makes one of whatever looks like it, 12.1 of 12.10.

    Raises:
        ValueError: says so, and how to write it.
    """
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    for item in items:
        whole = isinstance(item, int) and not isinstance(item, bool)
        if isinstance(item, (int, float)) and not (whole and name in NAMES):
            hint = f"./{item}" if name not in NAMES and name != "precision" else f"'{item}'"
            quoted = f'"{hint}"' if name in NAMES else hint
            raise ValueError(
                f"--{name} is the {'number' if not isinstance(item, bool) else 'truth value'} {item!r}, and text is "
                "needed: a command line makes a number of what looks like one, and drops zeros at its end. Write it "
                f"with quotes inside quotes, --{name} {quoted}"
            )


def check_seed(name: str, value: Any) -> None:
    """Refuses a seed that is no integer of at least 0.

    Raises:
        ValueError: names it.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"--{name} is {value!r}; it must be an integer of at least 0. Give another, such as --{name} 0")
