"""Features come of the weights and the resizing that are named, and of nothing that was not given."""

import hashlib
import socket
import sys

import pytest
import timm
import torch
from candidates import CLASSES, SIDE
from compared import write_judge
from monai.bundle import ConfigWorkflow
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from bundle.data.transforms import scale_patch
from bundle.evaluation import extractors as module
from bundle.evaluation.extractors import Extractors
from bundle.training.judge import Judge

TRUNK = "test_vit"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("something is downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (5, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def adapted_dir(tmp_path_factory):
    return write_judge(tmp_path_factory.mktemp("adapted"))


@pytest.fixture
def make(adapted_dir):
    def extractors(*settings, **given):
        return Extractors(list(settings), SIDE, **{"adapted_dir": adapted_dir, **given})

    return extractors


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def timm_weights(tmp_path_factory):
    torch.manual_seed(0)
    network = timm.create_model(TRUNK, pretrained=False, num_classes=4)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(network.state_dict(), path)
    return network.eval(), path


def test_the_judge_is_the_default_and_named(make, images, adapted_dir):
    colour, grey = make("judge_colour", "judge_grey", classes=lambda: list(CLASSES)).networks
    judge = Judge(adapted_dir)
    for extractor, view in ((colour, "colour"), (grey, "grey")):
        assert torch.equal(extractor(images), judge.features(scale_patch(images), view))
        assert extractor.describe() == {
            "name": f"judge_{view}",
            "title": f"Fréchet distance in judge_{view} features",
            "weights_sha256": judge.fingerprints[view],
            "resize": "none, [-1, 1]",
            "dimension": 8,
        }
    assert colour.identity != grey.identity
    # Nothing but luminance reaches the one in grey.
    turned = images[:, [2, 1, 0]]
    assert not torch.allclose(colour(images), colour(turned)) and grey(images).shape == (5, 8)


def test_a_timm_model_is_resized_and_normalised_as_its_weights_want(make, images, timm_weights):
    network, path = timm_weights
    (extractor,) = make({"name": "vit", "trunk": TRUNK, "weights": str(path)}).networks
    config = timm.data.resolve_model_data_config(network)
    side = config["input_size"][-1]
    resized = interpolate(images.float() / 255, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = network.forward_head(network.forward_features((resized - mean) / std), pre_logits=True)
    assert side != SIDE and torch.allclose(extractor(images), expected, atol=1e-4)
    assert extractor.weights_sha256 == sha256(path) and extractor.title == "Fréchet distance in vit features"
    assert extractor.resize.startswith(f"bicubic with antialiasing to {side}, mean ")
    (other,) = make({"name": "vit", "trunk": TRUNK, "weights": str(path), "input_side": 64}).networks
    assert other.identity != extractor.identity and not torch.allclose(other(images), extractor(images), atol=1e-3)


class Means(torch.nn.Module):
    def forward(self, images):
        return images.mean((2, 3))


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "means.ts"
    torch.jit.script(Means()).save(str(path))
    return path


def test_a_torchscript_module_runs_only_with_its_own_sum(make, images, script):
    setting = {"name": "mine", "torchscript": str(script), "sha256": sha256(script).upper()}
    (extractor,) = make(setting).networks
    assert torch.allclose(extractor(images), scale_patch(images).mean((2, 3)), atol=1e-5) and extractor.dimension == 3
    (other,) = make({**setting, "mean": [0, 0, 0], "std": [1, 1, 1], "input_side": 16}).networks
    assert torch.allclose(other(images), images.float().mean((2, 3)) / 255, atol=0.02)
    assert other.resize == "bicubic with antialiasing to 16, mean [0, 0, 0], standard deviation [1, 1, 1]"
    with pytest.raises(ValueError, match="has the SHA-256 .* and 0000 was given.*not opened"):
        make({**setting, "sha256": "0000"}).networks
    with pytest.raises(ValueError, match="'mine' lacks sha256 .a TorchScript file is a program"):
        make({"name": "mine", "torchscript": str(script)})


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """Random weights of FID's network, which its class would download."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *arguments, **keywords: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *arguments: None)
        torch.manual_seed(0)
        network = fidelity.FeatureExtractorInceptionV3("x", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return network, path


def test_inception_is_fid_only_with_the_weights_of_fid(make, images, inception_weights, monkeypatch):
    network, path = inception_weights
    setting = {"name": "inception", "weights": str(path)}
    (extractor,) = make(setting).networks
    assert torch.equal(extractor(images), network(images)[0]) and extractor.dimension == 2048
    assert "FID" not in extractor.title and "of other weights" in extractor.title
    assert extractor.resize.startswith("bilinear to 299")
    monkeypatch.setattr(module, "FID_WEIGHTS", sha256(path)[:8])
    assert make(setting).networks[0].title == "FID"


def test_weights_that_hold_more_than_weights_are_not_read(make, tmp_path):
    """As torch-fidelity itself would: an arbitrary pickle."""
    path = tmp_path / "evil.pth"
    torch.save({"Conv2d_1a_3x3.conv.weight": Evil(tmp_path / "ran")}, path)
    for setting in ({"name": "inception", "weights": str(path)}, {"name": "vit", "trunk": TRUNK, "weights": str(path)}):
        with pytest.raises(ValueError, match="evil.pth (does not hold|can't be read)"):
            make(setting).networks
        assert not (tmp_path / "ran").exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_without_torch_fidelity_it_is_said_how_to_get_it(make, inception_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ImportError, match="pip install torch-fidelity"):
        make({"name": "inception", "weights": str(inception_weights[1])}).networks


def test_weights_of_another_network_are_refused(make, timm_weights, inception_weights, script):
    for setting, message in (
        (
            {"name": "inception", "weights": str(timm_weights[1])},
            "vit.safetensors does not hold the weights of the Inception",
        ),
        ({"name": "vit", "trunk": "resnet18", "weights": str(timm_weights[1])}, "other weights than this trunk"),
        ({"name": "vit", "trunk": "vit_tiny", "weights": str(timm_weights[1])}, "timm has no model 'vit_tiny'"),
        (
            {"name": "ts", "torchscript": str(timm_weights[1]), "sha256": sha256(timm_weights[1])},
            "can't be read as a Torch",
        ),
        ({"name": "vit", "trunk": TRUNK, "weights": str(timm_weights[1]), "sha256": "12"}, "and 12 was given"),
    ):
        with pytest.raises(ValueError, match=message):
            make(setting).networks


def test_missing_weights_are_named_with_what_supplies_them(make, tmp_path):
    for setting, message in (
        (
            {"name": "inception", "weights": "absent.pth"},
            "no weights at 'absent.pth'.*nothing is downloaded.*6726825d.pth",
        ),
        ({"name": "vit", "trunk": TRUNK, "weights": "absent.pt"}, "the extractor vit has no weights at 'absent.pt'"),
        ("scorer", "scorer.pt does not exist"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            make(setting, scorer_dir=tmp_path).networks
    with pytest.raises(FileNotFoundError, match="has no judge_colour.pt. Adapt first.*other --extractors"):
        make("judge_grey", adapted_dir=tmp_path).networks
    with pytest.raises(ValueError, match="tells the classes"):
        make("judge_grey", classes=lambda: ["ADI", "TUM"]).networks


@pytest.mark.parametrize(
    "settings, message",
    [
        ([], "--extractors is \\[\\]; at least one"),
        (["dino"], "--extractors names 'dino', which is none of judge_colour.*\"trunk\": A TIMM MODEL"),
        (["dinov2"], "without weights: give --extractor dinov2 --extractor_weights FILE, dinov2_vitl14_pretrain.pth"),
        (["inception"], "--extractors names 'inception', which is none of"),
        (["judge_grey", "judge_grey"], "names 'judge_grey' twice"),
        (["scorer"], "say where scorer.pt is with --scorer_dir"),
        ([{"name": "judge_grey", "trunk": "x", "weights": "y"}], "must be one of its own"),
        ([{"name": "../x", "trunk": "x", "weights": "y"}], "must be one of its own"),
        ([{"trunk": "x", "weights": "y"}], "must be one of its own"),
        ([{"name": "x", "weights": "y"}], "'x' lacks trunk or torchscript"),
        ([{"name": "x", "trunk": "y"}], "'x' lacks weights"),
        ([{"name": "inception"}], "'inception' lacks weights"),
        ([{"name": "x", "trunk": "y", "weights": "z", "side": 3}], "'x' has 'side'; it can have arguments, input_side"),
        ([3], "--extractors names 3"),
    ],
)
def test_bad_settings_are_refused_at_once(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(*settings)


def test_one_alone_needs_no_list(adapted_dir):
    assert Extractors("judge_grey", SIDE, adapted_dir).names == ["judge_grey"]
    assert Extractors({"name": "m", "trunk": "t", "weights": "w"}, SIDE, adapted_dir).names == ["m"]


def test_the_command_line_hands_over_names_and_dictionaries(bundle_root, tmp_path):
    """What MONAI makes of them on the way."""
    file = str(bundle_root / "configs" / "evaluate.json")
    own = {"name": "mine", "torchscript": "a.ts", "sha256": "00", "mean": [0, 0, 0]}
    for given in (["judge_grey", own], ("judge_grey", own)):
        made = ConfigWorkflow(config_file=file, output_dir=str(tmp_path), extractors=given)
        made.initialize()
        assert made.parser.get_parsed_content("network_def").settings == ["judge_grey", own]


def test_an_extractor_that_gives_no_rows_is_refused(make, tmp_path):
    class Maps(torch.nn.Module):
        def forward(self, images):
            return images

    path = tmp_path / "maps.ts"
    torch.jit.script(Maps()).save(str(path))
    with pytest.raises(
        ValueError, match="the extractor maps gives \\(2, 3, 32, 32\\) for 2 images; it must give \\[B, D\\]"
    ):
        make({"name": "maps", "torchscript": str(path), "sha256": sha256(path)}).networks


def test_an_extractor_that_gives_no_numbers_is_refused_before_any_image(make, tmp_path):
    class Broken(torch.nn.Module):
        def forward(self, images):
            return images.mean((2, 3)) * float("nan")

    path = tmp_path / "broken.ts"
    torch.jit.script(Broken()).save(str(path))
    with pytest.raises(ValueError, match="the extractor broken gives features that are not finite for a blank image"):
        make({"name": "broken", "torchscript": str(path), "sha256": sha256(path)}).networks
