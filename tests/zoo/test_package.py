"""The package of the weights in the repository, checked by the steps of the Model Zoo, outside the repository."""

import errno
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from jsonschema import validate
from PIL import Image
from processes import run_python

from bundle.data.marks import read_marks
from bundle.models.adapted import AdaptedModels, save_packed
from bundle.models.artefacts import read_artefact
from bundle.report.measured import READINGS
from bundle.runs.sums import file_sha256, read_sums
from bundle.zoo.archive import sorted_files, unpack
from bundle.zoo.package import build_package, described, pack_weights, with_default

SCHEMA = Path(__file__).parents[1] / "resources" / "meta_schema_20240725.json"
CLASSES = ["ADI", "BACK", "LYM", "MUC", "MUS", "NORM", "TUM"]


def weights_of(root):
    """What scripts/package.py takes where no others are named."""
    places = {"adapted_dir": "adapt", "pretrained_dir": "pretrain", "diffusion_dir": "adapt_diffusion"}
    places |= {"evaluation_dir": "adapt_diffusion"}
    return {name: root / "models" / place for name, place in places.items()}


def run(*command, cwd, fresh=False):
    done = run_python(*command, cwd=cwd, fresh=fresh)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def packaged(bundle_root, tmp_path_factory):
    """(folder, zip) by the command, from a folder that is not the repository."""
    elsewhere = tmp_path_factory.mktemp("packaged")
    run(bundle_root / "scripts" / "package.py", "--output_dir", "dist", cwd=elsewhere)
    (archive,) = (elsewhere / "dist").glob("*.zip")
    return elsewhere / "dist" / "histodiffusion", archive


@pytest.fixture(scope="module")
def zoo(bundle_root, packaged, tmp_path_factory):
    """A root like the Zoo's, with the bundle unpacked in models/."""
    root = tmp_path_factory.mktemp("zoo")
    run(bundle_root / "scripts" / "unpack.py", packaged[1], root / "models", cwd=root)
    return root


def test_the_folder_is_what_the_zoo_asks_for(packaged, bundle_root):
    folder, archive = packaged
    version = json.loads((bundle_root / "configs" / "metadata.json").read_text())["version"]
    assert archive.name == f"histodiffusion_v{version}.zip"
    for name in (
        "LICENSE",
        "configs/metadata.json",
        "configs/inference.json",
        "configs/logging.conf",
        "docs/README.md",
        "docs/data_license.txt",
        "docs/model_card.md",
        "docs/test_histodiffusion.py",
        "models/model.pt",
        "models/pretrain/autoencoder.pt",
        "bundle/__init__.py",
        "bundle/report/page.html.j2",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert not list(folder.rglob("__pycache__")) and not (folder / "large_files.yml").exists()
    assert "Serdar Balci" in (folder / "docs" / "data_license.txt").read_text()
    assert f'version = "{version}"' in (bundle_root / "pyproject.toml").read_text()


def test_the_same_bytes_in_another_process_and_folder(packaged, bundle_root, tmp_path):
    folder, archive = build_package(bundle_root, tmp_path / "other", **weights_of(bundle_root))
    assert [path.name for path in sorted_files(folder)] == [path.name for path in sorted_files(packaged[0])]
    assert archive.read_bytes() == packaged[1].read_bytes()
    with pytest.raises(FileExistsError, match="histodiffusion is there already: remove it, or give another --output_d"):
        build_package(bundle_root, tmp_path / "other", **weights_of(bundle_root))


def test_the_repositorys_diffusion_model_goes_with_its_own_weights_only(bundle_root, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("package", bundle_root / "scripts" / "package.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (tmp_path / "any.zip").touch()
    given = {}
    monkeypatch.setattr(script, "build_package", lambda _, **asked: (given.update(asked), tmp_path / "any.zip"))
    ours = weights_of(bundle_root)
    for flags, expected in (
        ([], ours),
        (["--adapted_dir", "a"], {**ours, "adapted_dir": Path("a"), "diffusion_dir": None, "evaluation_dir": None}),
        (["--diffusion_dir", "d"], {**ours, "diffusion_dir": Path("d"), "evaluation_dir": None}),
        (["--evaluation_dir", "e"], {**ours, "evaluation_dir": Path("e")}),
    ):
        monkeypatch.setattr(sys, "argv", ["package.py", *flags])
        script.main()
        assert {name: given[name] for name in expected} == expected, flags


def test_the_weights_are_those_of_the_repository(packaged, bundle_root, tmp_path):
    """The diffusion model being the adapted one."""
    for folder in ("adapt", "adapt_diffusion"):
        shutil.copytree(bundle_root / "models" / folder, tmp_path / "adapted", dirs_exist_ok=True)
    original = AdaptedModels(tmp_path / "adapted").prepare()
    models = AdaptedModels(packaged[0] / "models").prepare()
    assert models.fingerprint == original.fingerprint
    assert all(torch.equal(tensor, models.state_dict()[name]) for name, tensor in original.state_dict().items())
    recorded = read_sums(packaged[0] / "models" / "SHA256SUMS")
    assert recorded["model.pt"] == file_sha256(packaged[0] / "models" / "model.pt")
    assert {"definition.json", "judge_grey.pt", "split.csv"} < recorded.keys()


def test_metadata_hold_by_the_official_schema_and_say_what_was_measured(packaged, bundle_root):
    metadata = json.loads((packaged[0] / "configs" / "metadata.json").read_text())
    validate(metadata, json.loads(SCHEMA.read_text()))
    adapted, pretrained = (
        json.loads((bundle_root / "models" / name / "metrics.json").read_text()) for name in ("adapt", "pretrain")
    )
    found = metadata.pop("eval_metrics")
    assert found["autoencoder_psnr"] == pretrained["autoencoder"]["psnr"]
    assert found["diffusion_loss"] == pretrained["diffusion"]["loss"]
    assert found["decoder_held_out_slides_after_ssim"] == adapted["decoder"]["held_out_slides"]["after"]["ssim"]
    first = adapted["latent_classifier"]["accuracy_by_timestep"][0]
    assert found["latent_classifier_test_accuracy_at_0"] == first["test"]["accuracy"]
    assert "autoencoder_lpips" not in found, "null was not measured"
    # The networks are described from the weights; those of the repository as its own metadata say.
    assert metadata == json.loads((bundle_root / "configs" / "metadata.json").read_text())


def test_the_card_has_figures_training_and_attribution(packaged, bundle_root):
    card, readme = ((packaged[0] / "docs" / name).read_text() for name in ("model_card.md", "README.md"))
    metrics = json.loads((bundle_root / "models" / "adapt" / "metrics.json").read_text())
    origin = json.loads((bundle_root / "models" / "adapt" / "origin.json").read_text())
    psnr = f"| PSNR in dB, fine-tuned decoder | {metrics['decoder']['same_slides']['after']['psnr']:.4g} |"
    assert psnr in card and psnr in readme
    assert origin["command"] in card and origin["commit"] in card
    assert (bundle_root / "docs" / "data_license.txt").read_text().strip() in card
    assert file_sha256(packaged[0] / "models" / "model.pt") in card
    evaluation = json.loads((bundle_root / "models" / "adapt_diffusion" / "evaluation.json").read_text())
    agreement = evaluation["agreement"]["overall"]["agreement_grey"]["value"]
    assert f"| The judge agrees, in grey | {agreement:.3f} |" in card and "They were not evaluated" not in card
    assert "not tissue" not in card
    assert "### Diffusion model, adapted" in card
    for title in ("Intended use", "Limits", "Data", "Training", "Risks", "Licence and attribution"):
        assert f"\n## {title}\n" in card
    for title in ("# Model Overview", "## Data", "## Training configuration", "## Performance", "# References"):
        assert title in readme
    metadata = json.loads((packaged[0] / "configs" / "metadata.json").read_text())
    (install,) = re.findall(r"^python -m pip install (.*)$", readme, re.MULTILINE)
    assert {"monai==1.6.1", f"torch=={metadata['pytorch_version']}", "timm==1.0.31"} < set(install.split())
    assert len(install.split()) == 3 + len(metadata["required_packages_version"])
    for page in (card, readme):
        assert "None" not in page and not re.search(r"\n{4}", page)
        for link in re.findall(r"\]\(([^)h#][^)]*)\)", page):
            assert (packaged[0] / "docs" / link).is_file(), link
    assert "| train | " + " | ".join(["32"] * 7) + " |\n" in card


def test_no_measurement_is_written_in_code_or_template(packaged, bundle_root):
    """Each figure of the tables is one of the files: the templates hold no decimal number at all."""
    for path in (bundle_root / "bundle" / "zoo").glob("*.j2"):
        assert not re.search(r"\d\.\d", path.read_text()), path


MAKE = ("--num_images", "2", "--num_inference_steps", "2", "--device", "cpu", "--precision", "fp32")


def test_images_of_each_class_by_one_command_from_a_folder_outside(zoo, tmp_path):
    bundle = zoo / "models" / "histodiffusion"
    places = ("--config_file", bundle / "configs" / "inference.json", "--bundle_root", bundle)
    run("-m", "monai.bundle", "run", *places, *MAKE, cwd=tmp_path, fresh=True)
    pool = tmp_path / "runs" / "synthesis" / "pool"
    assert sorted(path.name for path in pool.iterdir() if path.is_dir()) == CLASSES
    for name in CLASSES:
        images = sorted((pool / name).glob("*.png"))
        assert len(images) == 2 and read_marks(images[0])
        assert Image.open(images[0]).size == (64, 64)
        assert images[0].read_bytes() != images[1].read_bytes()


ZOO_STEPS = """
import json
import sys
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, create_workflow, load, verify_metadata, verify_net_in_out
root, schema, made = "models/histodiffusion", sys.argv[1], sys.argv[2]
names = {"meta_file": f"{root}/configs/metadata.json", "config_file": f"{root}/configs/inference.json"}
verify_metadata(meta_file=names["meta_file"], filepath=schema, hash_val="06954cad2cc5d3784e72077ac76f0fc8")
verify_net_in_out("network_def", **names, bundle_root=root, device="cpu", **{"network_def#num_inference_steps": 1})
workflow = ConfigWorkflow(workflow_type="infer", config_file=names["config_file"], meta_file=names["meta_file"],
                          bundle_root=root)
workflow.initialize()
assert not workflow.check_properties(), workflow.check_properties()
settings = {"num_images": 1, "num_inference_steps": 2, "device": "cpu", "output_dir": made, "precision": "fp32"}
workflow = create_workflow(config_file=names["config_file"], workflow_type="inference", bundle_root=root, **settings)
workflow.run()
workflow.finalize()
import bundle
assert bundle.__file__.startswith(sys.argv[3])  # the package's, not the repository's
with open(made + ".json", "w") as file:
    json.dump({"bundle_root": root}, file)
network = load("histodiffusion", bundle_dir="models", workflow_type="inference", device="cpu", args_file=made + ".json")
network.num_inference_steps = 1
noise = torch.randn(1, 3, 32, 32)
with torch.no_grad():
    patch = network(noise)
assert patch.shape == (1, 3, 64, 64)
ckpt_export("network_def", filepath=made + ".ts", ckpt_file=f"{root}/models/model.pt", use_trace=True, **names,
            bundle_root=root, device="cpu", **{"network_def#num_inference_steps": 1}, input_shape=[1, 3, 32, 32])
torch.testing.assert_close(torch.jit.load(made + ".ts")(noise), patch, rtol=0, atol=1e-4)
print("all steps done")
"""


def test_the_steps_of_the_zoo_from_its_root(zoo, tmp_path):
    """Metadata, shapes, properties, a workflow from Python, loading and export, with the bundle two folders below."""
    schema = shutil.copy(SCHEMA, tmp_path / "schema.json")
    assert "all steps done" in run("-c", ZOO_STEPS, schema, tmp_path / "made", zoo, cwd=zoo)
    assert len(list((tmp_path / "made" / "pool").glob("*/*.png"))) == 7


@pytest.mark.slow  # the gate checks the same files by the same rules where they are written
@pytest.mark.parametrize(
    "tool, settings",
    [
        ("black", ("--check", "--skip-magic-trailing-comma", "--line-length", "120")),
        ("isort", ("--check", "--profile", "black", "--line-length", "120", "--project", "models")),
        ("flake8", ("--max-line-length", "120", "--extend-ignore", "E203,W503")),
    ],
)
def test_the_style_of_the_zoo(zoo, tool, settings):
    (zoo / "setup.cfg").touch()  # a root of its own
    run("-m", tool, *settings, "models", cwd=zoo)


@pytest.mark.parametrize("name", ["models/model.pt", "models/judge_grey.pt", "models/pretrain/diffusion.pt"])
def test_weights_that_fail_their_hash_are_refused(zoo, tmp_path, name):
    folder = shutil.copytree(zoo / "models" / "histodiffusion" / "models", tmp_path / "models")
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = rf"{path.name} is not the file that was packaged: its SHA-256 .* records .*Unpack the bundle again"
    with pytest.raises(ValueError, match=message):
        if path.name == "model.pt":
            AdaptedModels(folder).prepare()
        else:
            read_artefact(path, path.stem)


def test_other_weights_among_the_packaged_ones_are_refused(zoo, tmp_path, bundle_root):
    folder = shutil.copytree(zoo / "models" / "histodiffusion" / "models", tmp_path / "models")
    shutil.copy(bundle_root / "models" / "adapt" / "image_classifier.pt", folder)
    with pytest.raises(ValueError, match="records none.*keep weights of your own in another folder"):
        read_artefact(folder / "image_classifier.pt", "image_classifier")
    save_packed(AdaptedModels(bundle_root / "models" / "adapt").prepare(), folder)  # fp32: other bytes
    with pytest.raises(ValueError, match="model.pt is not the file that was packaged"):
        AdaptedModels(folder).prepare()


def test_a_full_disk_is_said_and_leaves_nothing(bundle_root, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(
        OSError, match="the disk is full: .*/histodiffusion could not be written, .*--output_dir on anoth"
    ):
        build_package(bundle_root, tmp_path, bundle_root / "models" / "adapt", bundle_root / "models" / "pretrain")
    assert not list(tmp_path.iterdir())


def test_large_files_are_named_with_hash_and_address(bundle_root, tmp_path):
    weights = {"adapted_dir": bundle_root / "models" / "adapt", "pretrained_dir": bundle_root / "models" / "pretrain"}
    message = "models/model.pt, models/pretrain/diffusion.pt: over 5 MB.*--large_files_url https"
    with pytest.raises(ValueError, match=message):
        build_package(bundle_root, tmp_path, **weights, large=5_000_000)
    assert not list(tmp_path.iterdir()), "a failure leaves nothing"
    url = "https://example.org/v1/"
    folder, archive = build_package(bundle_root, tmp_path, **weights, large=5_000_000, large_files_url=url)
    first = yaml.safe_load((folder / "large_files.yml").read_text())["large_files"][0]
    assert first == {
        "path": "models/model.pt",
        "url": "https://example.org/v1/models/model.pt",
        "hash_val": file_sha256(folder / "models" / "model.pt"),
        "hash_type": "sha256",
    }
    from monai.bundle import download_large_files

    download_large_files(str(folder))  # all are there, with the right hashes
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match="get the weights .*download_large_files"):
        AdaptedModels(folder / "models").prepare()
    again = shutil.make_archive(str(tmp_path / "without"), "zip", tmp_path, "histodiffusion")
    assert not (unpack(Path(again), tmp_path / "unpacked") / "models" / "model.pt").exists()


def figure(value, floor):
    return {"value": value, "floor": floor, "interval": [value, value], "floor_interval": [floor, floor]}


def test_an_adapted_diffusion_model_with_its_evaluation(bundle_root, tmp_path):
    """It takes the other's place; figures of its images are told, of others refused."""
    models = bundle_root / "models"
    settings = {"adapted_dir": models / "adapt", "pretrained_dir": models / "pretrain"}
    settings |= {"diffusion_dir": models / "adapt_diffusion"}
    packed = pack_weights(tmp_path / "models", *settings.values())
    expected = read_artefact(models / "adapt_diffusion" / "diffusion.pt", "diffusion")["fingerprint"]
    assert packed.facts["diffusion"]["fingerprint"] == expected
    fingerprint = packed.fingerprint
    runs = tmp_path / "evaluate"
    runs.mkdir()
    folder, _ = build_package(bundle_root, tmp_path / "bare", **settings)
    assert "They were not evaluated" in (folder / "docs" / "model_card.md").read_text()
    settings["evaluation_dir"] = runs
    with pytest.raises(FileNotFoundError, match="has no evaluation.json: evaluate first"):
        build_package(bundle_root, tmp_path / "dist", **settings)
    overall = {"kid": {**figure(0.143, 0.287), "better": "lower"}}
    evaluation = {
        "synthetic": {"model": fingerprint, "images": {"ADI": 9}, "settings": {"guidance_scale": 3.0, "cap": None}},
        "reference": {"part": "test"},
        "floor": {"part": "unused"},
        "compared": {"ADI": 7},
        "fidelity": {"judge_grey": {"overall": overall, "metrics": {"kid": {"title": "Kernel distance"}}}},
        "copies": {"overall": {"flagged": {**figure(0.5, 0.25), "better": "lower"}}},
    }
    (runs / "evaluation.json").write_text(json.dumps(evaluation))
    folder, _ = build_package(bundle_root, tmp_path / "dist", **settings)
    card = (folder / "docs" / "model_card.md").read_text()
    assert "Settings: guidance scale 3.0." in card
    row = f"| Kernel distance | 0.143 | 0.143 to 0.143 | 0.287 | 0.287 to 0.287 | {READINGS['better']} |"
    assert row in card and READINGS["worse"] in card and "9 images, of which 7 are compared" in card
    found = json.loads((folder / "configs" / "metadata.json").read_text())["eval_metrics"]
    assert found["diffusion_loss_after"] and "### Diffusion model, adapted" in card
    assert found["synthetic_fidelity_judge_grey_kid"] == figure(0.143, 0.287)
    evaluation["synthetic"]["model"] = "0" * 64
    (runs / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(ValueError, match="is of images that the model 0+ made; .*leave out --evaluation_dir"):
        build_package(bundle_root, tmp_path / "others", **settings)


def test_weights_of_other_sizes_describe_themselves(bundle_root, adapted, pretrained, tmp_path):
    """Tiny ones, trained on built-in patches in full precision."""
    folder, _ = build_package(bundle_root, tmp_path, adapted, pretrained)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [16, 16]
    assert metadata["network_data_format"]["outputs"]["pred"]["spatial_shape"] == [32, 32]
    assert metadata["diffusion_data_format"]["inputs"]["image"]["spatial_shape"] == ["2*n", "2*n"]
    assert metadata["classifier_data_format"]["outputs"]["pred"]["num_channels"] == 9
    card = (folder / "docs" / "model_card.md").read_text()
    assert "not tissue" in card and "run training" not in card.split("## Measured")[0].split("## Training")[1]
    assert AdaptedModels(folder / "models").prepare().fingerprint == AdaptedModels(adapted).prepare().fingerprint
    with pytest.raises(ValueError, match="adapted from another autoencoder than that of .*--pretrained_dir"):
        build_package(bundle_root, tmp_path / "mixed", adapted, bundle_root / "models" / "pretrain")


def test_a_config_whose_default_moved_is_an_error(tmp_path):
    path = tmp_path / "inference.json"
    path.write_text('{\n    "adapted_dir": "$1",\n}')
    with pytest.raises(ValueError, match="inference.json has 0 plain defaults of adapted_dir"):
        with_default(path, "adapted_dir", "models")


def test_metadata_are_described_without_touching_what_was_given(bundle_root):
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    before = json.dumps(metadata)
    described(metadata, AdaptedModels(bundle_root / "models" / "adapt").prepare())
    assert json.dumps(metadata) == before
