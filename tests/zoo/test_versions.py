"""What must be installed: refused where it is older, the same in all files that say so."""

import json
import re
import shutil
import sys
import types

import pytest
from monai.bundle import ConfigWorkflow

from bundle.runs import versions

OLD = [("monai", "1.5.0"), ("monai", "1.6.0"), ("torch", "2.9.1+cpu"), ("torch", "1.13.1")]


@pytest.mark.parametrize("name, version", OLD)
def test_older_versions_are_refused_when_a_config_is_initialised(monkeypatch, bundle_root, name, version):
    monkeypatch.setattr(getattr(versions, name), "__version__", version)
    made = ConfigWorkflow(config_file=str(bundle_root / "configs" / "inference.json"), workflow_type="infer")
    with pytest.raises(RuntimeError) as caught:
        made.initialize()
    error = caught.value
    while error.__cause__:
        error = error.__cause__
    needed = versions.OLDEST[name]
    expected = f"{name} {version} is older than the {needed} that this bundle needs: python -m pip install '{name}>="
    assert str(error).startswith(expected)


@pytest.mark.parametrize("name, version", [("monai", "1.6.1+3.gabc"), ("monai", "1.7.0"), ("torch", "2.10.0+cu128")])
def test_these_and_newer_ones_are_taken(monkeypatch, name, version):
    monkeypatch.setattr(getattr(versions, name), "__version__", version)
    versions.check_versions()


def test_all_files_ask_for_the_same(bundle_root):
    lines = (bundle_root / "requirements.txt").read_text().splitlines()
    required = dict(re.match(r"([\w-]+)(?:[=>]=(.*))?$", line).groups() for line in lines)
    assert versions.OLDEST == {name: required[name] for name in versions.OLDEST}
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    for name, pinned in (("monai", metadata["monai_version"]), ("torch", metadata["pytorch_version"])):
        assert versions.version_geq(pinned, versions.OLDEST[name])
    pinned = {"torch", "monai", "numpy", *metadata["required_packages_version"]}
    assert required.keys() - pinned == {"monai-generative"}, "of which only a script has need"


def root_of(error):
    while error.__cause__:
        error = error.__cause__
    return str(error)


def initialised(bundle_root, **settings):
    settings = {"bundle_root": str(bundle_root), **settings}
    made = ConfigWorkflow(
        config_file=str(bundle_root / "configs" / "inference.json"), workflow_type="infer", **settings
    )
    made.initialize()


def test_a_package_of_the_same_name_is_not_taken_for_this_one(monkeypatch, bundle_root):
    other = types.ModuleType("bundle")
    other.__file__ = "/elsewhere/bundle/__init__.py"
    monkeypatch.setitem(sys.modules, "bundle", other)
    with pytest.raises(RuntimeError) as caught:
        initialised(bundle_root)
    assert root_of(caught.value) == "cannot import name 'histodiffusion' from 'bundle' (/elsewhere/bundle/__init__.py)"


def test_another_copy_of_this_package_is_named(bundle_root, tmp_path):
    for folder in ("bundle", "configs"):
        shutil.copytree(bundle_root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.raises(RuntimeError) as caught:
        initialised(tmp_path)
    assert re.fullmatch(
        f"--bundle_root {tmp_path} has a package `bundle` of its own, and that of {bundle_root} was imported before: "
        f"start a new Python process, or give --bundle_root {bundle_root}",
        root_of(caught.value),
    )


def test_configs_of_another_version_are_named(bundle_root, tmp_path):
    shutil.copytree(bundle_root / "configs", tmp_path / "configs")
    metadata = tmp_path / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**content, "version": "0.0.1"}))
    with pytest.raises(RuntimeError) as caught:
        initialised(tmp_path)
    message = root_of(caught.value)
    assert message.startswith("the configs are of version 0.0.1, and the package `bundle` in ")
    assert f"is version {content['version']}: take the configs in {bundle_root / 'configs'}" in message
