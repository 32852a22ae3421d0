"""How much faster guided sampling is than a plain loop, and what that changes in the pictures.

    python scripts/bench_sampling.py --adapted_dir runs/adapt --dataset_dir LABELLED --test_dir TEST

Three ways in one run, on the same seeds and classes: "reference", a plain loop in fp32 (DDIM of 200 steps, guidance at
each of them); "equal steps", the same sampler and steps as this bundle runs them (bf16 where the hardware computes in
it, channels last); "few steps", the recommended setting (a second-order solver, guidance within an interval). For each:
images a second, as a ratio of the reference, peak memory, mean absolute difference of the pictures where sampler and
steps are equal, and the Fréchet distance to real tiles in the grey judge's features with a bootstrap interval; and the
ratio of the few-step way's distance to the reference's, with an interval. A warm-up batch is not timed. What has been
made is kept after each batch, so the same command continues where it was stopped. Since pictures at equal steps hardly
differ, `--equal_images` may be fewer.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sweep_guidance import open_labelled
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.loader import read_images  # noqa: E402
from bundle.data.transforms import scale_patch  # noqa: E402
from bundle.diffusion.samplers import start_latents  # noqa: E402
from bundle.metrics.frechet import bootstrap_interval, bootstrap_ratio, frechet_distance  # noqa: E402
from bundle.models.adapted import AdaptedModels  # noqa: E402
from bundle.runs.files import write_json  # noqa: E402
from bundle.runs.randomness import ImageNoise  # noqa: E402
from bundle.runs.tensors import save_tensors  # noqa: E402
from bundle.synthesis.inferers import GuidedLatentInferer  # noqa: E402
from bundle.training.judge import Judge  # noqa: E402

KEPT_BATCHES = 8  # whose pictures are kept, to be compared


def reference(
    models: AdaptedModels, seeds: torch.Tensor, labels: torch.Tensor, scale: float, steps: int
) -> torch.Tensor:
    """DDIM with eta 1 and classifier guidance, written as plainly as the equations: what is compared with."""
    alpha_bar = models.schedule.alpha_bar
    times = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    noise = ImageNoise(seeds.tolist(), models.device)
    side = models.patch_size // 2 ** (len(models.autoencoder.definition["channels"]) - 1)
    mean = models.latent_scale.scaled_mean().to(models.device)
    latents = start_latents(noise((len(seeds), len(mean), side, side)), models.schedule, mean)
    for t, following in zip(times, [*times[1:], -1]):
        now = alpha_bar[t].item()
        then = alpha_bar[following].item() if following >= 0 else 1.0
        at_t = torch.full((len(seeds),), t, device=models.device)
        with torch.no_grad():
            epsilon = models.diffusion(latents, at_t)
        with torch.enable_grad():
            noisy = latents.detach().requires_grad_()
            log_probability = (models.classifier(noisy, at_t) / models.temperature).log_softmax(1)
            gradient = torch.autograd.grad(log_probability[range(len(labels)), labels].sum(), noisy)[0]
        epsilon = epsilon - (1 - now) ** 0.5 * scale * gradient
        clean = (latents - (1 - now) ** 0.5 * epsilon) / now**0.5
        sigma = ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        latents = then**0.5 * clean + max(1 - then - sigma**2, 0.0) ** 0.5 * epsilon
        if sigma > 0:
            latents = latents + sigma * noise(tuple(latents.shape))
    with torch.no_grad():
        return models.decode(latents).cpu()


def run_way(
    name: str, make: Callable, batches: Sequence, judge: Judge, file: Path, identity: dict[str, Any]
) -> dict[str, Any]:
    """Makes all batches of one way, from where an earlier run of it was stopped.

    Returns:
        "features" [N, D], "pictures" (of the first `KEPT_BATCHES` batches), "seconds" and "peak" (bytes of memory).
    """
    on_gpu = torch.cuda.is_available()
    done = {"identity": identity, "batches": 0, "features": [], "pictures": [], "seconds": 0.0, "peak": 0}
    if file.is_file():
        found = torch.load(file, weights_only=True)
        if found["identity"] != identity:
            raise ValueError(f"{file} was measured with other settings: {found['identity']}. Give another --output_dir")
        done = found
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    if done["batches"] < len(batches):
        make(*batches[0])  # warms caches up; not timed
    for batch in tqdm(batches[done["batches"] :], desc=name, initial=done["batches"], total=len(batches)):
        start = time.perf_counter()
        pictures = make(*batch)
        done["seconds"] += time.perf_counter() - start
        # On a CPU the peak is the process's own, so far: it can only rise from one way to the next.
        peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        done["peak"] = max(done["peak"], peak)
        done["features"].append(judge.features(pictures, "grey"))
        if done["batches"] < KEPT_BATCHES:
            done["pictures"].append(pictures)
        done["batches"] += 1
        save_tensors(file, done)
    return {**done, "features": torch.cat(done["features"]), "pictures": torch.cat(done["pictures"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapted_dir", type=Path, required=True)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--test_dir")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/bench"))
    parser.add_argument(
        "--num_images", type=int, default=512, help="of a way, in all; a larger number later keeps what was made"
    )
    parser.add_argument("--equal_images", type=int, default=64, help="of the way with equal steps")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    parser.add_argument("--reference_steps", type=int, default=200)
    parser.add_argument("--sampler", default="sde_dpm_solver++", help="of the few-step way")
    parser.add_argument("--spacing", default="log_snr", help="of the few-step way")
    parser.add_argument("--steps", type=int, default=25, help="of the few-step way")
    parser.add_argument("--eta", type=float, help="of the few-step way; without it the one recommended for its sampler")
    parser.add_argument("--interval", type=int, nargs=2, help="lowest and highest t with guidance in the few-step way")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    if given.num_images % given.batch_size or given.equal_images % given.batch_size:
        parser.error(
            "--num_images and --equal_images must be multiples of --batch_size, so that more can be made later"
        )

    models = AdaptedModels(given.adapted_dir, given.device).prepare()
    judge = Judge(given.adapted_dir, given.device, models.classes)
    part = open_labelled(given, models.patch_size).part("unused")
    real = scale_patch(read_images(part))
    # Drawn from the real tiles' classes, so that shares of classes hardly make a distance; more images keep the first.
    drawn = np.random.default_rng(0).integers(len(part), size=given.num_images)
    labels, seeds = torch.as_tensor(part.labels[drawn]), torch.arange(given.num_images)
    target = judge.features(real, "grey")

    equal = GuidedLatentInferer(given.guidance_scale, "ddim", given.reference_steps, "trailing", 1.0)
    few = GuidedLatentInferer(
        given.guidance_scale, given.sampler, given.steps, given.spacing, given.eta, given.interval
    )
    shared = {name: str(getattr(given, name)) for name in ("guidance_scale", "batch_size", "device")}
    shared["models"] = models.fingerprint
    slow = {**shared, "reference_steps": str(given.reference_steps)}
    quick = {**shared, **{name: str(getattr(given, name)) for name in ("sampler", "spacing", "steps", "interval")}}
    quick["eta"] = str(few.eta)
    ways = {
        "few steps": lambda seeds, labels: few(seeds, models, labels),
        "equal steps": lambda seeds, labels: equal(seeds, models, labels),
        "reference": lambda seeds, labels: reference(
            models, seeds, labels.to(models.device), given.guidance_scale, given.reference_steps
        ),
    }
    made = {}
    for name, make in ways.items():
        count = min(given.equal_images, given.num_images) if name == "equal steps" else given.num_images
        batches = list(zip(seeds[:count].split(given.batch_size), labels[:count].split(given.batch_size)))
        identity = quick if name == "few steps" else slow
        made[name] = run_way(name, make, batches, judge, given.output_dir / f"{name.replace(' ', '_')}.pt", identity)
    rows = {name: figures(way, target) for name, way in made.items()}
    for row in rows.values():
        row["ratio"] = round(row["images_per_second"] / rows["reference"]["images_per_second"], 2)
    pictures = [made[name]["pictures"] for name in ("equal steps", "reference")]
    shared = min(map(len, pictures))
    difference = ((pictures[0][:shared] - pictures[1][:shared]).abs().mean() * 127.5).item()
    rows["equal steps"]["mean_absolute_difference"] = round(difference, 3)
    shared = min(len(made[name]["features"]) for name in ("few steps", "reference"))
    few_features, reference_features = (made[name]["features"][:shared] for name in ("few steps", "reference"))
    distances = [frechet_distance(features, target) for features in (few_features, reference_features)]
    interval = bootstrap_ratio(few_features, reference_features, target)
    rows["few steps"]["frechet_ratio"] = round(distances[0] / distances[1], 4)
    rows["few steps"]["frechet_ratio_interval"] = [round(bound, 4) for bound in interval]
    for name, row in rows.items():
        print(f"{name}: {row}")
    write_json(given.output_dir / "bench.json", {"real_tiles": len(real), "settings": {**slow, **quick}, "ways": rows})


def figures(way: dict[str, Any], target: torch.Tensor) -> dict[str, Any]:
    """What is said of one way."""
    features = way["features"]
    return {
        "images": len(features),
        "images_per_second": round(len(features) / way["seconds"], 3),
        "peak_memory_GB": round(way["peak"] / 1e9, 2),
        "frechet_grey": round(frechet_distance(features, target), 4),
        "frechet_interval": [round(bound, 4) for bound in bootstrap_interval(features, target)],
    }


if __name__ == "__main__":
    main()
