"""The same steps of each stage in one process, in parts, and shared by two processes."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import torch
from conftest import ROOT, TINY, TINY_OF
from helpers import assert_equal
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from processes import start_python

from bundle.runs import job

# Weights with a gradient of zero get rounding errors, which Adam makes steps of unless its epsilon is above them. A
# rectifier or hinge on whose edge an error falls makes a difference that grows: hence the small rates, which keep 20
# steps from it.
EPSILON, RATE = 1e-3, 1e-5
# Stage -> config, its trainer of what the config has at its ids, settings.
STAGES = {
    "autoencoder": ("pretrain.json", lambda at: at("train#trainer"), {}),
    "diffusion": ("pretrain.json", lambda at: at("diffusion#trainer"), {"diffusion#trainer#warm_up": 2}),
    "image_classifier": ("adapt.json", lambda at: at("image_classifier#trainer"), {}),
    "judge": ("adapt.json", lambda at: at("judge#trainer")[1], {}),
    "decoder": ("adapt.json", lambda at: at("decoder#trainer"), {"decoder#loss#balance": "adaptive"}),
    "latent_classifier": ("adapt.json", lambda at: at("train#trainer"), {"half_unet#dropout": 0.1}),
    "full": ("adapt.json", lambda at: at("diffusion#trainer"), {"diffusion_method": "full"}),
    "low_rank": ("adapt.json", lambda at: at("diffusion#trainer"), {"diffusion_method": "low_rank"}),
    "classifier": (
        "classify.json",
        lambda at: at("train#trainer"),
        {"train#trainer#mixup_alpha": 0.3, "train#trainer#cutmix_alpha": 0.5, "train#architecture#dropout": 0.1},
    ),
    "scorer": ("select.json", lambda at: at("train#trainer"), {}),
}
RATES = {"autoencoder": "autoencoder_learning_rate", "diffusion": "diffusion_learning_rate"}
SECTIONS = {**dict.fromkeys(("full", "low_rank", "diffusion"), "diffusion")}
SECTIONS |= {name: name for name in ("image_classifier", "judge", "decoder")}
WORKER = """
import os, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests", {root!r} + "/tests/training"]
import torch, ways
found = {{stage: ways.steps(stage, {folder!r}, {count}, **{settings!r}) for stage in {stages!r}}}
torch.save(found, {result!r} + os.environ["RANK"])
"""


def trainer_of(stage: str, folder: str | Path, steps: int, batch_size: int = 7, **settings):
    """The trainer of a stage on the folders `pretrain` and `adapt` in a folder."""
    config, place, own = STAGES[stage]
    tiny = {name: value for name, value in TINY_OF.get(config, TINY).items() if name != "labels_per_class"}
    places = {name: str(Path(folder) / name) for name in ("pretrain", "adapt")}
    given = {
        "pretrain.json": {"output_dir": places["pretrain"]},
        "adapt.json": {
            "output_dir": str(Path(folder) / stage) if "diffusion_method" in own else places["adapt"],
            "pretrained_dir": places["pretrain"],
            "labels_per_class": 4,
        },
    }.get(config) or {
        "output_dir": str(Path(folder) / stage),
        "split_file": places["adapt"] + "/split.csv",
        "cache_dir": places["adapt"] + "/cache",
        "labelled#validation_share": 0.2,
    }
    counts = {name: steps for name in tiny if name.endswith("_steps") and name != "num_inference_steps"}
    sizes = {name: batch_size for name in tiny if name.endswith("batch_size") and name != "inference_batch_size"}
    section = SECTIONS.get(stage, "train")
    even = {f"{section}#optimizer#eps": EPSILON, RATES.get(stage, f"{section}#optimizer#lr"): RATE}
    given |= {**counts, **sizes, **even, **own, "checkpoint_interval": 1000, **settings}
    workflow = ConfigWorkflow(
        str(ROOT / "configs" / config), workflow_type="train", bundle_root=str(ROOT), **{**tiny, **given}
    )
    workflow.initialize()
    return place(workflow.parser.get_parsed_content)


def steps(stage: str, folder: str | Path, count: int, **settings) -> dict:
    """Losses of each step, and the weights after them."""
    job.start()
    trainer = trainer_of(stage, folder, count, **settings)
    trainer.handlers = []
    losses: list[dict[str, float]] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: losses.append(dict(trainer.state.output[0])))
    job.together(trainer.folder.open)
    for part in (trainer.check, trainer.prepare, trainer.before_first_step):
        job.first_goes_first(part)
    trainer.require_divisible()
    trainer.attach_handlers()
    trainer.fit_networks()
    trainer.take_steps()
    trainer.folder.close()
    weights = {name: network.state_dict() for name, network in trainer.networks().items()}
    if "ema" in trainer.state_objects():
        weights["ema"] = trainer.ema.weights
    return {"losses": losses, "weights": weights}


def in_two_processes(stages, folder: Path, count: int, **settings) -> dict:
    """{stage: what `steps` gives} by two processes."""
    result = folder / "result.pt"
    code = WORKER.format(
        root=str(ROOT), stages=list(stages), folder=str(folder), count=count, settings=settings, result=str(result)
    )
    ended = finish(start_job(code))
    assert [process.returncode for process, _ in ended] == [0, 0], "\n".join(said for _, said in ended)[-6000:]
    first, second = (torch.load(f"{result}{rank}", weights_only=True) for rank in range(2))
    assert_equal(first, second)
    return first


def start_job(code: str, second: str | None = None, fresh: bool = False, **where):
    """Two processes that run code, the second its own where it is given, in an environment as torchrun's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start_python(
            "-c",
            code if rank == 0 else second or code,
            environment={
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            fresh=fresh,
            **where,
        )
        for rank in range(2)
    ]


def finish(processes, timeout: float = 240):
    """Each process, ended, and what it said."""
    return [(process, "".join(process.communicate(timeout))) for process in processes]


TOLERANCE = 1e-5
# Ratios of gradients, and the loss that has one as a factor. A gradient jumps where a rounding error falls on the edge
# of one of the perceptual network's rectifiers, which happens in 20 steps.
LOOSER = {"adversarial_weight": 1e-2, "ce_ratio": 1e-2, "loss": 1e-3}


def assert_same(one: dict, other: dict) -> None:
    """Losses agree by value, weights by the norm of each network."""
    assert len(one["losses"]) == len(other["losses"])
    for step, (mine, theirs) in enumerate(zip(one["losses"], other["losses"]), 1):
        assert mine.keys() == theirs.keys()
        for name in mine:
            tolerance = LOOSER.get(name, TOLERANCE) if "adversarial" in mine else TOLERANCE
            scale = max(abs(mine[name]), 1e-3)
            assert abs(mine[name] - theirs[name]) <= tolerance * scale, f"step {step}, {name}: {mine} {theirs}"
    for network, weights in one["weights"].items():
        pairs = [(weights[name].double(), other["weights"][network][name].double()) for name in weights]
        difference = sum((left - right).square().sum() for left, right in pairs).sqrt()
        norm = sum(left.square().sum() for left, _ in pairs).sqrt()
        assert difference <= TOLERANCE * norm, f"{network} differs by {difference / norm:.1e}"


def copies(folder: Path, **runs: Path) -> Path:
    """A folder with copies of finished runs, without their results."""
    for name, run in runs.items():
        shutil.copytree(run, folder / name, ignore=shutil.ignore_patterns("*_checkpoint.pt", "tensorboard"))
    return folder
