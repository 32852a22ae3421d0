"""The folder for the hub: it loads offline with what it holds, and leaves the machine only when asked."""

import functools
import runpy
import shutil
import socket
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from evaluated import evaluation, write_evaluation
from helpers import ROOT
from PIL import Image
from safetensors.torch import load_file

from bundle.data.marks import read_marks
from bundle.models.adapted import AdaptedModels
from bundle.runs.sums import write_sums
from bundle.synthesis import inferers
from bundle.zoo import hub

SECRET = "hf_a_secret_token"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("something goes over the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv(hub.TOKEN, raising=False)


@pytest.fixture(scope="module")
def original(adapted):
    return AdaptedModels(adapted).prepare()


@pytest.fixture(scope="module")
def built(adapted, original, tmp_path_factory):
    """With an evaluation of these models, whose grids of real tiles and galleries must not go along."""
    folder = tmp_path_factory.mktemp("hub")
    content = evaluation(tuple(original.classes[:3]))
    content["synthetic"]["model"] = original.fingerprint
    write_evaluation(folder / "evaluate", content)
    return hub.build_hub(ROOT, folder / "made", adapted, evaluation_dir=folder / "evaluate")


@pytest.fixture
def copied(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy")


def test_it_holds_what_the_hub_and_its_readers_need(built, original):
    names = {path.name for path in built.iterdir()}
    pictures = {f"samples_{number}.png" for number in range(3)}
    plain = {"README.md", "LICENSE", "LICENSE_OF_WEIGHTS.txt", "model.safetensors", "definition.json", "example.py"}
    assert names == plain | pictures | {"SHA256SUMS"}
    assert all(read_marks(built / name) for name in pictures)  # no real tile
    text = (built / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---")[1])
    assert head["license_link"] in names and head["library_name"] == "monai" and "histopathology" in head["tags"]
    assert "# Model card" in text and "![Synthetic patches asked to be ADI](samples_0.png)" in text
    assert original.fingerprint in text and "`model.safetensors`: SHA-256" in text
    assert "scripts/package.py" not in text and "not tissue" in text
    assert all(tensor.is_floating_point() for tensor in load_file(built / "model.safetensors").values())


def test_it_loads_again_elsewhere_without_a_network(copied, original):
    assert hub.check_hub(copied, original.fingerprint).facts == original.facts
    read = AdaptedModels(copied)
    assert all(torch.equal(tensor, original.state_dict()[name]) for name, tensor in read.state_dict().items())


def test_its_example_runs(copied, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = functools.partial(inferers.GuidedLatentInferer, num_inference_steps=2)
    monkeypatch.setattr(inferers, "GuidedLatentInferer", quick)
    runpy.run_path(str(copied / "example.py"))
    assert read_marks(tmp_path / "samples.png") and "ADI" in capsys.readouterr().out
    with Image.open(tmp_path / "samples.png") as grid:
        assert grid.width > grid.height > 0


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (
            lambda f: (f / "README.md").write_text("other"),
            ValueError,
            "README.md is missing or another than SHA256SUMS",
        ),
        (lambda f: (f / "definition.json").unlink(), ValueError, "definition.json is missing or another"),
        (lambda f: (f / "SHA256SUMS").unlink(), FileNotFoundError, "has no SHA256SUMS: it is not a folder of"),
        (
            lambda f: ((f / "model.safetensors").write_bytes(b"half"), write_sums(f)),
            ValueError,
            "model.safetensors can't be read as weights",
        ),
    ],
)
def test_what_is_not_whole_is_refused(copied, spoil, error, message):
    spoil(copied)
    with pytest.raises(error, match=message):
        hub.check_hub(copied)


def test_other_models_and_a_folder_that_is_there_are_refused(copied, adapted):
    with pytest.raises(ValueError, match="holds the models .*, not abc: write or get it again"):
        hub.check_hub(copied, "abc")
    with pytest.raises(FileExistsError, match="copy is there already: remove it, or give another --output_dir"):
        hub.build_hub(ROOT, copied, adapted)


class Api:
    """What huggingface_hub does of it, without a network."""

    def __init__(self, error=None, damage=False):
        self.error, self.damage, self.done = error, damage, []

    def __call__(self, token):
        self.done.append(("token", token))
        return self

    def create_repo(self, name, private, exist_ok):
        if self.error:
            raise RuntimeError(self.error)
        self.done.append(("create", name, private, exist_ok))

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.folder = folder_path
        self.done.append(("upload", repo_id))
        return SimpleNamespace(oid="0a", commit_url="https://hub/commit/0a")

    def download(self, name, revision, local_dir, token):
        assert (revision, token) == ("0a", SECRET)
        shutil.copytree(self.folder, local_dir, dirs_exist_ok=True)
        if self.damage:
            (hub.Path(local_dir) / "LICENSE").write_text("cut")

    def use(self, monkeypatch):
        monkeypatch.setenv(hub.TOKEN, SECRET)
        module = SimpleNamespace(HfApi=self, snapshot_download=self.download)
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        return self


def test_a_push_makes_a_private_repository_and_checks_what_came_of_it(copied, monkeypatch):
    api = Api().use(monkeypatch)
    assert hub.push(copied, "me/patches") == "https://hub/commit/0a"
    assert api.done == [("token", SECRET), ("create", "me/patches", True, True), ("upload", "me/patches")]
    Api(damage=True).use(monkeypatch)
    with pytest.raises(ValueError, match="LICENSE is missing or another"):
        hub.push(copied, "me/patches")


def test_what_was_put_into_the_folder_later_is_not_pushed(copied, monkeypatch):
    api = Api().use(monkeypatch)
    (copied / "real_tiles.png").touch()
    with pytest.raises(ValueError, match="holds real_tiles.png, which SHA256SUMS does not record: remove it"):
        hub.push(copied, "me/patches")
    assert not api.done


def test_the_token_is_never_said(copied, monkeypatch):
    Api(error=f"401 for Bearer {SECRET}").use(monkeypatch)
    with pytest.raises(OSError, match="401 for Bearer .token.*whether the token may write") as caught:
        hub.push(copied, "me/patches")
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


def test_what_a_push_lacks_is_said(copied, monkeypatch):
    with pytest.raises(ValueError, match="--push is 'patches'; it must be OWNER/NAME"):
        hub.push(copied, "patches")
    with pytest.raises(ValueError, match="export HF_TOKEN="):
        hub.push(copied, "me/patches")
    monkeypatch.setenv(hub.TOKEN, SECRET)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'histodiffusion\[hub\]'"):
        hub.push(copied, "me/patches")


def test_the_command_pushes_only_when_asked(built, tmp_path, monkeypatch, capsys):
    sys.path.insert(0, str(ROOT / "scripts"))
    import publish_hub

    done = []
    monkeypatch.setattr(
        publish_hub, "build_hub", lambda root, **given: done.append(given) or given["output_dir"].mkdir()
    )
    monkeypatch.setattr(publish_hub, "push", lambda folder, name: done.append(name) or "address")
    publish_hub.main(["--output_dir", str(tmp_path / "a")])
    ours = {name: done[0][f"{name}_dir"].name for name in ("adapted", "pretrained", "diffusion", "evaluation")}
    assert ours == {"adapted": "adapt", "pretrained": "pretrain"} | dict.fromkeys(
        ("diffusion", "evaluation"), "adapt_diffusion"
    )
    publish_hub.main(["--output_dir", str(built), "--push", "me/patches"])  # as it is, not written anew
    assert done[1:] == ["me/patches"] and "address: it loads again" in capsys.readouterr().out
