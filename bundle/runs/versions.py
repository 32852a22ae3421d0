"""Whether what was imported is what a config was written for: MONAI, torch, and this package itself."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata
from pathlib import Path

import monai
import torch
from monai.bundle import ConfigParser
from monai.utils import version_geq

from bundle.runs.chain import CONFIGS

# As in requirements.txt. torch before 2.10 could be made to run code by a weights file (CVE-2026-24747).
OLDEST = {"monai": "1.6.1", "torch": "2.10"}


# What decides numbers or reads files; those that are not installed are left out of the record.
PACKAGES = ("monai", "torch", "torchvision", "pytorch-ignite", "timm", "numpy", "scipy", "scikit-learn", "scikit-image")
PACKAGES += ("lpips", "torch-fidelity", "pillow", "h5py", "nibabel", "safetensors")


def installed() -> dict[str, str]:
    """Versions of Python, this bundle and the packages that a run computes with, for its record."""
    found = {"python": platform.python_version()}
    found["histodiffusion"] = str(ConfigParser.load_config_file(CONFIGS / "metadata.json")["version"])
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def check_versions() -> None:
    """Refuses a MONAI or torch older than this bundle needs.

    Raises:
        RuntimeError: names the version that is there, the one that is needed, and the command that installs it.
    """
    for module in (monai, torch):
        name, found = module.__name__, str(module.__version__)
        if not version_geq(found, OLDEST[name]):
            raise RuntimeError(
                f"{name} {found} is older than the {OLDEST[name]} that this bundle needs: "
                f"python -m pip install '{name}>={OLDEST[name]}'"
            )


def check_package(parser: ConfigParser) -> None:
    """Refuses configs of another copy or version of this bundle than the code that was imported.

    Raises:
        ImportError: names both, and what to do.
    """
    root, package = Path(parser["bundle_root"]).resolve(), Path(__file__).resolve().parents[1]
    own = root / "bundle"
    if (own / "__init__.py").is_file() and not own.samefile(package):
        raise ImportError(
            f"--bundle_root {root} has a package `bundle` of its own, and that of {package.parent} was imported "
            f"before: start a new Python process, or give --bundle_root {package.parent}"
        )
    ours = ConfigParser.load_config_file(CONFIGS / "metadata.json")
    theirs = parser["_meta_"] if "_meta_" in parser else ours
    if theirs.get("name") == ours["name"] and theirs["version"] != ours["version"]:
        raise ImportError(
            f"the configs are of version {theirs['version']}, and the package `bundle` in {package.parent} is version "
            f"{ours['version']}: take the configs in {CONFIGS}, or install the version of yours (pip install .)"
        )
