"""Converts weights of monai-generative's AutoencoderKL and DiffusionModelUNet into a folder for --pretrained_dir.

    python scripts/convert_monai_generative.py --output_dir runs/converted --dataset_dir TILES --patch_size 64 \\
        --autoencoder_weights autoencoder.pth --autoencoder_arguments train_autoencoder.json \\
        --diffusion_weights unet.pth --diffusion_arguments train_diffusion.json \\
        --beta_schedule scaled_linear --beta_start 0.0015 --beta_end 0.0195 --latent_scale 0.94

Arguments are those of the networks' constructors in monai-generative: as JSON text ('{"spatial_dims": 2, ...}'), a
JSON or YAML file of nothing else, or a config that defines the network ("_target_"), with FILE#id where it defines
several. The networks of that package are built, filled and compared with MONAI core's on the same input, so nothing is
written that computes anything else. What the weights don't say is measured on --dataset_dir: mean and standard
deviation of the latents, their scale where --latent_scale is not given, and the error of reconstructions.

Without --diffusion_weights only the autoencoder is converted, for a diffusion model to be trained on it. Nothing else
of this bundle needs the package monai-generative.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import PSNRMetric
from publish_weights import save_samples
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

try:
    from generative.networks import nets as generative_nets
except ImportError:
    sys.exit("monai-generative is missing: pip install -r requirements.txt, or pip install '.[generative]'")

from bundle.data.hashes import HASHES_FILE, write_hashes  # noqa: E402
from bundle.data.loader import read_images  # noqa: E402
from bundle.data.patches import TrainingPatches  # noqa: E402
from bundle.data.transforms import scale_patch  # noqa: E402
from bundle.diffusion.schedule import BETA_SCHEDULES, PREDICTION_TYPES, NoiseSchedule  # noqa: E402
from bundle.models.artefacts import (  # noqa: E402
    build_from_definition,
    fingerprint,
    load_weights,
    read_artefact,
    require_same,
    save_artefact,
)
from bundle.models.foreign_weights import read_arguments, read_weights, reason_of  # noqa: E402
from bundle.runs.folder import RunFolder  # noqa: E402
from bundle.training.latents import latent_statistics  # noqa: E402

TOLERANCE = 1e-5  # of the outputs of both packages in double precision, relative to the largest value
NOT_CARRIED = {"use_flash_attention", "use_checkpointing"}  # how it is computed, not what
RANGES = ((-1.0, 1.0), (0.0, 1.0))


def convert(name: str, arguments: dict[str, Any], weights: dict[str, torch.Tensor], origin: str, side: int) -> Any:
    """MONAI core's network with the weights of monai-generative's; both compute the same.

    Args:
        name: "AutoencoderKL" or "DiffusionModelUNet".
        arguments: of the constructor in monai-generative.
        weights: state dict of that network.
        origin: where they come from, for messages.
        side: height and width of the network's input.

    Returns:
        (the network on the CPU, fp32, in evaluation mode, with its `definition`; largest difference of the outputs,
        relative to the largest value, in double precision).

    Raises:
        ValueError: arguments that the constructor or this bundle refuses, weights of another architecture, or outputs
            that differ.
    """
    network_class = getattr(generative_nets, name)
    parameters = inspect.signature(network_class).parameters.values()
    known = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    whole = {**known, **arguments}
    require_supported(name, whole)
    try:
        theirs = network_class(**{**arguments, **{key: False for key in NOT_CARRIED & known.keys()}})
    except Exception as error:  # of a package that meets what a file says
        said = reason_of(error)
        raise ValueError(f"monai-generative's {name} refuses its arguments {arguments}: {said}") from error
    try:
        load_weights(theirs, weights, origin)
    except ValueError as error:
        raise ValueError(f"{error}. Give the arguments that the {name} was trained with, not {whole}") from error

    definition: dict[str, Any] = {"_target_": name}
    for key, value in whole.items():
        if key not in NOT_CARRIED:
            definition["channels" if key == "num_channels" else key] = (
                list(value) if isinstance(value, tuple) else value
            )
    # monai-generative has a projection after attention that it never applies; with include_fc core would apply it.
    definition |= {"include_fc": False, "use_combined_linear": False, "use_flash_attention": True}
    ours = build_from_definition(definition)
    ours.load_old_state_dict({key: tensor.float() for key, tensor in weights.items()})
    difference = compare(theirs.double().eval(), ours.double().eval(), name, side)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{origin}: MONAI core's {name} computes something else than monai-generative's with these weights: the "
            f"outputs differ by {difference:.2g} of their largest value. Please report this with the arguments {whole}"
        )
    return ours.float(), difference


def require_supported(name: str, arguments: dict[str, Any]) -> None:
    """Refuses networks that the rest of the bundle can't use, or core can't repeat."""
    wanted: dict[str, Any] = {"spatial_dims": 2}
    if name == "AutoencoderKL":
        # Core's is a convolution of 2 x 2, monai-generative's one of 3 x 3.
        wanted |= {"in_channels": 3, "out_channels": 3, "use_convtranspose": False}
    else:
        wanted |= {"with_conditioning": False, "num_class_embeds": None}
    for key, value in wanted.items():
        if arguments.get(key, value) != value:
            raise ValueError(
                f"a {name} with {key}={arguments[key]!r} can't be converted: this bundle takes {key}={value!r} (RGB "
                "patches, an unconditional diffusion model, upsampling by interpolation)"
            )


@torch.no_grad()
def compare(theirs: torch.nn.Module, ours: torch.nn.Module, name: str, side: int) -> float:
    """Largest difference of what two networks make of the same noise, relative to the largest value."""
    generator = torch.Generator().manual_seed(0)
    like = next(ours.parameters())

    def noise(channels: int, side: int) -> torch.Tensor:
        return torch.randn(2, channels, side, side, generator=generator).to(like)

    def outputs(network: torch.nn.Module) -> list[torch.Tensor]:
        if name == "AutoencoderKL":
            return [*network.encode(image), network.decode(latent)]
        return [network(latent, torch.tensor([3, 700]))]

    try:
        if name == "AutoencoderKL":
            image = noise(3, side)
            latent = torch.randn(theirs.encode(image)[0].shape, generator=generator).to(like)
        else:
            latent = noise(ours.in_channels, side)
        pairs = list(zip(outputs(theirs), outputs(ours)))
    except RuntimeError as error:
        raise ValueError(f"the {name} can't take inputs of {side} x {side}: change --patch_size ({error})") from error
    return max(float((one - other).abs().max() / one.abs().max().clamp(min=1)) for one, other in pairs)


def to_signed_range(network: torch.nn.Module, low: float, high: float) -> None:
    """Changes an autoencoder of images in [low, high], in place, to take and give images in [-1, 1].

    The last convolution takes the change exactly. The first one does, but for its zero padding, which stood for the
    value 0 around the image and now stands for the middle of the range.
    """
    half, middle = (high - low) / 2, (high + low) / 2
    first, last = network.encoder.blocks[0].conv, network.decoder.blocks[-1].conv
    with torch.no_grad():
        first.bias += middle * first.weight.sum((1, 2, 3))
        first.weight *= half
        last.weight /= half
        last.bias.sub_(middle).div_(half)


@torch.no_grad()
def reconstruction_psnr(network: torch.nn.Module, patches: torch.Tensor, low: float, high: float) -> float:
    """PSNR in dB of reconstructions of patches, uint8 [N, 3, S, S], shown to the autoencoder in [low, high]."""
    metric = PSNRMetric(max_val=high - low)
    for batch in patches.split(16):
        images = (scale_patch(batch.to(next(network.parameters()).device)) + 1) / 2 * (high - low) + low
        metric(network.decode(network.encode(images)[0]).clamp(low, high), images)
    return float(metric.aggregate())


def require_range(network: torch.nn.Module, patches: torch.Tensor, low: float, high: float) -> float:
    """PSNR as of :func:`reconstruction_psnr`; refuses a range where another usual one is far better."""
    found = {pair: reconstruction_psnr(network, patches, *pair) for pair in {*RANGES, (low, high)}}
    best = max(found, key=found.get)
    if found[best] > found[low, high] + 3:
        raise ValueError(
            f"the autoencoder reconstructs images in [{low:g}, {high:g}] with {found[low, high]:.1f} dB, and images in "
            f"[{best[0]:g}, {best[1]:g}] with {found[best]:.1f} dB: it was trained on the latter. Give "
            f"--intensity_range {best[0]:g} {best[1]:g}"
        )
    return found[low, high]


@torch.no_grad()
def measure_latents(
    network: torch.nn.Module, patches: TrainingPatches, maximum: int, centred: bool, batch: int = 16
) -> dict:
    """`bundle.training.latents.latent_statistics` of at most so many training patches, evenly spaced."""
    part = patches.part("training")
    places = np.linspace(0, len(part) - 1, min(len(part), maximum)).round().astype(int)
    device = next(network.parameters()).device
    found = []
    for start in tqdm(range(0, len(places), batch), desc="latents", unit="batch"):
        images = torch.stack(
            [torch.as_tensor(part.read(int(place))["image"]) for place in places[start : start + batch]]
        )
        mean, std = network.encode(scale_patch(images.to(device)))
        found.append(torch.stack([mean, std], 1).cpu().numpy())
    return latent_statistics(np.concatenate(found), centred)


def require_same_as_there(path: Path, kind: str, network: torch.nn.Module, scale: float | None = None) -> None:
    """Refuses to replace other weights, or the latent scale that a diffusion model may have been trained with."""
    if path.is_file():
        found = read_artefact(path, kind)
        ours = fingerprint(network.state_dict())
        require_same(f"the {kind}", str(path), found["fingerprint"], "this conversion", ours)
        if scale is not None:
            require_same("the latent scale", str(path), found["latent"]["scale"], "this conversion", scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/converted"))
    parser.add_argument("--dataset_dir", required=True, help="unlabelled patches, best those that were trained on")
    parser.add_argument("--patch_size", type=int, required=True, help="pixels a side that the networks were trained on")
    for kind in ("autoencoder", "diffusion"):
        parser.add_argument(f"--{kind}_weights", type=Path, required=kind == "autoencoder", help="file of a state dict")
        parser.add_argument(f"--{kind}_arguments", required=kind == "autoencoder", help="JSON text, FILE or FILE#id")
        parser.add_argument(f"--{kind}_entry", help="name of the state dict, in a file that holds several")
    parser.add_argument("--intensity_range", type=float, nargs=2, default=RANGES[0], metavar=("LOW", "HIGH"))
    parser.add_argument("--latent_scale", type=float, help="scale_factor that the diffusion model was trained with")
    parser.add_argument("--timesteps", type=int, default=1000, help="num_train_timesteps")
    parser.add_argument("--beta_schedule", choices=BETA_SCHEDULES, help='"linear_beta" there is "linear" here')
    parser.add_argument("--beta_start", type=float)
    parser.add_argument("--beta_end", type=float)
    parser.add_argument("--prediction_type", choices=PREDICTION_TYPES, default="epsilon", help='"v_prediction" is "v"')
    parser.add_argument(
        "--normalise_stain", action="store_true", help="they were trained on stain normalised by Macenko"
    )
    parser.add_argument(
        "--trained_on_dataset",
        action="store_true",
        help="they were trained on these patches and no others: keeps hashes, by which an adaptation refuses them",
    )
    parser.add_argument("--maximum_patches", type=int, default=2000, help="patches that the latents are measured on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    try:
        run(parser.parse_args())
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


def run(given: argparse.Namespace) -> None:
    if given.latent_scale is not None and not 0 < given.latent_scale < float("inf"):
        raise ValueError(f"--latent_scale is {given.latent_scale}; it must be a positive number")
    if not given.intensity_range[0] < given.intensity_range[1]:
        raise ValueError(f"--intensity_range is {given.intensity_range}; the first must be the lower one")
    schedule = read_schedule(given)
    autoencoder = read_network(given, "autoencoder", "AutoencoderKL", given.patch_size)
    diffusion = None
    if schedule is not None:
        side = given.patch_size // 2 ** (len(autoencoder.definition["channels"]) - 1)
        diffusion = read_network(given, "diffusion", "DiffusionModelUNet", side)
        channels = autoencoder.definition["latent_channels"]
        for end in ("in_channels", "out_channels"):
            ours = str(given.diffusion_weights), diffusion.definition[end]
            require_same("the number of latent channels", *ours, str(given.autoencoder_weights), channels)
    folder = RunFolder(given.output_dir)
    folder.open()
    try:
        write(given, folder, autoencoder, diffusion, schedule)
    finally:
        folder.close()


def read_schedule(given: argparse.Namespace) -> NoiseSchedule | None:
    """The forward process that the diffusion model was trained on; None where there is no diffusion model."""
    if given.diffusion_weights is None:
        return None
    needed = ("diffusion_arguments", "beta_schedule", "beta_start", "beta_end")
    missing = [f"--{name}" for name in needed if getattr(given, name) is None]
    if missing:
        raise ValueError(f"--diffusion_weights needs {', '.join(missing)} as well: the weights don't say them")
    betas = given.beta_start, given.beta_end, given.beta_schedule
    return NoiseSchedule(given.timesteps, *betas, given.prediction_type)


def read_network(given: argparse.Namespace, kind: str, name: str, side: int) -> torch.nn.Module:
    """The network of one pair of flags, converted."""
    path, entry = getattr(given, f"{kind}_weights"), getattr(given, f"{kind}_entry")
    arguments = read_arguments(getattr(given, f"{kind}_arguments"), name, f"--{kind}_arguments")
    weights = read_weights(path, entry, f"--{kind}_entry")
    network, difference = convert(name, arguments, weights, str(path), side)
    print(f"{name}: the outputs of both packages differ by {difference:.1g} of their largest value")
    return network


def write(
    given: argparse.Namespace,
    folder: RunFolder,
    autoencoder: torch.nn.Module,
    diffusion: torch.nn.Module | None,
    schedule: NoiseSchedule | None,
) -> None:
    """Measures what the weights don't say, and writes the artefacts, the metrics and the samples."""
    store = {"normalise_stain": given.normalise_stain}
    patches = TrainingPatches(given.dataset_dir, folder / "cache", given.patch_size, **store).prepare()
    autoencoder.to(given.device)
    held_out = read_images(patches.part("validation"))[:256]
    measured = {"psnr": require_range(autoencoder, held_out, *given.intensity_range)}
    if tuple(given.intensity_range) != RANGES[0]:
        to_signed_range(autoencoder, *given.intensity_range)
        measured["psnr_in_signed_range"] = reconstruction_psnr(autoencoder, held_out, *RANGES[0])
    print("held-out patches: " + ", ".join(f"{name} {value:.1f} dB" for name, value in measured.items()))
    # MONAI-Generative trains diffusion models on latents as they are.
    latent = measure_latents(autoencoder, patches, given.maximum_patches, centred=diffusion is None)
    autoencoder.cpu()
    print(f"scale of the latents, measured on {latent['count']} patches: {latent['scale']:.4f}")
    if given.latent_scale is not None:
        print(f"--latent_scale {given.latent_scale} is used instead")
        latent["scale"] = given.latent_scale
    paths = {kind: folder / f"{kind}.pt" for kind in ("autoencoder", "diffusion")}
    require_same_as_there(paths["autoencoder"], "autoencoder", autoencoder, latent["scale"])
    if diffusion is not None:
        require_same_as_there(paths["diffusion"], "diffusion", diffusion)

    facts = {"patch_size": given.patch_size, "data_fingerprint": patches.fingerprint, "steps": 0}
    facts["converted_from"] = "monai-generative"
    own = {"normalise_stain": given.normalise_stain, "latent": latent}
    save_artefact(paths["autoencoder"], "autoencoder", autoencoder, **facts, **own)
    folder.set_metrics("autoencoder", {**measured, **patches.describe()})
    folder.set_metrics("latent", latent)
    if given.trained_on_dataset:
        write_hashes(folder / HASHES_FILE, patches.store.sha256)
    if diffusion is None:
        print(
            f"written: {paths['autoencoder']}\nnext: python -m monai.bundle run diffusion --config_file "
            f"configs/pretrain.json --output_dir {given.output_dir} --dataset_dir {given.dataset_dir} --patch_size "
            f"{given.patch_size} --latent_channels {autoencoder.definition['latent_channels']}"
            + " --normalise_stain True" * given.normalise_stain
        )
        return
    facts |= {"autoencoder_fingerprint": fingerprint(autoencoder.state_dict()), "latent_scale": latent["scale"]}
    save_artefact(paths["diffusion"], "diffusion", diffusion, schedule=schedule.describe(), **facts)
    save_samples(given.output_dir, range(16))
    print(
        f"written: {paths['autoencoder']}, {paths['diffusion']}, {folder / 'samples.png'}. Look at the samples: where "
        "they show no tissue, the schedule, --prediction_type or --latent_scale are not those of the training.\n"
        "next: python -m monai.bundle run training --config_file configs/adapt.json "
        "--decoder#loss#reconstruction#adversarial_weight 0 "
        f"--pretrained_dir {given.output_dir} --dataset_dir PATH_TO_LABELLED_PATCHES"
        + " --labelled#pretraining_overlap allow" * (not given.trained_on_dataset)
    )


if __name__ == "__main__":
    main()
