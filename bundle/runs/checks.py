"""Values of settings that can't be meant: refused before anything runs, by flag, value and remedy."""

from __future__ import annotations

import re
import sys
from typing import Any

import torch

# Settings that are text by their name: paths, and what a user has named.
TEXT = re.compile(r"(_dir|_file|_path|_weights|_uri)$|^(validation_slides|class_names|classes)$")
PATH = re.compile(r"_(dir|file|path|weights|uri)$")
SEED = re.compile(r"(^|[_#])seed$")
# Numbers of something: what ends so is an integer of at least 1.
COUNT = re.compile(
    r"(^|[_#])(steps|batch_size|(?<!guidance_)interval|patch_size|num_images|passes|candidates|seeds|threads|draws|runs"
    r"|rank|trees)$|^maximum_training$"
)


def check_value(name: str, value: Any) -> None:
    """Refuses what a setting of this name can't be: a number for text, a negative seed, a device that is not there, a
    number of something that is not an integer of at least 1.

    Raises:
        ValueError: names flag, value and remedy.
    """
    if TEXT.search(name):
        _check_text(name, value)
    elif SEED.search(name) and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"--{name} is {value!r}; it must be an integer of at least 0, such as --{name} 0")
    elif name == "device":
        _check_device(value)
    elif COUNT.search(name.rpartition("#")[2]):
        check_counts(**{name: value})


def check_counts(**counts: int) -> None:
    """Refuses a number of something that is not an integer of at least 1, before anything runs.

    Raises:
        ValueError: names the setting and its value.
    """
    for name, number in counts.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"--{name} is {number!r}; it must be an integer of at least 1")


def _check_text(name: str, value: Any) -> None:
    """A command line makes a number of whatever looks like one: 12.1 of 12.10, 1000 of 1_000."""
    typed = next((text for flag, text in zip(sys.argv, sys.argv[1:]) if flag == f"--{name}"), None)
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(item, (int, float)):
            continue
        changed = typed is not None and item is value and typed != str(item)
        if isinstance(item, int) and not isinstance(item, bool) and not PATH.search(name) and not changed:
            continue  # a name such as 7, which comes out as it was written
        text = f"{'./' * bool(PATH.search(name))}{typed if changed else item}"
        example = f"\"['{text}', ...]\"" if item is not value else text if PATH.search(name) else f"\"'{text}'\""
        raise ValueError(
            f"--{name} is the number {item!r} where text is needed: the command line makes a number of what looks like "
            f"one, 12.1 of 12.10. Write --{name} {example}"
        )


def _check_device(value: Any) -> None:
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"--device is {value!r}, which torch does not know; give cpu, cuda, cuda:1 or mps") from error
    number = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= number:
        raise ValueError(
            f"--device is {str(device)!r}, and torch finds {number} NVIDIA GPUs here; give --device cpu, or install "
            "the torch that fits the driver of the GPU"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device is 'mps', and torch finds no Apple GPU here; give --device cpu")
