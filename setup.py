"""Puts the configs into the installed package, as `bundle/configs`; all else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["bundle*"]), "bundle.configs"],
    package_dir={"bundle": "bundle", "bundle.configs": "configs"},
)
