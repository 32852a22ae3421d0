"""How fast this machine trains and samples at each size, and what fits it: one command, under eight minutes on a GPU.

    python scripts/bench_gpu.py --output bench
    python scripts/bench_gpu.py --output bench --dataset_dir patches.zip --train_seconds 200

In this order, each part written into `bench.json` when it is done, so that nothing is lost where time runs out:

1. Steps of the autoencoder (with discriminator and perceptual network) and of the diffusion model at each preset:
   fp32, bf16, and bf16 compiled; images a second, peak memory, and in bf16 the largest batch that fits.
2. Guided sampling at each preset in the same three ways.
3. This bundle's own training step beside the bare loop of part 1, taking turns within one run.
4. The loader, against the step it feeds.
5. With --train_seconds, a training of `size256.json` from the patches of --dataset_dir, as long as said. Its weights
   come in half precision, in files of at most 16 MB (`cat weights.part* > weights.tar`).

Networks are those of the configs. A part that fails is noted with its reason, and the next goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import platform
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.loader import StepDataLoader  # noqa: E402
from bundle.diffusion.guidance import ClassifierGuidance  # noqa: E402
from bundle.diffusion.sampling import LatentModels, Sampling, sample_images  # noqa: E402
from bundle.models.artefacts import build  # noqa: E402
from bundle.runs.files import write_json  # noqa: E402
from bundle.training.losses import hinge_discriminator_loss, patch_logits  # noqa: E402

PRESETS = {"64": (), "256": ("size256.json",), "paper": ("paper.json",)}
TINY = {
    "patch_size": 32,
    "autoencoder_channels": [8, 16],
    "diffusion_channels": [8, 16, 16],
    "norm_groups": 4,
    "diffusion_architecture#num_head_channels": 8,
    "diffusion_architecture#attention_levels": [False, False, True],
    "autoencoder_batch_size": 2,
    "diffusion_batch_size": 2,
}
WAYS = ("fp32", "bf16", "bf16 compiled")
PART_BYTES = 15 * 2**20


class Bench:
    """What is measured with, and where it is written.

    Args:
        given: the command line.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.device = torch.device(given.device)
        self.ends = time.monotonic() + given.seconds
        self.found: dict[str, Any] = {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.processor(),
            "threads": torch.get_num_threads(),
            "tiny": given.tiny,
        }
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True

    def write(self) -> None:
        write_json(self.given.output / "bench.json", self.found)

    @contextlib.contextmanager
    def part(self, *names: str) -> Iterator[dict[str, Any]]:
        """The place of a part's figures; what goes wrong in it is noted there."""
        place = self.found
        for name in names:
            place = place.setdefault(name, {})
        try:
            if time.monotonic() > self.ends:
                raise TimeoutError(f"--seconds {self.given.seconds} had passed")
            yield place
        except Exception as error:  # of any library, and the next part is worth as much
            place["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        print(
            " ".join(names), {name: value for name, value in place.items() if not isinstance(value, dict)}, flush=True
        )
        self.write()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, run: Callable[[], Any], images: int) -> dict[str, Any]:
        """Images a second of `run`, repeated for a second or so after two runs that are not timed, and its memory."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        for _ in range(2):
            run()
        self.wait()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < self.given.part_seconds or not count:
            run()
            count += 1
            self.wait()
        figures = {"images_per_second": round(images * count / (time.perf_counter() - start), 3), "batch": images}
        if self.device.type == "cuda":
            figures["peak_GB"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 3)
        return figures

    def parser(self, preset: str, **settings: Any) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config([str(ROOT / "configs" / name) for name in ("pretrain.json", *PRESETS[preset])])
        parser["device"] = self.device
        parser["perceptual_network"] = "random"  # as fast as the real one, and there without its weights
        for name, value in {**(TINY if self.given.tiny else {}), **settings}.items():
            parser[name] = value
        return parser

    def autocast(self, way: str) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=way != "fp32")


def autoencoder_step(bench: Bench, parser: ConfigParser, way: str) -> Callable[[int], Callable[[], None]]:
    """A bare step of the autoencoder with all that trains it, for batches of a given size."""
    autoencoder, critic = (parser.get_parsed_content(name) for name in ("autoencoder_network", "discriminator"))
    perceptual = parser.get_parsed_content("autoencoder_loss").perceptual
    perceptual.load()
    perceptual.to(bench.device)
    fused = functools.partial(torch.optim.Adam, lr=1e-4, betas=(0.5, 0.9), fused=True)
    optimizers = fused(autoencoder.parameters()), fused(critic.parameters())
    forward = torch.compile(autoencoder) if way.endswith("compiled") else autoencoder
    side = crop_of(parser) or parser["patch_size"]

    def for_batch(batch: int) -> Callable[[], None]:
        images = torch.rand(batch, 3, side, side, device=bench.device) * 2 - 1

        def step() -> None:
            with bench.autocast(way):
                made, mean, std = forward(images)
            made = made.float()
            loss = (made - images).abs().mean() + perceptual(images, made).mean()
            loss = loss + 1e-6 * (mean.square() + std.square() - std.square().log()).mean() - critic(made)[-1].mean()
            optimizers[0].zero_grad(set_to_none=True)
            loss.backward()
            optimizers[0].step()
            optimizers[1].zero_grad(set_to_none=True)
            hinge_discriminator_loss(patch_logits(critic, images), patch_logits(critic, made.detach())).backward()
            optimizers[1].step()

        return step

    return for_batch


def crop_of(parser: ConfigParser) -> int | None:
    return next((t["roi_size"][0] for t in parser["train#preprocessing#transforms"] if "roi_size" in t), None)


def latent_shape(parser: ConfigParser) -> tuple[int, int, int]:
    side = parser["patch_size"] // 2 ** (len(parser.get_parsed_content("autoencoder_channels")) - 1)
    return parser.get_parsed_content("latent_channels"), side, side


def diffusion_step(bench: Bench, parser: ConfigParser, way: str) -> Callable[[int], Callable[[], None]]:
    """A bare step of the diffusion model, for batches of a given size."""
    network, schedule = (parser.get_parsed_content(name) for name in ("diffusion_network", "noise_schedule"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(network) if way.endswith("compiled") else network

    def for_batch(batch: int) -> Callable[[], None]:
        latents = torch.randn(batch, *latent_shape(parser), device=bench.device)

        def step() -> None:
            noise = torch.randn_like(latents)
            timesteps = torch.randint(schedule.timesteps, (batch,), device=bench.device)
            with bench.autocast(way):
                made = forward(schedule.add_noise(latents, noise, timesteps), timesteps)
            optimizer.zero_grad(set_to_none=True)
            (made.float() - noise).square().mean().backward()
            optimizer.step()

        return step

    return for_batch


STEPS = {"autoencoder": autoencoder_step, "diffusion": diffusion_step}


def largest_batch(for_batch: Callable[[int], Callable[[], None]], first: int, highest: int = 4096) -> int:
    """The largest batch, of doublings of the first, that a GPU has memory for."""
    batch = first
    while batch < highest:
        try:
            for_batch(2 * batch)()
        except torch.OutOfMemoryError:
            break
        batch *= 2
    return batch


def measure_steps(bench: Bench, preset: str) -> None:
    for stage, make in STEPS.items():
        for way in bench.given.ways.split(","):
            with bench.part("steps", preset, stage, way) as place:
                parser = bench.parser(preset)
                for_batch, batch = make(bench, parser, way), parser[f"{stage}_batch_size"]
                while True:
                    try:
                        place.update(bench.time(for_batch(batch), batch))
                        break
                    except torch.OutOfMemoryError:
                        place["did_not_fit"] = batch
                        if batch == 1:
                            raise
                        batch //= 2
                if way == "bf16" and bench.device.type == "cuda":
                    place["largest_batch"] = largest_batch(for_batch, batch)


def measure_sampling(bench: Bench, preset: str) -> None:
    """Guided samples by networks that have learnt nothing, which takes as long."""
    for way in bench.given.ways.split(","):
        with bench.part("sampling", preset, way) as place:
            parser = bench.parser(preset)
            channels, side, _ = latent_shape(parser)
            adapt = ConfigParser()
            adapt.read_config(str(ROOT / "configs" / "adapt.json"))
            half = adapt.get_parsed_content("half_unet")
            tiny = {"channels": [8, 8], "attention_levels": [False, False], "head_channels": 8}
            options = {**half.keywords, **(tiny if bench.given.tiny else {})}
            sizes = {"in_channels": channels, "side": side, "num_classes": 9}
            classifier = build(functools.partial(half.func, **options, **sizes), device=bench.device).eval()
            autoencoder, network, schedule = (
                parser.get_parsed_content(name)
                for name in ("autoencoder_network", "diffusion_network", "noise_schedule")
            )
            network.eval()
            if way.endswith("compiled"):
                network.compile()
                classifier.compile()
            latent = {"scale": 1.0, "mean": [0.0] * channels}
            models = LatentModels(network, autoencoder.eval(), schedule, latent, parser["patch_size"])
            images = 2 if bench.given.tiny else 16
            labels = torch.zeros(images, dtype=torch.long, device=bench.device)
            steps = 2 if bench.given.tiny else 25
            run = functools.partial(
                sample_images,
                models,
                list(range(images)),
                Sampling(steps, sampler="dpmpp_2m", eta=0.0),
                images,
                functools.partial(bench.autocast, way),
                lambda batch: ClassifierGuidance(classifier, labels, 3.0),
            )
            place.update(bench.time(run, images), steps=steps)


class Turns:
    """An Ignite handler: blocks of a training's steps and of the bare loop's, by turns.

    Args:
        bench: waits for the device and takes the time.
        bare: one bare step.
        block: steps at a time.
    """

    def __init__(self, bench: Bench, bare: Callable[[], None], block: int) -> None:
        self.bench, self.bare, self.block = bench, bare, block
        self.seconds: dict[str, list[float]] = {"trainer": [], "bare": []}
        self.since = 0.0

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.block), self.turn)

    def start(self, engine: Any) -> None:
        self.bench.wait()
        self.since = time.perf_counter()

    def turn(self, engine: Any) -> None:
        self.bench.wait()
        now = time.perf_counter()
        self.seconds["trainer"].append(now - self.since)
        for _ in range(self.block):
            self.bare()
        self.bench.wait()
        self.since = time.perf_counter()
        self.seconds["bare"].append(self.since - now)

    def ratio(self) -> float:
        """Median of trainer over bare, less the first turn, in which both warm up."""
        pairs = list(zip(self.seconds["trainer"], self.seconds["bare"]))[1:]
        return sorted(trainer / bare for trainer, bare in pairs)[len(pairs) // 2]


def measure_trainer(bench: Bench) -> None:
    """The diffusion stage of a small run, beside the bare loop of the same networks."""
    with bench.part("trainer against bare loop") as place:
        block, turns = (2, 3) if bench.given.tiny else (20, 8)
        parser = bench.parser(
            "64" if bench.given.tiny else "256",
            dataset_dir=bench.given.dataset_dir,
            output_dir=str(bench.given.output / "run"),
            autoencoder_steps=2,
            diffusion_steps=block * turns,
            checkpoint_interval=10**6,
            picture_interval=10**6,
            val_interval=10**6,
            num_inference_steps=2,
            generated_per_class=4,
        )
        quick = {"patches::validation_maximum": 4, "train::trainer::cool_down": 0, "latents::orientations": 1}
        for name, value in quick.items():
            parser[name] = value
        precision = "fp32" if parser.get_parsed_content("context").dtype == torch.float32 else "bf16"
        handler = Turns(bench, diffusion_step(bench, parser, precision)(parser["diffusion_batch_size"]), block)
        parser.get_parsed_content("train#trainer").run()
        trainer = parser.get_parsed_content("diffusion#trainer")
        handler.attach(trainer)
        trainer.run()
        place.update(ratio=round(handler.ratio(), 4), steps=block * turns, seconds=handler.seconds)


def measure_loader(bench: Bench) -> None:
    with bench.part("loader") as place:
        parser = bench.parser("256", dataset_dir=bench.given.dataset_dir, output_dir=str(bench.given.output / "run"))
        dataset = parser.get_parsed_content("train#dataset")
        batch = parser["autoencoder_batch_size"]
        batches = iter(StepDataLoader(dataset, batch, 10**6, seed=0))
        place.update(bench.time(lambda: next(batches)["image"].to(bench.device, non_blocking=True), batch))


def train(bench: Bench) -> None:
    """A training of the 256-pixel preset, as long as was asked, and its weights in small files."""
    with bench.part("training") as place:
        rate = bench.found["steps"]["256"]
        seconds, size = bench.given.train_seconds, bench.parser("256")
        shares = {"autoencoder": 0.45, "diffusion": 0.45}
        steps = {}
        for stage, share in shares.items():
            figures = rate[stage]["bf16"]
            steps[stage] = max(10, int(share * seconds * figures["images_per_second"] / size[f"{stage}_batch_size"]))
        run, published = bench.given.output / "run256", bench.given.output / "weights"
        command = [
            *(sys.executable, "-m", "monai.bundle", "run", "training"),
            *("--config_file", "['configs/pretrain.json','configs/size256.json']", "--output_dir", str(run.resolve())),
            *(
                "--dataset_dir",
                str(Path(bench.given.dataset_dir).resolve()),
                "--device",
                f"$torch.device('{bench.device}')",
            ),
            *("--autoencoder_steps", str(steps["autoencoder"]), "--diffusion_steps", str(steps["diffusion"])),
            *("--train#trainer#cool_down", str(steps["autoencoder"] // 3), "--val_interval", "1000000"),
            *("--autoencoder_loss#adversarial_start", str(steps["autoencoder"] // 2)),
            *bench.given.train_flags.split(),
        ]
        place.update(steps, command=" ".join(command))
        subprocess.run(command, cwd=ROOT, check=True, timeout=2 * seconds)
        publish = [sys.executable, "scripts/publish_weights.py", str(run.resolve()), str(published.resolve())]
        subprocess.run([*publish, "--commit", bench.given.commit], cwd=ROOT, check=True)
        archive = bench.given.output / "weights.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(published, "weights")
        content = archive.read_bytes()
        archive.unlink()
        for number, start in enumerate(range(0, len(content), PART_BYTES)):
            (bench.given.output / f"weights.part{number:02d}").write_bytes(content[start : start + PART_BYTES])
        place["bytes"] = len(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of bench.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dataset_dir", help="patches for parts 3 to 5; built-in ones where it is not given")
    parser.add_argument("--seconds", type=float, default=440, help="after which no further part begins")
    parser.add_argument("--part_seconds", type=float, default=2.0, help="that each figure is measured for")
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--ways", default=",".join(WAYS), help="of computing; compiling takes long on a CPU")
    parser.add_argument("--train_seconds", type=float, default=0.0, help="length of part 5; 0 leaves it out")
    parser.add_argument("--train_flags", default="", help="further flags of part 5, as one text")
    parser.add_argument("--commit", default="unknown", help="of this repository, for the weights' origin")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try this script out")
    given = parser.parse_args()
    if given.train_seconds and not given.dataset_dir:
        parser.error("--train_seconds needs --dataset_dir: built-in patches are not worth training on")
    bench = Bench(given)
    presets = given.presets.split(",")
    for preset in presets:
        measure_steps(bench, preset)
    for preset in presets:
        measure_sampling(bench, preset)
    measure_trainer(bench)
    measure_loader(bench)
    if given.train_seconds:
        train(bench)


if __name__ == "__main__":
    main()
