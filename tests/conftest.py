"""What all tests share: the bundle on the import path, one thread a process, and a tiny pre-training."""

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock

# Before torch is imported. Tests run in as many processes as there are cores, and a fork has no threads.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

TINY = {
    "patch_size": 32,
    "generated_per_class": 2,
    "generated_slides": 3,
    "autoencoder_steps": 4,
    "autoencoder_batch_size": 4,
    "autoencoder_channels": [16, 16],
    "autoencoder_loss#adversarial_start": 3,
    "train#trainer#cool_down": 2,
    "norm_groups": 8,
    "diffusion_steps": 4,
    "diffusion_batch_size": 4,
    "diffusion_channels": [32, 32],
    "diffusion_architecture#attention_levels": [False, True],
    "diffusion_architecture#num_res_blocks": 1,
    "latent_orientations": 2,
    "num_inference_steps": 2,
    "checkpoint_interval": 2,
    "picture_interval": 4,
    "val_interval": 4,
    "precision": "fp32",
    "device": "cpu",
}
TINY_ADAPTATION = {
    "generated_per_class": 10,
    "labels_per_class": 4,
    "validation_share": 0.25,
    "latent_orientations": 2,
    "latents#stain_copies": 1,
    "validation_interval": 2,
    "image_classifier_steps": 4,
    "image_classifier#trainer#batch_size": 4,
    "image_classifier#architecture#extra_channels": [32],
    "judge_steps": 4,
    "judge#trainer#batch_size": 4,
    "judge#architecture#block_inplanes": [8, 8, 8, 8],
    "decoder_steps": 4,
    "decoder#trainer#batch_size": 4,
    "latent_classifier_steps": 4,
    "train#trainer#batch_size": 4,
    "half_unet#channels": [32, 32],
    "half_unet#attention_levels": [False, True],
    "encoder_trunk#extra_channels": [32],
    "diffusion_steps": 4,
    "diffusion#trainer#batch_size": 4,
    "diffusion#trainer#num_inference_steps": 2,
    "checkpoint_interval": 2,
    "precision": "fp32",
    "device": "cpu",
}
TINY_SYNTHESIS = {
    "num_images": 2,
    "num_inference_steps": 3,
    "inference_batch_size": 4,
    "guidance_scale": 100.0,
    "precision": "fp32",
    "device": "cpu",
}
TINY_CLASSIFICATION = {
    "patch_size": 32,
    "generated_per_class": 10,
    "labels_per_class": 4,
    "labelled#validation_share": 0.25,
    "trunk_arguments": {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "classifier_steps": 4,
    "train#trainer#batch_size": 4,
    "train#schedule#warmup_steps": 1,
    "validation_interval": 2,
    "colour_control#work#trees": 5,
    "checkpoint_interval": 2,
    "precision": "fp32",
    "device": "cpu",
}
TINY_SELECTION = {
    "patch_size": 32,
    "generated_per_class": 10,
    "scorer_view": "colour",  # that the candidates of tests are told apart by
    "scorer_steps": 4,
    "train#trainer#batch_size": 8,
    "residual_network#block_inplanes": [8, 8, 8, 8],
    "folds": 2,
    "train#trainer#passes": 3,
    "ratios": [50, 100],
    "maximum_rounds": 0,
    "inference_batch_size": 8,
    "checkpoint_interval": 2,
    "precision": "fp32",
    "device": "cpu",
}
TINY_EVALUATION = {
    "patch_size": 32,
    "generated_per_class": 10,
    "draws": 20,
    "frechet_draws": 2,
    "inference_batch_size": 8,
    "device": "cpu",
}
TINY_READING = {"patch_size": 32, "generated_per_class": 10, "device": "cpu"}
TINY_OF = {
    "read.json": TINY_READING,
    "evaluate.json": TINY_EVALUATION,
    "select.json": TINY_SELECTION,
    "classify.json": TINY_CLASSIFICATION,
    "adapt.json": TINY_ADAPTATION,
    "inference.json": TINY_SYNTHESIS,
    "tile.json": {},
    **dict.fromkeys(
        ("stylegan2.json", "vit_cgan.json", "baseline_inference.json"), {"device": "cpu", "precision": "fp32"}
    ),
}


# Files that take long though their tests are few.
LONG = ("test_examples.py", "test_zoo.py", "test_study_config.py", "test_command_line.py", "test_package.py")


def pytest_collection_modifyitems(items):
    """Long files first, then those of many tests, so that no process has a long one left when the others are done."""
    number = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name not in LONG, -number[item.path], item.path))


@pytest.fixture(scope="session")
def bundle_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real H&E patches, or skip."""
    folder = os.environ.get("HISTODIFFUSION_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HISTODIFFUSION_DATA does not name a folder with pretrain/ and crc7/")
    return Path(folder)


@pytest.fixture(scope="session")
def workflow():
    """Makes an initialized workflow with tiny settings, from any folder."""
    from monai.bundle import ConfigWorkflow

    def make(config="pretrain.json", **settings):
        names = [config] if isinstance(config, str) else config
        files = [str(ROOT / "configs" / name) for name in names]
        tiny = {**TINY_OF.get(names[0], TINY), **settings}
        kind = "infer" if names[0] == "inference.json" else "train"
        made = ConfigWorkflow(config_file=files, workflow_type=kind, bundle_root=str(ROOT), **tiny)
        made.initialize()
        return made

    return make


@pytest.fixture(scope="session")
def content(workflow, tmp_path_factory):
    """Makes what a config has at its ids under some flags, tiny settings beneath; nothing is run or written."""
    folder = str(tmp_path_factory.mktemp("content"))

    def make(config, **flags):
        return workflow(config, **{"output_dir": folder, **flags}).parser.get_parsed_content

    return make


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Has a folder made by one process of the tests; gives every process a copy of its own, which tests may change."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of all workers

    def copy_of(name, make):
        made = base / "made_once" / name
        made.parent.mkdir(exist_ok=True)
        with FileLock(f"{made}.lock"):
            if not made.is_dir():
                unfinished = made.with_name(f".{name}")
                shutil.rmtree(unfinished, ignore_errors=True)
                make(unfinished)
                unfinished.rename(made)
        return shutil.copytree(made, tmp_path_factory.mktemp("runs") / name)

    return copy_of


@pytest.fixture(scope="session")
def selected(workflow, made_once, tmp_path_factory):
    """A tiny selection from 16 candidates of each class, by scorers that have learnt their classes.

    Called with a folder and settings it selects there once more, by the same scorers.
    """
    from candidates import fill_pool, keys, write_labelled

    folder = tmp_path_factory.mktemp("selected")
    given = {**write_labelled(folder), "pool_dir": str(fill_pool(folder / "pool", keys(16)))}
    given |= {"cache_dir": str(folder / "cache"), "scorer_steps": 40, "train#optimizer#lr": 0.005}
    given |= {"ratios": [67, 133]}  # 4 and 8 images for the 6 labels of a class that train

    def run(output_dir, **settings):
        if not output_dir.exists():
            output_dir.mkdir(parents=True)
            for file in run.folder.glob("scorer*.pt"):
                shutil.copy(file, output_dir)
        select(output_dir, **settings)
        return output_dir

    def select(output_dir, **settings):
        workflow("select.json", **{**given, "output_dir": str(output_dir), **settings}).run()

    run.folder, run.given = made_once("selected", select), given
    for file in run.folder.glob("selection.*"):
        file.unlink()
    select(run.folder)  # from this process's own pool, by the scorers of any
    return run


@pytest.fixture(scope="session")
def pretrained(workflow, made_once) -> Path:
    """The output folder of one tiny pre-training on built-in patches."""
    return made_once("pretrain", lambda folder: workflow(output_dir=str(folder)).run())


@pytest.fixture(scope="session")
def adapted(workflow, pretrained, made_once) -> Path:
    """The output folder of one tiny adaptation to built-in patches of a slide the pre-training did not see."""
    given = {"pretrained_dir": str(pretrained)}
    return made_once("adapt", lambda folder: workflow("adapt.json", output_dir=str(folder), **given).run())
