"""What must be installed: refused where it is older, the same in all files that say so."""

import json
import re

import pytest

from bundle.runs import workflow

OLD = [("monai", "1.5.0"), ("monai", "1.6.0"), ("torch", "2.9.1+cpu"), ("torch", "1.13.1")]


@pytest.mark.parametrize("name, version", OLD)
def test_older_versions_are_refused_when_a_config_is_initialised(monkeypatch, bundle_root, name, version):
    from monai.bundle import ConfigWorkflow

    monkeypatch.setattr(getattr(workflow, name), "__version__", version)
    made = ConfigWorkflow(config_file=str(bundle_root / "configs" / "inference.json"), workflow_type="infer")
    with pytest.raises(RuntimeError) as caught:
        made.initialize()
    error = caught.value
    while error.__cause__:
        error = error.__cause__
    needed = workflow.OLDEST[name]
    expected = f"{name} {version} is older than the {needed} that this bundle needs: python -m pip install '{name}>="
    assert str(error).startswith(expected)


@pytest.mark.parametrize("name, version", [("monai", "1.6.1+3.gabc"), ("monai", "1.7.0"), ("torch", "2.10.0+cu128")])
def test_these_and_newer_ones_are_taken(monkeypatch, name, version):
    monkeypatch.setattr(getattr(workflow, name), "__version__", version)
    workflow.check_versions()


def test_all_files_ask_for_the_same(bundle_root):
    lines = (bundle_root / "requirements.txt").read_text().splitlines()
    required = dict(re.match(r"([\w-]+)(?:[=>]=(.*))?$", line).groups() for line in lines)
    assert workflow.OLDEST == {name: required[name] for name in workflow.OLDEST}
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    for name, pinned in (("monai", metadata["monai_version"]), ("torch", metadata["pytorch_version"])):
        assert workflow.version_geq(pinned, workflow.OLDEST[name])
    pinned = {"torch", "monai", "numpy", *metadata["required_packages_version"]}
    assert required.keys() - pinned == {"monai-generative"}, "of which only a script has need"
