"""Whether another runtime computes the diffusion model faster on this CPU than PyTorch does.

    pip install openvino onnxruntime
    python scripts/bench_backends.py models/adapt

The UNet of an adaptation, one forward pass of a batch, by PyTorch (eager, channels last, as sampling runs it), OpenVINO
and ONNX Runtime, in fp32 and where the runtime has it in bf16. All take turns in one run, each with `--threads`. The
printed ratio is PyTorch's shortest time of the same precision divided by the runtime's, in processor seconds: other
work on the machine disturbs these least. The difference is the largest of the output, in units of its deviation. A
runtime that is not installed is said to be missing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.models.adapted import AdaptedModels  # noqa: E402

WORTH = 1.3  # the ratio from which a second runtime would be worth its weight


def pytorch(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, Callable[[], np.ndarray]]:
    def run(dtype: torch.dtype) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return network(*inputs).float().numpy()

    return {"fp32": lambda: run(torch.float32), "bf16": lambda: run(torch.bfloat16)}


def openvino(
    network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], threads: int
) -> dict[str, Callable[[], np.ndarray]]:
    import openvino

    shapes = [list(value.shape) for value in inputs]
    with torch.no_grad():
        model = openvino.convert_model(network, example_input=inputs, input=shapes)
    values = [value.numpy() for value in inputs]
    ways = {}
    for name, hint in (("fp32", "f32"), ("bf16", "bf16")):
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        ways[name] = lambda compiled=compiled: compiled(values)[0]
    return ways


def onnx_runtime(
    network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], threads: int
) -> dict[str, Callable[[], np.ndarray]]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder, "unet.onnx")
        torch.onnx.export(network, inputs, str(file), input_names=["latents", "timesteps"], dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    values = {"latents": inputs[0].numpy(), "timesteps": inputs[1].numpy()}
    return {"fp32": lambda: session.run(None, values)[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapted_dir", type=Path)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="of each runtime")
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    models = AdaptedModels(given.adapted_dir).prepare()
    side = models.patch_size // 2 ** (len(models.autoencoder.definition["channels"]) - 1)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(given.batch_size, len(models.latent["mean"]), side, side, generator=generator)
    inputs = latents, torch.randint(models.schedule.timesteps, (given.batch_size,), generator=generator)

    ways = {("PyTorch", name): run for name, run in pytorch(models.diffusion, inputs).items()}
    for runtime, make in (("OpenVINO", openvino), ("ONNX Runtime", onnx_runtime)):
        try:
            ways |= {(runtime, name): run for name, run in make(models.diffusion, inputs, given.threads).items()}
        except ImportError as error:
            print(f"{runtime} is not installed ({error}): it is left out")
    expected = ways["PyTorch", "fp32"]()
    differences = {way: float(np.abs(run() - expected).max() / expected.std()) for way, run in ways.items()}
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for _ in range(given.rounds):
        for way, run in ways.items():
            start = time.process_time()
            run()
            seconds[way].append(time.process_time() - start)
    for way, run in ways.items():
        runtime, precision = way
        shortest = min(seconds[way])
        ratio = min(seconds["PyTorch", precision]) / shortest
        verdict = "" if runtime == "PyTorch" else f"{ratio:5.2f} x PyTorch" + ", worth it" * (ratio >= WORTH)
        print(f"{runtime:13}{precision}  {shortest:7.3f} s  differs by {differences[way]:.2g}  {verdict}")


if __name__ == "__main__":
    main()
