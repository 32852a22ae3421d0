"""Randomness as a function of (seed, place), so that a resumed run equals an uninterrupted one.

No stage carries a random state from step to step: what step k draws depends on the seed and k alone. A run killed
after any step therefore continues bit for bit, and a picture depends on its own seed and not on its neighbours.
"""

from __future__ import annotations

import numpy as np
import torch


def mix_seed(*numbers: int) -> int:
    """One well-spread seed in [0, 2^63) from several non-negative integers (numpy's SeedSequence hash)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def seed_step(seed: int, stage: int, step: int) -> None:
    """Seeds torch's generators (CPU and every GPU) for one training step of one stage, in every process alike."""
    torch.manual_seed(mix_seed(seed, stage, step, 0))


class ImageNoise:
    """Standard normal noise with one generator an image, so that an image is the same in any batch.

    Each call goes on where the last one ended. The noise is drawn on the CPU, because a GPU's generator gives other
    numbers for the same seed.
    """

    def __init__(self, seeds: list[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator().manual_seed(mix_seed(seed)) for seed in seeds]
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.generators)

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Noise of a shape [number of seeds, ...]."""
        noise = [torch.randn(shape[1:], generator=generator) for generator in self.generators]
        drawn = torch.stack(noise)
        if self.device.type == "cuda":  # from pinned memory the copy does not wait for what the GPU is computing
            return drawn.pin_memory().to(self.device, non_blocking=True)
        return drawn.to(self.device)
