"""TorchScript files. They are programs, so one is opened only where its SHA-256 was given by who means it."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from bundle.models.foreign_weights import reason_of

WHY_SHA256 = "a TorchScript file is a program that will run: say which one you mean"


def load_torchscript(path: Path, device: torch.device | str = "cpu") -> torch.nn.Module:
    """The module of a file that has been checked, in evaluation mode.

    Raises:
        ValueError: it can't be read as one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch has no other reader of these files
            return torch.jit.load(str(path), map_location=device).eval()
    except Exception as error:
        raise ValueError(f"{path} can't be read as a TorchScript module ({reason_of(error)})") from error
