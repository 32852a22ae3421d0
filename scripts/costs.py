"""What training and sampling cost at each size: computed from the networks of the configs, nothing is run.

    python scripts/costs.py
    python scripts/costs.py --patches 803179 --epochs 10 --tflops 400

Floating-point operations are counted by PyTorch's own counter on networks without memory (device "meta"), forward and
backward, two for a multiplication with its addition. Activations are the bytes that autograd keeps for the backward
pass, in fp32; in bf16 they are half. Hours are operations divided by `--tflops`, what one GPU is taken to do in
practice, and by the number of GPUs, as if they scaled without loss: of small networks, which a GPU can't fill, a lower
bound.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from monai.bundle import ConfigParser
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PRESETS = {
    "64 pixels (default)": ("pretrain.json",),
    "256 pixels": ("pretrain.json", "size256.json"),
    "256 pixels, paper": ("pretrain.json", "paper.json"),
}
GPUS = (1, 8, 64)
TFLOPS = 300.0  # of one H100: about 30 % of its dense bf16 peak of 989
BYTES_TRAINED = 4 + 4 + 8  # fp32 weight, gradient, and the two moments of Adam
EMA = 4


@dataclasses.dataclass
class Cost:
    """Of one image in a training step, or of one forward pass."""

    flops: float
    kept: float  # bytes for the backward pass, fp32


def parse(names: tuple[str, ...]) -> ConfigParser:
    """The config with its overlays, networks on no device."""
    parser = ConfigParser()
    parser.read_config([str(ROOT / "configs" / name) for name in names])
    parser["device"] = torch.device("meta")
    return parser


def network(parser: ConfigParser, name: str) -> torch.nn.Module:
    """One of the config's networks, without memory."""
    definition = parser.get_parsed_content(f"{name}_architecture")
    with torch.device("meta"):
        return definition.func(**definition.keywords)


def count(run: Callable[[], torch.Tensor], backward: bool = True) -> Cost:
    """Operations of `run` and, where asked, of its gradient, and what is kept between both."""
    kept: dict[int, int] = {}
    alive: list[Any] = []  # else the number of a storage that is gone would be another's

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
            alive.append(storage)
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.set_grad_enabled(backward):
            made = run()
        bytes_kept = sum(kept.values())
        if backward:
            made.float().square().mean().backward()
    return Cost(counter.get_total_flops(), bytes_kept)


def parameters(*networks: torch.nn.Module) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def measure(parser: ConfigParser) -> dict[str, Any]:
    """All that the tables say of one preset."""
    size, steps = parser["patch_size"], parser["num_inference_steps"]
    autoencoder, diffusion = network(parser, "autoencoder"), network(parser, "diffusion")
    critic = network(parser, "discriminator")
    crop = crop_of(parser) or size
    side = size // 2 ** (len(parser.get_parsed_content("autoencoder_channels")) - 1)
    channels = parser.get_parsed_content("latent_channels")
    with torch.device("meta"):
        trunk = getattr(torchvision.models, parser["perceptual_trunk"])(weights=None).features.requires_grad_(False)
        image, whole = torch.empty(1, 3, crop, crop), torch.empty(1, 3, size, size)
        latent, time = torch.empty(1, channels, side, side), torch.empty(1, dtype=torch.long)
        seen = torch.empty(1, 3, crop, crop, requires_grad=True)
    reconstruct = count(lambda: autoencoder(image)[0])
    judged = [count(lambda: trunk(seen)), count(lambda: critic(seen)[-1])]
    # The discriminator's own step sees both images; the perceptual trunk sees the original too, without a gradient.
    others = [count(lambda: critic(image)[-1]), count(lambda: critic(image)[-1]), count(lambda: trunk(image), False)]
    denoise = count(lambda: diffusion(latent, time))
    predict = count(lambda: diffusion(latent, time), False)
    encode = count(lambda: autoencoder.encode(whole)[0], False)
    decode = count(lambda: autoencoder.decode(latent), False)
    return {
        "parameters": {"autoencoder": parameters(autoencoder, critic), "diffusion": parameters(diffusion)},
        "flops": {
            "autoencoder": sum(cost.flops for cost in (reconstruct, *judged, *others)),
            "diffusion": denoise.flops,
            "encode": encode.flops,
            "sample": steps * predict.flops + decode.flops,
        },
        "kept": {"autoencoder": sum(cost.kept for cost in (reconstruct, *judged)), "diffusion": denoise.kept},
        "batch": {name: parser[f"{name}_batch_size"] for name in ("autoencoder", "diffusion")},
        "orientations": parser["latent_orientations"],
        "latents": 2 * 2 * channels * side**2 * parser["latent_orientations"],  # mean and std in half precision
        "pixels": 3 * size**2,
    }


def crop_of(parser: ConfigParser) -> int | None:
    """The side of the crops that the autoencoder is trained on, where it isn't the whole patch."""
    for transform in parser["train#preprocessing#transforms"]:
        if transform["_target_"] == "RandSpatialCropd":
            return transform["roi_size"][0]
    return None


def size_of(count: float) -> str:
    for unit, bound in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= bound:
            return f"{count / bound:.3g} {unit}"
    return f"{count:.3g} "


def time_of(seconds: float) -> str:
    for unit, bound in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= bound:
            return f"{seconds / bound:.3g} {unit}"
    return f"{seconds:.2g} s"


def print_table(head: list[str], rows: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=803_179, help="of the pre-training")
    parser.add_argument("--epochs", type=float, default=10.0, help="passes over them, of each of the two stages")
    parser.add_argument("--tflops", type=float, default=TFLOPS, help="10^12 operations a second of one GPU in practice")
    given = parser.parse_args()
    found = {name: measure(parse(files)) for name, files in PRESETS.items()}

    print("One step of training\n")
    rows = []
    for name, costs in found.items():
        for stage in ("autoencoder", "diffusion"):
            trained = costs["parameters"][stage] * (BYTES_TRAINED + EMA * (stage == "diffusion"))
            batch = costs["batch"][stage]
            rows.append(
                [
                    name,
                    stage,
                    size_of(costs["parameters"][stage]).strip(),
                    size_of(costs["flops"][stage]) + "FLOP",
                    size_of(costs["kept"][stage]) + "B",
                    str(batch),
                    size_of(trained) + "B",
                    size_of(trained + batch * costs["kept"][stage]) + "B",
                ]
            )
    head = ["preset", "stage", "parameters", "training, an image", "activations, an image, fp32", "batch"]
    print_table([*head, "weights, gradients, moments, EMA", "together, fp32"], rows)

    print(f"{given.patches:,} patches, {given.epochs:g} epochs of each stage, {given.tflops:g} TFLOP/s a GPU\n")
    rows = []
    for name, costs in found.items():
        flops, images = costs["flops"], given.patches * given.epochs
        work = images * (flops["autoencoder"] + flops["diffusion"])
        work += given.patches * costs["orientations"] * flops["encode"]
        rows.append(
            [
                name,
                size_of(work) + "FLOP",
                *(time_of(work / (given.tflops * 1e12 * gpus)) for gpus in GPUS),
                size_of(given.patches * costs["pixels"]) + "B",
                size_of(given.patches * costs["latents"]) + "B",
                size_of(flops["sample"]) + "FLOP",
            ]
        )
    gpus = [f"{number} GPU{'s' * (number > 1)}" for number in GPUS]
    print_table(["preset", "work", *gpus, "pixels kept", "latents kept", "one image, unguided"], rows)


if __name__ == "__main__":
    main()
