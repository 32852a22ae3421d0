"""What pyproject.toml cannot say: configs go into the package as `bundle/configs`, and one requirement is an extra."""

from pathlib import Path

from setuptools import find_packages, setup

REQUIRED = Path("requirements.txt").read_text(encoding="utf-8").split()
GENERATIVE = [name for name in REQUIRED if name.startswith("monai-generative")]  # of which only one script has need

setup(
    packages=[*find_packages(include=["bundle*"]), "bundle.configs"],
    package_dir={"bundle": "bundle", "bundle.configs": "configs"},
    install_requires=[name for name in REQUIRED if name not in GENERATIVE],
    extras_require={
        "generative": GENERATIVE,
        "mlflow": ["mlflow"],
        "reading": ["starlette", "uvicorn"],
        "slides": ["openslide-python", "openslide-bin", "tifffile"],
        "hub": ["huggingface_hub"],
        # As in requirements-test.txt, which the gate installs.
        "docs": ["sphinx", "myst-parser", "pydata-sphinx-theme"],
    },
)
